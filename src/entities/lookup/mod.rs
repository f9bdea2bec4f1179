//! Asking another server or a database about one key: each answer kept for a while, each key asked about once at a time,
//! within a time, and not again and again while the source fails. That a source fails is never taken for an answer.

mod breaker;
pub(crate) mod pick;
pub(crate) mod plan;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use moka::{future::Cache, ops::compute::Op};
use serde_json::Value;
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};

use self::{
    breaker::Breaker,
    plan::{LookupPlan, Whom},
};
use super::MappingError;
use crate::base::{
    fetch::{Ask, Fetch, FetchError},
    json,
    outside::Outside,
    rows::{Database, QueryError},
};

/// A question that failed is not put again for as long as this.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Rows, or items, that an answer may have.
pub(crate) const ROWS_MAX: usize = 100;

/// What is kept of one answer, in bytes, at most.
const KEPT_BYTES_MAX: usize = 64 * 1024;

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LookupError {
    /// None came in time.
    TimedOut,
    /// The source cannot be asked, or does not answer well.
    Unavailable,
}

impl LookupError {
    /// What it means that the source of this name has no answer.
    pub(crate) fn of(self, name: &str) -> MappingError {
        match self {
            Self::TimedOut => MappingError::SourceTimedOut(name.to_owned()),
            Self::Unavailable => MappingError::SourceUnavailable(name.to_owned()),
        }
    }
}

/// An answer: what `T` keeps of it, and since when.
#[derive(Debug)]
pub(crate) struct Answer<T> {
    pub(crate) kept: Arc<T>,
    pub(crate) age: Duration,
}

/// How a source fares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LookupState {
    /// Questions that were answered.
    pub answered: u64,
    /// Questions that failed.
    pub failed: u64,
    /// Whether it is left alone for now.
    pub paused: bool,
}

/// What makes of an answer's rows what is kept.
pub(crate) trait Keeps: Send + Sync + 'static {
    /// What is kept.
    type Kept: Send + Sync + 'static;

    /// What is kept of `rows`, and its size in bytes.
    ///
    /// # Errors
    /// Why the answer is none.
    fn keep(&self, rows: Vec<Value>) -> Result<(Self::Kept, usize), String>;

    /// Whether the source knows nothing.
    fn is_absent(kept: &Self::Kept) -> bool;
}

/// Asks one source.
pub(crate) struct Lookup<K: Keeps> {
    plan: LookupPlan,
    keeps: K,
    asker: Asker,
    known: Cache<String, Known<K::Kept>>,
    places: Semaphore,
    breaker: Breaker,
    answered: AtomicU64,
    failed: AtomicU64,
    failing: AtomicBool,
}

enum Asker {
    Http(Arc<dyn Fetch>),
    Sql(Arc<dyn Database>),
}

/// What is known of one key.
struct Known<T> {
    good: Option<(Arc<T>, Instant)>,
    failed: Option<(Instant, LookupError)>,
}

impl<T> Clone for Known<T> {
    fn clone(&self) -> Self {
        Self { good: self.good.clone(), failed: self.failed }
    }
}

impl<K: Keeps> std::fmt::Debug for Lookup<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lookup").field("name", &self.plan.name).finish_non_exhaustive()
    }
}

impl<K: Keeps> Lookup<K> {
    /// Asks as `plan` says, from when it is asked. Must be called on a tokio runtime.
    pub(crate) fn start(plan: LookupPlan, keeps: K, outside: &Outside) -> Self {
        let keep = plan.keep;
        let asker = match &plan.whom {
            Whom::Http { .. } => Asker::Http(outside.fetch.clone()),
            Whom::Sql(query) => Asker::Sql(outside.databases.open(query)),
        };
        let longest = keep.fresh.max(keep.absent).saturating_add(keep.stale_max).saturating_add(RETRY_AFTER);
        Self {
            known: Cache::builder().max_capacity(keep.answers_max).time_to_live(longest).build(),
            places: Semaphore::new(keep.questions_max),
            breaker: Breaker::new(keep.failures_max, keep.pause),
            plan,
            keeps,
            asker,
            answered: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            failing: AtomicBool::new(false),
        }
    }

    pub(crate) const fn plan(&self) -> &LookupPlan {
        &self.plan
    }

    pub(crate) const fn keeps(&self) -> &K {
        &self.keeps
    }

    pub(crate) fn state(&self) -> LookupState {
        LookupState {
            answered: self.answered.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
            paused: self.breaker.is_open(),
        }
    }

    /// What the source says of these keys, or has said of late.
    pub(crate) async fn ask(&self, keys: &[&str]) -> Result<Answer<K::Kept>, LookupError> {
        let name = match keys {
            [one] => (*one).to_owned(),
            several => Value::from(several.to_vec()).to_string(),
        };
        if let Some(known) = self.known.get(&name).await
            && let Some(answer) = self.fresh(&known)
        {
            return Ok(answer);
        }
        // One asks about a key; the others wait for what it hears.
        let asked = self.known.entry(name).and_compute_with(|entry| async {
            let before = entry.map(moka::Entry::into_value);
            match before.as_ref().is_some_and(|known| self.fresh(known).is_some() || known.failed_lately()) {
                true => Op::Nop,
                false => Op::Put(self.learn(before, keys).await),
            }
        });
        let known = asked.await.into_entry().map(moka::Entry::into_value).ok_or(LookupError::Unavailable)?;
        match (self.fresh(&known), known.failed) {
            (Some(answer), _) => Ok(answer),
            (None, Some((_, error))) => self.stale(&known).ok_or(error),
            (None, None) => known.answer().ok_or(LookupError::Unavailable),
        }
    }

    async fn learn(&self, before: Option<Known<K::Kept>>, keys: &[&str]) -> Known<K::Kept> {
        match self.put(keys).await {
            Ok(kept) => Known { good: Some((Arc::new(kept), Instant::now())), failed: None },
            Err(error) => Known { good: before.and_then(|it| it.good), failed: Some((Instant::now(), error)) },
        }
    }

    async fn put(&self, keys: &[&str]) -> Result<K::Kept, LookupError> {
        let Ok(_place) = self.places.try_acquire() else { return Err(LookupError::Unavailable) };
        if !self.breaker.admits() {
            return Err(LookupError::Unavailable);
        }
        let outcome = match timeout(self.plan.keep.timeout, self.rows(keys)).await {
            Ok(rows) => rows.and_then(|rows| self.keeps.keep(rows)).map_err(|why| (LookupError::Unavailable, why)),
            Err(_) => Err((LookupError::TimedOut, "no answer in time".to_owned())),
        };
        let outcome = outcome.and_then(|(kept, bytes)| match bytes {
            ..=KEPT_BYTES_MAX => Ok(kept),
            _ => Err((LookupError::Unavailable, format!("more than {KEPT_BYTES_MAX} bytes"))),
        });
        self.breaker.note(outcome.is_ok());
        let count = if outcome.is_ok() { &self.answered } else { &self.failed };
        count.fetch_add(1, Ordering::Relaxed);
        // One line when it begins and one when it ends: how often it happens is counted.
        match &outcome {
            Ok(_) if self.failing.swap(false, Ordering::Relaxed) => {
                tracing::info!(source = %self.plan.name, "the source answers again");
            }
            Err((_, error)) if !self.failing.swap(true, Ordering::Relaxed) => {
                tracing::warn!(source = %self.plan.name, error, "a source fails");
            }
            _ => {}
        }
        outcome.map_err(|(error, _)| error)
    }

    async fn rows(&self, keys: &[&str]) -> Result<Vec<Value>, String> {
        match (&self.asker, &self.plan.whom) {
            (Asker::Sql(database), _) => match database.rows(keys, ROWS_MAX).await {
                Ok(rows) => bounded(rows.into_iter().map(Value::Object).collect()),
                Err(QueryError::NoSuchValue) => Ok(Vec::new()),
                Err(QueryError::Failed(why)) => Err(why),
            },
            (Asker::Http(fetch), Whom::Http { url, authorization, at }) => {
                // What no URL can name, no server knows.
                let Some(url) = url.fill(keys) else { return Ok(Vec::new()) };
                let ask = Ask { authorization: authorization.as_ref(), ..Ask::get(&url) };
                match fetch.fetch(ask).await {
                    Ok(document) => items(&document.body, at),
                    Err(FetchError::Status(404 | 410)) => Ok(Vec::new()),
                    Err(error) => Err(error.to_string()),
                }
            }
            (Asker::Http(_), Whom::Sql(_)) => Err("nobody to ask".into()),
        }
    }

    fn fresh(&self, known: &Known<K::Kept>) -> Option<Answer<K::Kept>> {
        self.within(known, Duration::ZERO)
    }

    fn stale(&self, known: &Known<K::Kept>) -> Option<Answer<K::Kept>> {
        self.within(known, self.plan.keep.stale_max)
    }

    fn within(&self, known: &Known<K::Kept>, grace: Duration) -> Option<Answer<K::Kept>> {
        let answer = known.answer()?;
        let keep = &self.plan.keep;
        let lifetime = if K::is_absent(&answer.kept) { keep.absent } else { keep.fresh };
        (answer.age < lifetime.saturating_add(grace)).then_some(answer)
    }
}

impl<T> Known<T> {
    fn answer(&self) -> Option<Answer<T>> {
        self.good.as_ref().map(|(kept, at)| Answer { kept: kept.clone(), age: at.elapsed() })
    }

    fn failed_lately(&self) -> bool {
        self.failed.is_some_and(|(at, _)| at.elapsed() < RETRY_AFTER)
    }
}

/// The objects that are meant in a document: one, or each of an array.
fn items(body: &[u8], at: &str) -> Result<Vec<Value>, String> {
    let document = json::parse(body).map_err(|error| format!("the answer is not JSON: {error}"))?;
    match document.pointer(at) {
        Some(object @ Value::Object(_)) => Ok(vec![object.clone()]),
        Some(Value::Array(items)) => bounded(items.clone()),
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(_) => Err("the answer holds neither an object nor an array".into()),
    }
}

fn bounded(rows: Vec<Value>) -> Result<Vec<Value>, String> {
    if rows.len() > ROWS_MAX { Err(format!("more than {ROWS_MAX} rows")) } else { Ok(rows) }
}
