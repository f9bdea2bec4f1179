//! When what was not taken is sent again.

use std::time::Duration;

use tokio::time::Instant;

use super::client::Failed;

/// How long it is tried.
const TRYING: Duration = Duration::from_secs(30);

/// How long after it was not taken, where the receiver does not say; twice as long each time.
const PAUSE: Duration = Duration::from_millis(500);

/// How long a receiver is left alone at most, whatever it asks for.
const LEFT_ALONE_MAX: Duration = Duration::from_secs(60);

/// How long to send nothing after this.
pub(super) fn left_alone(failed: &Failed) -> Duration {
    failed.again_after.unwrap_or_default().min(LEFT_ALONE_MAX)
}

/// One message that is sent until it is taken.
pub(super) struct Trying {
    began: Instant,
    pause: Duration,
}

impl Trying {
    pub(super) fn begin() -> Self {
        Self { began: Instant::now(), pause: PAUSE }
    }

    /// How long to wait until it is sent again. None where that is for nothing, or too late.
    pub(super) fn pause(&mut self, failed: &Failed) -> Option<Duration> {
        let pause = failed.again_after?.max(self.pause);
        self.pause = self.pause.saturating_mul(2);
        (self.began.elapsed().saturating_add(pause) < TRYING).then_some(pause)
    }
}
