//! Everything one version of the configuration amounts to, immutable. A visit sees one snapshot from door to door.

use std::{collections::BTreeMap, fmt, path::Path, sync::Arc};

use arc_swap::ArcSwap;
use serde::Serialize;

use crate::{
    base::{outside::Outside, revision},
    entities::{Mapping, RoutePlan, Subject, hiding::Recording, sources::Sources},
    forward::{Identity, Pools, Upstreams},
    limit::{RatePlan, Rates},
    memo::{Memo, Settled},
    pages::Pages,
    policy::{shadow::Candidate, stores::Stores},
    request::{Limits, forwarded::TrustedProxies, route::RouteTable},
    token::{
        Issuers, Trust,
        cache::{CacheLimits, TokenCache},
        claims::ClaimPath,
    },
    trace::Tracing,
};

/// What decision records hold.
#[derive(Clone, Debug, Default)]
pub struct Records {
    /// Whether they hold the questions put to the policies.
    pub questions: bool,
    /// Whether requests are refused while their records cannot be taken.
    pub required: bool,
    /// How whoever is named in them is named.
    pub recording: Recording,
    /// The annotations of the policies that decided which they hold.
    pub annotations: Vec<String>,
    /// The claims of believed tokens that they hold, by how they are written.
    pub claims: Vec<(String, ClaimPath)>,
}

/// Names the versions of what decides (see [`crate::base::revision`]).
#[derive(Clone, Debug, Serialize)]
pub struct Revisions {
    /// Of the configuration's text.
    pub config: Arc<str>,
    /// Of the schema.
    pub schema: Arc<str>,
    /// Of each store's policies.
    pub policies: BTreeMap<Arc<str>, Arc<str>>,
}

impl Revisions {
    /// Names the policies of all stores together.
    pub fn all_policies(&self) -> Arc<str> {
        revision::of_files(self.policies.iter().map(|(store, revision)| (Path::new(&**store), &**revision)))
    }
}

impl fmt::Display for Revisions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "config {}, schema {}", self.config, self.schema)?;
        self.policies.iter().try_for_each(|(store, revision)| write!(f, ", policies of {store} {revision}"))
    }
}

/// A compiled configuration that touches nothing outside yet.
#[derive(Clone, Debug)]
pub struct Blueprint {
    /// The configuration's text.
    pub text: Arc<str>,
    /// Which version of everything it is.
    pub revisions: Revisions,
    /// Bounds on requests.
    pub limits: Limits,
    /// Who is believed of where requests come from.
    pub proxies: TrustedProxies,
    /// How often somebody may ask.
    pub rates: Vec<RatePlan>,
    /// Whom it trusts.
    pub trust: Trust,
    /// How much is remembered of tokens.
    pub cache: CacheLimits,
    /// Which requests are described, and as what.
    pub routes: Arc<RouteTable<RoutePlan>>,
    /// How tokens and requests become questions.
    pub mapping: Arc<Mapping>,
    /// Who answers them.
    pub stores: Arc<Stores>,
    /// Whose answers can be kept.
    pub settled: Settled,
    /// How many are.
    pub decisions_cached_max: u64,
    /// Who is asked beside them, and decides nothing.
    pub candidate: Option<Arc<Candidate>>,
    /// Whether there should be one, and cannot.
    pub candidate_failing: bool,
    /// Whether clients are told what would have allowed a default denial.
    pub tells_nearest_miss: bool,
    /// What records hold.
    pub records: Records,
    /// Which traces are continued and kept.
    pub tracing: Tracing,
    /// What the upstream is told.
    pub identity: Identity,
    /// Where allowed requests go.
    pub upstreams: Arc<Upstreams>,
    /// What the gate tells of itself.
    pub pages: Pages,
    /// Where clients learn what tokens are taken.
    pub metadata_url: Option<String>,
}

/// A configuration at work.
#[derive(Debug)]
pub struct Snapshot {
    /// Counts the versions that were in force, from 0.
    pub(crate) version: u64,
    text: Arc<str>,
    pub(crate) revisions: Revisions,
    pub(crate) limits: Limits,
    pub(crate) proxies: TrustedProxies,
    pub(crate) rates: Rates,
    pub(crate) issuers: Issuers,
    /// Shared by the versions that follow each other: each has its own entries in it.
    pub(crate) subjects: TokenCache<Subject>,
    pub(crate) routes: Arc<RouteTable<RoutePlan>>,
    pub(crate) mapping: Arc<Mapping>,
    pub(crate) sources: Sources,
    pub(crate) stores: Arc<Stores>,
    /// INVARIANT: of this version alone: nothing of it is handed on.
    pub(crate) memo: Memo,
    pub(crate) candidate: Option<Arc<Candidate>>,
    candidate_failing: bool,
    pub(crate) tells_nearest_miss: bool,
    pub(crate) records: Records,
    pub(crate) tracing: Tracing,
    pub(crate) identity: Arc<Identity>,
    pub(crate) pools: Pools,
    pub(crate) pages: Pages,
    pub(crate) metadata_url: Option<String>,
}

/// The snapshot in force.
#[derive(Debug)]
pub struct Current(ArcSwap<Snapshot>);

impl Blueprint {
    /// Puts the configuration to work: key rings begin to fetch. What the one `before` has learnt and what still holds is
    /// taken over. Must be called on a tokio runtime.
    pub fn start(self, outside: &Outside, before: Option<&Snapshot>) -> Snapshot {
        let memo = self.memo();
        let subjects = before.map(|before| &before.subjects).filter(|subjects| subjects.limits() == self.cache);
        Snapshot {
            text: self.text,
            revisions: self.revisions,
            version: before.map_or(0, |before| before.version.saturating_add(1)),
            limits: self.limits,
            proxies: self.proxies,
            rates: Rates::start(self.rates, outside, before.map(|before| &before.rates)),
            issuers: Issuers::start(self.trust, outside, before.map(|before| &before.issuers)),
            subjects: subjects.cloned().unwrap_or_else(|| TokenCache::new(self.cache)),
            routes: self.routes,
            sources: self.mapping.sources(outside, before.map(|before| &before.sources)),
            mapping: self.mapping,
            stores: self.stores,
            memo,
            candidate: self.candidate,
            candidate_failing: self.candidate_failing,
            tells_nearest_miss: self.tells_nearest_miss,
            records: self.records,
            tracing: self.tracing,
            identity: Arc::new(self.identity),
            pools: Pools::start(&self.upstreams, before.map(|before| &before.pools)),
            pages: self.pages,
            metadata_url: self.metadata_url,
        }
    }
}

impl Blueprint {
    /// No answer is kept where somebody else needs the question: records, or a candidate beside its store.
    fn memo(&self) -> Memo {
        let candidate = self.candidate.as_ref();
        let settled = match candidate.and_then(|it| self.stores.named(it.store.as_deref())) {
            Some(store) => self.settled.without(store),
            None => self.settled.clone(),
        };
        Memo::new(settled, if self.records.questions { 0 } else { self.decisions_cached_max })
    }
}

impl Snapshot {
    /// The sources that are asked for attributes.
    pub const fn sources(&self) -> &Sources {
        &self.sources
    }

    /// The configuration's text. No secret stands in it: those are named by file or variable.
    pub const fn text(&self) -> &Arc<str> {
        &self.text
    }

    /// Which version of everything this is.
    pub const fn revisions(&self) -> &Revisions {
        &self.revisions
    }

    /// How often somebody may ask.
    pub const fn rates(&self) -> &Rates {
        &self.rates
    }

    /// Whether there should be candidate policies, and cannot.
    pub const fn candidate_failing(&self) -> bool {
        self.candidate_failing
    }

    /// Where allowed requests go.
    pub const fn pools(&self) -> &Pools {
        &self.pools
    }

    /// What the upstream is told.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The issuers whose tokens are believed.
    pub const fn issuers(&self) -> &Issuers {
        &self.issuers
    }
}

impl Current {
    /// Puts `snapshot` in force.
    pub fn new(snapshot: Snapshot) -> Self {
        Self(ArcSwap::from_pointee(snapshot))
    }

    /// The snapshot in force now.
    pub fn load(&self) -> Arc<Snapshot> {
        self.0.load_full()
    }

    /// Puts `snapshot` in force in place of the one that is given back, on which requests under way still end.
    pub fn replace(&self, snapshot: Snapshot) -> Arc<Snapshot> {
        self.0.swap(Arc::new(snapshot))
    }
}
