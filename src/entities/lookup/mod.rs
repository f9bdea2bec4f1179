//! Asking another server or a database about one key: each answer kept for a while, each key asked about once at a time,
//! within a time, and not again and again while the source fails. That a source fails is never taken for an answer.

mod breaker;
mod failure;
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
    failure::{Failure, is_of_source},
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

/// What an answer is taken to weigh at least, in bytes: the room for answers is as many times that.
const ANSWER_BYTES: u64 = 2048;

fn weight(key: &str, bytes: usize) -> u32 {
    let whole = u64::try_from(key.len().saturating_add(bytes)).unwrap_or(u64::MAX).max(ANSWER_BYTES);
    u32::try_from(whole).unwrap_or(u32::MAX)
}

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
    /// How often what it would say was known.
    pub hits: u64,
    /// How often it was not.
    pub misses: u64,
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

/// What is taken as the size of what is kept, in bytes: that of its JSON.
pub(crate) fn size_of(kept: &impl serde::Serialize) -> usize {
    serde_json::to_vec(kept).map_or(usize::MAX, |text| text.len())
}

/// Asks one source.
pub(crate) struct Lookup<K: Keeps> {
    plan: LookupPlan,
    keeps: K,
    asker: Asker,
    known: Cache<String, Known<K::Kept>>,
    /// For strange keys, and for known ones.
    places: [Semaphore; 2],
    breaker: Breaker,
    answered: AtomicU64,
    failed: AtomicU64,
    hits: AtomicU64,
    misses: AtomicU64,
    failing: AtomicBool,
}

enum Asker {
    Http(Arc<dyn Fetch>),
    Sql(Arc<dyn Database>),
}

/// What is known of one key.
struct Known<T> {
    good: Option<(Arc<T>, Instant)>,
    /// What it takes, in bytes.
    bytes: usize,
    failed: Option<(Instant, LookupError)>,
}

impl<T> Clone for Known<T> {
    fn clone(&self) -> Self {
        Self { good: self.good.clone(), bytes: self.bytes, failed: self.failed }
    }
}

impl<K: Keeps> std::fmt::Debug for Lookup<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lookup").field("name", &self.plan.name).finish_non_exhaustive()
    }
}

impl<K: Keeps> Lookup<K> {
    /// Asks as `plan` says: the first of `known` that does so already, or a new one. Must be called on a tokio runtime.
    pub(crate) fn resume<'k>(
        plan: &LookupPlan,
        keeps: &K,
        outside: &Outside,
        known: impl IntoIterator<Item = &'k Arc<Self>>,
    ) -> Arc<Self>
    where
        K: Clone + PartialEq,
    {
        let same = known.into_iter().find(|known| known.plan == *plan && known.keeps == *keeps);
        same.cloned().unwrap_or_else(|| Arc::new(Self::start(plan.clone(), keeps.clone(), outside)))
    }

    fn start(plan: LookupPlan, keeps: K, outside: &Outside) -> Self {
        let keep = plan.keep;
        let asker = match &plan.whom {
            Whom::Http { .. } => Asker::Http(outside.fetch.clone()),
            Whom::Sql(query) => Asker::Sql(outside.databases.open(query)),
        };
        let longest = keep.fresh.max(keep.absent).saturating_add(keep.stale_max).saturating_add(RETRY_AFTER);
        Self {
            known: Cache::builder()
                .max_capacity(keep.answers_max.saturating_mul(ANSWER_BYTES))
                .weigher(|key: &String, known: &Known<K::Kept>| weight(key, known.bytes))
                .time_to_live(longest)
                .build(),
            places: plan.places().map(Semaphore::new),
            breaker: Breaker::new(keep.failures_max, keep.pause),
            plan,
            keeps,
            asker,
            answered: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
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
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            paused: self.breaker.is_open(),
        }
    }

    /// What the source says of these keys, or has said of late. In a box: each request would carry its state, and few come here.
    pub(crate) async fn ask(&self, keys: &[&str]) -> Result<Answer<K::Kept>, LookupError> {
        Box::pin(self.find(keys)).await
    }

    async fn find(&self, keys: &[&str]) -> Result<Answer<K::Kept>, LookupError> {
        let name = match keys {
            [one] => (*one).to_owned(),
            several => Value::from(several.to_vec()).to_string(),
        };
        if let Some(known) = self.known.get(&name).await
            && let Some(answer) = self.fresh(&known)
        {
            self.hits.fetch_add(1, Ordering::Relaxed);
            return Ok(answer);
        }
        self.misses.fetch_add(1, Ordering::Relaxed);
        // One asks about a key; the others wait for what it hears, but no longer than they would for a place and an answer.
        let (arrived, patience) = (Instant::now(), self.plan.keep.timeout.saturating_mul(2));
        let asked = self.known.entry(name).and_try_compute_with(|entry| async {
            let before = entry.map(moka::Entry::into_value);
            match before.as_ref().is_some_and(|known| self.fresh(known).is_some() || known.failed_lately()) {
                true => Ok(Op::Nop),
                false => self.learn(before, keys, arrived).await.map(Op::Put),
            }
        });
        let known = timeout(patience, asked).await.map_err(|_| LookupError::Unavailable)??;
        let known = known.into_entry().map(moka::Entry::into_value).ok_or(LookupError::Unavailable)?;
        match (self.fresh(&known), known.failed) {
            (Some(answer), _) => Ok(answer),
            (None, Some((_, error))) => self.stale(&known).ok_or(error),
            (None, None) => Err(LookupError::Unavailable),
        }
    }

    /// What is known once the source was asked, be it that it failed.
    ///
    /// # Errors
    /// Where there was no time to ask it: that says nothing of the source.
    async fn learn(
        &self,
        before: Option<Known<K::Kept>>,
        keys: &[&str],
        arrived: Instant,
    ) -> Result<Known<K::Kept>, LookupError> {
        // Who asks about strange keys does not hold up those who ask about known ones.
        let [strange, familiar] = &self.places;
        let (good, bytes) = before.map_or((None, 0), |before| (before.good, before.bytes));
        let places = if good.is_some() { familiar } else { strange };
        let left = self.plan.keep.timeout.saturating_sub(arrived.elapsed());
        let place = timeout(left, places.acquire()).await;
        let Ok(Ok(_place)) = place else { return Err(LookupError::Unavailable) };
        Ok(match self.put(keys).await {
            Ok((kept, bytes)) => Known { good: Some((Arc::new(kept), Instant::now())), bytes, failed: None },
            Err(error) => Known { bytes, good, failed: Some((Instant::now(), error)) },
        })
    }

    async fn put(&self, keys: &[&str]) -> Result<(K::Kept, usize), LookupError> {
        if !self.breaker.admits() {
            return Err(LookupError::Unavailable);
        }
        let outcome = match timeout(self.plan.keep.timeout, self.rows(keys)).await {
            Ok(rows) => rows.and_then(|rows| self.keep(rows)),
            Err(_) => Err(Failure { error: LookupError::TimedOut, ..Failure::of_source("no answer in time") }),
        };
        // What depends on the key says of the source that it answers: whoever chooses keys could have it left alone.
        match &outcome {
            Err(Failure { of_source: false, .. }) => self.breaker.note_reached(),
            outcome => self.breaker.note(outcome.is_ok()),
        }
        let count = if outcome.is_ok() { &self.answered } else { &self.failed };
        count.fetch_add(1, Ordering::Relaxed);
        // One line when it begins and one when it ends: how often it happens is counted.
        match &outcome {
            Ok(_) if self.failing.swap(false, Ordering::Relaxed) => {
                tracing::info!(source = %self.plan.name, "the source answers again");
            }
            Err(Failure { why, .. }) if !self.failing.swap(true, Ordering::Relaxed) => {
                tracing::warn!(source = %self.plan.name, error = why, "a source fails");
            }
            _ => {}
        }
        outcome.map_err(|failure| failure.error)
    }

    fn keep(&self, rows: Vec<Value>) -> Result<(K::Kept, usize), Failure> {
        match self.keeps.keep(rows).map_err(Failure::of_key)? {
            (kept, bytes @ ..=KEPT_BYTES_MAX) => Ok((kept, bytes)),
            _ => Err(Failure::of_key(format!("more than {KEPT_BYTES_MAX} bytes"))),
        }
    }

    async fn rows(&self, keys: &[&str]) -> Result<Vec<Value>, Failure> {
        match (&self.asker, &self.plan.whom) {
            (Asker::Sql(database), _) => match database.rows(keys, ROWS_MAX).await {
                Ok(rows) => bounded(rows.into_iter().map(Value::Object).collect()),
                Err(QueryError::Data(why)) => Err(Failure::of_key(why)),
                Err(QueryError::Failed(why)) => Err(Failure::of_source(why)),
            },
            (Asker::Http(fetch), Whom::Http { url, authorization, at }) => {
                // What no URL can name, no server knows.
                let Some(url) = url.fill(keys) else { return Ok(Vec::new()) };
                let ask = Ask { authorization: authorization.as_ref(), ..Ask::get(&url) };
                match fetch.fetch(ask).await {
                    Ok(document) => items(&document.body, at),
                    Err(FetchError::Status(404 | 410)) => Ok(Vec::new()),
                    Err(error) => {
                        Err(Failure { of_source: is_of_source(&error), ..Failure::of_key(error.to_string()) })
                    }
                }
            }
            (Asker::Http(_), Whom::Sql(_)) => Err(Failure::of_source("nobody to ask")),
        }
    }

    fn fresh(&self, known: &Known<K::Kept>) -> Option<Answer<K::Kept>> {
        self.within(known, Duration::ZERO)
    }

    fn stale(&self, known: &Known<K::Kept>) -> Option<Answer<K::Kept>> {
        self.within(known, self.plan.keep.stale_max)
    }

    /// That a key is unknown does not serve beyond its time, whatever the source does.
    fn within(&self, known: &Known<K::Kept>, grace: Duration) -> Option<Answer<K::Kept>> {
        let answer = known.answer()?;
        let keep = &self.plan.keep;
        let lifetime = match K::is_absent(&answer.kept) {
            true => keep.absent,
            false => keep.fresh.saturating_add(grace),
        };
        (answer.age < lifetime).then_some(answer)
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
fn items(body: &[u8], at: &str) -> Result<Vec<Value>, Failure> {
    let document = json::parse(body);
    let document = document.map_err(|error| Failure::of_key(format!("the answer is not JSON: {error}")))?;
    match document.pointer(at) {
        Some(object @ Value::Object(_)) => Ok(vec![object.clone()]),
        // One that is none says nothing of what it stands for: it is not taken for an object in which nothing is said.
        Some(Value::Array(items)) if !items.iter().all(Value::is_object) => {
            Err(Failure::of_key("the answer holds an array of what are no objects"))
        }
        Some(Value::Array(items)) => bounded(items.clone()),
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(_) => Err(Failure::of_key("the answer holds neither an object nor an array")),
    }
}

fn bounded(rows: Vec<Value>) -> Result<Vec<Value>, Failure> {
    if rows.len() > ROWS_MAX { Err(Failure::of_key(format!("more than {ROWS_MAX} rows"))) } else { Ok(rows) }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;

    use super::{plan::LookupConfig, *};
    use crate::base::{clock::SystemClock, fetch::Document, files::Files};

    /// Never answers.
    struct Silence;

    #[async_trait]
    impl Fetch for Silence {
        async fn fetch(&self, _: Ask<'_>) -> Result<Document, FetchError> {
            std::future::pending().await
        }
    }

    /// Keeps how many rows there are.
    struct Count;

    impl Keeps for Count {
        type Kept = usize;

        fn keep(&self, rows: Vec<Value>) -> Result<(usize, usize), String> {
            Ok((rows.len(), 0))
        }

        fn is_absent(_: &usize) -> bool {
            false
        }
    }

    #[tokio::test(start_paused = true)]
    async fn all_who_ask_about_one_key_wait_for_a_place_at_the_same_time() {
        let config = "http: { url: 'https://a.example/{id}', keep: { timeout_ms: 300, questions_max: 2 } }";
        let config: LookupConfig = serde_saphyr::from_str(config).unwrap();
        let plan = config.compile(&["id"], &Files::memory([])).unwrap();
        let outside = Outside::without_databases(Arc::new(SystemClock), Arc::new(Silence), Files::memory([]));
        let lookup = Lookup::start(plan, Count, &outside);
        let taken = lookup.places[0].acquire_many(2).await.unwrap();
        let began = Instant::now();
        let ask = || async { lookup.ask(&["a"]).await.err() };
        let refused = tokio::join!(ask(), ask(), ask(), ask());
        let unavailable = Some(LookupError::Unavailable);
        assert_eq!(refused, (unavailable, unavailable, unavailable, unavailable));
        assert!(began.elapsed() < Duration::from_millis(400), "{:?}", began.elapsed());
        drop(taken);
        let began = Instant::now();
        assert_eq!(ask().await, Some(LookupError::TimedOut));
        assert!(began.elapsed() >= Duration::from_millis(300), "{:?}", began.elapsed());
    }
}
