//! What sections of the configuration ask of each other.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
};

use http::{HeaderName, header};

use super::{Config, Loaded};
use crate::{
    base::{
        address::Address,
        problem::{Problem, Problems},
    },
    entities::{
        Mapping, RoutePlan,
        schema::{SchemaTypes, Type},
    },
    forward::{Identity, Upstreams, address::Location},
    policy::stores::{DEFAULT, Store, Stores},
    request::{headers::is_for_one_hop, route::RouteTable, trace_context::BAGGAGE},
};

const HOST_UNSEEN: &str = "the host decides, and the upstream does not see it: a client could name another one";
const FORWARD_HOST: &str = "add `forward_host: true` to the upstream";

impl Loaded {
    /// What was authorised is what is forwarded, so nothing is authorised by a header that is not.
    pub(super) fn forwards_what_it_reads(
        &self,
        mapping: &Mapping,
        routes: &RouteTable<RoutePlan>,
        identity: &Identity,
    ) -> Result<(), Problems> {
        let mut problems = Problems::default();
        // Of these two some requests are forwarded without.
        let is_unsure = |header: &HeaderName| [BAGGAGE, header::EXPECT].contains(header);
        let is_unseen = |header: &HeaderName| identity.removes(header) || is_for_one_hop(header) || is_unsure(header);
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

    /// Upstreams that routes choose are there, and those that are there are chosen.
    pub(super) fn check_upstreams(
        &self,
        upstreams: &Upstreams,
        routes: &RouteTable<RoutePlan>,
    ) -> Result<(), Problems> {
        let mut problems = Problems::default();
        for route in &self.config.routes.value {
            if let Some(name) = route.upstream.as_ref().filter(|name| upstreams.of(Some(&name.value)).is_none()) {
                let problem = Problem::at(name, format!("there is no upstream `{}`", name.value));
                problems.push(problem.fix("name one of `upstreams`, or leave it out"));
            }
        }
        let is_chosen = |name: &str| routes.routes().iter().any(|plan| plan.upstream().is_some_and(|it| **it == *name));
        for name in upstreams.names().filter(|name| !is_chosen(name)) {
            let config = self.config.upstreams.get(name).map(|config| &config.url);
            let message = format!("no route goes to the upstream `{name}`");
            let problem = config.map_or_else(|| Problem::new(&message), |url| Problem::at(url, &message));
            problems.push(problem.fix("choose it by `upstream` of a route, or remove it"));
        }
        let named = self.config.upstreams.iter();
        let named = named.filter_map(|(name, config)| Some((config, upstreams.named.get(name)?)));
        for (config, upstream) in [(&self.config.upstream, &upstreams.usual)].into_iter().chain(named) {
            let listed = config.addresses.iter().map(|server| &server.address);
            let places = listed.chain(config.addresses.is_empty().then_some(&config.url));
            for (place, _) in places.zip(&upstream.servers).filter(|(_, (location, _))| self.listens_at(location)) {
                let problem = Problem::at(place, "this is the gate itself: a request would go round in it");
                problems.push(problem.fix("give the address of the service"));
            }
        }
        problems.into_result(Some(()))
    }

    /// Whether who connects to `location` gets to the gate, where the configuration tells.
    fn listens_at(&self, location: &Location) -> bool {
        let to = match location {
            Location::Address(address) => vec![address.clone()],
            Location::Name(name, port) if name.eq_ignore_ascii_case("localhost") => {
                let near = [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)];
                near.map(|ip| Address::Tcp(SocketAddr::new(ip, *port))).to_vec()
            }
            Location::Name(..) => return false,
        };
        let own = self.config.listeners().map(|listener| listener.listen.value);
        own.chain([self.config.admin_address()]).any(|own| to.iter().any(|to| own.is_reached_at(to)))
    }

    /// Records are written to no file that the configuration is made of.
    pub(super) fn check_record_file(&self) -> Result<(), Problem> {
        let Some(path) = self.config.records.file.as_ref().map(|file| &file.path) else { return Ok(()) };
        // The deny-list is looked at by a watcher of its own.
        let real = |path: &PathBuf| self.files.real(path).ok();
        let denied = self.config.deny_list.as_ref().and_then(|denied| real(&denied.value));
        if self.files.has_seen(&path.value) || denied.is_some() && denied == real(&path.value) {
            return Err(Problem::at(path, "the configuration is made of this: records would be written into it")
                .fix("name a file that is for records alone"));
        }
        Ok(())
    }

    /// Where policies are told of certificates, clients may show them.
    pub(super) fn check_certificates(
        &self,
        types: &SchemaTypes,
        routes: &RouteTable<RoutePlan>,
    ) -> Result<(), Problem> {
        let tells = |plan: &RoutePlan| {
            let request = types.action(plan.action()).and_then(|action| action.context.get("request"));
            matches!(request.map(|it| &it.ty), Some(Type::Record(members)) if members.contains_key("certificate"))
        };
        match routes.routes().iter().zip(&self.config.routes.value).find(|(plan, _)| tells(plan)) {
            Some((_, route)) if self.serves && !self.asks_for_certificates() => Err(Problem::at(
                &route.action,
                "no client shows a certificate, and the schema gives `context.request.certificate` to this action",
            )
            .fix("add `tls: { …, client_certificate: accepted }`, or take it out of the schema")),
            _ => Ok(()),
        }
    }

    /// Assertions are for somebody, and by nobody whose tokens are believed.
    pub(super) fn check_assertions(&self, upstreams: &Upstreams) -> Result<(), Problems> {
        let mut problems = Problems::default();
        let config = &self.config;
        let Some(assertion) = &config.identity.assertion else {
            if !self.serves {
                return Ok(());
            }
            let named = [&config.upstream].into_iter().chain(config.upstreams.values());
            for audience in named.filter_map(|upstream| upstream.audience.as_ref()) {
                let problem = Problem::at(audience, "the audience of assertions, and none are made");
                problems.push(problem.fix("add `identity: { assertion: … }`, or remove it"));
            }
            return problems.into_result(Some(()));
        };
        if upstreams.usual.audience.is_none() {
            problems.push(
                Problem::at(&config.upstream.url, "nothing says which service the assertions of this upstream are for")
                    .fix("add `audience`: a name that no other service of yours takes for its own"),
            );
        }
        let issuers = config.issuers.value.iter().map(|issuer| &issuer.settings().issuer.value);
        if issuers.into_iter().any(|issuer| *issuer == assertion.issuer.value) {
            problems.push(
                Problem::at(&assertion.issuer, "an issuer whose tokens are believed: an assertion is none of them")
                    .fix("give the gate a name of its own"),
            );
        }
        problems.into_result(Some(()))
    }

    /// Stores are there and are chosen, and what the host decides, the upstream sees.
    pub(super) fn check_stores(
        &self,
        stores: &Stores,
        upstreams: &Upstreams,
        mapping: &Mapping,
        routes: &RouteTable<RoutePlan>,
    ) -> Result<(), Problems> {
        let mut problems = Problems::default();
        for (plan, route) in routes.routes().iter().zip(&self.config.routes.value) {
            if let Some(store) = route.store.as_ref().filter(|store| !stores.has(&store.value)) {
                let problem = Problem::at(store, format!("there is no store `{}`", store.value));
                problems.push(problem.fix("name one of `stores`, or `default`"));
            }
            let own = upstreams.of(plan.upstream().map(|name| &**name));
            let by_host = plan.names_host() || !route.hosts.is_empty();
            if by_host && own.is_some_and(|upstream| !upstream.sees_host) {
                problems.push(Problem::at(&route.resource, HOST_UNSEEN).fix(FORWARD_HOST));
            }
        }
        let (by_host, routes) = (self.config.stores_by_host(stores), &self.config.routes.value);
        let is_by_host = routes.iter().any(|route| route.store.is_none());
        for store in stores.iter().filter(|store| !store.policies.is_empty()) {
            let name = store.name.as_deref().unwrap_or(DEFAULT);
            let is_named = routes.iter().any(|route| route.store.as_ref().is_some_and(|named| named.value == name));
            if is_named || is_by_host && by_host.iter().any(|other| other.number == store.number) {
                continue;
            }
            let message =
                format!("no route and no host chooses the store `{name}`: what its policies say has no effect");
            let config = self.config.stores.iter().find(|config| config.name.value == name);
            let problem = config.map_or_else(|| Problem::new(&message), |config| Problem::at(&config.name, &message));
            problems.push(problem.fix("choose it by `store` of a route or by its `hosts`, or remove its policies"));
        }
        if mapping.names_host() && !upstreams.see_host() {
            problems
                .push(Problem::new(format!("`context.request.host` of the schema: {HOST_UNSEEN}")).fix(FORWARD_HOST));
        }
        if stores.depend_on_host() && !upstreams.see_host() {
            problems.push(Problem::new(format!("`stores`: {HOST_UNSEEN}")).fix(FORWARD_HOST));
        }
        problems.into_result(Some(()))
    }
}

impl Config {
    /// The stores that are asked for routes that name none, some of them by several hosts.
    pub fn stores_by_host<'a>(&self, stores: &'a Stores) -> Vec<&'a Store> {
        let hosts = self.stores.iter().flat_map(|store| &store.hosts).map(|host| Some(host.value.clone()));
        hosts.chain([None]).filter_map(|host| stores.choose(None, || host)).collect()
    }
}
