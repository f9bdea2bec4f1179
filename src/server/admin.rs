//! The admin listener: is the process alive, is it ready, what has it counted. Never on the data port.

use std::{io, sync::Arc};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::net::TcpListener;

use super::http1::{Http1Server, answer, json};
use crate::{metrics::Metrics, snapshot::Snapshot};

/// Serves `/livez`, `/readyz` and `/metrics` on `listener`.
///
/// # Errors
/// When the listener has no address.
pub fn start(listener: TcpListener, snapshot: Arc<Snapshot>, metrics: Arc<Metrics>) -> io::Result<Http1Server> {
    Http1Server::start(listener, move |request: Request<Incoming>| {
        let response = respond(&request, &snapshot, &metrics);
        std::future::ready(response)
    })
}

fn respond(request: &Request<Incoming>, snapshot: &Snapshot, metrics: &Metrics) -> Response<Full<Bytes>> {
    if request.method() != Method::GET {
        return answer(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "GET only\n");
    }
    match request.uri().path() {
        "/livez" => answer(StatusCode::OK, "text/plain", "alive\n"),
        "/readyz" => readiness(snapshot),
        "/metrics" => answer(StatusCode::OK, "text/plain; version=0.0.4", metrics.text()),
        _ => answer(StatusCode::NOT_FOUND, "text/plain", "/livez, /readyz or /metrics\n"),
    }
}

/// Ready means: every issuer's keys are there.
fn readiness(snapshot: &Snapshot) -> Response<Full<Bytes>> {
    let without_keys = snapshot.issuers().without_keys();
    let status = if without_keys.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    json(status, &serde_json::json!({ "ready": without_keys.is_empty(), "issuers_without_keys": without_keys }))
}
