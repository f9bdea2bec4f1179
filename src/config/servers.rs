//! Where the gate listens, and how.

use std::net::SocketAddr;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Config, Loaded, tls::TlsFiles};
use crate::base::{
    problem::{Problem, Problems, bounded},
    secret::Secret,
};

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

/// Where to listen, and how.
#[derive(Clone, Debug)]
pub struct Servers {
    /// Where agents connect.
    pub listen: SocketAddr,
    /// How agents connect by TLS.
    pub tls: Option<TlsFiles>,
    /// Whether agents may speak HTTP/2.
    pub http2: bool,
    /// Where operators connect.
    pub admin: SocketAddr,
    /// What operators must show to see the configuration and the deny-list, and to change that.
    pub admin_token: Option<Secret>,
    /// Open connections.
    pub connections_max: usize,
    /// Requests at once on a connection in HTTP/2.
    pub streams_max: usize,
}

impl Loaded {
    pub(super) fn servers(&self) -> Result<Servers, Problems> {
        let mut problems = Problems::default();
        let limits = &self.config.limits;
        let connections_max =
            problems.keep(bounded(limits.connections_max.as_ref(), "connections_max", 10_000, 1..=1_000_000));
        let streams_max = problems.keep(self.config.streams_max());
        let admin_token =
            problems.keep(self.config.admin_token.as_ref().map(|token| token.read(&self.files)).transpose());
        let tls = problems.keep(self.config.tls.as_ref().map(|tls| tls.read(&self.files)).transpose());
        let servers = (|| {
            Some(Servers {
                listen: self.config.listen.value,
                tls: tls?,
                http2: self.config.http2() == Http2::Accepted,
                admin: self.config.admin_address(),
                admin_token: admin_token?,
                connections_max: connections_max?,
                streams_max: streams_max?,
            })
        })();
        problems.into_result(servers)
    }
}

impl Config {
    fn http2(&self) -> Http2 {
        self.http2.as_ref().map_or(Http2::Accepted, |it| it.value)
    }

    fn streams_max(&self) -> Result<usize, Problem> {
        match (self.http2(), &self.limits.streams_max) {
            (Http2::Off, Some(max)) => {
                Err(Problem::at(max, "streams of HTTP/2, which is off").fix("leave one of the two out"))
            }
            (_, max) => bounded(max.as_ref(), "streams_max", 100, 1..=1000),
        }
    }
}
