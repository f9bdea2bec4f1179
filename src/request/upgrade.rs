//! Requests to go on in another protocol: only where nobody can doubt it.

use http::{HeaderMap, Method, header};

use super::{
    RequestError,
    headers::{nominates, only},
};

/// Checks a request of HTTP/1.1 that asks for WebSocket, the one protocol that is handed through. Any other is not passed on,
/// and its request is like all others (RFC 9110 section 7.8).
///
/// # Errors
/// [`RequestError::UpgradeUnclear`] where some servers would see an upgrade and some would not: with another method than
/// `GET`, with a body, or without `Connection: upgrade`. [`RequestError::HeaderRepeated`] for several `Upgrade`.
pub fn check(method: &Method, headers: &HeaderMap) -> Result<(), RequestError> {
    only(headers, &header::UPGRADE)?;
    if !names_websocket(headers) {
        return Ok(());
    }
    let length = headers.get(header::CONTENT_LENGTH);
    let bodiless = length.is_none_or(|length| length == "0") && !headers.contains_key(header::TRANSFER_ENCODING);
    let clear = method == Method::GET && bodiless && nominates(headers, &header::UPGRADE);
    if clear { Ok(()) } else { Err(RequestError::UpgradeUnclear) }
}

/// Whether `Upgrade` names WebSocket, and nothing else.
pub fn names_websocket(headers: &HeaderMap) -> bool {
    headers.get(header::UPGRADE).is_some_and(|protocol| protocol.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    #[test]
    fn an_upgrade_is_asked_for_in_one_way() {
        let check = |method: Method, fields: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
            }
            check(&method, &headers)
        };
        let (upgrade, connection) = (("upgrade", "WebSocket"), ("connection", "keep-alive, Upgrade"));
        assert_eq!(check(Method::GET, &[upgrade, connection]), Ok(()));
        assert_eq!(check(Method::GET, &[upgrade, connection, ("content-length", "0")]), Ok(()));
        assert_eq!(check(Method::POST, &[("upgrade", "h2c"), ("content-length", "5")]), Ok(()));
        let unclear = Err(RequestError::UpgradeUnclear);
        assert_eq!(check(Method::GET, &[upgrade]), unclear);
        assert_eq!(check(Method::GET, &[upgrade, ("connection", "close")]), unclear);
        assert_eq!(check(Method::POST, &[upgrade, connection]), unclear);
        assert_eq!(check(Method::GET, &[upgrade, connection, ("content-length", "5")]), unclear);
        assert_eq!(check(Method::GET, &[upgrade, connection, ("transfer-encoding", "chunked")]), unclear);
        let repeated = check(Method::GET, &[upgrade, ("upgrade", "h2c"), connection]);
        assert_eq!(repeated, Err(RequestError::HeaderRepeated));
    }
}
