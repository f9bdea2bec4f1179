//! Decisions that were made, for when the same is asked again: by the same token, by the same method, for the same path. Kept
//! only where everything that the question is made of and the policies read is the same then too. That is told from what was
//! compiled, never from configuration (docs/decisions/0017).
//!
//! An entry is out of reach with everything that it rests on: it is of one snapshot, of one subject as that was made (other
//! keys make another), and of one version of the deny-list.

use std::{
    collections::HashSet,
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use cedar_policy::EntityUid;
use http::Method;
use moka::sync::Cache;

use crate::{
    base::origin::Origin,
    entities::{Mapping, RoutePlan, Subject},
    policy::{
        Allowed, Denied,
        stores::{Store, Stores},
    },
    request::Inbound,
    token::binding::Possession,
};

/// Bytes that an entry may take.
const ENTRY_BYTES_MAX: usize = 4096;

/// The routes, each with a store, whose decisions rest on token, method and path alone.
#[derive(Clone, Debug, Default)]
pub struct Settled(Arc<HashSet<(usize, usize)>>);

/// What is asked: everything that a decision rests on where its route is settled.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    subject: &'a Subject,
    route: &'a RoutePlan,
    store: &'a Store,
    method: &'a Method,
    path: &'a str,
}

/// What came of a question, as far as anybody needs it afterwards.
#[derive(Debug)]
pub struct Answer {
    /// Yes or no.
    pub outcome: Result<Allowed, Denied>,
    /// The policies that erred and were passed over.
    pub skipped: Vec<String>,
    /// What it was about.
    pub about: Option<EntityUid>,
    /// The same, for records.
    pub resource: Option<Arc<str>>,
    /// Where the attributes that the policies could see come from.
    pub attributes: Arc<[Origin]>,
}

/// What is remembered of what is asked.
#[derive(Debug)]
pub enum Recalled {
    /// The answer.
    Known(Arc<Answer>),
    /// It was asked before, so its answer is worth keeping here.
    Again(Place),
    /// Nothing.
    Nothing,
}

/// Where an answer is kept: by the subject as it was made, the version of the deny-list that the token is not on, and one of few
/// places that the subject has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place(u64, u64, usize);

struct Kept {
    route: usize,
    store: usize,
    method: Method,
    path: Box<str>,
    answer: Arc<Answer>,
}

/// The decisions of one snapshot that are kept.
pub struct Memo {
    settled: Settled,
    /// None where nothing is kept.
    kept: Option<Cache<Place, Arc<Kept>>>,
}

impl std::fmt::Debug for Memo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Memo").field("settled", &self.settled).finish_non_exhaustive()
    }
}

impl Settled {
    /// Finds out which `routes` are settled with which of `stores`.
    pub fn of(mapping: &Mapping, routes: &[RoutePlan], stores: &Stores) -> Self {
        let varying: Vec<_> = routes.iter().filter_map(|route| Some((route, mapping.varying(route)?))).collect();
        let is_read = varying.iter().any(|(_, members)| !members.is_empty());
        let mut settled = HashSet::new();
        for store in stores.iter() {
            // To look at every policy takes a while where there are many.
            let reads = is_read.then(|| store.policies.request_reads());
            for (route, members) in &varying {
                if members.is_empty() || reads.as_ref().is_some_and(|reads| !reads.any(route.actions(), members)) {
                    settled.insert((route.number(), store.number));
                }
            }
        }
        Self(Arc::new(settled))
    }

    /// The same without the routes that this store decides.
    pub fn without(&self, store: &Store) -> Self {
        Self(Arc::new(self.0.iter().copied().filter(|(_, number)| *number != store.number).collect()))
    }

    fn has(&self, asked: &Asked<'_>) -> bool {
        self.0.contains(&(asked.route.number(), asked.store.number))
    }
}

impl<'a> Asked<'a> {
    /// What `inbound` asks, whose sender may use the token of `subject`.
    pub const fn of(
        subject: &'a Subject,
        _: &Possession,
        route: &'a RoutePlan,
        store: &'a Store,
        inbound: &Inbound<'a>,
    ) -> Self {
        Self { subject, route, store, method: inbound.method(), path: inbound.target().path() }
    }

    fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.route.number(), self.store.number, self.method, self.path).hash(&mut hasher);
        hasher.finish()
    }
}

impl Kept {
    fn is_of(&self, asked: &Asked<'_>) -> bool {
        (self.route, self.store) == (asked.route.number(), asked.store.number)
            && self.method == asked.method
            && *self.path == *asked.path
    }

    /// Bytes that it takes, but for what is of one size in each, and what others hold too.
    fn size(&self) -> usize {
        let Answer { outcome, skipped, about, resource, attributes } = &*self.answer;
        let (told, determining) = match outcome {
            Ok(allowed) => (None, allowed.determining().len()),
            Err(denied) => (denied.nearest_miss.as_ref(), denied.determining.len()),
        };
        let texts = [told.map(String::as_str), resource.as_deref()].into_iter().flatten();
        let texts = texts.chain(skipped.iter().map(String::as_str)).map(str::len);
        let about = about.as_ref().map_or(0, |uid| uid.id().unescaped().len());
        let lists = attributes.len().saturating_mul(size_of::<Origin>());
        let notes = determining.saturating_mul(size_of::<usize>());
        [self.path.len(), about, lists, notes].into_iter().chain(texts).fold(0, usize::saturating_add)
    }
}

impl Memo {
    /// Keeps so many decisions of what is `settled`, of the many that there may be; 0 for none.
    pub fn new(settled: Settled, decisions_max: u64) -> Self {
        let kept = (decisions_max > 0 && !settled.0.is_empty()).then(|| Cache::new(decisions_max));
        Self { settled, kept }
    }

    /// What is remembered of what is `asked`.
    pub fn recall(&self, asked: &Asked<'_>) -> Recalled {
        let Some(kept) = self.kept.as_ref().filter(|_| self.settled.has(asked)) else { return Recalled::Nothing };
        let lately = asked.subject.lately();
        let Some(mark) = lately.again(asked.digest()) else { return Recalled::Nothing };
        let place = Place(lately.number(), asked.subject.token().cleared(), mark);
        match kept.get(&place).filter(|kept| kept.is_of(asked)) {
            Some(kept) => Recalled::Known(kept.answer.clone()),
            None => Recalled::Again(place),
        }
    }

    /// Keeps the answer to what was `asked`, in place of what stood there.
    pub fn keep(&self, place: Place, asked: &Asked<'_>, answer: Answer) {
        let kept = Kept {
            route: asked.route.number(),
            store: asked.store.number,
            method: asked.method.clone(),
            path: asked.path.into(),
            answer: Arc::new(answer),
        };
        if let Some(all) = self.kept.as_ref().filter(|_| kept.size() <= ENTRY_BYTES_MAX) {
            all.insert(place, Arc::new(kept));
        }
    }
}
