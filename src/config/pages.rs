//! The gate's own pages: what they tell of the rest of the configuration, and that nothing else is at their paths.

use url::Url;

use super::Loaded;
use crate::{
    base::{
        problem::{Problem, Problems},
        spanned::Spanned,
    },
    forward::Identity,
    pages::{
        KEYS, Page, Pages,
        metadata::{Known, ResourceMetadataConfig},
        path,
    },
    policy::stores::Stores,
    token::{algorithm::NAMES, binding::Binding, issuer::IssuerConfig},
};

impl Loaded {
    /// Every page, and where clients learn what tokens are taken.
    pub(super) fn pages(&self, stores: &Stores, identity: &Identity) -> Result<(Pages, Option<String>), Problems> {
        let mut problems = Problems::default();
        let mut pages = Vec::new();
        let mut metadata_url = None;
        if let Some(config) = &self.config.resource_metadata {
            problems.keep(self.is_addressed_so(config));
            if let Some(metadata) = problems.keep(config.compile(&self.known(stores))) {
                problems.keep(self.is_free(&metadata.page));
                pages.push(metadata.page);
                metadata_url = Some(metadata.url);
            }
        }
        let assertion = self.config.identity.assertion.as_ref();
        if let (Some(place), Some(made)) = (assertion.and_then(|it| it.jwks_path.as_ref()), identity.assertions()) {
            let page = problems.keep(path(place, &place.value)).map(|path| Page::json(path, KEYS, made.jwks()));
            problems.keep(page.as_ref().map_or(Ok(()), |page| self.is_free(page)));
            pages.extend(page);
        }
        let pages = problems.keep(Pages::new(pages));
        problems.into_result(pages.map(|pages| (pages, metadata_url)))
    }

    /// What there is to tell of tokens.
    fn known<'a>(&'a self, stores: &'a Stores) -> Known<'a> {
        let settings = || self.config.issuers.value.iter().map(IssuerConfig::settings);
        let is = |of: Option<&Spanned<Binding>>, which: Binding| of.is_some_and(|binding| binding.value == which);
        let is_on = |of: Option<&Spanned<Binding>>| is(of, Binding::Accepted) || is(of, Binding::Required);
        let of_routes = self.config.routes.value.iter().filter_map(|route| Some(route.scope.as_ref()?.value.as_str()));
        let notes = stores.iter().flat_map(|store| store.policies.notes());
        let of_policies = notes.filter_map(|note| note.required_scope.as_deref()).flat_map(|scopes| scopes.split(' '));
        let proofs = settings().any(|issuer| is_on(issuer.dpop.as_ref()));
        Known {
            issuers: settings().map(|issuer| issuer.issuer.value.as_str()).collect(),
            scopes: of_routes.chain(of_policies).collect(),
            proof_algorithms: if proofs { &NAMES } else { &[] },
            requires_proofs: settings().all(|issuer| is(issuer.dpop.as_ref(), Binding::Required)),
            takes_certificates: settings().any(|issuer| is_on(issuer.certificate_binding.as_ref())),
        }
    }

    /// What clients are told that they know the gate by is what they address it by.
    fn is_addressed_so(&self, config: &ResourceMetadataConfig) -> Result<(), Problem> {
        let Ok(url) = config.resource() else { return Ok(()) };
        let (place, written) = (&config.resource, url.origin().ascii_serialization());
        let of = |origin: &Spanned<String>| Url::parse(&origin.value).is_ok_and(|it| it.origin() == url.origin());
        if !self.config.origins.is_empty() && !self.config.origins.iter().any(of) {
            return Err(Problem::at(place, format!("`{written}` is none of `origins`")).fix("name it there too"));
        }
        let routes = &self.config.routes.value;
        let host = url.host_str().unwrap_or_default();
        let has = |hosts: &[Spanned<String>]| hosts.is_empty() || hosts.iter().any(|it| it.value == host);
        if !routes.is_empty() && !routes.iter().any(|route| has(&route.hosts)) {
            return Err(
                Problem::at(place, format!("no route is for the host `{host}`")).fix("name it in `hosts` of a route")
            );
        }
        Ok(())
    }

    /// No route is for the very path of a page. One whose parameter it would be stays: a literal goes before that.
    fn is_free(&self, page: &Page) -> Result<(), Problems> {
        let mut problems = Problems::default();
        for route in self.config.routes.value.iter().filter(|route| route.path.value == page.path()) {
            let message = format!("a page of the gate's own is at `{}`", page.path());
            problems.push(Problem::at(&route.path, message).fix("choose another path for one of them"));
        }
        problems.into_result(Some(()))
    }
}
