//! What is known of a token is computed once per token. Only the digest of a token is kept, never the token.

use std::{sync::Arc, time::Duration};

use super::bearer::Fingerprint;

/// Bytes that the cache may hold, by the estimate its users give.
pub const CACHE_BYTES_MAX: u64 = 32 * 1024 * 1024;

/// An entry leaves at the latest after this time, used or not.
const ENTRY_LIFETIME_MAX: Duration = Duration::from_secs(60 * 60);

/// Values by token. An entry is a memory, not a verdict: whoever reads it checks expiry and key generation.
pub struct TokenCache<V>(moka::sync::Cache<Fingerprint, Arc<V>>);

impl<V> std::fmt::Debug for TokenCache<V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenCache")
    }
}

impl<V: Send + Sync + 'static> TokenCache<V> {
    /// An empty cache; `weigh` estimates the bytes that a value takes.
    pub fn new(weigh: impl Fn(&V) -> u32 + Send + Sync + 'static) -> Self {
        Self(
            moka::sync::Cache::builder()
                .max_capacity(CACHE_BYTES_MAX)
                .weigher(move |_, value: &Arc<V>| weigh(value))
                .time_to_live(ENTRY_LIFETIME_MAX)
                .build(),
        )
    }

    /// What is remembered of a token.
    pub fn get(&self, token: &Fingerprint) -> Option<Arc<V>> {
        self.0.get(token)
    }

    /// Remembers `value` of a token.
    pub fn insert(&self, token: Fingerprint, value: Arc<V>) {
        self.0.insert(token, value);
    }

    /// Forgets a token.
    pub fn remove(&self, token: &Fingerprint) {
        self.0.invalidate(token);
    }
}
