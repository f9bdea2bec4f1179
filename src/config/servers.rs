//! Where the gate listens, and how.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    Config, Loaded,
    log::LogConfig,
    otlp::OtlpSettings,
    records::RecordSinks,
    tls::{TlsConfig, TlsFiles},
};
use crate::base::{
    address::Address,
    files::Files,
    problem::{Problem, Problems, bounded},
    secret::Secret,
    spanned::Spanned,
};

/// The section `drain`: how the gate stops.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DrainConfig {
    /// Milliseconds from when it is told to stop, and is not ready, to when it takes no more connections. Default 0.
    pub delay_ms: Option<Spanned<u64>>,
    /// Milliseconds that requests under way may take then. Default 30000.
    pub patience_ms: Option<Spanned<u64>>,
}

/// How the gate stops.
#[derive(Clone, Copy, Debug)]
pub struct Drain {
    /// How long it serves while it says that it is not ready.
    pub delay: Duration,
    /// How long requests under way may take.
    pub patience: Duration,
}

impl DrainConfig {
    fn read(&self) -> Result<Drain, Problems> {
        let mut problems = Problems::default();
        let delay = problems.keep(bounded(self.delay_ms.as_ref(), "delay_ms", 0, 0..=600_000));
        let patience = problems.keep(bounded(self.patience_ms.as_ref(), "patience_ms", 30_000, 0..=3_600_000));
        let drain = delay.zip(patience).map(|(delay, patience)| Drain {
            delay: Duration::from_millis(delay),
            patience: Duration::from_millis(patience),
        });
        problems.into_result(drain)
    }
}

/// Whether clients may speak HTTP/2.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Http2 {
    /// They may: by TLS where they choose it in the handshake, in the clear where they begin with it.
    #[default]
    Accepted,
    /// They speak HTTP/1.1.
    Off,
}

/// Whether connections begin with a header of the PROXY protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProxyProtocol {
    /// They begin with what clients send.
    #[default]
    Off,
    /// They begin with the header, version 1 or 2, which trusted proxies alone may send.
    Required,
}

/// An entry of `listeners`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListenerConfig {
    /// Where agents connect: address and port, or `unix:/path` of a socket.
    pub listen: Spanned<Address>,
    /// How they do by TLS. Without it they connect in the clear.
    pub tls: Option<TlsConfig>,
    /// Whether they may speak HTTP/2. Default accepted.
    pub http2: Option<Spanned<Http2>>,
    /// Whether load balancers say by the PROXY protocol whom connections are from. Default off.
    pub proxy_protocol: Option<Spanned<ProxyProtocol>>,
}

/// Where to listen, and how.
#[derive(Clone, Debug)]
pub struct Servers {
    /// Where agents connect, beginning with the configuration's own `listen`.
    pub listeners: Vec<ListenerPlan>,
    /// Where operators connect.
    pub admin: Address,
    /// What operators must show to see the configuration and the deny-list, and to change that.
    pub admin_token: Option<Secret>,
    /// Where records are written.
    pub records: RecordSinks,
    /// What is logged.
    pub log: LogConfig,
    /// To whom traces are sent.
    pub traces: Option<OtlpSettings>,
    /// Open connections.
    pub connections_max: usize,
    /// Requests at once on a connection in HTTP/2.
    pub streams_max: usize,
    /// How it stops.
    pub drain: Drain,
}

/// A place where agents connect.
#[derive(Clone, Debug)]
pub struct ListenerPlan {
    /// Where it is.
    pub listen: Address,
    /// How agents connect by TLS.
    pub tls: Option<TlsFiles>,
    /// Whether agents may speak HTTP/2.
    pub http2: bool,
    /// Whether connections begin with a header of the PROXY protocol.
    pub proxy_protocol: bool,
}

impl ListenerPlan {
    /// The setting by which `other` is another, as far as it is bound to the socket.
    pub fn differs(&self, other: &Self) -> Option<&'static str> {
        let changed = [
            ("listen", self.listen != other.listen),
            ("tls", self.tls.is_some() != other.tls.is_some()),
            ("http2", self.http2 != other.http2),
            ("proxy_protocol", self.proxy_protocol != other.proxy_protocol),
        ];
        changed.iter().find(|(_, changed)| *changed).map(|(name, _)| *name)
    }
}

impl ListenerConfig {
    fn http2(&self) -> Http2 {
        self.http2.as_ref().map_or(Http2::Accepted, |it| it.value)
    }

    /// The setting, where connections begin with a header of the PROXY protocol.
    fn proxied(&self) -> Option<&Spanned<ProxyProtocol>> {
        self.proxy_protocol.as_ref().filter(|it| it.value == ProxyProtocol::Required)
    }

    /// Somebody must be there who may say whom connections are from.
    fn check_proxied(&self, trusts_proxies: bool) -> Result<(), Problem> {
        match self.proxied() {
            Some(proxied) if self.listen.value.tcp().is_none() => {
                Err(Problem::at(proxied, "nobody on a Unix socket has an address that could be trusted")
                    .fix("have the load balancer connect by TCP"))
            }
            Some(proxied) if !trusts_proxies => {
                Err(Problem::at(proxied, "nobody is trusted to say whom connections are from")
                    .fix("name your load balancers: `trusted_proxies: { addresses: [10.0.0.0/8] }`"))
            }
            _ => Ok(()),
        }
    }

    fn compile(&self, files: &Files) -> Result<ListenerPlan, Problems> {
        let tls = self.tls.as_ref().map(|tls| tls.read(files)).transpose()?;
        Ok(ListenerPlan {
            listen: self.listen.value.clone(),
            tls,
            http2: self.http2() == Http2::Accepted,
            proxy_protocol: self.proxied().is_some(),
        })
    }
}

impl Loaded {
    /// Where records are written.
    ///
    /// # Errors
    /// Every [`Problem`] that the section has.
    pub fn records(&self) -> Result<RecordSinks, Problems> {
        self.config.records.sinks(&self.files)
    }

    pub(super) fn servers(&self) -> Result<Servers, Problems> {
        let mut problems = Problems::default();
        let limits = &self.config.limits;
        let connections_max =
            problems.keep(bounded(limits.connections_max.as_ref(), "connections_max", 10_000, 1..=1_000_000));
        let streams_max = problems.keep(self.config.streams_max());
        let drain = problems.keep(self.config.drain.read());
        let admin_token =
            problems.keep(self.config.admin_token.as_ref().map(|token| token.read(&self.files)).transpose());
        let listeners = problems.keep(self.listeners());
        let records = problems.keep(self.records());
        let traces = problems.keep(self.config.traces.receiver(&self.files));
        let servers = (|| {
            Some(Servers {
                listeners: listeners?,
                admin: self.config.admin_address(),
                admin_token: admin_token?,
                records: records?,
                log: self.config.log.clone(),
                traces: traces?,
                connections_max: connections_max?,
                streams_max: streams_max?,
                drain: drain?,
            })
        })();
        problems.into_result(servers)
    }

    fn listeners(&self) -> Result<Vec<ListenerPlan>, Problems> {
        let mut problems = Problems::default();
        let mut plans: Vec<ListenerPlan> = Vec::new();
        for listener in self.config.listeners() {
            let is_taken = |other: &Address| listener.listen.value.is_taken_by(other);
            if plans.iter().any(|plan| is_taken(&plan.listen)) || is_taken(&self.config.admin_address()) {
                problems.push(
                    Problem::at(&listener.listen, format!("`{}` is listened at already", listener.listen.value))
                        .fix("give each listener, and `admin`, an address of its own"),
                );
            }
            problems.keep(listener.check_proxied(self.config.trusted_proxies.is_some()));
            plans.extend(problems.keep(listener.compile(&self.files)));
        }
        problems.into_result(Some(plans))
    }
}

impl Config {
    /// Where agents connect: the short form, then the further ones.
    pub fn listeners(&self) -> impl Iterator<Item = ListenerConfig> {
        let Self { listen, tls, http2, proxy_protocol, .. } = self.clone();
        std::iter::once(ListenerConfig { listen, tls, http2, proxy_protocol }).chain(self.listeners.clone())
    }

    fn streams_max(&self) -> Result<usize, Problem> {
        match (self.listeners().all(|listener| listener.http2() == Http2::Off), &self.limits.streams_max) {
            (true, Some(max)) => {
                Err(Problem::at(max, "streams of HTTP/2, which is off").fix("leave one of the two out"))
            }
            (_, max) => bounded(max.as_ref(), "streams_max", 100, 1..=1000),
        }
    }
}
