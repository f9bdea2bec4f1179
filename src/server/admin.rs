//! The admin listener: is the process alive, is it ready, what has it counted, whom does it deny. Never on the data port.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use serde_json::json;
use tokio::net::TcpListener;

use super::{
    deny_list,
    http1::{Http1Server, answer, json as answer_json},
};
use crate::{base::secret::Secret, metrics::Metrics, reload::Reloads, snapshot::Current};

/// What the admin listener tells of.
#[derive(Clone, Debug)]
pub struct State {
    /// The configuration at work.
    pub current: Arc<Current>,
    /// How its reloads went.
    pub reloads: Arc<Reloads>,
    /// What has been counted.
    pub metrics: Arc<Metrics>,
    /// Whether the gate is about to stop.
    pub draining: Arc<AtomicBool>,
    /// What operators must show to see and change the deny-list.
    pub token: Arc<ArcSwapOption<Secret>>,
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
    let snapshot = state.current.load();
    let issuers = snapshot.issuers();
    state.metrics.text(|metrics| {
        for (issuer, ring) in issuers.rings() {
            metrics.note_keys(issuer, ring.age, ring.fetched, ring.failed);
        }
        for (issuer, said) in issuers.introspections() {
            metrics.note_introspections(issuer, said.active, said.inactive, said.failed);
        }
        for (source, said) in snapshot.sources().states() {
            metrics.note_lookups(source, said.answered, said.failed, said.paused);
        }
        for (limit, unanswered) in snapshot.rates().unanswered() {
            metrics.note_rates(limit, unanswered);
        }
        let denied = issuers.denied().state();
        metrics.note_deny_list(denied.entries, denied.failing);
        metrics.note_reloads(state.reloads.good(), state.reloads.refused(), state.reloads.failing().is_some());
        metrics.note_candidate(state.current.load().candidate_failing());
    })
}

/// Ready means: every issuer's keys are there, and the gate is not about to stop. That a newer configuration was refused is
/// told, and changes nothing: the one in force is as good as before.
fn readiness(state: &State) -> Response<Full<Bytes>> {
    let snapshot = state.current.load();
    let without_keys = snapshot.issuers().without_keys();
    let draining = state.draining.load(Ordering::Acquire);
    let ready = without_keys.is_empty() && !draining;
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let refused =
        state.reloads.failing().map(|failing| json!({ "since": failing.since, "problems": failing.problems }));
    let configuration = json!({ "revision": state.reloads.revision(), "refused": refused });
    let body = json!({
        "ready": ready, "draining": draining, "issuers_without_keys": without_keys, "configuration": configuration,
    });
    answer_json(status, &body)
}
