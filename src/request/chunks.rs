//! A body in chunks, to the letter (RFC 9112 section 7.1), and without what is lost where it is sent on in other chunks:
//! extensions and trailers. The HTTP library takes an empty size for zero and anything for an extension.

use super::RequestError;

/// How far a body has been looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Chunks(Next);

/// What comes next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Next {
    /// A digit of a size, of which there were so many, and the value so far.
    Size(u8, u64),
    /// The line feed after a size.
    SizeEnd(u64),
    /// So many bytes.
    Data(u64),
    /// The line break after them.
    DataEnd,
    DataFeed,
    /// That of the last chunk.
    End,
    EndFeed,
    /// What is none of the body.
    #[default]
    Nothing,
}

/// Digits of a size: more are refused, zeros too.
const DIGITS_MAX: u8 = 15;

impl Chunks {
    /// Before the first byte of a body.
    pub const BEGIN: Self = Self(Next::Size(0, 0));

    /// Looks at the next `bytes`; what follows the body is not looked at.
    ///
    /// # Errors
    /// [`RequestError::FramingConflict`] where they are something else than chunks.
    pub fn pass(&mut self, mut bytes: &[u8]) -> Result<(), RequestError> {
        while let Some((byte, rest)) = bytes.split_first() {
            self.0 = match (self.0, byte) {
                (Next::Nothing, _) => return Ok(()),
                (Next::Data(left), _) => {
                    let here = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                    bytes = bytes.get(here..).unwrap_or_default();
                    let left = left.saturating_sub(u64::try_from(here).unwrap_or(u64::MAX));
                    self.0 = if left == 0 { Next::DataEnd } else { Next::Data(left) };
                    continue;
                }
                (Next::Size(1.., size), b'\r') => Next::SizeEnd(size),
                (Next::Size(digits, size), _) if digits < DIGITS_MAX => {
                    let digit = char::from(*byte).to_digit(16).ok_or(RequestError::FramingConflict)?;
                    Next::Size(digits.saturating_add(1), size.saturating_mul(16).saturating_add(digit.into()))
                }
                (Next::SizeEnd(0), b'\n') => Next::End,
                (Next::SizeEnd(size), b'\n') => Next::Data(size),
                (Next::DataEnd, b'\r') => Next::DataFeed,
                (Next::DataFeed, b'\n') => Next::Size(0, 0),
                (Next::End, b'\r') => Next::EndFeed,
                (Next::EndFeed, b'\n') => Next::Nothing,
                _ => return Err(RequestError::FramingConflict),
            };
            bytes = rest;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes of `body` as a whole, which is the same byte by byte.
    fn pass(body: &[u8]) -> Result<bool, RequestError> {
        let (mut whole, mut single) = (Chunks::BEGIN, Chunks::BEGIN);
        let outcome = whole.pass(body).map(|()| whole == Chunks::default());
        let parts = body.chunks(1).try_for_each(|byte| single.pass(byte)).map(|()| single == Chunks::default());
        assert_eq!(outcome, parts);
        outcome
    }

    #[test]
    fn chunks_end_where_they_say() {
        assert_eq!(pass(b"0\r\n\r\n"), Ok(true));
        assert_eq!(pass(b"5\r\nhello\r\n00a\r\n0123456789\r\n0\r\n\r\n"), Ok(true));
        assert_eq!(pass(b"2\r\n\r\n\r\n0\r\n\r\nGET / and so on \0\n"), Ok(true));
        for begun in [&b""[..], b"5", b"5\r", b"5\r\nhell", b"5\r\nhello\r", b"0\r\n", b"0\r\n\r"] {
            assert_eq!(pass(begun), Ok(false), "{}", begun.escape_ascii());
        }
    }

    #[test]
    fn whatever_may_end_elsewhere_is_refused() {
        for body in [
            &b"\r\n"[..],
            b"\n",
            b"3\r\nfoo\r\n\r\n",
            b"3 \r\nfoo\r\n0\r\n\r\n",
            b" 3\r\nfoo\r\n0\r\n\r\n",
            b"3;\r\nfoo\r\n0\r\n\r\n",
            b"3;a=b\r\nfoo\r\n0\r\n\r\n",
            b"3;\nfoo\r\n0\r\n\r\n",
            b"3\nfoo\r\n0\r\n\r\n",
            b"3\rfoo\r\n0\r\n\r\n",
            b"3\r\nfoobar",
            b"3\r\nfoo\n0\r\n\r\n",
            b"3\r\nfoo0\r\n\r\n",
            b"0x3\r\nfoo\r\n0\r\n\r\n",
            b"+3\r\nfoo\r\n0\r\n\r\n",
            b"-1\r\n",
            b"0000000000000003\r\nfoo\r\n0\r\n\r\n",
            b"fffffffffffffffff\r\n",
            b"0\r\nx: y\r\n\r\n",
            b"0\r\n\n",
            b"0\n\n",
        ] {
            assert_eq!(pass(body), Err(RequestError::FramingConflict), "{}", body.escape_ascii());
        }
    }
}
