//! An issuer's key ring: its key set, cached, refreshed in the background, and fetched again when a token names a
//! key it does not hold.
//!
//! One task per ring does all fetching, so there is never more than one fetch in flight, and a caller that goes away
//! cancels nothing. Between a fetch and one that a token asks for lies at least [`Settings::cooldown`]; after a failure
//! the ring tries again by itself, after one second first and then ever more.

mod keeper;

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, watch},
    task::AbortHandle,
    time::{Instant, timeout},
};

use self::keeper::Keeper;
use super::{jwks::KeySet, key_copy::KeyCopy, key_source::KeySource};
use crate::base::{digest::sha256, outside::Outside};

/// How a ring is kept fresh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Time between background refreshes; less where the source says that its keys are fresh for less.
    pub refresh_interval: Duration,
    /// Least time between a fetch and the next one that a token asks for.
    pub cooldown: Duration,
    /// The longest that fetching one document may take.
    pub fetch_timeout: Duration,
    /// How long the last good keys serve while the source fails.
    pub stale_max: Duration,
    /// How long a key that the source does not have is not asked for again.
    pub absent: Duration,
    /// Where the last good key set is kept, for a start while the source fails.
    pub copy: Option<PathBuf>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            refresh_interval: Duration::from_secs(300),
            cooldown: Duration::from_secs(10),
            fetch_timeout: Duration::from_secs(3),
            stale_max: Duration::from_secs(24 * 60 * 60),
            absent: Duration::from_secs(30),
            copy: None,
        }
    }
}

/// Keys that a source is remembered not to have.
const ABSENT_MAX: u64 = 1024;

/// A key set, and the generation that it is of.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) keys: Arc<KeySet>,
    pub(super) generation: u64,
}

/// What is asked for may be had by a fetch that ends after these attempts, and is not there if one says so that began after
/// those.
pub(super) struct Worth {
    attempts: u64,
    begun: u64,
}

/// Why no key could be had for a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyError {
    /// The issuer has no such key: its key set was fetched and does not hold it.
    Unknown,
    /// Whether the issuer has such a key cannot be told now.
    Unavailable,
}

/// The cached keys of one issuer.
#[derive(Debug)]
pub struct KeyRing {
    shared: Arc<Shared>,
    source: KeySource,
    settings: Settings,
    /// Names of keys that the source did not have of late, by digest, however long they are.
    absent: moka::sync::Cache<[u8; 32], ()>,
    task: AbortHandle,
}

/// How a ring fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingState {
    /// Since the keys were last fetched well; `None` when there are none to verify with.
    pub age: Option<Duration>,
    /// Fetches that went well.
    pub fetched: u64,
    /// Fetches that did not.
    pub failed: u64,
}

#[derive(Debug, Default)]
struct Shared {
    state: watch::Sender<State>,
    wanted: Notify,
    generation: AtomicU64,
}

#[derive(Clone, Debug, Default)]
struct State {
    keys: Option<Arc<KeySet>>,
    fetched: Option<Instant>,
    /// How old the keys were when they were fetched: more than nothing when they came from the copy.
    age_then: Duration,
    attempted: Option<Instant>,
    /// Fetches that were begun, and those of them that have ended.
    begun: u64,
    attempts: u64,
    failures: u64,
    failing: bool,
    /// Whether the source has ever said which keys there are, if any.
    answered: bool,
}

impl KeyRing {
    /// Starts keeping the keys of `source`, with what the ring `before` knows of it; the first fetch begins at once. Must be
    /// called on a tokio runtime.
    pub fn start(name: String, source: KeySource, outside: Outside, settings: Settings, before: Option<&Self>) -> Self {
        let before = before.filter(|before| before.source == source);
        let shared = Arc::new(before.map_or_else(Shared::default, |before| before.shared.heir()));
        let absent = moka::sync::Cache::builder().max_capacity(ABSENT_MAX).time_to_live(settings.absent).build();
        let kept = |path: &PathBuf| KeyCopy {
            path: path.clone(),
            issuer: name.clone(),
            source: source.name(),
            outside: outside.clone(),
        };
        let copy = settings.copy.as_ref().map(kept);
        let keeper =
            Keeper { name, source: source.clone(), outside, settings: settings.clone(), copy, shared: shared.clone() };
        let task = tokio::spawn(keeper.keep()).abort_handle();
        Self { shared, source, settings, absent, task }
    }

    /// Whether it keeps the keys of `source`, as `settings` say.
    pub(super) fn keeps(&self, source: &KeySource, settings: &Settings) -> bool {
        self.source == *source && self.settings == *settings
    }

    /// Whether the key of this thumbprint is one that tokens are verified by now.
    pub(super) fn holds(&self, thumbprint: [u8; 32]) -> bool {
        self.keys().is_some_and(|keys| keys.holds(thumbprint))
    }

    /// Changes whenever the keys change: what was verified under another generation must be verified again.
    pub fn generation(&self) -> u64 {
        self.shared.generation.load(Ordering::Acquire)
    }

    /// How the ring fares.
    pub fn state(&self) -> RingState {
        let state = self.shared.state.borrow();
        let age = state.current(&self.settings).and(state.age());
        RingState { age, fetched: state.attempts.saturating_sub(state.failures), failed: state.failures }
    }

    /// The keys that tokens are verified by now, if there are any.
    pub fn keys(&self) -> Option<Arc<KeySet>> {
        self.shared.state.borrow().current(&self.settings).cloned()
    }

    /// Waits for the first fetch to end, well or badly.
    pub async fn first_attempt(&self) {
        let mut state = self.shared.state.subscribe();
        let _ = timeout(self.patience(), state.wait_for(|state| state.attempts > 0)).await;
    }

    /// What [`Self::keys_with`] finds without waiting, unless a fetch is worth waiting for.
    pub(super) fn at_once(
        &self,
        name: &str,
        wanted: impl Fn(&KeySet) -> bool,
    ) -> Result<Result<Held, KeyError>, Worth> {
        let state = self.shared.state.borrow();
        match self.find(&state, &wanted) {
            Err(error) if !state.may_fetch(&self.settings) => Ok(Err(error)),
            Err(KeyError::Unknown) if self.absent.contains_key(&sha256(name.as_bytes())) => Ok(Err(KeyError::Unknown)),
            Err(_) => Err(Worth { attempts: state.attempts, begun: state.begun }),
            found => Ok(found),
        }
    }

    /// The key set, for one in which `wanted` finds something; fetched again if the cached one has nothing, unless the
    /// source is known not to have a key of this `name`.
    ///
    /// # Errors
    /// [`KeyError`]: `Unknown` only after a fetch that succeeded.
    pub(super) async fn keys_with(&self, name: &str, wanted: impl Fn(&KeySet) -> bool) -> Result<Held, KeyError> {
        let seen = match self.at_once(name, &wanted) {
            Ok(found) => return found,
            Err(worth) => worth,
        };
        self.shared.wanted.notify_one();
        let mut state = self.shared.state.subscribe();
        match timeout(self.patience(), state.wait_for(|state| state.attempts > seen.attempts)).await {
            Ok(Ok(state)) => {
                let found = self.find(&state, &wanted);
                // A fetch that was under way may have been too early for it.
                if matches!(found, Err(KeyError::Unknown)) && state.attempts > seen.begun {
                    self.absent.insert(sha256(name.as_bytes()), ());
                }
                found
            }
            _ => Err(KeyError::Unavailable),
        }
    }

    /// INVARIANT: the generation moves only while `state` is changed, so it is that of the keys in this one.
    fn find(&self, state: &State, wanted: &impl Fn(&KeySet) -> bool) -> Result<Held, KeyError> {
        let generation = self.generation();
        state.find(wanted, &self.settings).map(|keys| Held { keys, generation })
    }

    /// Discovery takes two fetches; a little more than that is the longest that a caller waits.
    const fn patience(&self) -> Duration {
        self.settings.fetch_timeout.saturating_mul(2).saturating_add(Duration::from_millis(100))
    }
}

impl Drop for KeyRing {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl State {
    fn current(&self, settings: &Settings) -> Option<&Arc<KeySet>> {
        let fresh = self.age().is_some_and(|age| age < settings.stale_max);
        self.keys.as_ref().filter(|_| fresh)
    }

    /// Puts keys of this age in place; whether they are others than before.
    fn put(&mut self, keys: KeySet, age: Duration) -> bool {
        let changed = self.keys.as_ref().is_none_or(|before| !before.same_as(&keys));
        self.keys = Some(Arc::new(keys));
        self.fetched = Some(Instant::now());
        self.age_then = age;
        changed
    }

    /// Since the keys were fetched well.
    fn age(&self) -> Option<Duration> {
        self.fetched.map(|at| at.elapsed().saturating_add(self.age_then))
    }

    fn find(&self, wanted: &impl Fn(&KeySet) -> bool, settings: &Settings) -> Result<Arc<KeySet>, KeyError> {
        match self.current(settings) {
            Some(keys) if wanted(keys) => Ok(keys.clone()),
            Some(_) if !self.failing => Err(KeyError::Unknown),
            _ => Err(KeyError::Unavailable),
        }
    }

    fn may_fetch(&self, settings: &Settings) -> bool {
        self.attempted.is_none_or(|at| at.elapsed() >= settings.cooldown)
    }
}

impl Shared {
    /// The same keys, of the same generation and age, for another ring to go on with.
    fn heir(&self) -> Self {
        let state = self.state.borrow();
        let generation = self.generation.load(Ordering::Acquire);
        // A fetch that is under way does not end here.
        let known = State { begun: state.attempts, ..state.clone() };
        Self { state: watch::Sender::new(known), wanted: Notify::new(), generation: generation.into() }
    }

    /// How long the keys may still serve; long when there are none.
    fn fresh_for(&self, settings: &Settings) -> Duration {
        let state = self.state.borrow();
        let age = state.keys.as_ref().and(state.age());
        age.map_or(Duration::MAX, |age| settings.stale_max.saturating_sub(age)).max(Duration::from_millis(10))
    }

    /// Notes the beginning of a fetch.
    fn begin(&self) {
        self.change(|state| {
            state.begun = state.begun.saturating_add(1);
            false
        });
    }

    /// Notes the end of a fetch.
    fn publish(&self, outcome: Result<KeySet, ()>) {
        self.change(|state| {
            state.attempts = state.attempts.saturating_add(1);
            state.attempted = Some(Instant::now());
            state.failing = outcome.is_err();
            state.answered |= outcome.is_ok();
            match outcome {
                Ok(keys) => state.put(keys, Duration::ZERO),
                Err(()) => {
                    state.failures = state.failures.saturating_add(1);
                    false
                }
            }
        });
    }

    /// Lets go of all keys: the source says that there are none.
    fn withdraw(&self) {
        self.change(|state| {
            state.answered = true;
            state.keys.take().is_some()
        });
    }

    /// Lets go of keys that are too old to serve.
    fn drop_keys(&self, is_due: impl Fn(&State) -> bool) {
        self.change(|state| is_due(state) && state.keys.take().is_some());
    }

    /// The generation moves once the new keys are in place, or the old ones gone, and before anybody sees that.
    fn change(&self, change: impl FnOnce(&mut State) -> bool) {
        self.state.send_modify(|state| {
            if change(state) {
                self.generation.store(next_generation(), Ordering::Release);
            }
        });
    }
}

/// A generation that no ring has been at: what one has verified, another has not.
fn next_generation() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    LAST.fetch_add(1, Ordering::AcqRel).saturating_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authoring::keys::SigningKey;

    #[test]
    fn whoever_sees_that_keys_were_fetched_sees_their_generation() {
        let set = |name: &str| {
            let keys = serde_json::json!({ "keys": [SigningKey::es256(name).unwrap().jwk()] });
            KeySet::parse(keys.to_string().as_bytes()).unwrap()
        };
        let shared = Shared::default();
        const FETCHES: u64 = 2_000;
        std::thread::scope(|scope| {
            scope.spawn(|| (1..=FETCHES).for_each(|number| shared.publish(Ok(set(&number.to_string())))));
            let mut seen = 0;
            while seen < FETCHES {
                seen = shared.state.borrow().attempts;
                let generation = shared.generation.load(Ordering::Acquire);
                assert!(generation >= seen, "{generation} after {seen} fetches");
            }
        });
    }
}
