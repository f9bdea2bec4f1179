//! The upstream's address, looked up without holding up the event loop and remembered for a moment.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use crate::forward::Upstream;

/// How long looked-up addresses are used.
const REMEMBERED: Duration = Duration::from_secs(5);

/// An upstream and where it is.
#[derive(Debug)]
pub struct Target {
    upstream: Upstream,
    known: RwLock<Option<(Instant, Vec<SocketAddr>)>>,
    next: AtomicUsize,
}

impl Target {
    /// Nothing is looked up until asked for.
    pub const fn new(upstream: Upstream) -> Self {
        Self { upstream, known: RwLock::new(None), next: AtomicUsize::new(0) }
    }

    /// The upstream.
    pub const fn upstream(&self) -> &Upstream {
        &self.upstream
    }

    /// One of its addresses, each in turn.
    ///
    /// # Errors
    /// When its name cannot be resolved.
    pub async fn address(&self) -> io::Result<SocketAddr> {
        if let Ok(ip) = self.upstream.host.parse::<IpAddr>() {
            return Ok(SocketAddr::new(ip, self.upstream.port));
        }
        if let Some(address) = self.remembered() {
            return Ok(address);
        }
        let found =
            tokio::net::lookup_host((self.upstream.host.as_str(), self.upstream.port)).await?.collect::<Vec<_>>();
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), found));
        self.remembered().ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address"))
    }

    fn remembered(&self) -> Option<SocketAddr> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let (_, addresses) = known.as_ref().filter(|(at, _)| at.elapsed() < REMEMBERED)?;
        let turn = self.next.fetch_add(1, Ordering::Relaxed).checked_rem(addresses.len())?;
        addresses.get(turn).copied()
    }
}
