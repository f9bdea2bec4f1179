//! An issuer's key ring: its key set, cached, refreshed in the background, and fetched again when a token names a
//! key it does not hold.
//!
//! One task per ring does all fetching, so there is never more than one fetch in flight, and a caller that goes away
//! cancels nothing. Between a fetch and one that a token asks for lies at least [`Settings::cooldown`]; after a failure
//! the ring tries again by itself, after one second first and then ever more.

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
    time::{Instant, sleep, sleep_until, timeout},
};
use url::Url;

use super::jwks::{JwksError, KeySet};
use crate::base::{
    fetch::{Fetch, FetchError, is_trustworthy},
    files::Files,
    json,
};

/// Where an issuer's keys come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// A key set at this address.
    Url(Url),
    /// The key set that the issuer's metadata names (OpenID Connect Discovery 1.0 section 4, RFC 8414).
    Discovery {
        /// The issuer, exactly as tokens and metadata must name it.
        issuer: String,
        /// Where the metadata is.
        metadata: Url,
    },
    /// A key set in a file.
    File(PathBuf),
}

/// How a ring is kept fresh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Time between background refreshes.
    pub refresh_interval: Duration,
    /// Least time between a fetch and the next one that a token asks for.
    pub cooldown: Duration,
    /// The longest that fetching one document may take.
    pub fetch_timeout: Duration,
    /// How long the last good keys serve while the source fails.
    pub stale_max: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            refresh_interval: Duration::from_secs(300),
            cooldown: Duration::from_secs(10),
            fetch_timeout: Duration::from_secs(3),
            stale_max: Duration::from_secs(24 * 60 * 60),
        }
    }
}

/// After a failed fetch the ring tries again after this, then after twice as long, and so on.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// Why keys could not be had from their source.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The document could not be fetched.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The file could not be read.
    #[error("cannot read `{}`: {error}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the file system says.
        error: std::io::Error,
    },
    /// The document is no key set.
    #[error(transparent)]
    Jwks(#[from] JwksError),
    /// The metadata is not JSON.
    #[error("metadata: {0}")]
    Metadata(#[from] serde_json::Error),
    /// The metadata speaks of another issuer.
    #[error("metadata names another issuer")]
    OtherIssuer,
    /// The metadata names no key set that may be fetched.
    #[error("metadata names no `jwks_uri` over https or loopback")]
    NoJwksUri,
}

/// Why no key could be had for a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyError {
    /// The issuer has no such key: its key set was fetched and does not hold it.
    Unknown,
    /// Whether the issuer has such a key cannot be told now.
    Unavailable,
}

/// What a ring reads from.
#[derive(Clone)]
pub struct Sources {
    /// Dials out.
    pub fetch: Arc<dyn Fetch>,
    /// Reads files.
    pub files: Files,
}

impl std::fmt::Debug for Sources {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sources").field("files", &self.files).finish_non_exhaustive()
    }
}

impl KeySource {
    /// Fetches the key set once; each document within `limit`.
    ///
    /// # Errors
    /// [`SourceError`].
    pub async fn load(&self, sources: &Sources, limit: Duration) -> Result<(Vec<u8>, KeySet), SourceError> {
        let get = async |url: &Url| {
            let fetched = timeout(limit, sources.fetch.get(url)).await;
            fetched.unwrap_or(Err(FetchError::TimedOut(limit.as_millis())))
        };
        let document = match self {
            Self::Url(url) => get(url).await?,
            Self::File(path) => {
                let failed = |error| SourceError::File { path: path.clone(), error };
                sources.files.read(path).map_err(failed)?.into_bytes()
            }
            Self::Discovery { issuer, metadata } => {
                let found = json::parse_object(&get(metadata).await?)?;
                if found.get("issuer").and_then(|named| named.as_str()) != Some(issuer) {
                    return Err(SourceError::OtherIssuer);
                }
                let url = found.get("jwks_uri").and_then(|uri| uri.as_str()).and_then(|uri| Url::parse(uri).ok());
                let keeps_tls = |url: &Url| url.scheme() == "https" || metadata.scheme() == "http";
                let url = url.filter(|url| is_trustworthy(url) && keeps_tls(url)).ok_or(SourceError::NoJwksUri)?;
                get(&url).await?
            }
        };
        let set = KeySet::parse(&document)?;
        Ok((document, set))
    }
}

/// The cached keys of one issuer.
#[derive(Debug)]
pub struct KeyRing {
    shared: Arc<Shared>,
    settings: Settings,
    task: AbortHandle,
}

#[derive(Debug)]
struct Shared {
    state: watch::Sender<State>,
    wanted: Notify,
    generation: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    document: Vec<u8>,
    keys: Option<Arc<KeySet>>,
    fetched: Option<Instant>,
    attempted: Option<Instant>,
    attempts: u64,
    failing: bool,
}

impl KeyRing {
    /// Starts keeping the keys of `source`; the first fetch begins at once. Must be called on a tokio runtime.
    pub fn start(name: String, source: KeySource, sources: Sources, settings: Settings) -> Self {
        let shared =
            Arc::new(Shared { state: watch::Sender::default(), wanted: Notify::new(), generation: AtomicU64::new(0) });
        let task = tokio::spawn(keep(name, source, sources, settings, shared.clone())).abort_handle();
        Self { shared, settings, task }
    }

    /// Changes whenever the keys change: what was verified under another generation must be verified again.
    pub fn generation(&self) -> u64 {
        self.shared.generation.load(Ordering::Acquire)
    }

    /// Whether there are keys to verify with.
    pub fn is_ready(&self) -> bool {
        self.shared.state.borrow().current(&self.settings).is_some()
    }

    /// Waits for the first fetch to end, well or badly.
    pub async fn first_attempt(&self) {
        let mut state = self.shared.state.subscribe();
        let _ = timeout(self.patience(), state.wait_for(|state| state.attempts > 0)).await;
    }

    /// The key set, for one in which `wanted` finds something; fetched again if the cached one has nothing.
    ///
    /// # Errors
    /// [`KeyError`]: `Unknown` only after a fetch that succeeded.
    pub(super) async fn keys_with(&self, wanted: impl Fn(&KeySet) -> bool) -> Result<Arc<KeySet>, KeyError> {
        let seen = {
            let state = self.shared.state.borrow();
            match state.find(&wanted, &self.settings) {
                Err(error) if !state.may_fetch(&self.settings) => return Err(error),
                Err(_) => state.attempts,
                found => return found,
            }
        };
        self.shared.wanted.notify_one();
        let mut state = self.shared.state.subscribe();
        match timeout(self.patience(), state.wait_for(|state| state.attempts > seen)).await {
            Ok(Ok(state)) => state.find(&wanted, &self.settings),
            _ => Err(KeyError::Unavailable),
        }
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
        let fresh = self.fetched.is_some_and(|at| at.elapsed() < settings.stale_max);
        self.keys.as_ref().filter(|_| fresh)
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
    /// How long the keys may still serve; long when there are none.
    fn fresh_for(&self, settings: &Settings) -> Duration {
        let state = self.state.borrow();
        let age = state.keys.as_ref().and(state.fetched).map(|at| at.elapsed());
        age.map_or(Duration::MAX, |age| settings.stale_max.saturating_sub(age)).max(Duration::from_millis(10))
    }

    /// Notes the end of a fetch. The generation moves only after the new keys are in place, or the old ones gone.
    fn publish(&self, outcome: Result<(Vec<u8>, KeySet), SourceError>, settings: &Settings) {
        let mut changed = false;
        self.state.send_modify(|state| {
            state.attempts = state.attempts.saturating_add(1);
            state.attempted = Some(Instant::now());
            state.failing = outcome.is_err();
            match outcome {
                Ok((document, keys)) => {
                    changed = state.document != document;
                    state.document = document;
                    state.keys = Some(Arc::new(keys));
                    state.fetched = state.attempted;
                }
                Err(_) if state.keys.is_some() && state.current(settings).is_none() => {
                    changed = true;
                    state.document.clear();
                    state.keys = None;
                }
                Err(_) => {}
            }
        });
        if changed {
            self.generation.fetch_add(1, Ordering::AcqRel);
        }
    }
}

async fn keep(name: String, source: KeySource, sources: Sources, settings: Settings, shared: Arc<Shared>) {
    let mut retry = RETRY_FIRST;
    loop {
        let outcome = source.load(&sources, settings.fetch_timeout).await;
        match &outcome {
            Ok((_, keys)) => {
                tracing::debug!(issuer = %name, keys = keys.len(), skipped = ?keys.skipped(), "keys fetched");
                retry = RETRY_FIRST;
            }
            Err(error) => tracing::warn!(issuer = %name, %error, "keys could not be fetched"),
        }
        let pause = if outcome.is_ok() {
            // Keys are fetched again well before they are too old to serve.
            settings.refresh_interval.min(settings.stale_max.div_f64(2.0))
        } else {
            let pause = retry.min(settings.refresh_interval).min(shared.fresh_for(&settings));
            retry = retry.saturating_mul(2).min(RETRY_MAX);
            pause
        };
        shared.publish(outcome, &settings);
        wait_for_next(pause, settings.cooldown, &shared.wanted).await;
    }
}

/// Waits for `pause`, or until somebody wants keys, but then not less than `cooldown`.
async fn wait_for_next(pause: Duration, cooldown: Duration, wanted: &Notify) {
    let soonest = Instant::now().checked_add(cooldown);
    // Whoever asked while the fetch was under way has been answered by it.
    tokio::select! { biased; () = wanted.notified() => {}, () = std::future::ready(()) => {} }
    let asked = async {
        wanted.notified().await;
        if let Some(soonest) = soonest {
            sleep_until(soonest).await;
        }
    };
    tokio::select! { () = sleep(pause) => {}, () = asked => {} }
}
