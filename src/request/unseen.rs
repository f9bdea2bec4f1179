//! What the HTTP library turns away before anybody else sees it, and so without a record. A raw HTTP/1.x head is asked for it
//! first, once its [syntax](super::syntax) is good.

use http::uri::Authority;

use super::{RequestError, syntax::RawHead};

/// Checks `head`.
///
/// # Errors
/// [`RequestError::MethodRefused`] for `CONNECT`; [`RequestError::AmbiguousPath`] for a target that is no path, or has what the
/// library takes in none; [`RequestError::TargetTooLong`] for one longer than it counts;
/// [`RequestError::HeaderRepeated`] for two of `Host` or `Content-Length`; [`RequestError::HostInvalid`] for one that names no host;
/// [`RequestError::FramingConflict`] for a length that is no number, and for a transfer coding in HTTP/1.0 (RFC 9112 section 6.1).
pub fn check(head: &RawHead<'_>) -> Result<(), RequestError> {
    if head.method() == b"CONNECT" {
        return Err(RequestError::MethodRefused);
    }
    let target = head.target();
    if !target.starts_with(b"/") || !is_taken(target) {
        return Err(RequestError::AmbiguousPath);
    }
    if target.len() > TARGET_BYTES_MAX {
        return Err(RequestError::TargetTooLong);
    }
    if head.only("host")?.is_some_and(|host| authority(host).is_none()) {
        return Err(RequestError::HostInvalid);
    }
    let length = head.only("content-length")?;
    let is_number = |text: &[u8]| text.iter().all(u8::is_ascii_digit) && (1..=LENGTH_DIGITS_MAX).contains(&text.len());
    let is_coded = head.field("transfer-encoding").is_some();
    if !length.is_none_or(is_number) || (is_coded && head.is_http10()) {
        return Err(RequestError::FramingConflict);
    }
    Ok(())
}

/// Bytes of a target that the library counts.
const TARGET_BYTES_MAX: usize = 65_534;

/// Whether the library takes each byte of a path and its query. In a query it does not take `"`, in a path it does, but no
/// [`Target`](super::path::Target) has it anywhere.
fn is_taken(target: &[u8]) -> bool {
    !target.iter().any(|byte| matches!(byte, b'"' | b'<' | b'>' | b'`'))
}

/// Digits of a length: more than any body has, and less than what the library counts in.
const LENGTH_DIGITS_MAX: usize = 18;

/// Host and port as `Host` has them (RFC 9110 section 7.2).
pub fn authority(host: &[u8]) -> Option<Authority> {
    let authority = Authority::try_from(host).ok()?;
    let is_bare = !authority.as_str().contains('@') && !authority.host().trim_end_matches('.').is_empty();
    is_bare.then_some(authority)
}

#[cfg(test)]
mod tests {
    use http::uri::PathAndQuery;

    use super::*;

    proptest::proptest! {
        /// What is let on the library takes.
        #[test]
        fn a_target_that_is_let_on_is_taken(target in "/[!-~]{0,12}") {
            let head = format!("GET {target} HTTP/1.1\r\nhost: a\r\n\r\n");
            let checked = check(&RawHead::parse(head.as_bytes()).unwrap());
            if checked.is_ok() {
                proptest::prop_assert!(PathAndQuery::try_from(target.as_str()).is_ok(), "{}", target);
            }
        }
    }

    #[test]
    fn a_target_is_no_longer_than_what_the_library_counts() {
        for (bytes, checked) in [(TARGET_BYTES_MAX, Ok(())), (TARGET_BYTES_MAX + 1, Err(RequestError::TargetTooLong))] {
            let target = format!("/{}", "a".repeat(bytes - 1));
            let head = format!("GET {target} HTTP/1.1\r\nhost: a\r\n\r\n");
            assert_eq!(check(&RawHead::parse(head.as_bytes()).unwrap()), checked);
            assert_eq!(PathAndQuery::try_from(target).is_ok(), checked.is_ok());
        }
    }
}
