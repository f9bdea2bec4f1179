//! Recorded decisions, decided again by other policies: what would change, and for whom.

use std::{
    collections::{BTreeMap, HashMap},
    io::BufRead,
    sync::{Arc, Mutex, mpsc},
};

use serde::Serialize;

use super::recorded::{Content, Line, Part, RecordLine, content, next_line};
use crate::{
    entities::{DecisionRequest, hiding::Reading, recorded::RecordedQuestion},
    policy::{Policies, needs::Need, stores::DEFAULT},
};

/// Changes that are told one by one, of each kind.
const SAMPLES_MAX: usize = 5;

/// Names that are counted apart, of policies, routes and agents.
const NAMES_MAX: usize = 10_000;

/// What stands for all names beyond that.
const OTHERS: &str = "(others)";

/// Lines that are handed on together, and their bytes.
const LINES_AT_ONCE: usize = 256;
const BYTES_AT_ONCE: usize = 1024 * 1024;

/// Stack of a thread, in bytes: Cedar's evaluator recurses.
const STACK_BYTES: usize = 8 * 1024 * 1024;

/// Policies to decide by, and how to read what was recorded.
#[derive(Debug)]
pub struct Replay<'a> {
    policies: &'a Policies,
    store: &'a str,
    reading: Reading,
    needs: HashMap<String, Vec<Need>>,
}

/// How a decision changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// What was denied would be allowed.
    Wider,
    /// What was allowed would be denied.
    Narrower,
    /// The same, by other policies.
    Policies,
}

/// One decision that changes.
#[derive(Clone, Debug, Serialize)]
pub struct Sample {
    /// How.
    pub change: Change,
    /// The decision.
    pub decision_id: String,
    /// Method and path.
    pub request: String,
    /// The agent.
    pub agent: Option<String>,
    /// The user acted for.
    pub user: Option<String>,
    /// The policies that decided.
    pub before: Vec<String>,
    /// Those that would.
    pub after: Vec<String>,
}

/// Changes by name.
pub type Counts = BTreeMap<String, BTreeMap<Change, usize>>;

/// What came of a log.
#[derive(Debug, Default, Serialize)]
pub struct Tally {
    /// Records that were read.
    pub records: usize,
    /// Those that policies had no part in: refused, or left, before they were asked.
    pub before_policies: usize,
    /// Those that another store decided.
    pub other_stores: usize,
    /// Those that were decided again.
    pub replayed: usize,
    /// Those that would be decided the same, by the same policies.
    pub same: usize,
    /// Those that change.
    pub changed: BTreeMap<Change, usize>,
    /// Those that hold no question, so that nobody can tell.
    pub without_question: usize,
    /// Those whose pseudonyms are of another key than is known here, so that nobody can tell.
    pub other_keys: usize,
    /// Those where a policy needs a value that stands under a pseudonym, so that nobody can tell.
    pub unfaithful: usize,
    /// The values that would be needed, and how often.
    pub needed: BTreeMap<String, usize>,
    /// Lines that are no records, or too long, so that nobody can tell.
    pub unreadable: usize,
    /// Records that could not be written, as the log's chain says, so that nobody can tell.
    pub dropped: usize,
    /// The first line that is no record, and why.
    pub first_unreadable: Option<(usize, String)>,
    /// Changes by policy.
    pub by_policy: Counts,
    /// Changes by route.
    pub by_route: Counts,
    /// Changes by agent.
    pub by_agent: Counts,
    /// Some of the changes.
    pub samples: Vec<Sample>,
}

impl<'a> Replay<'a> {
    /// Decides by `policies`, in place of those of `store`.
    pub fn new(policies: &'a Policies, store: &'a str, reading: Reading) -> Self {
        let needs = policies.texts().into_iter().map(|text| (text.needs_in_the_clear(), text.id));
        let needs = needs.filter(|(needs, _)| !needs.is_empty()).map(|(needs, id)| (id, needs)).collect();
        Self { policies, store, reading, needs }
    }

    /// A recorded question, to be put again, and why nobody can tell what the policies make of it: nothing where it can be told.
    ///
    /// # Errors
    /// What in it cannot be read.
    pub fn read(&self, recorded: &RecordedQuestion) -> Result<(DecisionRequest, Vec<String>), String> {
        let question = recorded.read(&self.reading)?;
        let doubts = if recorded.is_of_key(&self.reading) {
            let needed = self.needed(recorded, &question).into_iter();
            needed.map(|place| format!("{place} stands under a pseudonym")).collect()
        } else {
            vec!["it holds pseudonyms of a key that is not known here".to_owned()]
        };
        Ok((question, doubts))
    }

    /// Decides every record of `log` again, on `threads`. `progress` is told how many bytes were read.
    ///
    /// # Errors
    /// Where the log cannot be read.
    pub fn run(&self, mut log: impl BufRead, threads: usize, mut progress: impl FnMut(usize)) -> Result<Tally, String> {
        let (sender, receiver) = mpsc::sync_channel(threads.max(1).saturating_mul(2));
        let receiver = Arc::new(Mutex::new(receiver));
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads.max(1))
                .filter_map(|_| {
                    let batches = receiver.clone();
                    let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
                    thread.spawn_scoped(scope, move || self.work(&batches)).ok()
                })
                .collect();
            // INVARIANT: the workers alone hold it, so that nobody waits for them once they have ended.
            drop(receiver);
            let read = feed(&mut log, &sender, &mut progress);
            drop(sender);
            if workers.is_empty() {
                return Err("no thread to decide on".into());
            }
            let mut whole = Tally::default();
            for worker in workers {
                whole.add(worker.join().map_err(|_| "deciding failed inside Cedar".to_owned())?);
            }
            read.map(|()| whole)
        })
    }

    fn work(&self, batches: &Mutex<mpsc::Receiver<Batch>>) -> Tally {
        let mut tally = Tally::default();
        loop {
            let Ok(Ok(batch)) = batches.lock().map(|batches| batches.recv()) else { return tally };
            for (number, line) in batch {
                let noted =
                    line.map_or_else(|| Err("the line is too long".into()), |line| self.note(&line, &mut tally));
                if let Err(error) = noted {
                    tally.unreadable = tally.unreadable.saturating_add(1);
                    tally.note_unreadable(number, error);
                }
            }
        }
    }

    fn note(&self, line: &[u8], tally: &mut Tally) -> Result<(), String> {
        if line.trim_ascii().is_empty() {
            return Ok(());
        }
        let record = match content(line)? {
            Content::Record(record) => *record,
            Content::OfChain { dropped } => {
                tally.dropped = tally.dropped.saturating_add(usize::try_from(dropped).unwrap_or(usize::MAX));
                return Ok(());
            }
        };
        let question = record.question.as_ref().map(|question| question.read(&self.reading)).transpose()?;
        tally.records = tally.records.saturating_add(1);
        let count = match (record.part_of_policies(), record.question.as_ref().zip(question)) {
            (Part::None, _) => &mut tally.before_policies,
            (Part::Decided, _) if record.store.as_deref().unwrap_or(DEFAULT) != self.store => &mut tally.other_stores,
            (Part::Unknown, _) | (Part::Decided, None) => &mut tally.without_question,
            (_, Some((recorded, _))) if !recorded.is_of_key(&self.reading) => &mut tally.other_keys,
            (_, Some((recorded, question))) => {
                let needed = self.needed(recorded, &question);
                if needed.is_empty() {
                    self.decide(record, &question, tally);
                    return Ok(());
                }
                for place in needed {
                    let count = tally.needed.entry(place).or_default();
                    *count = count.saturating_add(1);
                }
                &mut tally.unfaithful
            }
        };
        *count = count.saturating_add(1);
        Ok(())
    }

    fn decide(&self, record: RecordLine, question: &DecisionRequest, tally: &mut Tally) {
        tally.replayed = tally.replayed.saturating_add(1);
        let decision = self.policies.decide(question);
        let (allowed, after) = match decision.result() {
            Ok(allowed) => (true, allowed.determining()),
            Err(denied) => (false, &*denied.determining),
        };
        let after: Vec<_> = after.iter().map(|note| note.id.clone()).collect();
        let change = match (record.decision == "allow", allowed) {
            (false, true) => Change::Wider,
            (true, false) => Change::Narrower,
            _ if after != record.policies => Change::Policies,
            _ => {
                tally.same = tally.same.saturating_add(1);
                return;
            }
        };
        tally.change(change, record, after);
    }

    /// The values that the policies in scope need, and that stand under pseudonyms.
    fn needed(&self, recorded: &RecordedQuestion, question: &DecisionRequest) -> Vec<String> {
        if self.needs.is_empty() || !recorded.hides_anything() {
            return Vec::new();
        }
        let in_scope = self.policies.in_scope(question);
        let needs = in_scope.iter().filter_map(|id| self.needs.get(id)).flatten();
        let mut hidden: Vec<_> = needs
            .flat_map(|need| match need {
                Need::Place(place) => recorded.hidden_at(place),
                Need::Anything => vec![ANYTHING.to_owned()],
            })
            .collect();
        hidden.sort();
        hidden.dedup();
        hidden
    }
}

/// What is needed where a policy does not say it by names alone.
const ANYTHING: &str = "everything (it is reached by a tag, or by an entity that a policy names)";

/// Lines with their numbers; none for one that is too long.
type Batch = Vec<(usize, Option<Vec<u8>>)>;

fn feed(
    log: &mut impl BufRead,
    queue: &mpsc::SyncSender<Batch>,
    progress: &mut impl FnMut(usize),
) -> Result<(), String> {
    let (mut number, mut batch, mut bytes, mut line) = (0_usize, Batch::new(), 0_usize, Vec::new());
    loop {
        let read = next_line(log, &mut line)?;
        bytes = bytes.saturating_add(line.len());
        number = number.saturating_add(1);
        match read {
            Line::Read => batch.push((number, Some(std::mem::take(&mut line)))),
            Line::TooLong => batch.push((number, None)),
            Line::End => {}
        }
        if read == Line::End || batch.len() >= LINES_AT_ONCE || bytes >= BYTES_AT_ONCE {
            progress(std::mem::take(&mut bytes));
            // Where every worker has ended, what they say is why.
            if queue.send(std::mem::take(&mut batch)).is_err() || read == Line::End {
                return Ok(());
            }
        }
    }
}

impl Tally {
    /// How many records change so.
    pub fn of(&self, change: Change) -> usize {
        self.changed.get(&change).copied().unwrap_or_default()
    }

    /// Records that nobody can tell of.
    pub fn unjudged(&self) -> usize {
        let counts = [self.without_question, self.other_keys, self.unfaithful, self.unreadable, self.dropped];
        counts.into_iter().fold(0, usize::saturating_add)
    }

    fn note_unreadable(&mut self, number: usize, why: String) {
        if self.first_unreadable.as_ref().is_none_or(|(first, _)| number < *first) {
            self.first_unreadable = Some((number, why));
        }
    }

    fn change(&mut self, change: Change, record: RecordLine, after: Vec<String>) {
        count(&mut self.changed, change, 1);
        let before = &record.policies;
        let changed =
            before.iter().filter(|id| !after.contains(id)).chain(after.iter().filter(|id| !before.contains(id)));
        for id in changed {
            count(named(&mut self.by_policy, id), change, 1);
        }
        count(named(&mut self.by_route, record.route.as_deref().unwrap_or("none")), change, 1);
        count(named(&mut self.by_agent, record.agent.as_deref().unwrap_or("none")), change, 1);
        self.keep(Sample {
            change,
            decision_id: record.decision_id,
            request: format!("{} {}", record.method, record.path),
            agent: record.agent,
            user: record.user,
            before: record.policies,
            after,
        });
    }

    fn keep(&mut self, sample: Sample) {
        if self.samples.iter().filter(|it| it.change == sample.change).count() < SAMPLES_MAX {
            self.samples.push(sample);
        }
    }

    fn add(&mut self, other: Self) {
        for (sum, more) in [
            (&mut self.records, other.records),
            (&mut self.before_policies, other.before_policies),
            (&mut self.other_stores, other.other_stores),
            (&mut self.replayed, other.replayed),
            (&mut self.same, other.same),
            (&mut self.without_question, other.without_question),
            (&mut self.other_keys, other.other_keys),
            (&mut self.unfaithful, other.unfaithful),
            (&mut self.unreadable, other.unreadable),
            (&mut self.dropped, other.dropped),
        ] {
            *sum = sum.saturating_add(more);
        }
        if let Some((number, why)) = other.first_unreadable {
            self.note_unreadable(number, why);
        }
        other.changed.into_iter().for_each(|(change, times)| count(&mut self.changed, change, times));
        for (place, times) in other.needed {
            let sum = self.needed.entry(place).or_default();
            *sum = sum.saturating_add(times);
        }
        for (sums, more) in [
            (&mut self.by_policy, other.by_policy),
            (&mut self.by_route, other.by_route),
            (&mut self.by_agent, other.by_agent),
        ] {
            for (name, changes) in more {
                changes.into_iter().for_each(|(change, times)| count(named(sums, &name), change, times));
            }
        }
        other.samples.into_iter().for_each(|sample| self.keep(sample));
        self.samples.sort_by(|a, b| (a.change, &a.decision_id).cmp(&(b.change, &b.decision_id)));
    }
}

fn count(counts: &mut BTreeMap<Change, usize>, change: Change, times: usize) {
    let sum = counts.entry(change).or_default();
    *sum = sum.saturating_add(times);
}

fn named<'c>(counts: &'c mut Counts, name: &str) -> &'c mut BTreeMap<Change, usize> {
    let name = if counts.len() < NAMES_MAX || counts.contains_key(name) { name } else { OTHERS };
    counts.entry(name.to_owned()).or_default()
}
