//! How fast a request body comes in over HTTP/2, where pingora sets no bound on that (in HTTP/1 it does).

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

tokio::task_local! {
    /// That of the request which the task serves. The door is called by pingora alone, which hands nothing of ours through.
    static OURS: Arc<Pace>;
}

/// Until when more of a body is due.
#[derive(Debug, Default)]
pub struct Pace {
    due: watch::Sender<Option<Instant>>,
    broken: AtomicBool,
}

impl Pace {
    /// Runs `serving` until it ends or the body falls behind; the latter drops it, which resets its stream.
    pub async fn keep<T>(serving: impl Future<Output = T>) -> Option<T> {
        let pace = Arc::new(Self::default());
        tokio::select! {
            biased;
            served = OURS.scope(pace.clone(), serving) => Some(served),
            () = pace.breaks() => None,
        }
    }

    /// That of the request which this task serves, if it is kept at all.
    pub(super) fn ours() -> Option<Arc<Self>> {
        OURS.try_with(Arc::clone).ok()
    }

    /// More of the body is due within `patience`; no more, where there is none.
    pub(super) fn expect(&self, patience: Option<Duration>) {
        self.due.send_replace(patience.and_then(|patience| Instant::now().checked_add(patience)));
    }

    /// Whether the body fell behind.
    pub(super) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }

    async fn breaks(&self) {
        let mut changes = self.due.subscribe();
        loop {
            let due = *changes.borrow_and_update();
            match due {
                Some(due) if timeout_at(due, changes.changed()).await.is_err() => break,
                Some(_) => {}
                None => drop(changes.changed().await),
            }
        }
        self.broken.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    /// Whether a body is served whose parts come after these pauses, each in milliseconds, 100 being allowed.
    async fn served(pauses: &[u64]) -> bool {
        let serving = async {
            let pace = Pace::ours().unwrap();
            for pause in pauses {
                pace.expect(Some(Duration::from_millis(100)));
                sleep(Duration::from_millis(*pause)).await;
            }
            pace.expect(None);
            sleep(Duration::from_secs(10)).await;
        };
        Pace::keep(serving).await.is_some()
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_may_pause_as_often_as_it_likes_but_not_for_long() {
        assert!(served(&[]).await);
        assert!(served(&[90; 10]).await);
        assert!(!served(&[90, 90, 110]).await);
        assert!(Pace::ours().is_none());
    }
}
