//! Framing with one reading only, that of HTTP/1.x above all. The proxy library repairs some of what is refused here
//! (bare line feeds, `Content-Length` beside `Transfer-Encoding`), so the raw bytes are checked.

use http::{HeaderMap, HeaderValue, header};

use super::{RequestError, syntax::RawHead};

/// Checks the raw head `wire`, of which `headers` are the parsed fields and `target` the parsed target.
///
/// # Errors
/// Those of [`RawHead::parse`]. [`RequestError::AmbiguousPath`] when the target on the wire is not, byte for byte, the one that
/// was parsed. [`RequestError::FramingConflict`] for `Content-Length` that is not plain digits or stands beside
/// `Transfer-Encoding` (RFC 9112 section 6.1), and any transfer coding but `chunked`.
pub fn check(wire: &[u8], target: &[u8], headers: &HeaderMap) -> Result<(), RequestError> {
    let wire = RawHead::parse(wire)?;
    let coded = wire.field("transfer-encoding").is_some();
    if coded && wire.field("content-length").is_some() {
        return Err(RequestError::FramingConflict);
    }
    if wire.target() != target {
        return Err(RequestError::AmbiguousPath);
    }
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let one_chunked = matches!((codings.next(), codings.next()), (Some(coding), None)
        if coding.as_bytes().eq_ignore_ascii_case(b"chunked"));
    let digits_only = headers
        .get_all(header::CONTENT_LENGTH)
        .iter()
        .all(|length| !length.is_empty() && length.as_bytes().iter().all(u8::is_ascii_digit));
    if (coded && !one_chunked) || !digits_only {
        return Err(RequestError::FramingConflict);
    }
    Ok(())
}

/// Checks fields that did not come in HTTP/1.x: there, blanks around a value are none of it, and so none may be here (RFC 9113
/// section 8.2.1). The upstream would read another value than the one that was authorised.
///
/// # Errors
/// [`RequestError::FramingConflict`] where there are some.
pub fn check_values(headers: &HeaderMap) -> Result<(), RequestError> {
    let is_bare = |value: &HeaderValue| value.as_bytes().trim_ascii().len() == value.len();
    if headers.values().all(is_bare) { Ok(()) } else { Err(RequestError::FramingConflict) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(fields: &[(&'static str, &'static str)]) -> Result<(), RequestError> {
        let mut headers = HeaderMap::new();
        let mut wire = b"POST / HTTP/1.1\r\n".to_vec();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
            wire.extend(format!("{name}: {value}\r\n").bytes());
        }
        wire.extend(b"\r\n");
        check(&wire, b"/", &headers)
    }

    #[test]
    fn one_length_or_one_chunked_coding_is_accepted() {
        assert_eq!(head(&[]), Ok(()));
        assert_eq!(head(&[("content-length", "12")]), Ok(()));
        assert_eq!(head(&[("transfer-encoding", "Chunked")]), Ok(()));
    }

    #[test]
    fn anything_with_two_readings_is_refused() {
        for fields in [
            &[("content-length", "1"), ("transfer-encoding", "chunked")][..],
            &[("transfer-encoding", "gzip, chunked")],
            &[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")],
            &[("content-length", "+5")],
            &[("content-length", "5, 5")],
            &[("content-length", "")],
        ] {
            assert_eq!(head(fields), Err(RequestError::FramingConflict), "{fields:?}");
        }
        assert_eq!(
            check(b"GET / HTTP/1.1\nhost: a\r\n\r\n", b"/", &HeaderMap::new()),
            Err(RequestError::FramingConflict)
        );
        assert_eq!(check(b"\nGET / HTTP/1.1\r\n\r\n", b"/", &HeaderMap::new()), Err(RequestError::FramingConflict));
    }

    #[test]
    fn a_value_has_no_blanks_around_it() {
        for (value, sound) in [("", true), ("a b", true), (" a", false), ("a\t", false), (" ", false)] {
            let headers = HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(value))]);
            assert_eq!(check_values(&headers).is_ok(), sound, "{value:?}");
        }
    }

    #[test]
    fn a_length_that_the_parser_dropped_is_still_seen() {
        let mut parsed = HeaderMap::new();
        parsed.append("transfer-encoding", HeaderValue::from_static("chunked"));
        let wire = b"POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(check(wire, b"/", &parsed), Err(RequestError::FramingConflict));
    }

    #[test]
    fn the_target_on_the_wire_is_the_one_that_was_parsed() {
        let check = |wire: &[u8]| check(wire, b"/a%20b", &HeaderMap::new());
        assert_eq!(check(b"GET /a%20b HTTP/1.1\r\n\r\n"), Ok(()));
        for wire in [
            &b"GET /a b HTTP/1.1\r\n\r\n"[..],
            b"GET /a%20b#c HTTP/1.1\r\n\r\n",
            b"GET  /a%20b HTTP/1.1\r\n\r\n",
            b"GET /a%20b\r\n\r\n",
        ] {
            assert_eq!(check(wire), Err(RequestError::AmbiguousPath), "{wire:?}");
        }
    }
}
