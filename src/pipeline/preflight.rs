//! What a browser is told that asks whether a page may have a request made. Such a question carries no token, so that only what
//! the configuration says to everybody is told: which routes are for pages, and of which origins.

use std::net::IpAddr;

use super::{Admission, METHOD_BYTES_RECORDED, Visit, cut};
use crate::{
    audit::PreflightRecord,
    entities::RoutePlan,
    limit::Asker,
    refusal::Refusal,
    request::{
        Inbound,
        cors::{CorsFields, Preflight, PreflightError},
        route::{METHODS, RouteTable},
    },
};

/// An origin is recorded up to this length, in bytes.
const ORIGIN_BYTES_RECORDED: usize = 256;

/// A preflight's outcome, and the route that it is about.
pub(super) struct Outcome<'t> {
    pub(super) route: Option<&'t RoutePlan>,
    pub(super) granted: Result<CorsFields, PreflightError>,
}

/// What comes of `preflight`. `None` where no route at its path is for pages: then it is a request like any other, and tells
/// nobody what else is there.
pub(super) fn outcome<'t>(
    routes: &'t RouteTable<RoutePlan>,
    host: Option<&str>,
    inbound: &Inbound<'_>,
    preflight: &Preflight<'_>,
) -> Option<Outcome<'t>> {
    let found = METHODS.iter().filter_map(|method| {
        let route = routes.find(host, method, inbound.target()).ok()??.route;
        Some((method, route, route.cors()?))
    });
    let found: Vec<_> = found.collect();
    if found.is_empty() {
        return None;
    }
    let asked = found.iter().find(|(method, ..)| preflight.method() == method.as_str());
    let granted = asked.ok_or(PreflightError::Method).and_then(|(.., cors)| cors.grant(preflight));
    Some(Outcome { route: asked.map(|(_, route, _)| *route), granted })
}

impl Visit {
    /// Answers a browser's question about a web page, to whoever asks not too often.
    pub(super) async fn preflight(
        &mut self,
        preflight: &Preflight<'_>,
        outcome: Outcome<'_>,
        peer: Option<IpAddr>,
    ) -> Result<Admission, Refusal> {
        let route = outcome.route.map(RoutePlan::name);
        self.record.route = route.cloned();
        self.record.preflight = Some(PreflightRecord {
            origin: cut(preflight.origin().as_bytes(), ORIGIN_BYTES_RECORDED),
            method: cut(preflight.method().as_bytes(), METHOD_BYTES_RECORDED),
        });
        self.snapshot.rates.admit_peer(&Asker { peer, route, ..Asker::default() }).await?;
        outcome.granted.map(Admission::Preflight).map_err(Refusal::from)
    }
}
