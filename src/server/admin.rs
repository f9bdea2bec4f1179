//! The admin listener: is the process alive, is it ready, what has it counted, whom does it deny. Never on the data port.

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

use super::{
    deny_list,
    http1::{Http1Server, answer, json},
};
use crate::{base::secret::Secret, metrics::Metrics, snapshot::Snapshot};

/// What the admin listener tells of.
#[derive(Clone, Debug)]
pub struct State {
    /// The configuration at work.
    pub snapshot: Arc<Snapshot>,
    /// What has been counted.
    pub metrics: Arc<Metrics>,
    /// Whether the gate is about to stop.
    pub draining: Arc<AtomicBool>,
    /// What operators must show to see and change the deny-list.
    pub token: Option<Secret>,
}

/// Serves `/livez`, `/readyz`, `/metrics` and `/deny-list` on `listener`.
///
/// # Errors
/// When the listener has no address.
pub fn start(listener: TcpListener, state: State) -> io::Result<Http1Server> {
    Http1Server::start(listener, move |request: Request<Incoming>| {
        let state = state.clone();
        async move {
            let path = request.uri().path();
            if path == deny_list::PATH || path.starts_with(deny_list::BELOW) {
                deny_list::respond(request, &state).await
            } else {
                respond(&request, &state)
            }
        }
    })
}

fn respond(request: &Request<Incoming>, state: &State) -> Response<Full<Bytes>> {
    if request.method() != Method::GET {
        return answer(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "GET only\n");
    }
    match request.uri().path() {
        "/livez" => answer(StatusCode::OK, "text/plain", "alive\n"),
        "/readyz" => readiness(state),
        "/metrics" => answer(StatusCode::OK, "text/plain; version=0.0.4", metrics(state)),
        _ => answer(StatusCode::NOT_FOUND, "text/plain", "/livez, /readyz, /metrics or /deny-list\n"),
    }
}

/// What is counted as it happens, and what is asked for now.
fn metrics(state: &State) -> Vec<u8> {
    for (issuer, ring) in state.snapshot.issuers().rings() {
        state.metrics.note_keys(issuer, ring.age, ring.fetched, ring.failed);
    }
    for (issuer, said) in state.snapshot.issuers().introspections() {
        state.metrics.note_introspections(issuer, said.active, said.inactive, said.failed);
    }
    let denied = state.snapshot.issuers().denied().state();
    state.metrics.note_deny_list(denied.entries, denied.failing);
    state.metrics.text()
}

/// Ready means: every issuer's keys are there, and the gate is not about to stop.
fn readiness(state: &State) -> Response<Full<Bytes>> {
    let without_keys = state.snapshot.issuers().without_keys();
    let draining = state.draining.load(Ordering::Acquire);
    let ready = without_keys.is_empty() && !draining;
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    json(status, &serde_json::json!({ "ready": ready, "draining": draining, "issuers_without_keys": without_keys }))
}
