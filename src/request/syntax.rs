//! The syntax of a raw HTTP/1.x head, to the letter (RFC 9112 sections 2 to 5). The HTTP library takes more than that, mends
//! some of it before anyone sees it, and turns the rest away without a record; so this is asked first.

use memchr::memchr;

use super::RequestError;

/// Fields that the HTTP library reads of a head.
pub const FIELDS_MAX: usize = 256;

/// How many fields a head usually has at most.
const FIELDS_USUAL: usize = 24;

/// A raw head in its parts, each as it was sent.
#[derive(Debug, PartialEq, Eq)]
pub struct RawHead<'a> {
    method: &'a [u8],
    target: &'a [u8],
    version: &'a [u8],
    fields: Vec<(&'a [u8], &'a [u8])>,
    bytes: usize,
}

impl<'a> RawHead<'a> {
    /// Reads the head at the beginning of `bytes`, which may go on beyond its end.
    ///
    /// # Errors
    /// [`RequestError::AmbiguousPath`] for a request line that is not three words with one blank between them;
    /// [`RequestError::FramingConflict`] for another version, a line that does not end in carriage return and line feed, a folded
    /// line, a name that is no token or is not followed by its colon at once, and control characters;
    /// [`RequestError::HeadTooLarge`] for more than [`FIELDS_MAX`] fields.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, RequestError> {
        let mut rest = bytes;
        // Empty lines may come before a request (RFC 9112 section 2.2).
        while let Some(more) = rest.strip_prefix(b"\r\n") {
            rest = more;
        }
        let first = line(&mut rest)?;
        let mut words = first.split(|byte| *byte == b' ');
        let (Some(method), Some(target), Some(version), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(RequestError::AmbiguousPath);
        };
        if !matches!(version, b"HTTP/1.1" | b"HTTP/1.0") || !is_token(method) {
            return Err(RequestError::FramingConflict);
        }
        if target.is_empty() || target.iter().any(u8::is_ascii_control) {
            return Err(RequestError::AmbiguousPath);
        }
        let mut fields = Vec::with_capacity(FIELDS_USUAL);
        loop {
            let line = line(&mut rest)?;
            if line.is_empty() {
                let bytes = bytes.len().saturating_sub(rest.len());
                return Ok(Self { method, target, version, fields, bytes });
            }
            if fields.len() == FIELDS_MAX {
                return Err(RequestError::HeadTooLarge);
            }
            let colon = memchr(b':', line).and_then(|colon| line.split_at_checked(colon));
            let (name, value) = colon.ok_or(RequestError::FramingConflict)?;
            let value = value.get(1..).unwrap_or_default();
            if !is_token(name) || has_odd(value) {
                return Err(RequestError::FramingConflict);
            }
            fields.push((name, value.trim_ascii()));
        }
    }

    /// The method.
    pub const fn method(&self) -> &'a [u8] {
        self.method
    }

    /// The target.
    pub const fn target(&self) -> &'a [u8] {
        self.target
    }

    /// Whether it is of HTTP/1.0.
    pub fn is_http10(&self) -> bool {
        self.version == b"HTTP/1.0"
    }

    /// How many bytes it has, with the empty lines before it.
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// The values of the fields of this name, which is in lower case, without the blanks around them.
    pub fn fields(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.fields
            .iter()
            .filter(move |(found, _)| found.eq_ignore_ascii_case(name.as_bytes()))
            .map(|(_, value)| *value)
    }

    /// The first of them.
    pub fn field(&self, name: &str) -> Option<&'a [u8]> {
        self.fields(name).next()
    }

    /// The only one.
    ///
    /// # Errors
    /// [`RequestError::HeaderRepeated`] where there are several.
    pub fn only(&self, name: &str) -> Result<Option<&'a [u8]>, RequestError> {
        let mut all = self.fields(name);
        match (all.next(), all.next()) {
            (first, None) => Ok(first),
            _ => Err(RequestError::HeaderRepeated),
        }
    }
}

/// Takes the next line, which ends as lines have to.
fn line<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], RequestError> {
    let feed = memchr(b'\n', rest).ok_or(RequestError::FramingConflict)?;
    let (line, more) = rest.split_at_checked(feed).ok_or(RequestError::FramingConflict)?;
    *rest = more.get(1..).unwrap_or_default();
    line.strip_suffix(b"\r").ok_or(RequestError::FramingConflict)
}

/// Whether a control character stands in a value. Each byte is looked at, whatever the one before it is, so that many are at once.
fn has_odd(value: &[u8]) -> bool {
    value.iter().fold(false, |odd, byte| odd | (byte.is_ascii_control() & (*byte != b'\t')))
}

/// RFC 9110 section 5.6.2.
fn is_token(word: &[u8]) -> bool {
    !word.is_empty() && word.iter().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(bytes: &[u8]) -> Result<usize, RequestError> {
        RawHead::parse(bytes).map(|head| head.bytes())
    }

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

    #[test]
    fn a_head_is_taken_apart_as_it_was_sent() {
        let head = RawHead::parse(b"\r\nPUT /a?b HTTP/1.0\r\nHost:\t a \r\nx: 1\r\nX: 2:3\r\n\r\nx: 4\r\n").unwrap();
        assert_eq!((head.method(), head.target(), head.is_http10()), (&b"PUT"[..], &b"/a?b"[..], true));
        assert_eq!((head.only("host"), head.field("y")), (Ok(Some(&b"a"[..])), None));
        assert_eq!(head.fields("x").collect::<Vec<_>>(), [&b"1"[..], b"2:3"]);
        assert_eq!(head.only("x"), Err(RequestError::HeaderRepeated));
    }

    /// The same, line by line and byte by byte.
    fn plain(bytes: &[u8]) -> Result<usize, RequestError> {
        let breaks = bytes.chunks(2).take_while(|pair| *pair == b"\r\n").count() * 2;
        let mut lines = bytes[breaks..].split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r"));
        // What follows the last line feed is no line.
        let feeds = bytes[breaks..].iter().filter(|byte| **byte == b'\n').count();
        let mut read = 0;
        let mut next = || {
            read += 1;
            lines.next().flatten().filter(|_| read <= feeds).ok_or(RequestError::FramingConflict)
        };
        let first = next()?;
        let mut length = breaks + first.len() + 2;
        let words: Vec<_> = first.split(|byte| *byte == b' ').collect();
        let [method, target, version] = words[..] else { return Err(RequestError::AmbiguousPath) };
        if ![&b"HTTP/1.1"[..], b"HTTP/1.0"].contains(&version) || !is_token(method) {
            return Err(RequestError::FramingConflict);
        }
        if target.is_empty() || target.iter().any(u8::is_ascii_control) {
            return Err(RequestError::AmbiguousPath);
        }
        loop {
            let line = next()?;
            length += line.len() + 2;
            if line.is_empty() {
                return Ok(length);
            }
            let colon = line.iter().position(|byte| *byte == b':').ok_or(RequestError::FramingConflict)?;
            let odd = line[colon + 1..].iter().any(|byte| byte.is_ascii_control() && *byte != b'\t');
            if !is_token(&line[..colon]) || odd {
                return Err(RequestError::FramingConflict);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]
        #[test]
        fn many_bytes_at_once_are_read_as_one_by_one(
            pieces in prop::collection::vec(prop::sample::select(vec![
                &b"GET / HTTP/1.1"[..], b"\r\n", b"\r\n", b"\n", b"\r", b"host: a", b"x:y", b":", b" ", b"\t", b"\0", b"\x7f", b"\xff", b"",
            ]), 0..12),
            whole in any::<bool>(),
        ) {
            let mut bytes = if whole { b"GET / HTTP/1.1\r\n".to_vec() } else { Vec::new() };
            bytes.extend(pieces.concat());
            prop_assert_eq!(check(&bytes), plain(&bytes), "{}", bytes.escape_ascii());
        }
    }
}
