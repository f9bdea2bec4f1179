//! What is known of a token is computed once per token, also when its first uses come at once. Only the digest of a token
//! is kept, never the token.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use moka::{Expiry, future::Cache};

use super::bearer::Fingerprint;

/// How much a cache may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheLimits {
    /// Tokens.
    pub tokens_max: u64,
    /// Bytes, by the estimate that values give of themselves.
    pub bytes_max: u64,
}

impl Default for CacheLimits {
    fn default() -> Self {
        Self { tokens_max: 30_000, bytes_max: 128 * 1024 * 1024 }
    }
}

/// What can be kept of a token.
pub trait Remembered: Send + Sync + 'static {
    /// An estimate of the bytes it takes.
    fn weight(&self) -> u64;
    /// How long it may be kept.
    fn lifetime(&self) -> Duration;
}

/// Values by token. An entry is a memory, not a verdict: whoever reads it checks expiry, key generation, deny-list, and
/// what the route asks for.
pub struct TokenCache<V> {
    entries: Cache<Key, Arc<V>>,
    limits: CacheLimits,
}

/// A token, and the version of the configuration that a value of it was made by.
type Key = (Fingerprint, u64);

impl<V> Clone for TokenCache<V> {
    /// The same cache, once more.
    fn clone(&self) -> Self {
        Self { entries: self.entries.clone(), limits: self.limits }
    }
}

impl<V> std::fmt::Debug for TokenCache<V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenCache")
    }
}

/// Entries leave when what they are made of ends, used or not.
struct WithTheToken;

impl<V: Remembered> Expiry<Key, Arc<V>> for WithTheToken {
    fn expire_after_create(&self, _: &Key, value: &Arc<V>, _: Instant) -> Option<Duration> {
        Some(value.lifetime())
    }
}

impl<V: Remembered> TokenCache<V> {
    /// An empty cache.
    pub fn new(limits: CacheLimits) -> Self {
        // The cache has one bound, of weight. An entry that weighs its share at least bounds their number too.
        let share = limits.bytes_max.checked_div(limits.tokens_max).unwrap_or(limits.bytes_max);
        let weigh = move |_: &Key, value: &Arc<V>| u32::try_from(value.weight().max(share)).unwrap_or(u32::MAX);
        let entries = Cache::builder().max_capacity(limits.bytes_max).weigher(weigh).expire_after(WithTheToken);
        Self { entries: entries.build(), limits }
    }

    /// How much it may hold.
    pub const fn limits(&self) -> CacheLimits {
        self.limits
    }

    /// What is remembered of a token by one version.
    pub async fn get(&self, token: Fingerprint, version: u64) -> Option<Arc<V>> {
        self.entries.get(&(token, version)).await
    }

    /// What is remembered of a token, or else what `learn` finds out. Who asks meanwhile waits for the same answer; a
    /// failure is told to all who waited, and not remembered.
    ///
    /// # Errors
    /// That of `learn`.
    pub async fn get_or_learn<E: Clone + Send + Sync + 'static>(
        &self,
        token: Fingerprint,
        version: u64,
        learn: impl Future<Output = Result<Arc<V>, E>>,
    ) -> Result<Arc<V>, E> {
        self.entries.try_get_with((token, version), learn).await.map_err(|error: Arc<E>| (*error).clone())
    }

    /// Forgets a token.
    pub async fn remove(&self, token: Fingerprint, version: u64) {
        self.entries.invalidate(&(token, version)).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::token::RawToken;

    struct Known {
        weight: u64,
        lifetime: Duration,
    }

    impl Remembered for Known {
        fn weight(&self) -> u64 {
            self.weight
        }
        fn lifetime(&self) -> Duration {
            self.lifetime
        }
    }

    fn token(number: u64) -> Fingerprint {
        RawToken::parse(number.to_string().as_bytes()).unwrap().fingerprint()
    }

    async fn fill(cache: &TokenCache<Known>, weight: u64) -> u64 {
        let lifetime = Duration::from_secs(1000);
        for number in 0..500 {
            let learn = async { Ok::<_, ()>(Arc::new(Known { weight, lifetime })) };
            cache.get_or_learn(token(number), 0, learn).await.unwrap();
        }
        cache.entries.run_pending_tasks().await;
        cache.entries.entry_count()
    }

    #[tokio::test]
    async fn it_holds_neither_more_tokens_nor_more_bytes_than_it_may() {
        let limits = CacheLimits { tokens_max: 100, bytes_max: 10_000 };
        assert_eq!(fill(&TokenCache::new(limits), 1).await, 100);
        assert_eq!(fill(&TokenCache::new(limits), 1_000).await, 10);
        assert_eq!(fill(&TokenCache::new(limits), u64::MAX).await, 0);
    }

    #[tokio::test]
    async fn an_entry_leaves_with_its_token() {
        let cache = TokenCache::new(CacheLimits::default());
        for (number, lifetime, kept) in [(1, Duration::ZERO, false), (2, Duration::from_secs(9), true)] {
            let learn = async { Ok::<_, ()>(Arc::new(Known { weight: 1, lifetime })) };
            cache.get_or_learn(token(number), 0, learn).await.unwrap();
            assert_eq!(cache.get(token(number), 0).await.is_some(), kept, "{lifetime:?}");
        }
    }

    #[tokio::test]
    async fn first_uses_at_once_learn_once_and_a_failure_is_not_remembered() {
        let cache = TokenCache::new(CacheLimits::default());
        let learnt = AtomicUsize::new(0);
        let ask = |good: bool| {
            let learnt = &learnt;
            let learn = async move {
                tokio::task::yield_now().await;
                learnt.fetch_add(1, Ordering::SeqCst);
                if good { Ok(Arc::new(Known { weight: 1, lifetime: Duration::from_secs(9) })) } else { Err("bad") }
            };
            cache.get_or_learn(token(1), 0, learn)
        };
        let (first, second, third) = tokio::join!(ask(false), ask(false), ask(false));
        assert_eq!([first.err(), second.err(), third.err()], [Some("bad"); 3]);
        assert_eq!(learnt.load(Ordering::SeqCst), 1);
        let (first, second, third) = tokio::join!(ask(true), ask(true), ask(true));
        assert!(first.is_ok() && second.is_ok() && third.is_ok());
        assert_eq!(learnt.load(Ordering::SeqCst), 2);
        assert!(cache.get(token(1), 0).await.is_some());
        assert!(cache.get(token(1), 1).await.is_none(), "another version learns anew");
        cache.remove(token(1), 0).await;
        assert!(cache.get(token(1), 0).await.is_none());
    }
}
