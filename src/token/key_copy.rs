//! The last good key set on disk, for a gate that starts while the issuer fails. It is kept with the issuer, the source and
//! the time it was fetched, so that it is never another's, another place's, or older than it seems.

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use super::jwks::KeySet;
use crate::base::{clock::Timestamp, outside::Outside};

/// A file that keeps a key set.
#[derive(Clone, Debug)]
pub(super) struct KeyCopy {
    pub(super) path: PathBuf,
    pub(super) issuer: String,
    pub(super) source: String,
    pub(super) outside: Outside,
}

#[derive(Deserialize, Serialize)]
struct Kept {
    issuer: String,
    source: String,
    fetched: Timestamp,
    keys: String,
}

impl KeyCopy {
    /// Keeps what was fetched just now.
    pub(super) async fn keep(&self, keys: String) {
        let kept =
            Kept { issuer: self.issuer.clone(), source: self.source.clone(), fetched: self.outside.clock.now(), keys };
        let (copy, issuer) = (self.clone(), self.issuer.clone());
        let written = tokio::task::spawn_blocking(move || {
            let text = serde_json::to_string(&kept).map_err(std::io::Error::from)?;
            copy.outside.files.replace(&copy.path, &text)
        });
        if let Err(error) = written.await.unwrap_or_else(|error| Err(std::io::Error::other(error))) {
            tracing::warn!(issuer, %error, "the copy of the keys cannot be written");
        }
    }

    /// The keys that are kept and their age, unless that is `stale_max` or more.
    pub(super) async fn recall(&self, stale_max: Duration) -> Option<(KeySet, Duration)> {
        let copy = self.clone();
        let text = tokio::task::spawn_blocking(move || copy.outside.files.read(&copy.path)).await.ok()?.ok()?;
        let kept: Kept = serde_json::from_str(&text).ok()?;
        let now = self.outside.clock.now();
        // What was fetched in the future was not fetched.
        let is_ours = kept.issuer == self.issuer && kept.source == self.source && kept.fetched <= now;
        let age = now.since(kept.fetched);
        let keys = KeySet::parse(kept.keys.as_bytes()).ok().filter(|_| is_ours && age < stale_max)?;
        tracing::warn!(issuer = self.issuer, keys_age_s = age.as_secs(), "the keys come from the copy");
        Some((keys, age))
    }
}
