//! What is logged, on the admin listener: `GET /log`, `PUT /log` with levels, `DELETE /log` to go back to what the
//! configuration says.

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use serde_json::json;

use super::{
    admin::State,
    http1::json as answer,
    operator::{self, error},
};
use crate::{
    base::levels::{Levels, TEXT_BYTES_MAX},
    logs,
};

/// Where that is.
pub(super) const PATH: &str = "/log";

pub(super) async fn respond(request: Request<Incoming>, state: &State) -> Response<Full<Bytes>> {
    if let Some(refusal) = operator::refuse(&request, state) {
        return refusal;
    }
    let Some(logs) = logs::installed() else {
        return error(StatusCode::NOT_FOUND, "the gate is part of a program that logs by itself");
    };
    match *request.method() {
        Method::GET => {}
        Method::PUT => match levels(request).await {
            Ok(levels) => logs.choose(Some(levels)),
            Err((status, reason)) => return error(status, &reason),
        },
        Method::DELETE => logs.choose(None),
        _ => return error(StatusCode::METHOD_NOT_ALLOWED, "GET, PUT or DELETE"),
    }
    let (levels, chosen) = logs.in_force();
    answer(StatusCode::OK, &json!({ "level": levels.to_string(), "by": chosen.name() }))
}

async fn levels(request: Request<Incoming>) -> Result<Levels, (StatusCode, String)> {
    let body = Limited::new(request.into_body(), TEXT_BYTES_MAX).collect().await;
    let body =
        body.map_err(|_| (StatusCode::PAYLOAD_TOO_LARGE, "the levels did not come whole, or are too many".to_owned()))?;
    let bytes = body.to_bytes();
    let text = std::str::from_utf8(&bytes).map_err(|error| (StatusCode::BAD_REQUEST, error.to_string()))?;
    text.trim().parse().map_err(|reason| (StatusCode::BAD_REQUEST, reason))
}
