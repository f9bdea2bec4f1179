//! Everything one version of the configuration amounts to, immutable. A visit sees one snapshot from door to door.

use std::sync::Arc;

use crate::{
    entities::{Mapping, RoutePlan, Subject},
    forward::Identity,
    policy::Policies,
    request::{Limits, route::RouteTable},
    token::{
        Issuers, Trust,
        cache::{CacheLimits, TokenCache},
        key_source::Sources,
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
    pub policies: Policies,
    /// What the upstream is told.
    pub identity: Identity,
}

/// A configuration at work.
#[derive(Debug)]
pub struct Snapshot {
    pub(crate) limits: Limits,
    pub(crate) issuers: Issuers,
    pub(crate) subjects: TokenCache<Subject>,
    pub(crate) routes: RouteTable<RoutePlan>,
    pub(crate) mapping: Mapping,
    pub(crate) policies: Policies,
    pub(crate) identity: Arc<Identity>,
}

impl Blueprint {
    /// Puts the configuration to work: key rings begin to fetch. Must be called on a tokio runtime.
    pub fn start(self, sources: &Sources) -> Snapshot {
        Snapshot {
            limits: self.limits,
            issuers: Issuers::start(self.trust, sources),
            subjects: TokenCache::new(self.cache),
            routes: self.routes,
            mapping: self.mapping,
            policies: self.policies,
            identity: Arc::new(self.identity),
        }
    }
}

impl Snapshot {
    /// The issuers whose tokens are believed.
    pub const fn issuers(&self) -> &Issuers {
        &self.issuers
    }
}
