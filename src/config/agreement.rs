//! What sections of the configuration ask of each other.

use http::HeaderName;

use super::Loaded;
use crate::{
    base::problem::{Problem, Problems},
    entities::{Mapping, RoutePlan},
    forward::Identity,
    policy::stores::Stores,
    request::{headers::is_for_one_hop, route::RouteTable},
};

const HOST_UNSEEN: &str = "the host decides, and the upstream does not see it: a client could name another one";
const FORWARD_HOST: &str = "add `forward_host: true` under `upstream`";

impl Loaded {
    /// What was authorised is what is forwarded, so nothing is authorised by a header that is not.
    pub(super) fn forwards_what_it_reads(
        &self,
        mapping: &Mapping,
        routes: &RouteTable<RoutePlan>,
        identity: &Identity,
    ) -> Result<(), Problems> {
        let mut problems = Problems::default();
        let is_unseen = |header: &HeaderName| identity.removes(header) || is_for_one_hop(header);
        let message = |header: &HeaderName| {
            format!("header `{header}` is not forwarded: the upstream would not see what was decided on")
        };
        let fix = "use a header that is forwarded";
        for (plan, route) in routes.routes().iter().zip(&self.config.routes.value) {
            if let Some(header) = plan.headers().find(|header| is_unseen(header)) {
                problems.push(Problem::at(&route.resource, message(header)).fix(fix));
            }
        }
        if let Some(header) = mapping.headers().find(|header| is_unseen(header)) {
            problems
                .push(Problem::new(format!("`context.request.headers` of the schema: {}", message(header))).fix(fix));
        }
        problems.into_result(Some(()))
    }

    /// Stores are there, and what the host decides, the upstream sees.
    pub(super) fn check_stores(
        &self,
        stores: &Stores,
        mapping: &Mapping,
        routes: &RouteTable<RoutePlan>,
    ) -> Result<(), Problems> {
        let mut problems = Problems::default();
        for (plan, route) in routes.routes().iter().zip(&self.config.routes.value) {
            if let Some(store) = route.store.as_ref().filter(|store| !stores.has(&store.value)) {
                let problem = Problem::at(store, format!("there is no store `{}`", store.value));
                problems.push(problem.fix("name one of `stores`, or `default`"));
            }
            if plan.names_host() && !self.config.upstream.forward_host {
                problems.push(Problem::at(&route.resource, HOST_UNSEEN).fix(FORWARD_HOST));
            }
        }
        if mapping.names_host() && !self.config.upstream.forward_host {
            problems
                .push(Problem::new(format!("`context.request.host` of the schema: {HOST_UNSEEN}")).fix(FORWARD_HOST));
        }
        if stores.depend_on_host() && !self.config.upstream.forward_host {
            problems.push(Problem::new(format!("`stores`: {HOST_UNSEEN}")).fix(FORWARD_HOST));
        }
        problems.into_result(Some(()))
    }
}
