//! Everything one version of the configuration amounts to, immutable. A visit sees one snapshot from door to door.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::{
    base::outside::Outside,
    entities::{Mapping, RoutePlan, Subject, sources::Sources},
    forward::{Identity, Upstream},
    policy::stores::Stores,
    request::{Limits, route::RouteTable},
    token::{
        Issuers, Trust,
        cache::{CacheLimits, TokenCache},
    },
};

/// A compiled configuration that touches nothing outside yet.
#[derive(Debug)]
pub struct Blueprint {
    /// Bounds on requests.
    pub limits: Limits,
    /// Whom it trusts.
    pub trust: Trust,
    /// How much is remembered of tokens.
    pub cache: CacheLimits,
    /// Which requests are described, and as what.
    pub routes: RouteTable<RoutePlan>,
    /// How tokens and requests become questions.
    pub mapping: Mapping,
    /// Who answers them.
    pub stores: Stores,
    /// What the upstream is told.
    pub identity: Identity,
    /// Where allowed requests go.
    pub upstream: Upstream,
}

/// A configuration at work.
#[derive(Debug)]
pub struct Snapshot {
    /// Counts the versions that were in force, from 0.
    pub(crate) version: u64,
    pub(crate) limits: Limits,
    pub(crate) issuers: Issuers,
    /// Shared by the versions that follow each other: each has its own entries in it.
    pub(crate) subjects: TokenCache<Subject>,
    pub(crate) routes: RouteTable<RoutePlan>,
    pub(crate) mapping: Mapping,
    pub(crate) sources: Sources,
    pub(crate) stores: Stores,
    pub(crate) identity: Arc<Identity>,
    pub(crate) upstream: Arc<Upstream>,
}

/// The snapshot in force.
#[derive(Debug)]
pub struct Current(ArcSwap<Snapshot>);

impl Blueprint {
    /// Puts the configuration to work: key rings begin to fetch. What the one `before` has learnt and what still holds is
    /// taken over. Must be called on a tokio runtime.
    pub fn start(self, outside: &Outside, before: Option<&Snapshot>) -> Snapshot {
        let subjects = before.map(|before| &before.subjects).filter(|subjects| subjects.limits() == self.cache);
        Snapshot {
            version: before.map_or(0, |before| before.version.saturating_add(1)),
            limits: self.limits,
            issuers: Issuers::start(self.trust, outside, before.map(|before| &before.issuers)),
            subjects: subjects.cloned().unwrap_or_else(|| TokenCache::new(self.cache)),
            routes: self.routes,
            sources: self.mapping.sources(outside, before.map(|before| &before.sources)),
            mapping: self.mapping,
            stores: self.stores,
            identity: Arc::new(self.identity),
            upstream: Arc::new(self.upstream),
        }
    }
}

impl Snapshot {
    /// The sources that are asked for attributes.
    pub const fn sources(&self) -> &Sources {
        &self.sources
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
