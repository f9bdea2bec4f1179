//! Where tokens are counted: in this process, or with other gates.

use std::{sync::Arc, time::Duration};

use governor::{DefaultDirectRateLimiter, RateLimiter, clock::Clock};
use moka::sync::Cache;

use super::{Key, RatePlan};
use crate::base::{
    counters::{Counters, Unreachable},
    digest::sha256,
    outside::Outside,
};

/// Buckets of one limit that are kept in this process.
const BUCKETS_MAX: u64 = 100_000;

/// The buckets of a limit.
pub(super) enum Buckets {
    /// In this process. One that would be full again is forgotten, which changes nothing; beyond [`BUCKETS_MAX`] those that are
    /// asked for least.
    Here(Cache<Key, Arc<DefaultDirectRateLimiter>>),
    /// With other gates.
    Shared(Arc<dyn Counters>),
}

impl std::fmt::Debug for Buckets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Here(_) => "Here",
            Self::Shared(_) => "Shared",
        })
    }
}

impl Buckets {
    /// Those of `plan`.
    pub(super) fn of(plan: &RatePlan, outside: &Outside) -> Self {
        match &plan.place {
            Some(place) => Self::Shared(outside.counters.counters(place)),
            None => {
                let full = plan.quota.period.saturating_mul(plan.quota.burst).max(Duration::from_secs(1));
                Self::Here(Cache::builder().max_capacity(BUCKETS_MAX).time_to_idle(full).build())
            }
        }
    }

    /// Takes one from the bucket of `key`. `None` where it held one, or else the time until it does.
    pub(super) async fn take(&self, key: Key, plan: &RatePlan) -> Result<Option<Duration>, Unreachable> {
        match self {
            Self::Here(buckets) => {
                let bucket = buckets.get_with(key, || Arc::new(RateLimiter::direct(plan.bucket)));
                let taken = bucket.check();
                Ok(taken.err().map(|until| until.wait_time_from(bucket.clock().now())))
            }
            Self::Shared(counters) => counters.take(&shared_name(&plan.name, &key), plan.quota).await,
        }
    }
}

/// What a bucket is called where it is shared: nobody's name stands in it.
fn shared_name(limit: &str, key: &Key) -> String {
    let peer = key.peer.map(|peer| peer.to_string());
    let parts = [peer.as_deref(), key.agent.as_deref(), key.user.as_deref(), key.route.as_deref()];
    // INVARIANT: two keys have two texts, whatever is in them.
    let text = serde_json::json!(parts).to_string();
    let digest: String = sha256(text.as_bytes()).iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    format!("portcullis:rate:{limit}:{digest}")
}
