//! The syntax of a raw HTTP/1.x head, to the letter (RFC 9112 sections 2 to 5). The HTTP library takes more than that, mends
//! some of it before anyone sees it, and turns the rest away without a record; so this is asked first.

use super::RequestError;

/// Fields that the HTTP library reads of a head.
pub const FIELDS_MAX: usize = 256;

/// Checks the head at the beginning of `bytes`, which may go on beyond its end; gives its length.
///
/// # Errors
/// [`RequestError::AmbiguousPath`] for a request line that is not three words with one blank between them;
/// [`RequestError::FramingConflict`] for another version, a line that does not end in carriage return and line feed, a folded
/// line, a name that is no token or is not followed by its colon at once, and control characters;
/// [`RequestError::HeadTooLarge`] for more than [`FIELDS_MAX`] fields.
pub fn check(bytes: &[u8]) -> Result<usize, RequestError> {
    // Empty lines may come before a request (RFC 9112 section 2.2).
    let breaks = bytes.chunks(2).take_while(|pair| *pair == b"\r\n").count();
    let mut lines = bytes.split(|byte| *byte == b'\n').skip(breaks);
    let mut length = breaks.saturating_mul(2);
    let mut line = || -> Option<&[u8]> {
        let line = lines.next()?.strip_suffix(b"\r")?;
        length = length.saturating_add(line.len()).saturating_add(2);
        Some(line)
    };
    let first = line().ok_or(RequestError::FramingConflict)?;
    let mut words = first.split(|byte| *byte == b' ');
    match (words.next(), words.next(), words.next(), words.next()) {
        (Some(method), Some(target), Some(version), None) => {
            if !matches!(version, b"HTTP/1.1" | b"HTTP/1.0") || !is_token(method) {
                return Err(RequestError::FramingConflict);
            }
            if target.is_empty() || target.iter().any(u8::is_ascii_control) {
                return Err(RequestError::AmbiguousPath);
            }
        }
        _ => return Err(RequestError::AmbiguousPath),
    }
    for _ in 0..=FIELDS_MAX {
        let line = line().ok_or(RequestError::FramingConflict)?;
        if line.is_empty() {
            return Ok(length);
        }
        let mut parts = line.splitn(2, |byte| *byte == b':');
        match (parts.next(), parts.next()) {
            (Some(name), Some(value)) if is_token(name) && !value.iter().any(is_odd) => {}
            _ => return Err(RequestError::FramingConflict),
        }
    }
    Err(RequestError::HeadTooLarge)
}

const fn is_odd(byte: &u8) -> bool {
    byte.is_ascii_control() && *byte != b'\t'
}

/// RFC 9110 section 5.6.2.
fn is_token(word: &[u8]) -> bool {
    !word.is_empty() && word.iter().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_to_the_letter_is_accepted() {
        for head in [
            &b"GET / HTTP/1.1\r\n\r\n"[..],
            b"\r\n\r\nGET /a?b HTTP/1.0\r\nhost:a\r\nx:\t \xff\r\nempty:\r\n\r\n",
            b"M-SEARCH * HTTP/1.1\r\nX_y.z: a:b\r\n\r\n",
        ] {
            for more in [&b""[..], b"\r\n", b"what\nfollows\0"] {
                assert_eq!(check(&[head, more].concat()), Ok(head.len()), "{}", head.escape_ascii());
            }
        }
    }

    #[test]
    fn fields_that_would_not_be_read_are_too_many() {
        let head = |fields: usize| format!("GET / HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(fields));
        assert!(check(head(FIELDS_MAX).as_bytes()).is_ok());
        assert_eq!(check(head(FIELDS_MAX + 1).as_bytes()), Err(RequestError::HeadTooLarge));
    }

    #[test]
    fn whatever_else_may_be_read_as_a_head_is_refused() {
        for head in [
            &b"\nGET / HTTP/1.1\r\n\r\n"[..],
            b"GET / HTTP/1.1\n\n",
            b"GET / HTTP/1.1\r\nhost: a\nx: y\r\n\r\n",
            b"GET / HTTP/1.1\r\nhost: a\r\n\n",
            b"GET / HTTP/1.1\r\nhost: a\rx: y\r\n\r\n",
            b"GET / HTTP/1.1\r\nhost: a\r\r\n\r\n",
            b"GET / HTTP/1.1\r\nx: y\r\n z\r\n\r\n",
            b"GET / HTTP/1.1\r\n host: a\r\n\r\n",
            b"GET / HTTP/1.1\r\nhost : a\r\n\r\n",
            b"GET / HTTP/1.1\r\nhost\r\n\r\n",
            b"GET / HTTP/1.1\r\n: a\r\n\r\n",
            b"GET / HTTP/1.1\r\nh\xffost: a\r\n\r\n",
            b"GET / HTTP/1.1\r\nx: \0\r\n\r\n",
            b"GET / HTTP/1.1\r\nx: \x7f\r\n\r\n",
            b"GET / HTTP/1.2\r\n\r\n",
            b"GET / http/1.1\r\n\r\n",
            b"GET / ICE/1.0\r\n\r\n",
            b"G(T / HTTP/1.1\r\n\r\n",
            b" / HTTP/1.1\r\n\r\n",
            b"GET / HTTP/1.1\r\nhost: a\r\n",
        ] {
            assert_eq!(check(head), Err(RequestError::FramingConflict), "{}", head.escape_ascii());
        }
        for head in [
            &b"GET /a b HTTP/1.1\r\n\r\n"[..],
            b"GET  / HTTP/1.1\r\n\r\n",
            b"GET /\tHTTP/1.1\r\n\r\n",
            b"GET /a\tb HTTP/1.1\r\n\r\n",
            b"GET / HTTP/1.1 \r\n\r\n",
            b"GET /\r\n\r\n",
            b"GET  HTTP/1.1\r\n\r\n",
        ] {
            assert_eq!(check(head), Err(RequestError::AmbiguousPath), "{}", head.escape_ascii());
        }
    }
}
