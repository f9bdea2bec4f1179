//! Asks the candidate policies beside those in force, after a request has ended and away from it: what they say goes into
//! the record where it differs, and has no other effect. Bounded by a queue, one thread and a rate; what goes beyond is
//! counted and recorded as it is.

use std::{
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
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
    /// Until the record is written.
    waits: Waits,
}

/// A record that is still to come, counted.
struct Waits(Arc<AtomicUsize>);

impl Waits {
    fn among(waiting: &Arc<AtomicUsize>) -> Self {
        waiting.fetch_add(1, Ordering::Relaxed);
        Self(waiting.clone())
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Where decisions are asked about again.
pub struct Shadow {
    sink: Arc<dyn Sink>,
    metrics: Arc<Metrics>,
    worker: Mutex<Worker>,
    waiting: Arc<AtomicUsize>,
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
    pub fn new(sink: Arc<dyn Sink>, metrics: Arc<Metrics>) -> Self {
        Self { sink, metrics, worker: Mutex::new(Worker::Idle), waiting: Arc::default() }
    }

    /// Records that are not written yet: where they go there must be room for them too.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Writes `record`, once `candidate` was asked the same `question`; or at once where that would take too long.
    pub fn ask(&self, candidate: Arc<Candidate>, question: DecisionRequest, record: Record) {
        let asked = Asked { candidate, question, record: Box::new(record), waits: Waits::among(&self.waiting) };
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
    while let Ok(Asked { candidate, question, mut record, waits }) = queue.recv() {
        let decided = rate.admits(candidate.per_second_max).then(|| {
            // A fault inside Cedar must not take the records with it that wait.
            std::panic::catch_unwind(AssertUnwindSafe(|| candidate.policies.decide(&question))).ok()
        });
        let compared = compared(&record, &candidate, decided.flatten().as_ref());
        metrics.count_shadow(compared.outcome);
        record.shadow = (compared.outcome != ShadowOutcome::Same).then_some(compared);
        sink.write(&record);
        drop(waits);
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

#[cfg(test)]
mod tests {
    use std::{path::PathBuf, sync::mpsc::Sender};

    use super::*;
    use crate::{
        base::files::Files,
        policy::{PolicyFiles, shadow::ShadowConfig},
    };

    /// Writes a record when it may, and says so.
    struct Slow {
        may: Mutex<Receiver<()>>,
        wrote: Mutex<Sender<()>>,
    }

    impl Sink for Slow {
        fn write(&self, _: &Record) {
            self.may.lock().unwrap().recv().unwrap();
            self.wrote.lock().unwrap().send(()).unwrap();
        }

        fn has_room(&self, _: usize) -> bool {
            true
        }
    }

    fn candidate() -> Arc<Candidate> {
        let files = Files::memory([
            (
                "p/schema.cedarschema",
                "entity User, Agent, Doc; action read appliesTo { principal: [Agent], resource: [Doc] };",
            ),
            ("p/a.cedar", "@id(\"a\") permit (principal, action, resource);"),
            ("new/a.cedar", "@id(\"b\") permit (principal, action, resource);"),
        ]);
        let config: ShadowConfig = serde_saphyr::from_str("policies: new").unwrap();
        let loaded = PolicyFiles::new(&files, &PathBuf::from("p")).load(&[], Some(&config)).unwrap();
        Arc::new(loaded.candidate.unwrap())
    }

    #[test]
    fn a_record_counts_as_one_to_come_until_it_is_written() {
        let (let_write, may) = std::sync::mpsc::channel();
        let (wrote, written) = std::sync::mpsc::channel();
        let sink = Arc::new(Slow { may: Mutex::new(may), wrote: Mutex::new(wrote) });
        let shadow = Shadow::new(sink, Arc::new(Metrics::new().unwrap()));
        let candidate = candidate();
        for _ in 0..3 {
            let question = DecisionRequest {
                requests: Vec::new(),
                entities: cedar_policy::Entities::empty(),
                origins: Vec::new(),
            };
            shadow.ask(candidate.clone(), question, Record::default());
        }
        assert_eq!(shadow.waiting(), 3, "none is written");
        let_write.send(()).unwrap();
        written.recv().unwrap();
        // The next is not written before it may be, so that no more than one goes.
        while shadow.waiting() == 3 {
            std::thread::yield_now();
        }
        assert_eq!(shadow.waiting(), 2);
        (0..2).for_each(|_| let_write.send(()).unwrap());
        shadow.close();
        assert_eq!(shadow.waiting(), 0);
    }
}
