//! Token buckets that several gates share, as an argument: where they are kept is for whoever dials.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;

use super::secret::Secret;

/// What a bucket holds, and how it fills.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// The time in which one more comes.
    pub period: Duration,
    /// How many a full bucket holds.
    pub burst: u32,
}

/// Why a bucket cannot be asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the shared counters cannot be reached: {0}")]
pub struct Unreachable(pub String);

/// Buckets by name.
#[async_trait]
pub trait Counters: Send + Sync {
    /// Takes one from the bucket `key`. `None` where it held one, or else the time until it does.
    ///
    /// # Errors
    /// [`Unreachable`].
    async fn take(&self, key: &str, quota: Quota) -> Result<Option<Duration>, Unreachable>;
}

/// Where shared buckets are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// `redis://host:port/database`, or `rediss://` for TLS.
    pub url: String,
    /// Who asks, and the word that proves it.
    pub user: Option<String>,
    /// The word.
    pub password: Option<Secret>,
    /// The longest that an answer takes.
    pub timeout: Duration,
}

/// Opens places.
pub trait Open: Send + Sync {
    /// The buckets that are kept at `place`. Connects when first asked.
    fn counters(&self, place: &Place) -> Arc<dyn Counters>;
}

/// Buckets that never run dry, where nothing is to be counted.
#[derive(Debug)]
pub struct Uncounted;

#[async_trait]
impl Counters for Uncounted {
    async fn take(&self, _: &str, _: Quota) -> Result<Option<Duration>, Unreachable> {
        Ok(None)
    }
}

impl Open for Uncounted {
    fn counters(&self, _: &Place) -> Arc<dyn Counters> {
        Arc::new(Self)
    }
}
