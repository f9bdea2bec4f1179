//! `config.yaml`: read as the list of what the rooms ask for, compiled to a [`Blueprint`], or to every problem it
//! has. Each room owns the section beside the code that it configures.

pub mod tls;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde::Deserialize;
use serde_saphyr::Spanned;

use self::tls::{ClientCertificate, TlsConfig, TlsFiles};
use crate::{
    base::{
        files::Files,
        problem::{Problem, Problems, Source, bounded},
        secret::{Secret, SecretSource},
        sights::Sights,
    },
    entities::{
        EntitiesConfig, Mapping, RouteConfig, RoutePlan, Types, clients::ClientConfig, consent::ConsentsConfig,
    },
    forward::{Identity, IdentityConfig, Upstream, UpstreamConfig},
    policy::PolicyFiles,
    request::{Limits, route::RouteTable},
    snapshot::Blueprint,
    token::{
        Trust,
        binding::Binding,
        cache::CacheLimits,
        deny_list::{Denials, DenyFile, DenyListError},
        dpop::ProofSettings,
        issuer::{IssuerConfig, Rules},
    },
};

/// The whole file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where agents connect: address and port.
    pub listen: Spanned<SocketAddr>,
    /// How agents connect by TLS. Without it they connect in the clear.
    pub tls: Option<TlsConfig>,
    /// Where operators connect: health and metrics. Default 127.0.0.1:9901.
    pub admin: Option<Spanned<SocketAddr>>,
    /// What operators must show to see and change the deny-list. Without it nobody can.
    pub admin_token: Option<SecretSource>,
    /// Where allowed requests go.
    pub upstream: UpstreamConfig,
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
    /// Bounds on what clients may send.
    #[serde(default)]
    pub limits: LimitsConfig,
}

/// The section `limits`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// Bytes of a request head. Default 32768.
    pub head_bytes_max: Option<Spanned<usize>>,
    /// Bytes of a request target. Default 4096.
    pub target_bytes_max: Option<Spanned<usize>>,
    /// Open connections. Default 10000.
    pub connections_max: Option<Spanned<usize>>,
    /// Tokens that are remembered. Default 30000.
    pub tokens_cached_max: Option<Spanned<u64>>,
    /// Bytes that are remembered of tokens, estimated. Default 134217728.
    pub token_cache_bytes_max: Option<Spanned<u64>>,
    /// Milliseconds for a request head, between two reads of a body, and between two writes. Default 30000.
    pub client_timeout_ms: Option<Spanned<u64>>,
}

/// A file that was read but not compiled.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What it says.
    pub config: Config,
    source: Arc<Source>,
    files: Files,
}

/// A configuration ready to be put to work.
#[derive(Debug)]
pub struct Compiled {
    /// The decision core's part.
    pub blueprint: Blueprint,
    /// The servers' part.
    pub servers: Servers,
    /// What deserves a look.
    pub warnings: Problems,
}

/// Where to listen, and how.
#[derive(Clone, Debug)]
pub struct Servers {
    /// Where agents connect.
    pub listen: SocketAddr,
    /// How agents connect by TLS.
    pub tls: Option<TlsFiles>,
    /// Where operators connect.
    pub admin: SocketAddr,
    /// What operators must show to see and change the deny-list.
    pub admin_token: Option<Secret>,
    /// Open connections.
    pub connections_max: usize,
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
    let text = files.read(&name).map_err(|error| {
        Problem::new(format!("cannot read `{}`: {error}", path.display())).fix("name the file with `--config`")
    })?;
    parse(path.display().to_string(), text, files)
}

/// Reads a configuration from `text`, known as `name`.
///
/// # Errors
/// What is wrong with its form.
pub fn parse(name: String, text: String, files: Files) -> Result<Loaded, Problems> {
    let source = Arc::new(Source { name, text });
    let config = serde_saphyr::from_str(&source.text).map_err(|error| Problem::from_yaml(&error, &source))?;
    Ok(Loaded { config, source, files })
}

impl Config {
    /// Where operators connect.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin.as_ref().map_or(ADMIN, |admin| admin.value)
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

    /// Compiles the configuration. Touches nothing but files.
    ///
    /// # Errors
    /// Every [`Problem`] it has.
    pub fn compile(&self) -> Result<Compiled, Problems> {
        self.compile_parts()
            .map_err(|problems| Problems(problems.0.into_iter().map(|it| it.within(&self.source)).collect()))
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
        let identity = problems.keep(Identity::compile(&config.identity));
        let upstream = problems.keep(Upstream::compile(&config.upstream));
        let folder = config.policies.as_ref().map_or_else(|| PathBuf::from("policies"), |folder| folder.value.clone());
        let loaded = problems.keep(PolicyFiles::new(&self.files, &folder).load());
        let (policies, types, warnings) = match loaded {
            Some(loaded) => (Some(loaded.policies), Some(loaded.types), loaded.warnings),
            None => (None, None, Problems::default()),
        };
        let types = types
            .and_then(|types| problems.keep(Types::compile(&config.entities, &config.consents, types, &self.files)));
        let routes = types.and_then(|types| problems.keep(self.routes(types)));
        if let (Some((mapping, routes)), Some(identity)) = (&routes, &identity) {
            problems.keep(self.forwards_what_it_reads(mapping, routes, identity));
        }
        let compiled = (|| {
            let (mapping, routes) = routes?;
            let blueprint = Blueprint {
                limits: limits?,
                trust: Trust { rules: issuers?, proofs: proofs?, denied: denied? },
                cache: cache?,
                routes,
                mapping,
                policies: policies?,
                identity: identity?,
                upstream: upstream?,
            };
            Some(Compiled { blueprint, servers: servers?, warnings })
        })();
        problems.into_result(compiled)
    }

    fn issuers(&self) -> Result<Vec<Rules>, Problems> {
        let mut problems = Problems::default();
        let configured = &self.config.issuers;
        if configured.value.is_empty() {
            problems
                .push(Problem::at(configured, "no issuer: nobody could come in").fix("name whose tokens are believed"));
        }
        let mut seen = HashSet::new();
        let (mut prefixes, mut users) = (HashMap::new(), HashMap::new());
        let names: HashSet<_> = configured.value.iter().map(|issuer| &issuer.settings().issuer.value).collect();
        let mut issuers = Vec::new();
        for issuer in &configured.value {
            let name = &issuer.settings().issuer;
            let Some(rules) = problems.keep(Rules::compile(issuer, &self.files)) else { continue };
            match rules.asked_about() {
                // One issuer may both sign tokens and be asked about others.
                None if !seen.insert((name.value.clone(), None)) => problems.push(
                    Problem::at(name, format!("issuer `{}` stands twice", name.value)).fix("merge the two entries"),
                ),
                Some(prefix) if !seen.insert((String::new(), Some(prefix.to_owned()))) => problems.push(
                    Problem::at(name, "two issuers would be asked about one token")
                        .fix("give each a `token_prefix` of its own"),
                ),
                _ => {}
            }
            let prefix = rules.agent_id_prefix().map(str::to_owned);
            let is_shared = *prefixes.entry(prefix).or_insert(&name.value) != &name.value;
            let users =
                users.entry(rules.user_id_prefix().map(str::to_owned)).or_insert_with(|| rules.user_issuer.clone());
            if *users != rules.user_issuer {
                problems.push(
                    Problem::at(name, "two issuers' users share a `user_id_prefix`: one id could name two people")
                        .fix("give each its own; or, if they are the same users, say whose: `user_issuer`"),
                );
            }
            if names.len() > 1 && (!rules.has_id_prefixes() || is_shared) {
                problems.push(
                    Problem::at(name, "with several issuers, one id could name two people")
                        .fix("give each issuer an `agent_id_prefix` of its own, and a `user_id_prefix` that names the users' pool"),
                );
            }
            issuers.push(rules);
        }
        problems.into_result(Some(issuers))
    }

    /// What was authorised is what is forwarded, so nothing is authorised by a header that is not.
    fn forwards_what_it_reads(
        &self,
        mapping: &Mapping,
        routes: &RouteTable<RoutePlan>,
        identity: &Identity,
    ) -> Result<(), Problems> {
        let mut problems = Problems::default();
        let message =
            |header| format!("header `{header}` is not forwarded: the upstream would not see what was decided on");
        let fix = "use a header that is forwarded";
        for (plan, route) in routes.routes().iter().zip(&self.config.routes.value) {
            if let Some(header) = plan.headers().find(|header| identity.removes(header)) {
                problems.push(Problem::at(&route.resource, message(header)).fix(fix));
            }
        }
        if let Some(header) = mapping.headers().find(|header| identity.removes(header)) {
            problems
                .push(Problem::new(format!("`context.request.headers` of the schema: {}", message(header))).fix(fix));
        }
        problems.into_result(Some(()))
    }

    fn proofs(&self) -> Result<ProofSettings, Problems> {
        let config = &self.config;
        let proofs = ProofSettings::compile(&config.origins, config.dpop_nonce_secret.as_ref(), &self.files)?;
        let shows = self.config.tls.as_ref().and_then(|tls| tls.client_certificate.as_ref());
        let shows = shows.is_some_and(|shows| shows.value != ClientCertificate::Off);
        let bound = config.issuers.value.iter().filter_map(|issuer| issuer.settings().certificate_binding.as_ref());
        if let Some(bound) = bound.into_iter().find(|bound| !shows && bound.value != Binding::Off) {
            return Err(Problem::at(bound, "no client shows a certificate, so no token bound to one can come in")
                .fix("add `tls: { …, client_certificate: accepted }`")
                .into());
        }
        let asked = config.issuers.value.iter().filter_map(|issuer| issuer.settings().dpop.as_ref());
        match asked.into_iter().find(|asked| asked.value != Binding::Off) {
            Some(asked) if !proofs.has_origins() => {
                Err(Problem::at(asked, "nothing says for which address a DPoP proof must be made")
                    .fix("add `origins`: scheme, host and port as clients write them, as in `https://api.example`")
                    .into())
            }
            _ => Ok(proofs),
        }
    }

    fn denied(&self) -> Result<Option<(Denials, DenyFile)>, Problem> {
        let Some(named) = &self.config.deny_list else { return Ok(None) };
        // It has a watcher of its own.
        let file = DenyFile { files: self.files.unobserved(), path: named.value.clone() };
        let failed = |error: DenyListError| {
            Problem::at(named, format!("no deny-list in `{}`: {error}", named.value.display()))
                .fix("give a file with a JSON object on each line; an empty one denies nobody")
        };
        Ok(Some((file.read().map_err(failed)?, file)))
    }

    fn servers(&self) -> Result<Servers, Problems> {
        let mut problems = Problems::default();
        let limits = &self.config.limits;
        let connections_max =
            problems.keep(bounded(limits.connections_max.as_ref(), "connections_max", 10_000, 1..=1_000_000));
        let admin_token =
            problems.keep(self.config.admin_token.as_ref().map(|token| token.read(&self.files)).transpose());
        let tls = problems.keep(self.config.tls.as_ref().map(|tls| tls.read(&self.files)).transpose());
        let servers = (|| {
            Some(Servers {
                listen: self.config.listen.value,
                tls: tls?,
                admin: self.config.admin_address(),
                admin_token: admin_token?,
                connections_max: connections_max?,
            })
        })();
        problems.into_result(servers)
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
            let inserted = table.insert(&requests.methods, &requests.template, plan);
            problems.keep(
                inserted.map_err(|error| Problem::at(&route.path, error.to_string()).fix("merge the two routes")),
            );
        }
        problems.into_result(Some((mapping, table)))
    }
}

impl LimitsConfig {
    fn cache_limits(&self) -> Result<CacheLimits, Problems> {
        let mut problems = Problems::default();
        let default = CacheLimits::default();
        let tokens = bounded(self.tokens_cached_max.as_ref(), "tokens_cached_max", default.tokens_max, 1..=10_000_000);
        let bytes = bounded(
            self.token_cache_bytes_max.as_ref(),
            "token_cache_bytes_max",
            default.bytes_max,
            65_536..=68_719_476_736,
        );
        let limits = problems.keep(tokens).zip(problems.keep(bytes));
        problems.into_result(limits.map(|(tokens_max, bytes_max)| CacheLimits { tokens_max, bytes_max }))
    }

    fn request_limits(&self) -> Result<Limits, Problems> {
        let mut problems = Problems::default();
        let default = Limits::default();
        let mut bytes = |value: &Option<Spanned<usize>>, name, default| {
            problems.keep(bounded(value.as_ref(), name, default, 256..=1024 * 1024))
        };
        let head = bytes(&self.head_bytes_max, "head_bytes_max", default.head_bytes_max);
        let target = bytes(&self.target_bytes_max, "target_bytes_max", default.target_bytes_max);
        let timeout =
            problems.keep(bounded(self.client_timeout_ms.as_ref(), "client_timeout_ms", 30_000, 100..=3_600_000));
        let limits = (|| {
            Some(Limits {
                head_bytes_max: head?,
                target_bytes_max: target?,
                client_timeout: Duration::from_millis(timeout?),
            })
        })();
        problems.into_result(limits)
    }
}
