//! Header fields that decide something: only where the upstream reads the same.

use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::RequestError;
use crate::base::names::same;

/// The only value of `name`, if there is one.
///
/// # Errors
/// [`RequestError::HeaderRepeated`] when there are several.
pub fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a HeaderValue>, RequestError> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (_, Some(_)) => Err(RequestError::HeaderRepeated),
        (value, None) => Ok(value),
    }
}

/// What the upstream reads may be something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unclear;

/// All values of `name`, as the upstream gets them.
///
/// # Errors
/// Where `Connection` has the field removed on the way (RFC 9110 section 7.6.1), or another field is one with it to some
/// servers.
pub fn forwarded<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Vec<&'a HeaderValue>, Unclear> {
    let has_twin = headers.keys().any(|other| other != name && same(other.as_str().bytes(), name.as_str()));
    if has_twin || nominates(headers, name) { Err(Unclear) } else { Ok(headers.get_all(name).iter().collect()) }
}

/// Whether `Connection` names this, as an option or as a field that is for the next hop alone.
pub fn nominates(headers: &HeaderMap, name: &HeaderName) -> bool {
    headers.get_all(header::CONNECTION).iter().any(|value| {
        let mut named = value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
        named.any(|named| named.eq_ignore_ascii_case(name.as_str().as_bytes()))
    })
}

/// Whether a field of this name is for the next hop alone, so that it is never forwarded.
pub fn is_for_one_hop(name: &HeaderName) -> bool {
    const FIELDS: [&str; 10] = [
        "connection",
        "http2-settings",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    FIELDS.contains(&name.as_str())
}
