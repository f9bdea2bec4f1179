//! Where allowed requests go. Data only: who connects is decided at the edge of the house.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use http::{HeaderValue, header::InvalidHeaderValue};
use schemars::JsonSchema;
use serde::Deserialize;
use url::Url;

use crate::base::{
    problem::{Problem, Problems, bounded},
    spanned::Spanned,
};

/// The section `upstream`, and an entry of `upstreams`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UpstreamConfig {
    /// `http://host:port`, `https://host:port`, without a path, or `unix:/path` of a socket.
    pub url: Spanned<String>,
    /// Whether the upstream gets the client's `Host`. Default false: it gets its own, from `url`.
    #[serde(default)]
    pub forward_host: bool,
    /// Milliseconds to connect, TLS included. Default 2000.
    pub connect_timeout_ms: Option<Spanned<u64>>,
    /// Milliseconds between two reads of an answer. Default 60000.
    pub read_timeout_ms: Option<Spanned<u64>>,
    /// Milliseconds between two writes of a request. Default 60000.
    pub write_timeout_ms: Option<Spanned<u64>>,
}

/// The upstream, compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// Host name or address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Where it is, when `host` is no name.
    pub address: Option<SocketAddr>,
    /// The socket that it listens on, when that is where it is.
    pub socket: Option<PathBuf>,
    /// Whether to speak TLS; the certificate is always verified, against `host`.
    pub tls: bool,
    /// `Host` as the upstream gets it; `None` for the client's own.
    pub authority: Option<HeaderValue>,
    /// To connect, TLS included.
    pub connect_timeout: Duration,
    /// Between two reads of an answer.
    pub read_timeout: Duration,
    /// Between two writes of a request.
    pub write_timeout: Duration,
}

impl Upstream {
    /// Compiles the section.
    ///
    /// # Errors
    /// A [`Problem`] for each setting that cannot be used.
    pub fn compile(config: &UpstreamConfig) -> Result<Self, Problems> {
        let mut problems = Problems::default();
        let socket = config.url.value.strip_prefix("unix:").map(PathBuf::from);
        let origin = match &socket {
            Some(path) if path.is_absolute() && path.as_os_str().len() <= SOCKET_BYTES_MAX => {
                Some(("localhost".to_owned(), 80, false))
            }
            Some(_) => None,
            None => Url::parse(&config.url.value).ok().and_then(|url| origin(&url)),
        };
        let origin = origin.ok_or_else(|| {
            Problem::at(&config.url, format!("`{}` is not the address of an upstream", config.url.value))
                .fix("write scheme, host and port alone, as in `http://127.0.0.1:9000`, or `unix:/run/orders.sock`")
        });
        let origin = problems.keep(origin);
        let mut milliseconds = |value: &Option<Spanned<u64>>, name, default| {
            problems.keep(bounded(value.as_ref(), name, default, 1..=3_600_000)).map(Duration::from_millis)
        };
        let connect = milliseconds(&config.connect_timeout_ms, "connect_timeout_ms", 2_000);
        let read = milliseconds(&config.read_timeout_ms, "read_timeout_ms", 60_000);
        let write = milliseconds(&config.write_timeout_ms, "write_timeout_ms", 60_000);
        let upstream = (|| {
            let (host, port, tls) = origin?;
            let authority = (!config.forward_host).then(|| authority(&host, port, tls)).transpose().ok()?;
            Some(Self {
                address: host.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, port)),
                authority,
                host,
                port,
                socket,
                tls,
                connect_timeout: connect?,
                read_timeout: read?,
                write_timeout: write?,
            })
        })();
        problems.into_result(upstream)
    }
}

/// Every upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstreams {
    usual: Arc<Upstream>,
    named: BTreeMap<String, Arc<Upstream>>,
}

impl Upstreams {
    /// Compiles `upstream` and `upstreams`.
    ///
    /// # Errors
    /// Every [`Problem`] they have.
    pub fn compile(usual: &UpstreamConfig, named: &BTreeMap<String, UpstreamConfig>) -> Result<Self, Problems> {
        let mut problems = Problems::default();
        let usual = problems.keep(Upstream::compile(usual));
        let compiled = named.iter().filter_map(|(name, config)| {
            let upstream = problems.keep(Upstream::compile(config))?;
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
        self.usual.sees_host() && self.named.values().all(|upstream| upstream.sees_host())
    }
}

impl Upstream {
    /// Whether it sees the host that clients address.
    pub const fn sees_host(&self) -> bool {
        self.authority.is_none()
    }
}

/// Bytes of a socket's path, which the system bounds.
const SOCKET_BYTES_MAX: usize = 100;

/// Host and port, without the port that goes without saying (RFC 9110 section 7.2).
fn authority(host: &str, port: u16, tls: bool) -> Result<HeaderValue, InvalidHeaderValue> {
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let usual = if tls { 443 } else { 80 };
    HeaderValue::from_str(&if port == usual { host } else { format!("{host}:{port}") })
}

fn origin(url: &Url) -> Option<(String, u16, bool)> {
    let tls = match url.scheme() {
        "http" => false,
        "https" => true,
        _ => return None,
    };
    let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none() && url.username().is_empty();
    let host = url.host_str()?.trim_matches(['[', ']']).to_owned();
    (bare && url.password().is_none()).then_some((host, url.port_or_known_default()?, tls))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upstream_is_scheme_host_and_port() {
        let origin = |text: &str| Url::parse(text).ok().and_then(|url| origin(&url));
        assert_eq!(origin("http://127.0.0.1:9000"), Some(("127.0.0.1".into(), 9000, false)));
        assert_eq!(origin("https://orders.internal/"), Some(("orders.internal".into(), 443, true)));
        assert_eq!(origin("http://[::1]:80"), Some(("::1".into(), 80, false)));
        for other in
            ["127.0.0.1:9000", "ftp://a", "http://a/b", "http://a/?q", "http://u:p@a", "http://a/#f", "http://"]
        {
            assert_eq!(origin(other), None, "{other}");
        }
    }
}
