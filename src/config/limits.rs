//! The section `limits`: bounds on what clients may send, and on what is remembered of it.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::{
    base::{
        problem::{Problem, Problems, bounded},
        spanned::Spanned,
    },
    request::{Limits, body_bytes_max, syntax::FIELDS_MAX},
    token::cache::CacheLimits,
};

/// The section `limits`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// Bytes of a request head. Default 32768.
    pub head_bytes_max: Option<Spanned<usize>>,
    /// Fields of a request head. Default 96: with those of ours, what servers commonly take at most.
    pub fields_max: Option<Spanned<usize>>,
    /// Bytes of a request target. Default 4096.
    pub target_bytes_max: Option<Spanned<usize>>,
    /// Open connections. Default 10000.
    pub connections_max: Option<Spanned<usize>>,
    /// Requests under way. Default 10000.
    pub requests_max: Option<Spanned<usize>>,
    /// Open connections of one address, of IPv6 one /64. Default as many as there may be.
    pub connections_per_peer_max: Option<Spanned<usize>>,
    /// Requests on one connection, after which it is closed. Default as many as come.
    pub requests_per_connection_max: Option<Spanned<usize>>,
    /// Requests at once on a connection in HTTP/2. Default 100.
    pub streams_max: Option<Spanned<usize>>,
    /// Tokens that are remembered. Default 30000.
    pub tokens_cached_max: Option<Spanned<u64>>,
    /// Bytes that are remembered of tokens, estimated. Default 134217728.
    pub token_cache_bytes_max: Option<Spanned<u64>>,
    /// Decisions that are remembered for when the same is asked again; 0 for none. Default 10000.
    pub decisions_cached_max: Option<Spanned<u64>>,
    /// Bytes of a request body, for routes that say nothing of that. Default: as many as come.
    pub body_bytes_max: Option<Spanned<u64>>,
    /// Milliseconds for a request head, between two reads of a body, and between two writes. Default 30000.
    pub client_timeout_ms: Option<Spanned<u64>>,
    /// Milliseconds without a byte after which a WebSocket is closed. Default 300000.
    pub tunnel_idle_ms: Option<Spanned<u64>>,
}

impl LimitsConfig {
    pub(super) fn cache_limits(&self) -> Result<CacheLimits, Problems> {
        let mut problems = Problems::default();
        let default = CacheLimits::default();
        let tokens = bounded(self.tokens_cached_max.as_ref(), "tokens_cached_max", default.tokens_max, 1..=10_000_000);
        let bytes = bounded(
            self.token_cache_bytes_max.as_ref(),
            "token_cache_bytes_max",
            default.bytes_max,
            65_536..=68_719_476_736,
        );
        let limits = problems.keep(tokens).zip(problems.keep(bytes));
        problems.into_result(limits.map(|(tokens_max, bytes_max)| CacheLimits { tokens_max, bytes_max }))
    }

    pub(super) fn decisions_cached_max(&self) -> Result<u64, Problem> {
        bounded(self.decisions_cached_max.as_ref(), "decisions_cached_max", 10_000, 0..=10_000_000)
    }

    pub(super) fn request_limits(&self) -> Result<Limits, Problems> {
        let mut problems = Problems::default();
        let default = Limits::default();
        let mut bytes = |value: &Option<Spanned<usize>>, name, default| {
            problems.keep(bounded(value.as_ref(), name, default, 256..=1024 * 1024))
        };
        let head = bytes(&self.head_bytes_max, "head_bytes_max", default.head_bytes_max);
        let target = bytes(&self.target_bytes_max, "target_bytes_max", default.target_bytes_max);
        let fields = problems.keep(bounded(self.fields_max.as_ref(), "fields_max", default.fields_max, 1..=FIELDS_MAX));
        let timeout =
            problems.keep(bounded(self.client_timeout_ms.as_ref(), "client_timeout_ms", 30_000, 100..=3_600_000));
        let requests =
            problems.keep(bounded(self.requests_max.as_ref(), "requests_max", default.requests_max, 1..=1_000_000));
        let body = problems.keep(body_bytes_max(self.body_bytes_max.as_ref()));
        let tunnel = problems.keep(bounded(self.tunnel_idle_ms.as_ref(), "tunnel_idle_ms", 300_000, 100..=86_400_000));
        let mut some = |value: &Option<Spanned<usize>>, name| {
            problems.keep(value.as_ref().map(|it| bounded(Some(it), name, 1, 1..=1_000_000)).transpose())
        };
        let per_peer = some(&self.connections_per_peer_max, "connections_per_peer_max");
        let per_connection = some(&self.requests_per_connection_max, "requests_per_connection_max");
        let limits = (|| {
            Some(Limits {
                connections_per_peer_max: per_peer?,
                requests_per_connection_max: per_connection?,
                tunnel_idle: Duration::from_millis(tunnel?),
                body_bytes_max: body?,
                requests_max: requests?,
                head_bytes_max: head?,
                fields_max: fields?,
                target_bytes_max: target?,
                client_timeout: Duration::from_millis(timeout?),
            })
        })();
        problems.into_result(limits)
    }
}
