//! A request as pingora has it, in the house's words.

use http::{HeaderMap, HeaderName, header};
use pingora_core::Result;
use pingora_http::RequestHeader;
use pingora_proxy::Session;

use super::caller::Caller;
use crate::request::{Head, upgrade::names_websocket};

/// Has a request say in HTTP/1's words what it says otherwise in HTTP/2: its host (RFC 9113 section 8.3.1; the library has
/// seen to it that there are not two), and its cookies, which may come in crumbs (section 8.2.3).
pub(super) fn as_in_http1(request: &mut RequestHeader) -> Result<()> {
    if let Some(authority) = request.uri.authority().map(|it| it.as_str().to_owned()) {
        request.insert_header(header::HOST, authority)?;
    }
    let crumbs: Vec<_> = request.headers.get_all(header::COOKIE).iter().map(|crumb| crumb.as_bytes()).collect();
    if crumbs.len() > 1 {
        let cookies = crumbs.join(&b"; "[..]);
        request.insert_header(header::COOKIE, cookies)?;
    }
    Ok(())
}

/// A request's head.
pub(super) fn head<'a>(request: &'a RequestHeader, wire: Option<&'a [u8]>, caller: &'a Caller) -> Head<'a> {
    Head {
        method: &request.method,
        target: request.raw_path(),
        headers: &request.headers,
        wire,
        peer: caller.peer,
        certificate: caller.certificate.as_ref(),
    }
}

/// Ends when the client has taken its request back, in HTTP/2.
pub(super) async fn left(session: &mut Session) {
    match session.as_downstream_mut().watch_h2_stream_close() {
        Some(close) => drop(close.await),
        None => std::future::pending().await,
    }
}

/// Whether the client asks for the one other protocol that is handed through.
pub(super) fn is_upgrade(session: &Session) -> bool {
    let http1 = session.as_downstream().as_http1();
    http1.is_some_and(|h1| h1.is_upgrade_req() && names_websocket(&h1.req_header().headers))
}

/// The names of fields that are such.
pub(super) fn named(headers: &HeaderMap, is_such: impl Fn(&HeaderName) -> bool) -> Vec<HeaderName> {
    headers.keys().filter(|name| is_such(name)).cloned().collect()
}
