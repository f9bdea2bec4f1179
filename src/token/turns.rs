//! A token that is not known yet takes the processor longer than all else that is done for a request. Those who come with one
//! take turns, so that a flood of them holds up nobody whose token is known.

use tokio::{
    runtime::Handle,
    sync::{Semaphore, SemaphorePermit},
    task::yield_now,
};

/// Turns at a time for each worker. One that known tokens keep busy comes back to those who wait every few milliseconds: new tokens
/// got a twelfth of what they get alone with one turn, and get a quarter with four (docs/benchmarks.md).
const TURNS: usize = 4;

/// A few turns at a time for each worker of the runtime.
#[derive(Debug)]
pub(super) struct Turns(Semaphore);

/// A turn, until it is dropped.
pub(super) struct Turn<'a>(#[expect(dead_code, reason = "held, not read")] Option<SemaphorePermit<'a>>);

impl Turns {
    /// For the workers of this runtime.
    pub(super) fn of_this_runtime() -> Self {
        let workers = Handle::try_current().map_or(1, |runtime| runtime.metrics().num_workers());
        Self(Semaphore::new(workers.saturating_mul(TURNS)))
    }

    /// Waits for a turn. It comes after everything that could go on meanwhile, and in the order of those who wait.
    pub(super) async fn take(&self) -> Turn<'_> {
        // Nobody closes it.
        let turn = self.0.acquire().await.ok();
        yield_now().await;
        Turn(turn)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[tokio::test]
    async fn whoever_needs_no_turn_goes_before_those_who_wait_for_one() {
        let (turns, order) = (Arc::new(Turns::of_this_runtime()), Arc::new(Mutex::new(String::new())));
        let mut tasks = Vec::new();
        for _ in 0..24 {
            let (turns, order) = (turns.clone(), order.clone());
            tasks.push(tokio::spawn(async move {
                let _turn = turns.take().await;
                order.lock().unwrap().push('c');
            }));
        }
        let said = order.clone();
        tasks.push(tokio::spawn(async move {
            for _ in 0..3 {
                said.lock().unwrap().push('h');
                yield_now().await;
            }
        }));
        for task in tasks {
            task.await.unwrap();
        }
        let order = order.lock().unwrap();
        // All the others were ready first.
        assert!(order.starts_with('h'), "{order}");
        assert!(order.split('h').all(|between| between.len() <= TURNS || order.ends_with(between)), "{order}");
        assert_eq!(order.len(), 27);
    }
}
