//! Asks the candidate policies beside those in force, after a request has ended and away from it: what they say goes into
//! the record where it differs, and has no other effect. Bounded by a queue, one thread and a rate; what goes beyond is
//! counted and recorded as it is.

use std::{
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use crate::{
    audit::{Outcome, Record, ShadowOutcome, ShadowRecord, Sink},
    entities::DecisionRequest,
    metrics::Metrics,
    policy::{Decision, DenyReason, shadow::Candidate},
};

/// The code of a denial because a policy erred.
const POLICY_FAILED: &str = "policy_failed";

/// How many decisions may wait.
const QUEUE_MAX: usize = 1024;

/// Stack of the thread, in bytes: Cedar's evaluator recurses.
const STACK_BYTES: usize = 8 * 1024 * 1024;

/// A decision that was made, to be asked about again.
struct Asked {
    candidate: Arc<Candidate>,
    question: DecisionRequest,
    record: Box<Record>,
}

/// Where decisions are asked about again.
pub struct Shadow {
    sink: Arc<dyn Sink>,
    metrics: Arc<Metrics>,
    worker: Mutex<Worker>,
}

enum Worker {
    /// Nothing was asked yet: there may never be a candidate.
    Idle,
    At(SyncSender<Asked>, JoinHandle<()>),
    Closed,
}

impl std::fmt::Debug for Shadow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Shadow")
    }
}

impl Shadow {
    /// Writes records to `sink`.
    pub const fn new(sink: Arc<dyn Sink>, metrics: Arc<Metrics>) -> Self {
        Self { sink, metrics, worker: Mutex::new(Worker::Idle) }
    }

    /// Writes `record`, once `candidate` was asked the same `question`; or at once where that would take too long.
    pub fn ask(&self, candidate: Arc<Candidate>, question: DecisionRequest, record: Record) {
        let asked = Asked { candidate, question, record: Box::new(record) };
        if let Err(mut asked) = self.queue(asked) {
            self.metrics.count_shadow(ShadowOutcome::Skipped);
            asked.record.shadow = Some(skipped(&asked.candidate));
            self.sink.write(&asked.record);
        }
    }

    fn queue(&self, asked: Asked) -> Result<(), Box<Asked>> {
        let mut worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*worker, Worker::Idle) {
            let (sender, receiver) = sync_channel(QUEUE_MAX);
            let (sink, metrics) = (self.sink.clone(), self.metrics.clone());
            let thread = std::thread::Builder::new().name("shadow".into()).stack_size(STACK_BYTES);
            if let Ok(thread) = thread.spawn(move || work(&receiver, &*sink, &metrics)) {
                *worker = Worker::At(sender, thread);
            }
        }
        let Worker::At(queue, _) = &*worker else { return Err(Box::new(asked)) };
        queue.try_send(asked).map_err(|error| match error {
            TrySendError::Full(asked) | TrySendError::Disconnected(asked) => Box::new(asked),
        })
    }

    /// Asks about what waits, and writes its records. What comes later is written as it is.
    pub fn close(&self) {
        let worker =
            std::mem::replace(&mut *self.worker.lock().unwrap_or_else(PoisonError::into_inner), Worker::Closed);
        if let Worker::At(queue, thread) = worker {
            drop(queue);
            let _ = thread.join();
        }
    }
}

fn work(queue: &Receiver<Asked>, sink: &dyn Sink, metrics: &Metrics) {
    let mut rate = Rate { began: Instant::now(), done: 0 };
    while let Ok(Asked { candidate, question, mut record }) = queue.recv() {
        let decided = rate.admits(candidate.per_second_max).then(|| {
            // A fault inside Cedar must not take the records with it that wait.
            std::panic::catch_unwind(AssertUnwindSafe(|| candidate.policies.decide(&question))).ok()
        });
        let compared = compared(&record, &candidate, decided.flatten().as_ref());
        metrics.count_shadow(compared.outcome);
        record.shadow = (compared.outcome != ShadowOutcome::Same).then_some(compared);
        sink.write(&record);
    }
}

fn skipped(candidate: &Candidate) -> ShadowRecord {
    let policy_revision = candidate.policies.revision().clone();
    ShadowRecord { outcome: ShadowOutcome::Skipped, decision: None, policy_revision, policies: Vec::new() }
}

/// How the decision of a candidate compares with the one that was recorded.
fn compared(record: &Record, candidate: &Candidate, decided: Option<&Decision>) -> ShadowRecord {
    let Some(decided) = decided else { return skipped(candidate) };
    let (decision, reason, policies) = match decided.result() {
        Ok(allowed) => (Outcome::Allow, None, allowed.determining()),
        Err(denied) => (Outcome::Deny, Some(denied.reason), &*denied.determining),
    };
    let policies: Vec<_> = policies.iter().map(|note| note.id.clone()).collect();
    let failed = record.code == POLICY_FAILED;
    let outcome = match (record.decision, decision) {
        (Outcome::Deny, Outcome::Allow) => ShadowOutcome::Wider,
        (Outcome::Allow, Outcome::Deny) => ShadowOutcome::Narrower,
        (Outcome::Deny, _) if failed != (reason == Some(DenyReason::Failure)) => ShadowOutcome::Policies,
        _ if policies == record.policies => ShadowOutcome::Same,
        _ => ShadowOutcome::Policies,
    };
    let policy_revision = candidate.policies.revision().clone();
    ShadowRecord { outcome, decision: Some(decision), policy_revision, policies }
}

/// Counts decisions by the second.
struct Rate {
    began: Instant,
    done: u32,
}

impl Rate {
    fn admits(&mut self, per_second_max: u32) -> bool {
        if self.began.elapsed() >= Duration::from_secs(1) {
            *self = Self { began: Instant::now(), done: 0 };
        }
        self.done = self.done.saturating_add(1);
        self.done <= per_second_max
    }
}
