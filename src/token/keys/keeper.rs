//! What keeps a key ring: the one task that fetches its keys, drops those too old, and keeps a copy of them.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::Notify,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{Settings, Shared};
use crate::{
    base::outside::Outside,
    token::{
        jwks::KeySet,
        key_copy::KeyCopy,
        key_source::{KeySource, SourceError},
    },
};

/// After a failed fetch the ring tries again after this, then after twice as long, and so on.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// What keeps a ring.
pub(super) struct Keeper {
    pub(super) name: String,
    pub(super) source: KeySource,
    pub(super) outside: Outside,
    pub(super) settings: Settings,
    pub(super) copy: Option<KeyCopy>,
    pub(super) shared: Arc<Shared>,
}

impl Keeper {
    /// Fetches keys for as long as there is a ring.
    pub(super) async fn keep(self) {
        let settings = &self.settings;
        let mut retry = RETRY_FIRST;
        loop {
            self.shared.drop_keys(|state| state.current(settings).is_none());
            self.shared.begin();
            let (pause, kept) = match self.source.load(&self.outside, settings.fetch_timeout).await {
                Ok((document, keys)) => {
                    self.note(&keys);
                    retry = RETRY_FIRST;
                    self.shared.publish(Ok(keys));
                    // Keys are fetched again well before they are too old to serve.
                    let longest = settings.refresh_interval.min(settings.stale_max.div_f64(2.0));
                    let pause = document.fresh_for.map_or(longest, |fresh| fresh.max(settings.cooldown).min(longest));
                    (pause, Some(document.body))
                }
                Err(error) => {
                    self.warn(&error);
                    let withdrawn = error.is_withdrawal();
                    if withdrawn {
                        // An issuer that says that it has no key has withdrawn those it had.
                        self.shared.withdraw();
                    } else {
                        self.recall().await;
                    }
                    self.shared.publish(Err(()));
                    let pause = retry.min(settings.refresh_interval).min(self.shared.fresh_for(settings));
                    retry = retry.saturating_mul(2).min(RETRY_MAX);
                    (pause, withdrawn.then(|| NO_KEYS.to_vec()))
                }
            };
            // Beside the wait: what is in force does not wait for a disk.
            tokio::join!(wait_for_next(pause, settings.cooldown, &self.shared.wanted), self.keep_copy(kept));
        }
    }

    fn note(&self, keys: &KeySet) {
        tracing::debug!(issuer = %self.name, keys = keys.len(), "keys fetched");
        let skipped = self.shared.state.borrow().keys.as_ref().map_or_else(Vec::new, |keys| keys.skipped().to_vec());
        if skipped != keys.skipped() {
            tracing::warn!(issuer = %self.name, skipped = ?keys.skipped(), "the key set holds keys that cannot be used");
        }
    }

    fn warn(&self, error: &SourceError) {
        let age = self.shared.state.borrow().age().map(|age| age.as_secs());
        tracing::warn!(issuer = %self.name, %error, keys_age_s = age, "keys could not be fetched");
    }

    /// Takes the keys from the copy, where there are none and the issuer has never said which there are.
    async fn recall(&self) {
        let is_due = {
            let state = self.shared.state.borrow();
            state.keys.is_none() && !state.answered
        };
        let Some(copy) = self.copy.as_ref().filter(|_| is_due) else { return };
        match timeout(self.settings.fetch_timeout, copy.recall(self.settings.stale_max)).await {
            Ok(Some((keys, age))) => self.shared.change(|state| state.put(keys, age)),
            Ok(None) => {}
            Err(_) => tracing::warn!(issuer = %self.name, "the copy of the keys takes long to read"),
        }
    }

    async fn keep_copy(&self, document: Option<Vec<u8>>) {
        if let (Some(copy), Some(document)) = (&self.copy, document) {
            let kept = copy.keep(String::from_utf8_lossy(&document).into_owned());
            if timeout(self.settings.fetch_timeout, kept).await.is_err() {
                tracing::warn!(issuer = %self.name, "the copy of the keys takes long to write");
            }
        }
    }
}

/// What is kept of an issuer without keys.
const NO_KEYS: &[u8] = b"{\"keys\":[]}";

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
