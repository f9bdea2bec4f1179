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

use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};

use crate::forward::Upstream;

/// How long looked-up addresses are used.
const REMEMBERED: Duration = Duration::from_secs(5);

/// An upstream and where it is.
#[derive(Debug)]
pub struct Target {
    upstream: Upstream,
    /// Where the upstream is given by address, not by name.
    fixed: Option<SocketAddr>,
    known: RwLock<Option<(Instant, Vec<SocketAddr>)>>,
    lookup: Mutex<()>,
    next: AtomicUsize,
}

impl Target {
    /// Nothing is looked up until asked for.
    pub fn new(upstream: Upstream) -> Self {
        let fixed = upstream.host.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, upstream.port));
        Self { upstream, fixed, known: RwLock::new(None), lookup: Mutex::const_new(()), next: AtomicUsize::new(0) }
    }

    /// The upstream.
    pub const fn upstream(&self) -> &Upstream {
        &self.upstream
    }

    /// One of its addresses, each in turn. While its name cannot be looked up, those that were known before serve.
    ///
    /// # Errors
    /// When its name has never been resolved.
    pub async fn address(&self) -> io::Result<SocketAddr> {
        if let Some(address) = self.fixed.or_else(|| self.remembered()) {
            return Ok(address);
        }
        // One looks up; the others wait for what it finds.
        let _turn = self.lookup.lock().await;
        match self.remembered() {
            Some(address) => Ok(address),
            None => self.look_up().await,
        }
    }

    async fn look_up(&self) -> io::Result<SocketAddr> {
        let lookup = tokio::net::lookup_host((self.upstream.host.as_str(), self.upstream.port));
        let found = match timeout(self.upstream.connect_timeout, lookup).await {
            Ok(found) => found.map(Iterator::collect::<Vec<_>>),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        };
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let addresses = match (found, known.take()) {
            (Ok(found), _) if !found.is_empty() => found,
            (_, Some((_, before))) => {
                tracing::warn!(
                    host = self.upstream.host,
                    "the upstream's name cannot be looked up; its last addresses serve"
                );
                before
            }
            (Ok(_), None) => return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address")),
            (Err(error), None) => return Err(error),
        };
        *known = Some((Instant::now(), addresses));
        drop(known);
        self.remembered().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn remembered(&self) -> Option<SocketAddr> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let (_, addresses) = known.as_ref().filter(|(at, _)| at.elapsed() < REMEMBERED)?;
        let turn = self.next.fetch_add(1, Ordering::Relaxed).checked_rem(addresses.len())?;
        addresses.get(turn).copied()
    }
}
