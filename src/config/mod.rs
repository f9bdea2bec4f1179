//! `config.yaml`: read as the list of what the rooms ask for, compiled to a [`Blueprint`], or to every problem it
//! has. Each room owns the section beside the code that it configures.

mod agreement;
pub mod limits;
pub mod log;
pub mod otlp;
mod pages;
pub mod records;
mod schema;
pub mod servers;
pub mod tls;
pub mod traces;
mod trust;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use cedar_policy::PolicyId;
use schemars::JsonSchema;
use serde::Deserialize;

use self::{
    limits::LimitsConfig,
    log::LogConfig,
    records::RecordsConfig,
    servers::{DrainConfig, Http2, ListenerConfig, ProxyProtocol},
    tls::TlsConfig,
    traces::TracesConfig,
};
pub use self::{schema::schema, servers::Servers};
use crate::{
    base::{
        address::Address,
        files::Files,
        filled,
        problem::{Problem, Problems, Source},
        revision,
        secret::SecretSource,
        sights::Sights,
        spanned::Spanned,
    },
    entities::{
        EntitiesConfig, Mapping, RouteConfig, RoutePlan, Types, clients::ClientConfig, consent::ConsentsConfig,
        profile::ProfileConfig,
    },
    forward::{Identity, IdentityConfig, UpstreamConfig, Upstreams},
    limit::{self, CountersConfig, RateConfig},
    memo::Settled,
    pages::metadata::ResourceMetadataConfig,
    policy::{Ids, PolicyFiles, Warning, shadow::ShadowConfig, stores::StoreConfig},
    request::{
        forwarded::{TrustedProxies, TrustedProxiesConfig},
        route::RouteTable,
    },
    snapshot::{Blueprint, Revisions},
    token::{Trust, issuer::IssuerConfig},
};

/// The whole file.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "config.yaml of Portcullis")]
pub struct Config {
    /// Where agents connect: address and port, or `unix:/path` of a socket.
    pub listen: Spanned<Address>,
    /// How agents connect by TLS. Without it they connect in the clear.
    pub tls: Option<TlsConfig>,
    /// Whether agents may speak HTTP/2. Default accepted.
    pub http2: Option<Spanned<Http2>>,
    /// Whether load balancers say by the PROXY protocol whom connections are from. Default off.
    pub proxy_protocol: Option<Spanned<ProxyProtocol>>,
    /// Further places where agents connect, each in its own way. Default none.
    #[serde(default)]
    pub listeners: Vec<ListenerConfig>,
    /// Where operators connect: health and metrics. Default 127.0.0.1:9901.
    pub admin: Option<Spanned<Address>>,
    /// What operators must show to see the configuration and the deny-list, and to change that. Without it nobody can.
    pub admin_token: Option<SecretSource>,
    /// Where allowed requests go.
    pub upstream: UpstreamConfig,
    /// Further upstreams by name, for routes that choose one. Default none.
    #[serde(default)]
    pub upstreams: BTreeMap<String, UpstreamConfig>,
    /// How clients address the gate: scheme, host and port. DPoP proofs are made for one of these.
    #[serde(default)]
    pub origins: Vec<Spanned<String>>,
    /// The secret that DPoP nonces are made of, where several gates must know each other's. Default: made at start.
    pub dpop_nonce_secret: Option<SecretSource>,
    /// The file of the deny-list: a JSON object on each line.
    pub deny_list: Option<Spanned<PathBuf>>,
    /// Whose tokens are believed.
    pub issuers: Spanned<Vec<IssuerConfig>>,
    /// The folder with `*.cedar` and `schema.cedarschema`. Default `policies`.
    pub policies: Option<Spanned<PathBuf>>,
    /// Further sets of policies, and what is special about them.
    #[serde(default)]
    pub stores: Vec<StoreConfig>,
    /// Which requests are described, and as what.
    pub routes: Spanned<Vec<RouteConfig>>,
    /// What the operator says of clients. Where it says anything, no other client comes in.
    #[serde(default)]
    pub clients: Vec<ClientConfig>,
    /// The schema's names for agents and users, for whom questions are put, and the entities that are written down.
    #[serde(default)]
    pub entities: EntitiesConfig,
    /// Where it is written down what users have consented to.
    #[serde(default)]
    pub consents: ConsentsConfig,
    /// What the upstream is told.
    #[serde(default)]
    pub identity: IdentityConfig,
    /// What clients are told of the tokens that are taken (RFC 9728). Default nothing.
    pub resource_metadata: Option<ResourceMetadataConfig>,
    /// What decision records hold.
    #[serde(default)]
    pub records: RecordsConfig,
    /// Which traces requests belong to, and who is told of them.
    #[serde(default)]
    pub traces: TracesConfig,
    /// Policies that are asked beside those in force and decide nothing. Default none.
    pub shadow: Option<ShadowConfig>,
    /// The proxies in front of the gate that are believed of where requests come from. Default none.
    pub trusted_proxies: Option<TrustedProxiesConfig>,
    /// How often somebody may ask. Default: as often as they like.
    #[serde(default)]
    pub rates: Vec<RateConfig>,
    /// Where limits are counted that several gates share.
    pub counters: Option<CountersConfig>,
    /// What refused clients are told.
    #[serde(default)]
    pub refusals: RefusalsConfig,
    /// What `check` is to say nothing of. Default nothing.
    #[serde(default)]
    pub warnings: Vec<AllowedWarning>,
    /// What is logged, and how it looks.
    #[serde(default)]
    pub log: LogConfig,
    /// Bounds on what clients may send.
    #[serde(default)]
    pub limits: LimitsConfig,
    /// How the gate stops.
    #[serde(default)]
    pub drain: DrainConfig,
}

/// The section `refusals`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RefusalsConfig {
    /// Whether a client that no permit lets in is told what the nearest one lacks: a policy's id and conditions. Default
    /// false.
    pub nearest_miss: bool,
}

/// An entry of `warnings`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AllowedWarning {
    /// The name of the warning.
    pub allow: Spanned<String>,
    /// The policy, route or action that it is of. Default: any.
    pub of: Option<Spanned<String>>,
    /// Why it is as it should be.
    pub reason: Spanned<String>,
}

/// A file that was read but not compiled.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What it says.
    pub config: Config,
    source: Arc<Source>,
    files: Files,
    /// Whether anything listens.
    serves: bool,
}

/// A configuration ready to be put to work.
#[derive(Debug)]
pub struct Compiled {
    /// The decision core's part.
    pub blueprint: Blueprint,
    /// The servers' part.
    pub servers: Servers,
    /// What deserves a look.
    pub warnings: Vec<Warning>,
    /// Why the candidate policies are not asked, where they cannot be.
    pub candidate_problems: Problems,
    /// The configuration's text.
    pub source: Arc<Source>,
    /// Where policies stand, by their ids, for each store in turn.
    pub policy_sources: Vec<HashMap<PolicyId, Arc<Source>>>,
}

impl Compiled {
    /// Tells operators what deserves a look.
    pub fn tell(&self) {
        for warning in &self.warnings {
            tracing::warn!("{}", warning.problem.message());
        }
        if self.blueprint.candidate_failing {
            tracing::error!("the candidate policies are not asked\n{}", self.candidate_problems);
        }
    }
}

const ADMIN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9901);

/// Reads `path`; other files are named relative to its folder.
///
/// # Errors
/// What is wrong with the file's form.
pub fn load(path: &Path) -> Result<Loaded, Problems> {
    load_noting(path, &Arc::default())
}

/// The same, with every look at a file, then and when it is compiled, noted in `sights`.
///
/// # Errors
/// What is wrong with the file's form.
pub fn load_noting(path: &Path, sights: &Arc<Sights>) -> Result<Loaded, Problems> {
    let folder = path.parent().map(Path::to_path_buf).unwrap_or_default();
    let name = path.file_name().map(PathBuf::from).unwrap_or_default();
    let files = Files::observed(folder, sights);
    let text = files.read(&name).map_err(|error| Problem::not_read(path, &error, "name the file with `--config`"))?;
    parse(path.display().to_string(), text, files)
}

/// Reads a configuration from `text`, known as `name`.
///
/// # Errors
/// What is wrong with its form.
pub fn parse(name: String, text: String, files: Files) -> Result<Loaded, Problems> {
    let source = Arc::new(Source { name, text });
    // Key sets are others' JSON.
    let options = || serde_saphyr::options! { budget: serde_saphyr::budget! { max_depth: filled::DEPTH_MAX } };
    let config = filled::read(&source, options, |path| matches!(path, ["issuers", _, "jwks", _, ..]))?;
    Ok(Loaded { config, source, files, serves: true })
}

impl Config {
    /// Where operators connect.
    pub fn admin_address(&self) -> Address {
        self.admin.as_ref().map_or(Address::Tcp(ADMIN), |admin| admin.value.clone())
    }
}

impl Loaded {
    /// What the configuration is known as: its path.
    pub fn name(&self) -> &str {
        &self.source.name
    }

    /// The place that the configuration's files are read from, with no look noted.
    pub fn files(&self) -> Files {
        self.files.unobserved()
    }

    /// The same where nothing listens: what that takes need not be there.
    #[must_use]
    pub fn unserved(mut self) -> Self {
        (self.config.tls, self.config.admin_token, self.config.proxy_protocol) = (None, None, None);
        self.config.identity.assertion = None;
        self.config.listeners.clear();
        Self { serves: false, ..self }
    }

    /// Compiles the configuration. Touches nothing but files.
    ///
    /// # Errors
    /// Every [`Problem`] it has.
    pub fn compile(&self) -> Result<Compiled, Problems> {
        self.compile_parts().map_err(|problems| problems.within(&self.source))
    }

    fn compile_parts(&self) -> Result<Compiled, Problems> {
        let config = &self.config;
        let mut problems = Problems::default();
        let issuers = problems.keep(self.issuers());
        let proofs = problems.keep(self.proofs());
        let denied = problems.keep(self.denied());
        let servers = problems.keep(self.servers());
        let limits = problems.keep(config.limits.request_limits());
        let cache = problems.keep(config.limits.cache_limits());
        let decisions = problems.keep(config.limits.decisions_cached_max());
        let identity = problems.keep(Identity::compile(&config.identity, &self.files));
        let upstreams = problems.keep(Upstreams::compile(&config.upstream, &config.upstreams, &self.files));
        let folder = config.policies.as_ref().map_or_else(|| PathBuf::from("policies"), |folder| folder.value.clone());
        // Policies that are written by others' conventions are named by others.
        let ids = if config.entities.profile == ProfileConfig::Portcullis { Ids::Required } else { Ids::ByFile };
        let loaded = problems.keep(
            PolicyFiles { files: &self.files, folder: &folder, ids }.load(&config.stores, config.shadow.as_ref()),
        );
        let proxies = problems.keep(TrustedProxies::compile(config.trusted_proxies.as_ref()));
        let rates = problems.keep(limit::compile(&config.rates, config.counters.as_ref(), &self.files));
        let records = problems.keep(config.records.compile(&self.files));
        let tracing = problems.keep(config.traces.compile());
        let types = loaded.as_ref().and_then(|loaded| {
            let types = loaded.types.clone();
            problems.keep(Types::compile(&config.entities, &config.consents, types, &self.files))
        });
        let routes = types.and_then(|types| problems.keep(self.routes(types)));
        if let (Some((mapping, routes)), Some(identity), Some(upstreams)) = (&routes, &identity, &upstreams) {
            problems.keep(self.forwards_what_it_reads(mapping, routes, identity));
            problems.keep(self.check_upstreams(upstreams, routes));
            problems.keep(self.check_assertions(upstreams));
            let types = loaded.as_ref().map(|loaded| &loaded.types);
            problems.keep(types.map_or(Ok(()), |types| self.check_certificates(types, routes)));
            let stores = loaded.as_ref().map(|loaded| &loaded.stores);
            problems.keep(stores.map_or(Ok(()), |stores| self.check_stores(stores, upstreams, mapping, routes)));
        }
        let own = loaded.as_ref().zip(identity.as_ref());
        let own = own.and_then(|(loaded, identity)| problems.keep(self.pages(&loaded.stores, identity)));
        // Everything has been looked at.
        problems.keep(self.check_record_file());
        let compiled = (|| {
            let ((mapping, routes), loaded) = (routes?, loaded?);
            let (pages, metadata_url) = own?;
            let revisions = Revisions {
                config: revision::of_text(&self.source.text),
                schema: loaded.schema_revision,
                policies: loaded.stores.revisions(),
            };
            let settled = Settled::of(&mapping, routes.routes(), &loaded.stores);
            let blueprint = Blueprint {
                text: self.source.text.as_str().into(),
                revisions,
                limits: limits?,
                proxies: proxies?,
                rates: rates?,
                trust: Trust { rules: issuers?, proofs: proofs?, denied: denied? },
                cache: cache?,
                routes: Arc::new(routes),
                mapping: Arc::new(mapping),
                settled,
                decisions_cached_max: decisions?,
                stores: Arc::new(loaded.stores),
                candidate: loaded.candidate.map(Arc::new),
                candidate_failing: !loaded.candidate_problems.0.is_empty(),
                tells_nearest_miss: config.refusals.nearest_miss,
                records: records?,
                tracing: tracing?,
                identity: identity?,
                upstreams: Arc::new(upstreams?),
                pages,
                metadata_url,
            };
            Some(Compiled {
                blueprint,
                servers: servers?,
                warnings: loaded.warnings,
                candidate_problems: loaded.candidate_problems,
                source: self.source.clone(),
                policy_sources: loaded.sources,
            })
        })();
        problems.into_result(compiled)
    }

    fn routes(&self, types: Types) -> Result<(Mapping, RouteTable<RoutePlan>), Problems> {
        let configured = &self.config.routes;
        let mut problems = Problems::default();
        if configured.value.is_empty() {
            problems.push(
                Problem::at(configured, "no route: every request would be refused")
                    .fix("describe the requests to let in"),
            );
        }
        let issuers: BTreeSet<_> =
            self.config.issuers.value.iter().map(|it| it.settings().issuer.value.as_str()).collect();
        let issuers: Vec<_> = issuers.into_iter().collect();
        let (mapping, plans) = Mapping::compile(types, &configured.value, &self.config.clients, &issuers)?;
        let mut table = RouteTable::default();
        for (route, (requests, plan)) in configured.value.iter().zip(plans) {
            let inserted = table.insert(&requests.hosts, &requests.methods, &requests.template, plan);
            problems.keep(
                inserted.map_err(|error| Problem::at(&route.path, error.to_string()).fix("merge the two routes")),
            );
        }
        problems.into_result(Some((mapping, table)))
    }
}
