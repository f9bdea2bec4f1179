//! The admin listener: is the process alive, is it ready, what has it counted, by what does it decide, whom does it deny,
//! how much does it log. Never on the data port.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use serde_json::json;

use super::{
    deny_list,
    http1::{Serving, answer, json as answer_json},
    log, operator,
    socket::Listening,
};
use crate::{
    base::secret::Secret, forward::server::State as ServerState, metrics::Metrics, reload::Reloads, snapshot::Current,
};

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
    /// What operators must show to see the configuration, and to see and change the deny-list and what is logged.
    pub token: Arc<ArcSwapOption<Secret>>,
}

/// Serves `/livez`, `/readyz`, `/metrics`, `/keys`, `/jwks`, `/upstreams`, `/config`, `/log` and `/deny-list` on `listening`.
pub fn start(listening: Listening, state: State) -> Serving {
    Serving::start(listening, move |request: Request<Incoming>| {
        let state = state.clone();
        async move {
            let path = request.uri().path();
            if path == deny_list::PATH || path.starts_with(deny_list::BELOW) {
                deny_list::respond(request, &state).await
            } else if path == log::PATH {
                log::respond(request, &state).await
            } else if path == "/config" {
                operator::refuse(&request, &state).unwrap_or_else(|| respond(&request, &state))
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
        "/keys" => keys(state),
        "/upstreams" => upstreams(state),
        "/jwks" => jwks(state),
        // INVARIANT: only who has shown the operators' token comes here.
        "/config" => answer(StatusCode::OK, "application/yaml", state.current.load().text().to_string()),
        "/metrics" => answer(StatusCode::OK, "text/plain; version=0.0.4", metrics(state)),
        _ => answer(
            StatusCode::NOT_FOUND,
            "text/plain",
            "/livez, /readyz, /metrics, /keys, /jwks, /upstreams, /config, /log or /deny-list\n",
        ),
    }
}

/// The keys that tokens are verified by, issuer by issuer.
fn keys(state: &State) -> Response<Full<Bytes>> {
    let snapshot = state.current.load();
    let issuers = snapshot.issuers();
    let rings = issuers.rings().zip(issuers.keys()).map(|((issuer, ring), (_, keys))| {
        json!({
            "issuer": issuer, "age_s": ring.age.map(|age| age.as_secs()), "fetched": ring.fetched, "failed": ring.failed,
            "set": keys.map(|keys| keys.told()),
        })
    });
    answer_json(StatusCode::OK, &rings.collect::<Vec<_>>().into())
}

/// The keys that assertions are verified by.
fn jwks(state: &State) -> Response<Full<Bytes>> {
    match state.current.load().identity().assertions() {
        Some(assertions) => answer_json(StatusCode::OK, assertions.jwks()),
        None => answer(StatusCode::NOT_FOUND, "text/plain", "no `identity.assertion` is configured\n"),
    }
}

/// The servers that requests are forwarded to, upstream by upstream, and how each does.
fn upstreams(state: &State) -> Response<Full<Bytes>> {
    let snapshot = state.current.load();
    let now = Instant::now();
    let upstreams = snapshot.pools().all().map(|pool| {
        let servers = pool.states(now).into_iter().map(|(server, state)| {
            json!({
                "address": &**server.name(), "state": state.name(), "weight": server.weight(),
                "requests": server.under_way(),
            })
        });
        let servers: Vec<_> = servers.collect();
        json!({ "upstream": pool.name(), "requests": pool.under_way(), "servers": servers })
    });
    answer_json(StatusCode::OK, &upstreams.collect::<Vec<_>>().into())
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
        for (of, source, said) in snapshot.sources().states() {
            metrics.note_lookups(source, said.answered, said.failed, said.paused);
            metrics.note_cache(of, source, said.hits, said.misses);
        }
        for (limit, unanswered) in snapshot.rates().unanswered() {
            metrics.note_rates(limit, unanswered);
        }
        for pool in snapshot.pools().all() {
            let states = pool.states(Instant::now());
            let count = |state| states.iter().filter(|(_, its)| *its == state).count();
            let counts = ServerState::ALL.into_iter().map(|state| (state.name(), count(state)));
            metrics.note_upstream(pool.name(), counts, pool.under_way(), (pool.ejections(), pool.retries()));
        }
        let denied = issuers.denied().state();
        metrics.note_deny_list(denied.entries, denied.failing);
        metrics.note_reloads(state.reloads.good(), state.reloads.refused(), state.reloads.failing().is_some());
        let revisions = snapshot.revisions();
        metrics.note_revision("config", &revisions.config);
        metrics.note_revision("schema", &revisions.schema);
        metrics.note_revision("policies", &revisions.all_policies());
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
    let configuration =
        json!({ "revision": state.reloads.revision(), "refused": refused, "in_force": snapshot.revisions() });
    let body = json!({
        "ready": ready, "draining": draining, "issuers_without_keys": without_keys, "configuration": configuration,
    });
    answer_json(status, &body)
}
