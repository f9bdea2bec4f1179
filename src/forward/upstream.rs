//! Where allowed requests go. Data only: who connects is decided at the edge of the house.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use http::{HeaderValue, header::InvalidHeaderValue};
use schemars::JsonSchema;
use serde::Deserialize;
use url::Url;

use super::{
    address::{Location, Origin},
    assertion::name,
    balance::Balance,
    watch::{Ejection, EjectionConfig, Health, HealthConfig},
};
use crate::base::{
    files::Files,
    problem::{Problem, Problems, bounded},
    secret::{Secret, SecretSource},
    spanned::Spanned,
};

/// The section `upstream`, and an entry of `upstreams`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UpstreamConfig {
    /// `http://host:port`, `https://host:port`, without a path, or `unix:/path` of a socket.
    pub url: Spanned<String>,
    /// The servers it consists of, where they are not at the addresses that the host of `url` has.
    #[serde(default)]
    pub addresses: Vec<ServerConfig>,
    /// Which of several servers gets a request. Default round_robin.
    #[serde(default)]
    pub balance: Balance,
    /// Whether HTTP/2 is spoken. Default off.
    pub http2: Option<Spanned<Http2>>,
    /// Whom to believe that it is the upstream, and what to show it, for `https`.
    pub tls: Option<Spanned<UpstreamTlsConfig>>,
    /// Whether the upstream gets the client's `Host`. Default false: it gets its own, from `url`.
    #[serde(default)]
    pub forward_host: bool,
    /// `aud` of assertions that are for it. Default its name; `upstream` has none.
    pub audience: Option<Spanned<String>>,
    /// Milliseconds to connect, TLS included. Default 2000.
    pub connect_timeout_ms: Option<Spanned<u64>>,
    /// Milliseconds between two reads of an answer. Default 60000.
    pub read_timeout_ms: Option<Spanned<u64>>,
    /// Milliseconds between two writes of a request. Default 60000.
    pub write_timeout_ms: Option<Spanned<u64>>,
    /// Milliseconds that a connection is kept without a request. Default 60000.
    pub idle_timeout_ms: Option<Spanned<u64>>,
    /// How often a request is tried again that failed on its way, where that is safe. Default 1.
    pub retries_max: Option<Spanned<u32>>,
    /// Requests under way to it. Default: as many as come in.
    pub requests_max: Option<Spanned<usize>>,
    /// How its servers are asked whether they are well. Default: not at all.
    pub health: Option<Spanned<HealthConfig>>,
    /// When a server is left alone for how it answers.
    #[serde(default)]
    pub ejection: EjectionConfig,
}

/// A server of an upstream.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServerConfig {
    /// `host:port`, or `unix:/path` of a socket.
    pub address: Spanned<String>,
    /// Its share of the requests. Default 1.
    pub weight: Option<Spanned<u32>>,
}

/// Whether HTTP/2 is spoken to an upstream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Http2 {
    /// HTTP/1.1 is.
    #[default]
    Off,
    /// By TLS, where the upstream chooses it in the handshake.
    Offered,
    /// It is; in the clear from the first byte on, by TLS only with an upstream that chooses it.
    Only,
}

/// The section `tls` of an upstream.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UpstreamTlsConfig {
    /// The authorities that its certificate is from, in PEM. Default: those of the machine.
    pub authorities: Option<Spanned<PathBuf>>,
    /// The name its certificate is for. Default: the host of `url`.
    pub server_name: Option<Spanned<String>>,
    /// The certificate to show it, and those that lead to an authority, in PEM. Default none.
    pub certificate: Option<Spanned<PathBuf>>,
    /// The private key of `certificate`, in PEM.
    pub private_key: Option<SecretSource>,
}

/// The upstream, compiled.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Upstream {
    /// Its servers, and each one's share.
    pub servers: Vec<(Location, u32)>,
    /// Which of them gets a request.
    pub balance: Balance,
    /// Whether HTTP/2 is spoken.
    pub http2: Http2,
    /// How TLS is spoken, if it is; the certificate is always verified.
    pub tls: Option<UpstreamTls>,
    /// Its name, for those that are asked for it.
    pub host: HeaderValue,
    /// Whether requests keep the client's `Host`.
    pub sees_host: bool,
    /// Who it is, for assertions; the name that it has, where there is none.
    pub audience: Option<String>,
    /// To connect, TLS included.
    pub connect_timeout: Duration,
    /// Between two reads of an answer.
    pub read_timeout: Duration,
    /// Between two writes of a request.
    pub write_timeout: Duration,
    /// Of a connection without a request.
    pub idle_timeout: Duration,
    /// How often a request is tried again.
    pub retries_max: u32,
    /// Requests under way.
    pub requests_max: Option<usize>,
    /// How servers are asked whether they are well.
    pub health: Option<Health>,
    /// When they are left alone.
    pub ejection: Ejection,
}

/// How TLS is spoken to an upstream.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UpstreamTls {
    /// The name its certificate is for.
    pub server_name: String,
    /// The authorities that its certificate is from, in PEM.
    pub authorities: Option<Spanned<String>>,
    /// What to show it: certificates, and the key of the first, in PEM.
    pub shown: Option<(Spanned<String>, Secret)>,
}

/// Servers of one upstream, and so addresses of one name that are used.
pub const SERVERS_MAX: usize = 256;

impl UpstreamConfig {
    /// Compiles the section.
    ///
    /// # Errors
    /// A [`Problem`] for each setting that cannot be used.
    pub fn compile(&self, files: &Files) -> Result<Upstream, Problems> {
        let mut problems = Problems::default();
        let found = problems.keep(self.origin());
        let servers = match (&found, &self.addresses[..]) {
            (Some((_, own)), []) => Some(vec![(own.clone(), 1)]),
            _ => problems.keep(self.servers()),
        };
        let origin = found.as_ref().map(|(origin, _)| origin);
        let tls = origin.and_then(|origin| problems.keep(self.tls(origin, files)));
        let http2 = self.http2.as_ref().map_or(Http2::Off, |it| it.value);
        if let (Http2::Offered, Some(false), Some(setting)) = (http2, origin.map(|it| it.tls), &self.http2) {
            let problem = Problem::at(setting, "HTTP/2 is offered in a TLS handshake, and this upstream speaks no TLS");
            problems.push(problem.fix("choose `only` for HTTP/2 in the clear, or give `url` as `https://…`"));
        }
        let mut milliseconds = |value: &Option<Spanned<u64>>, name, default| {
            problems.keep(bounded(value.as_ref(), name, default, 1..=3_600_000)).map(Duration::from_millis)
        };
        let connect = milliseconds(&self.connect_timeout_ms, "connect_timeout_ms", 2_000);
        let read = milliseconds(&self.read_timeout_ms, "read_timeout_ms", 60_000);
        let write = milliseconds(&self.write_timeout_ms, "write_timeout_ms", 60_000);
        let idle = milliseconds(&self.idle_timeout_ms, "idle_timeout_ms", 60_000);
        let retries_max = problems.keep(bounded(self.retries_max.as_ref(), "retries_max", 1, 0..=5));
        let requests_max = self.requests_max.as_ref();
        let requests_max =
            problems.keep(requests_max.map(|max| bounded(Some(max), "requests_max", 1, 1..=1_000_000)).transpose());
        let health = problems.keep(self.health.as_ref().map(HealthConfig::compile).transpose());
        if let (Some(asked), Http2::Off) = (self.health.as_ref().and_then(|it| it.value.grpc_service.as_ref()), http2) {
            problems
                .push(Problem::at(asked, "gRPC is spoken in HTTP/2 alone").fix("add `http2: only` to the upstream"));
        }
        let ejection = problems.keep(self.ejection.compile());
        problems.keep(self.audience.as_ref().map(name).transpose());
        let upstream = (|| {
            Some(Upstream {
                servers: servers?,
                balance: self.balance,
                http2,
                tls: tls?,
                host: authority(origin?).ok()?,
                sees_host: self.forward_host,
                audience: self.audience.as_ref().map(|it| it.value.clone()),
                connect_timeout: connect?,
                read_timeout: read?,
                write_timeout: write?,
                idle_timeout: idle?,
                retries_max: retries_max?,
                requests_max: requests_max?,
                health: health?,
                ejection: ejection?,
            })
        })();
        problems.into_result(upstream)
    }

    fn origin(&self) -> Result<(Origin, Location), Problem> {
        let text = &self.url.value;
        let origin = match Location::socket(text) {
            Some(socket) => Some((Origin { host: "localhost".to_owned(), port: 80, tls: false }, socket)),
            None => Url::parse(text).ok().and_then(|url| Origin::of(&url)).map(|origin| {
                let own = Location::at(&origin.host, origin.port);
                (origin, own)
            }),
        };
        origin.ok_or_else(|| {
            Problem::at(&self.url, format!("`{text}` is not the address of an upstream"))
                .fix("write scheme, host and port alone, as in `http://127.0.0.1:9000`, or `unix:/run/orders.sock`")
        })
    }

    fn servers(&self) -> Result<Vec<(Location, u32)>, Problems> {
        let mut problems = Problems::default();
        let mut servers = Vec::new();
        for ServerConfig { address, weight } in &self.addresses {
            let weight = problems.keep(bounded(weight.as_ref(), "weight", 1, 1..=100));
            match Location::parse(&address.value) {
                Some(known) if servers.iter().any(|(other, _)| *other == known) => {
                    let problem = Problem::at(address, format!("`{}` is there twice", address.value));
                    problems.push(problem.fix("give it a `weight` instead"));
                }
                Some(found) => servers.push((found, weight.unwrap_or(1))),
                None => {
                    let problem = Problem::at(address, format!("`{}` is not the address of a server", address.value));
                    problems
                        .push(problem.fix("write host and port, as in `10.0.0.1:9000`, or `unix:/run/orders.sock`"));
                }
            }
        }
        if let Some(beyond) = self.addresses.get(SERVERS_MAX) {
            problems.push(Problem::at(&beyond.address, format!("more than {SERVERS_MAX} servers")));
        }
        problems.into_result(Some(servers))
    }

    fn tls(&self, origin: &Origin, files: &Files) -> Result<Option<UpstreamTls>, Problems> {
        let mut problems = Problems::default();
        if let (false, Some(tls)) = (origin.tls, &self.tls) {
            let problem = Problem::at(tls, "settings of TLS, which is not spoken to this upstream");
            problems.push(problem.fix("give `url` as `https://…`, or leave them out"));
        }
        let config = self.tls.as_ref().map(|tls| &tls.value);
        let text = |path: &Spanned<PathBuf>| {
            let text = files.read(&path.value).map_err(|error| Problem::unreadable(path, &error))?;
            Ok::<_, Problem>(path.leads_to(text))
        };
        let authorities = config.and_then(|tls| tls.authorities.as_ref()).map(text).transpose();
        let authorities = problems.keep(authorities);
        let shown = problems.keep(self.tls.as_ref().map_or(Ok(None), |tls| UpstreamTlsConfig::shown(tls, files)));
        let name = config.and_then(|tls| tls.server_name.as_ref());
        let is_name = |name: &str| Location::parse(&format!("{name}:443")).is_some();
        if let Some(name) = name.filter(|name| !is_name(&name.value)) {
            problems.push(Problem::at(name, format!("`{}` is not the name of a server", name.value)));
        }
        let server_name = name.map_or(&origin.host, |name| &name.value).clone();
        let tls = (|| Some(UpstreamTls { server_name, authorities: authorities?, shown: shown? }))();
        problems.into_result(Some(tls.filter(|_| origin.tls)))
    }
}

impl UpstreamTlsConfig {
    fn shown(section: &Spanned<Self>, files: &Files) -> Result<Option<(Spanned<String>, Secret)>, Problem> {
        let (certificate, key) = match (&section.value.certificate, &section.value.private_key) {
            (None, None) => return Ok(None),
            (Some(certificate), Some(key)) => (certificate, key),
            (Some(certificate), None) => {
                return Err(Problem::at(certificate, "a certificate without its key").fix("add `private_key`"));
            }
            (None, Some(_)) => {
                return Err(Problem::at(section, "a `private_key` without its certificate").fix("add `certificate`"));
            }
        };
        let chain = files.read(&certificate.value).map_err(|error| Problem::unreadable(certificate, &error))?;
        Ok(Some((certificate.leads_to(chain), key.read(files)?)))
    }
}

/// Every upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstreams {
    /// That of routes that name none.
    pub usual: Arc<Upstream>,
    /// Those that routes name.
    pub named: BTreeMap<String, Arc<Upstream>>,
}

impl Upstreams {
    /// Compiles `upstream` and `upstreams`.
    ///
    /// # Errors
    /// Every [`Problem`] they have.
    pub fn compile(
        usual: &UpstreamConfig,
        named: &BTreeMap<String, UpstreamConfig>,
        files: &Files,
    ) -> Result<Self, Problems> {
        let mut problems = Problems::default();
        let usual = problems.keep(usual.compile(files));
        let compiled = named.iter().filter_map(|(name, config)| {
            let upstream = problems.keep(config.compile(files))?;
            Some((name.clone(), Arc::new(upstream)))
        });
        let named = compiled.collect();
        problems.into_result(usual.map(|usual| Self { usual: Arc::new(usual), named }))
    }

    /// The one of this name, or else the usual one.
    pub fn of(&self, name: Option<&str>) -> Option<&Arc<Upstream>> {
        name.map_or(Some(&self.usual), |name| self.named.get(name))
    }

    /// The names of those beside the usual one.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.named.keys().map(String::as_str)
    }

    /// Whether each of them sees the host that clients address.
    pub fn see_host(&self) -> bool {
        self.usual.sees_host && self.named.values().all(|upstream| upstream.sees_host)
    }
}

/// Host and port, without the port that goes without saying (RFC 9110 section 7.2).
fn authority(origin: &Origin) -> Result<HeaderValue, InvalidHeaderValue> {
    let Origin { host, port, tls } = origin;
    let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
    let usual = if *tls { 443 } else { 80 };
    HeaderValue::from_str(&if *port == usual { host } else { format!("{host}:{port}") })
}
