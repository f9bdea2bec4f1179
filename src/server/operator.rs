//! Who may see and do what only operators may: whoever shows their token, whatever address they come from.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use serde_json::json;

use super::{admin::State, http1::json as answer};

/// Why `request` is none of an operator's, if it is not.
pub(super) fn refuse(request: &Request<Incoming>, state: &State) -> Option<Response<Full<Bytes>>> {
    let Some(token) = state.token.load_full() else {
        return Some(error(StatusCode::FORBIDDEN, "no `admin_token` is configured"));
    };
    let mut shown = request.headers().get_all(header::AUTHORIZATION).iter();
    let shown =
        shown.next().filter(|_| shown.next().is_none()).and_then(|shown| shown.as_bytes().strip_prefix(b"Bearer "));
    let is_right = |shown| verify_slices_are_equal(shown, token.expose().as_bytes()).is_ok();
    if shown.is_some_and(is_right) {
        return None;
    }
    let mut refusal = error(StatusCode::UNAUTHORIZED, "show the `admin_token`");
    refusal.headers_mut().insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
    Some(refusal)
}

/// An answer that says why.
pub(super) fn error(status: StatusCode, reason: &str) -> Response<Full<Bytes>> {
    answer(status, &json!({ "error": reason }))
}
