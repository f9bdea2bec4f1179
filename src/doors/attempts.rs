//! The attempts that one request has at an upstream: which server gets it, what came of that, and whether another one may.

use std::{sync::Arc, time::Instant};

use crate::{
    base::address::Address,
    forward::{
        Obligations, Pool,
        pool::{NoServer, Turn},
    },
    refusal::UpstreamError,
};

/// What a request has been through.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    turn: Option<Turn>,
    /// The servers that failed it.
    failed: Vec<Address>,
    retries: u32,
    /// Kept connections that turned out to be closed.
    stale: u32,
}

/// How often a request may meet a kept connection that turns out to be closed.
const STALE_MAX: u32 = 3;

/// More attempts than any request has.
pub const ATTEMPTS_MAX: usize = 16;

impl Attempts {
    /// Whose turn it is to get the request.
    ///
    /// # Errors
    /// Why none does.
    pub(super) fn next(&mut self, obligations: &Obligations) -> Result<&Turn, UpstreamError> {
        // The attempt before is over.
        self.turn = None;
        let turn = obligations.pool().choose(obligations.key(), &self.failed, Instant::now());
        let turn = turn.map_err(|none| match none {
            NoServer::Unknown => UpstreamError::Unreachable,
            NoServer::Down => UpstreamError::Unavailable,
            NoServer::Busy => UpstreamError::Busy,
        })?;
        Ok(self.turn.insert(turn))
    }

    /// How often the request was tried again after a failure.
    pub(super) const fn retries(&self) -> u32 {
        self.retries
    }

    /// The server has answered, with this status.
    pub(super) fn answered(&self, pool: &Arc<Pool>, status: u16) {
        let Some(turn) = &self.turn else { return };
        if pool.upstream().ejection.statuses.contains(&status) {
            turn.failed(Instant::now());
        } else {
            turn.succeeded();
        }
    }

    /// The server has failed the request. Whether it may be tried at another one, if that `is_safe`.
    pub(super) fn failed(&mut self, pool: &Pool, is_safe: bool) -> bool {
        let now = Instant::now();
        if let Some(turn) = &self.turn {
            turn.failed(now);
            self.failed.push(turn.server().address().clone());
        }
        let again = is_safe && self.retries < pool.upstream().retries_max && pool.has_other(&self.failed, now);
        if again {
            self.retries = self.retries.saturating_add(1);
        }
        again
    }

    /// A kept connection was closed before the request was taken from it, which says nothing of the server. Whether the
    /// request may be tried again.
    pub(super) const fn was_stale(&mut self) -> bool {
        self.stale = self.stale.saturating_add(1);
        self.stale <= STALE_MAX
    }
}
