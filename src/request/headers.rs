//! Header fields that must stand once.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::RequestError;

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
