//! What the HTTP library turns away before anybody else sees it, and so without a record. A raw HTTP/1.x head is asked for it
//! first, once its [syntax](super::syntax) is good.

use http::uri::Authority;

use super::{RequestError, syntax::RawHead};

/// Checks `head`.
///
/// # Errors
/// [`RequestError::MethodRefused`] for `CONNECT`; [`RequestError::AmbiguousPath`] for a target that is no path;
/// [`RequestError::HeaderRepeated`] for two of `Host` or `Content-Length`; [`RequestError::HostInvalid`] for one that names no host;
/// [`RequestError::FramingConflict`] for a length that is no number, and for a transfer coding in HTTP/1.0 (RFC 9112 section 6.1).
pub fn check(head: &RawHead<'_>) -> Result<(), RequestError> {
    if head.method() == b"CONNECT" {
        return Err(RequestError::MethodRefused);
    }
    if !head.target().starts_with(b"/") {
        return Err(RequestError::AmbiguousPath);
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

/// Digits of a length: more than any body has, and less than what the library counts in.
const LENGTH_DIGITS_MAX: usize = 18;

/// Host and port as `Host` has them (RFC 9110 section 7.2).
pub fn authority(host: &[u8]) -> Option<Authority> {
    let authority = Authority::try_from(host).ok()?;
    let is_bare = !authority.as_str().contains('@') && !authority.host().trim_end_matches('.').is_empty();
    is_bare.then_some(authority)
}
