//! Keeps upstreams up to date: looks up the names of their servers, and asks the servers how they are.

use std::{
    collections::{HashMap, HashSet},
    io,
    net::SocketAddr,
    sync::{Arc, Weak},
    time::Duration,
};

use futures_util::future::join_all;
use pingora_core::upstreams::peer::HttpPeer;
use tokio::time::{Instant, sleep_until, timeout};

use super::{dial, probe::Question, trust::Trusts};
use crate::{
    base::address::Address,
    forward::{Pool, Pools, address::Location},
};

/// How long looked-up addresses are used.
const LOOKUP_EVERY: Duration = Duration::from_secs(5);

/// How soon a name is looked up again that has no address.
const LOOKUP_AGAIN: Duration = Duration::from_secs(1);

/// How long a look-up may take.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

/// Looks after the upstreams of a gate.
#[derive(Clone, Debug, Default)]
pub struct Upkeep {
    trusts: Trusts,
}

impl Upkeep {
    /// The server of `pool` at `address`. Where the request may open a `tunnel`, the server may be silent in it for so long.
    ///
    /// # Errors
    /// What is wrong with what TLS to it takes.
    pub fn peer(
        &self,
        pool: &Arc<Pool>,
        address: &Address,
        tunnel: Option<Duration>,
    ) -> pingora_core::Result<Box<HttpPeer>> {
        dial::peer(pool, address, &self.trusts, tunnel)
    }

    /// Looks after those of `pools` that nobody does yet, for as long as they are there. When this returns their names were
    /// looked up, and their servers asked, once.
    pub async fn keep(&self, pools: &Pools) {
        let new: Vec<_> = pools.all().filter(|pool| pool.take_over()).collect();
        let begun = join_all(new.into_iter().map(|pool| async {
            let mut keeper = Keeper::new(pool, self.trusts.clone());
            keeper.round(pool).await;
            keeper
        }));
        for keeper in begun.await {
            tokio::spawn(keeper.work());
        }
    }
}

/// Looks after one upstream.
struct Keeper {
    pool: Weak<Pool>,
    trusts: Trusts,
    /// What was found of each name last.
    found: HashMap<(String, u16), Vec<SocketAddr>>,
    /// The servers that were asked how they are.
    asked: HashSet<Address>,
    look_up_at: Option<Instant>,
    ask_at: Option<Instant>,
}

impl Keeper {
    fn new(pool: &Arc<Pool>, trusts: Trusts) -> Self {
        let upstream = pool.upstream();
        let now = Instant::now();
        let has_names = upstream.servers.iter().any(|(location, _)| matches!(location, Location::Name(..)));
        Self {
            pool: Arc::downgrade(pool),
            trusts,
            found: HashMap::new(),
            asked: HashSet::new(),
            look_up_at: has_names.then_some(now),
            ask_at: upstream.health.is_some().then_some(now),
        }
    }

    async fn work(mut self) {
        while let Some(next) = [self.look_up_at, self.ask_at].into_iter().flatten().min() {
            sleep_until(next).await;
            let Some(pool) = self.pool.upgrade() else { break };
            self.round(&pool).await;
        }
    }

    /// Does what is due.
    async fn round(&mut self, pool: &Pool) {
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= Instant::now());
        if is_due(self.look_up_at) {
            let all_known = self.look_up(pool).await;
            self.look_up_at = Instant::now().checked_add(if all_known { LOOKUP_EVERY } else { LOOKUP_AGAIN });
        }
        if is_due(self.ask_at) {
            self.ask(pool, |_, _| true).await;
            self.ask_at =
                pool.upstream().health.as_ref().and_then(|health| Instant::now().checked_add(health.interval));
        } else {
            self.ask(pool, |asked, address| !asked.contains(address)).await;
        }
    }

    /// Looks up every name. While one cannot be, the addresses that it had serve. Returns whether each has any.
    async fn look_up(&mut self, pool: &Pool) -> bool {
        let mut servers = Vec::new();
        for (location, weight) in &pool.upstream().servers {
            let (host, port) = match location {
                Location::Address(address) => {
                    servers.push((address.clone(), *weight));
                    continue;
                }
                Location::Name(host, port) => (host, *port),
            };
            let known = self.found.entry((host.clone(), port)).or_default();
            match look_up(host, port).await {
                Ok(found) => *known = found,
                Err(error) => {
                    tracing::warn!(upstream = pool.name(), host, %error, "no look-up; the last addresses serve");
                }
            }
            servers.extend(known.iter().map(|found| (Address::Tcp(*found), *weight)));
        }
        pool.learn(servers);
        self.found.values().all(|known| !known.is_empty())
    }

    /// Asks those servers how they are that are `wanted`, all at once.
    async fn ask(&mut self, pool: &Pool, wanted: impl Fn(&HashSet<Address>, &Address) -> bool) {
        let upstream = pool.upstream();
        let Some(health) = &upstream.health else { return };
        let trust = match self.trusts.of(pool) {
            Ok(trust) => trust,
            Err(error) => {
                return tracing::error!(upstream = pool.name(), error, "servers cannot be asked how they are");
            }
        };
        let question = Question { upstream, health, trust };
        let servers = pool.servers();
        let wanted: Vec<_> = servers.iter().filter(|server| wanted(&self.asked, server.address())).collect();
        let answers = join_all(wanted.iter().map(|server| question.put(server.address()))).await;
        for (server, answer) in wanted.iter().zip(answers) {
            let first = self.asked.insert(server.address().clone());
            let changed = server.note_health(answer.is_ok(), first, health);
            match (changed, answer) {
                (true, Ok(())) => {
                    tracing::info!(upstream = pool.name(), server = %server.name(), "the server is well");
                }
                (true, Err(why)) => {
                    tracing::warn!(upstream = pool.name(), server = %server.name(), why, "the server is not well");
                }
                (false, _) => {}
            }
        }
        self.asked.retain(|address| servers.iter().any(|server| server.address() == address));
    }
}

async fn look_up(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let found: Vec<_> = timeout(LOOKUP_TIMEOUT, tokio::net::lookup_host((host, port))).await??.collect();
    if found.is_empty() { Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address")) } else { Ok(found) }
}
