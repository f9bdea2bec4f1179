//! The admin listener: is the process alive, is it ready, what has it counted. Never on the data port.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::net::TcpListener;

use super::http1::{Http1Server, answer, json};
use crate::{metrics::Metrics, snapshot::Snapshot};

/// What the admin listener tells of.
#[derive(Clone, Debug)]
pub struct State {
    /// The configuration at work.
    pub snapshot: Arc<Snapshot>,
    /// What has been counted.
    pub metrics: Arc<Metrics>,
    /// Whether the gate is about to stop.
    pub draining: Arc<AtomicBool>,
}

/// Serves `/livez`, `/readyz` and `/metrics` on `listener`.
///
/// # Errors
/// When the listener has no address.
pub fn start(listener: TcpListener, state: State) -> io::Result<Http1Server> {
    Http1Server::start(listener, move |request: Request<Incoming>| std::future::ready(respond(&request, &state)))
}

fn respond(request: &Request<Incoming>, state: &State) -> Response<Full<Bytes>> {
    if request.method() != Method::GET {
        return answer(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "GET only\n");
    }
    match request.uri().path() {
        "/livez" => answer(StatusCode::OK, "text/plain", "alive\n"),
        "/readyz" => readiness(state),
        "/metrics" => answer(StatusCode::OK, "text/plain; version=0.0.4", state.metrics.text()),
        _ => answer(StatusCode::NOT_FOUND, "text/plain", "/livez, /readyz or /metrics\n"),
    }
}

/// Ready means: every issuer's keys are there, and the gate is not about to stop.
fn readiness(state: &State) -> Response<Full<Bytes>> {
    let without_keys = state.snapshot.issuers().without_keys();
    let draining = state.draining.load(Ordering::Acquire);
    let ready = without_keys.is_empty() && !draining;
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    json(status, &serde_json::json!({ "ready": ready, "draining": draining, "issuers_without_keys": without_keys }))
}
