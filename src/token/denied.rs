//! The deny-list at work: read again when its file changes, and asked about each token once for every version of it.

use std::{
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{task::AbortHandle, time::sleep};

use super::{
    VerifiedToken,
    deny_list::{Denials, DenyFile, DenyListError, Entry, EntryId},
};
use crate::base::{clock::Timestamp, files::Stamp};

/// How often the file is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// A file that lacks entries is looked at again after this, before they are forgotten.
const SETTLE: Duration = Duration::from_millis(100);

/// An epoch that no list has been at: a token that one list has cleared is not cleared by another, and one that was never
/// cleared, which stands at 0, by none.
fn next_epoch() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    LAST.fetch_add(1, Ordering::AcqRel).saturating_add(1)
}

/// A deny-list that is kept up with its file.
#[derive(Debug)]
pub struct Denied {
    shared: Arc<Shared>,
    file: Option<DenyFile>,
    watcher: Option<AbortHandle>,
}

#[derive(Debug)]
struct Shared {
    list: RwLock<Arc<Denials>>,
    /// Held from reading the file to publishing what it says, so that no older list is published after a newer.
    reading: Mutex<()>,
    /// Moves whenever the list changes.
    epoch: AtomicU64,
    failing: AtomicU64,
}

/// Whether the list is as its file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DenyListState {
    /// Entries in force.
    pub entries: usize,
    /// Whether the file cannot be read, so that an older version of it is in force.
    pub failing: bool,
}

/// Why the list cannot be changed.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// None is configured.
    #[error("no `deny_list` is configured")]
    NoList,
    /// The file could not be changed, or is no list.
    #[error(transparent)]
    List(#[from] DenyListError),
}

impl Denied {
    /// Nobody is denied, ever.
    pub fn nobody() -> Self {
        Self::new(Denials::default(), None)
    }

    /// Denies by a file, which holds this list now, and watches it; the one `before` does so already where it is of the same
    /// file. Must be called on a tokio runtime.
    pub fn start(denied: Option<(Denials, DenyFile)>, before: Option<&Arc<Self>>) -> Arc<Self> {
        let Some((list, file)) = denied else { return Arc::new(Self::nobody()) };
        if let Some(same) = before.filter(|before| before.file.as_ref().is_some_and(|it| it.path == file.path)) {
            return same.clone();
        }
        let mut denied = Self::new(list, Some(file.clone()));
        denied.watcher = Some(tokio::spawn(watch(file, denied.shared.clone())).abort_handle());
        Arc::new(denied)
    }

    fn new(list: Denials, file: Option<DenyFile>) -> Self {
        let list = RwLock::new(Arc::new(list));
        let (epoch, failing) = (AtomicU64::new(next_epoch()), AtomicU64::new(0));
        let shared = Arc::new(Shared { list, reading: Mutex::new(()), epoch, failing });
        Self { shared, file, watcher: None }
    }

    /// Whether `token` is denied. Cheap while the list has not changed since the token was last found not to be.
    pub(super) fn denies(&self, token: &VerifiedToken, now: Timestamp) -> bool {
        let epoch = self.shared.epoch.load(Ordering::Acquire);
        if token.cleared.load(Ordering::Acquire) == epoch {
            return false;
        }
        let denied = self.shared.list().refuse(token, now);
        if !denied {
            token.cleared.store(epoch, Ordering::Release);
        }
        denied
    }

    /// The list in force.
    pub fn list(&self) -> Arc<Denials> {
        self.shared.list()
    }

    /// Whether the list is as its file says.
    pub fn state(&self) -> DenyListState {
        let failing = self.shared.failing.load(Ordering::Acquire) > 0;
        DenyListState { entries: self.shared.list().entries().len(), failing }
    }

    /// Adds an entry to the file. It is in force when this returns.
    ///
    /// # Errors
    /// [`ChangeError`].
    pub async fn add(&self, entry: Entry) -> Result<EntryId, ChangeError> {
        self.change(move |file| file.add(&entry)).await
    }

    /// Removes the entries of this name from the file; gives how many there were.
    ///
    /// # Errors
    /// [`ChangeError`].
    pub async fn remove(&self, id: String) -> Result<usize, ChangeError> {
        self.change(move |file| file.remove(&id)).await
    }

    async fn change<T: Send + 'static>(
        &self,
        change: impl FnOnce(&DenyFile) -> Result<T, DenyListError> + Send + 'static,
    ) -> Result<T, ChangeError> {
        let file = self.file.clone().ok_or(ChangeError::NoList)?;
        let shared = self.shared.clone();
        // It goes on to its end even when whoever asked for it goes away.
        let changed = tokio::task::spawn_blocking(move || {
            file.files.locked(&file.path, || {
                let outcome = change(&file)?;
                let _reading = shared.reading.lock().unwrap_or_else(PoisonError::into_inner);
                shared.publish(file.read()?);
                Ok(outcome)
            })?
        });
        let broken = |error| Err(DenyListError::File(std::io::Error::other(error)));
        Ok(changed.await.unwrap_or_else(broken)?)
    }
}

impl Drop for Denied {
    fn drop(&mut self) {
        if let Some(watcher) = &self.watcher {
            watcher.abort();
        }
    }
}

impl Shared {
    fn list(&self) -> Arc<Denials> {
        self.list.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The epoch moves only after the new list is in place: who reads the new epoch reads that list or a later one.
    fn publish(&self, list: Denials) {
        *self.list.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(list);
        self.epoch.store(next_epoch(), Ordering::Release);
        self.failing.store(0, Ordering::Release);
    }
}

async fn watch(file: DenyFile, shared: Arc<Shared>) {
    let (mut seen, mut taken): (Option<Stamp>, bool) = (None, true);
    loop {
        sleep(if taken { LOOK_EVERY } else { SETTLE }).await;
        let (look, into, last) = (file.clone(), shared.clone(), seen.clone());
        let looked = tokio::task::spawn_blocking(move || {
            let stamp = look.files.stamp(&look.path).ok();
            let is_still = stamp.is_some() && stamp == last;
            if is_still && taken && !stamp.as_ref().is_some_and(Stamp::is_young) {
                return (stamp, true);
            }
            let _reading = into.reading.lock().unwrap_or_else(PoisonError::into_inner);
            let before = into.list();
            match look.read() {
                Ok(list) if list.entries() == before.entries() => into.failing.store(0, Ordering::Release),
                // A file that is written in place is empty for a moment: who is denied is not let in for that.
                Ok(list) if !is_still && list.forgives(&before) => return (stamp, false),
                Ok(list) => {
                    tracing::info!(entries = list.entries().len(), "the deny-list changed");
                    into.publish(list);
                }
                Err(error) if into.failing.fetch_add(1, Ordering::AcqRel) == 0 => {
                    tracing::error!(%error, "the deny-list cannot be read; the last one stays in force");
                }
                Err(_) => {}
            }
            (stamp, true)
        });
        (seen, taken) = looked.await.unwrap_or_default();
    }
}
