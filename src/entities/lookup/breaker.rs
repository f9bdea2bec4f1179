//! A circuit breaker: a source that fails again and again is left alone for a while, then asked once.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Decides whether a source may be asked.
#[derive(Debug)]
pub(super) struct Breaker {
    failures_max: u32,
    pause: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// In a row.
    failures: u32,
    /// When it may be asked again.
    open_until: Option<Instant>,
}

impl Breaker {
    /// Closed. Opens for `pause` after `failures_max` failures in a row.
    pub(super) fn new(failures_max: u32, pause: Duration) -> Self {
        Self { failures_max, pause, state: Mutex::default() }
    }

    /// Whether the source may be asked now. While it is open, one question is let through at the end of each pause.
    pub(super) fn admits(&self) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        match state.open_until {
            Some(until) if now < until => false,
            Some(_) => {
                state.open_until = now.checked_add(self.pause);
                true
            }
            None => true,
        }
    }

    /// Notes how a question ended.
    pub(super) fn note(&self, went_well: bool) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if went_well {
            *state = State::default();
            return;
        }
        state.failures = state.failures.saturating_add(1);
        if state.failures >= self.failures_max {
            state.open_until = Instant::now().checked_add(self.pause);
        }
    }

    /// Notes that the source answered, though with nothing for the one key that it was asked about: it may be asked, and is
    /// left alone again if it fails next.
    pub(super) fn note_reached(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).open_until = None;
    }

    /// Whether the source is left alone.
    pub(super) fn is_open(&self) -> bool {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).open_until.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_opens_after_failures_in_a_row_and_closes_after_one_success() {
        let breaker = Breaker::new(3, Duration::from_secs(5));
        for went_well in [false, false, true, false, false] {
            assert!(breaker.admits());
            breaker.note(went_well);
        }
        assert!(!breaker.is_open());
        breaker.note(false);
        for _ in 0..2 {
            assert!(breaker.is_open() && !breaker.admits());
            tokio::time::advance(Duration::from_secs(5)).await;
            assert!(breaker.admits(), "one is let through");
            assert!(!breaker.admits(), "one alone");
            breaker.note(false);
        }
        tokio::time::advance(Duration::from_secs(5)).await;
        assert!(breaker.admits());
        breaker.note(true);
        assert!(breaker.admits() && breaker.admits() && !breaker.is_open());
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_fails_for_its_key_closes_it_and_forgives_nothing() {
        let breaker = Breaker::new(2, Duration::from_secs(5));
        for _ in 0..2 {
            breaker.note(false);
        }
        tokio::time::advance(Duration::from_secs(5)).await;
        assert!(breaker.admits() && !breaker.admits());
        breaker.note_reached();
        assert!(breaker.admits() && breaker.admits() && !breaker.is_open());
        breaker.note(false);
        assert!(breaker.is_open());
    }
}
