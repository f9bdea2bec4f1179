//! Where upstreams are: names are looked up without holding up the event loop, and remembered for a moment.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use moka::sync::Cache;
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};

use crate::forward::Upstream;

/// How long looked-up addresses are used.
const REMEMBERED: Duration = Duration::from_secs(5);

/// Names that are remembered: more than configurations have, also over many reloads.
const NAMES_MAX: u64 = 1024;

/// Where upstreams are that are known by name.
#[derive(Clone, Debug)]
pub struct Resolver(Cache<(String, u16), Arc<Place>>);

/// Where one is.
#[derive(Debug, Default)]
struct Place {
    known: RwLock<Option<(Instant, Vec<SocketAddr>)>>,
    lookup: Mutex<()>,
    next: AtomicUsize,
}

impl Default for Resolver {
    fn default() -> Self {
        Self(Cache::new(NAMES_MAX))
    }
}

impl Resolver {
    /// One of the addresses of `upstream`, each in turn. While its name cannot be looked up, those that were known before
    /// serve.
    ///
    /// # Errors
    /// When its name has never been resolved.
    pub async fn address(&self, upstream: &Upstream) -> io::Result<SocketAddr> {
        if let Some(address) = upstream.address {
            return Ok(address);
        }
        self.0.get_with((upstream.host.clone(), upstream.port), Arc::default).address(upstream).await
    }
}

impl Place {
    async fn address(&self, upstream: &Upstream) -> io::Result<SocketAddr> {
        if let Some(address) = self.remembered() {
            return Ok(address);
        }
        // One looks up; the others wait for what it finds.
        let _turn = self.lookup.lock().await;
        match self.remembered() {
            Some(address) => Ok(address),
            None => self.look_up(upstream).await,
        }
    }

    async fn look_up(&self, upstream: &Upstream) -> io::Result<SocketAddr> {
        let lookup = tokio::net::lookup_host((upstream.host.as_str(), upstream.port));
        let found = match timeout(upstream.connect_timeout, lookup).await {
            Ok(found) => found.map(Iterator::collect::<Vec<_>>),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        };
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let addresses = match (found, known.take()) {
            (Ok(found), _) if !found.is_empty() => found,
            (_, Some((_, before))) => {
                tracing::warn!(
                    host = upstream.host,
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
