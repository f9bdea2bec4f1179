//! An upstream at work: which servers it has at the moment, how they do, and which of them gets a request. Knows no network:
//! who dials tells it what came of that.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;

use super::{
    address::Location,
    balance::{Balance, pull, seed, turns},
    server::{Claim, Server, State},
    upstream::{SERVERS_MAX, Upstream, Upstreams},
};
use crate::base::address::Address;

/// An upstream at work.
#[derive(Debug)]
pub struct Pool {
    name: String,
    upstream: Arc<Upstream>,
    group: u64,
    servers: ArcSwap<Servers>,
    next: AtomicUsize,
    again: AtomicUsize,
    under_way: AtomicUsize,
    born: Instant,
    kept: AtomicBool,
    ejections: AtomicU64,
    retries: AtomicU64,
}

/// The servers that are known.
#[derive(Debug, Default)]
struct Servers {
    all: Vec<Arc<Server>>,
    /// Indices of `all`, turn by turn.
    order: Vec<usize>,
}

/// Why no server gets a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoServer {
    /// None is known: its name was never found.
    Unknown,
    /// Each is unwell or left alone.
    Down,
    /// As many requests are under way as may be.
    Busy,
}

/// A request's turn at a server. It counts as under way there until this is dropped.
#[derive(Debug)]
pub struct Turn {
    pool: Arc<Pool>,
    server: Arc<Server>,
    claim: Claim,
    /// Whether it is known what came of it.
    is_told: AtomicBool,
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let (Claim::Trial { alone_until }, false) = (self.claim, self.is_told.load(Ordering::Relaxed)) {
            self.server.untried(alone_until);
        }
        self.server.leave();
        self.pool.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Pool {
    /// `upstream` at work, under the name that operators know it by. Servers at names are unknown until they are looked up.
    pub fn new(name: &str, upstream: &Arc<Upstream>) -> Self {
        let pool = Self {
            name: name.to_owned(),
            upstream: upstream.clone(),
            group: seed((name, upstream)),
            servers: ArcSwap::default(),
            next: AtomicUsize::new(0),
            again: AtomicUsize::new(0),
            under_way: AtomicUsize::new(0),
            born: Instant::now(),
            kept: AtomicBool::new(false),
            ejections: AtomicU64::new(0),
            retries: AtomicU64::new(0),
        };
        let placed = upstream.servers.iter().filter_map(|(address, weight)| match address {
            Location::Address(address) => Some((address.clone(), *weight)),
            Location::Name(..) => None,
        });
        pool.learn(placed.collect());
        pool
    }

    /// What operators know it by.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// As configured.
    pub const fn upstream(&self) -> &Arc<Upstream> {
        &self.upstream
    }

    /// Whose connections are whose: pools of different upstreams share none, whatever the address.
    pub const fn group(&self) -> u64 {
        self.group
    }

    /// Whether this is the first to ask: somebody is to look up its names, and ask its servers how they are.
    pub fn take_over(&self) -> bool {
        !self.kept.swap(true, Ordering::AcqRel)
    }

    /// Its servers are these now, with their weights. Of those that it had before is known what was.
    pub fn learn(&self, found: Vec<(Address, u32)>) {
        let before = self.servers.load();
        let mut all: Vec<Arc<Server>> = Vec::new();
        for (address, weight) in found.into_iter().take(SERVERS_MAX) {
            if all.iter().any(|other| *other.address() == address) {
                continue;
            }
            let known = before.all.iter().find(|server| *server.address() == address && server.weight() == weight);
            all.push(known.cloned().unwrap_or_else(|| Arc::new(Server::new(address, weight))));
        }
        let same =
            all.len() == before.all.len() && all.iter().zip(&before.all).all(|(one, other)| Arc::ptr_eq(one, other));
        if !same {
            let weights: Vec<_> = all.iter().map(|server| server.weight()).collect();
            self.servers.store(Arc::new(Servers { order: turns(&weights), all }));
        }
    }

    /// Its servers.
    pub fn servers(&self) -> Vec<Arc<Server>> {
        self.servers.load().all.clone()
    }

    /// Its servers, and how each does.
    pub fn states(&self, now: Instant) -> Vec<(Arc<Server>, State)> {
        let now = self.since_birth(now);
        self.servers().into_iter().map(|server| (server.clone(), server.state(now))).collect()
    }

    /// Requests under way to it.
    pub fn under_way(&self) -> usize {
        self.under_way.load(Ordering::Relaxed)
    }

    /// How often a server was left alone.
    pub fn ejections(&self) -> u64 {
        self.ejections.load(Ordering::Relaxed)
    }

    /// How often a request was tried again.
    pub fn retries(&self) -> u64 {
        self.retries.load(Ordering::Relaxed)
    }

    /// Whether another server than those that were `tried` could get a request.
    pub fn has_other(&self, tried: &[Address], now: Instant) -> bool {
        let now = self.since_birth(now);
        self.servers
            .load()
            .all
            .iter()
            .any(|server| server.state(now) == State::Available && !tried.contains(server.address()))
    }

    /// A turn for a request of `key` at a server, at one that was not `tried` if there is any.
    ///
    /// # Errors
    /// [`NoServer`] where none gets it.
    pub fn choose(self: &Arc<Self>, key: u64, tried: &[Address], now: Instant) -> Result<Turn, NoServer> {
        let busy = self.under_way.fetch_add(1, Ordering::Relaxed);
        let chosen = if self.upstream.requests_max.is_some_and(|max| busy >= max) {
            Err(NoServer::Busy)
        } else {
            self.server(key, tried, self.since_birth(now))
        };
        match chosen {
            Ok((server, claim)) => {
                if !tried.is_empty() {
                    self.retries.fetch_add(1, Ordering::Relaxed);
                }
                server.enter();
                Ok(Turn { pool: self.clone(), server, claim, is_told: AtomicBool::new(false) })
            }
            Err(none) => {
                self.under_way.fetch_sub(1, Ordering::Relaxed);
                Err(none)
            }
        }
    }

    fn server(&self, key: u64, tried: &[Address], now: u64) -> Result<(Arc<Server>, Claim), NoServer> {
        let servers = self.servers.load();
        if servers.all.is_empty() {
            return Err(NoServer::Unknown);
        }
        // Whoever comes first after an ejection is alone with that server until it is known how it answers; each other looks on.
        let alone_until = now.saturating_add(millis(self.upstream.ejection.duration));
        for _ in 0..=servers.all.len() {
            let untried = |server: &Server| server.state(now) == State::Available && !tried.contains(server.address());
            let first = tried.is_empty();
            let chosen = self.pick(&servers, key, first, untried);
            let available = |server: &Server| server.state(now) == State::Available;
            let chosen = if first { chosen } else { chosen.or_else(|| self.pick(&servers, key, first, available)) };
            let Some(server) = chosen else { break };
            if let Some(claim) = server.claim(alone_until) {
                return Ok((server.clone(), claim));
            }
        }
        Err(NoServer::Down)
    }

    fn pick<'a>(
        &self,
        servers: &'a Servers,
        key: u64,
        first: bool,
        fits: impl Fn(&Server) -> bool,
    ) -> Option<&'a Arc<Server>> {
        match self.upstream.balance {
            // Whoever does not fit loses its turns to all others alike, and not to the one that comes after it. While several
            // requests take turns at once one may not see every server. What is tried again takes no turn of the others.
            Balance::RoundRobin if first => {
                let mut turns = servers.order.iter().map(|_| turn(&self.next, servers.order.len()));
                let fitting = turns.find_map(|turn| {
                    let server = servers.all.get(*servers.order.get(turn)?)?;
                    fits(server).then_some(server)
                });
                fitting.or_else(|| servers.all.iter().find(|server| fits(server)))
            }
            Balance::RoundRobin => {
                rotated(&servers.all, turn(&self.again, servers.all.len())).find(|server| fits(server))
            }
            Balance::LeastRequests => {
                let load = |server: &Server, by: &Server| {
                    let then = server.under_way().saturating_add(1);
                    u64::try_from(then).unwrap_or(u64::MAX).saturating_mul(by.weight().into())
                };
                // Of equals each is the first now and then.
                let start = turn(&self.next, servers.all.len());
                let fitting = rotated(&servers.all, start).filter(|server| fits(server));
                fitting.min_by(|one, other| load(one, other).cmp(&load(other, one)))
            }
            Balance::UserHash => {
                let drawn = |server: &Server| pull(key, server.seed(), server.weight());
                servers
                    .all
                    .iter()
                    .filter(|server| fits(server))
                    .max_by(|one, other| drawn(one).total_cmp(&drawn(other)))
            }
        }
    }

    fn since_birth(&self, now: Instant) -> u64 {
        // From 1 on: 0 stands for never.
        millis(now.saturating_duration_since(self.born)).saturating_add(1)
    }

    /// Leaves `server` alone, unless too many are already, those among them that are on trial.
    fn eject(&self, server: &Server, now: u64) {
        let servers = self.servers.load();
        let others = servers.all.iter().filter(|other| other.address() != server.address());
        let ejected = others.filter(|other| other.is_on_trial()).count();
        let percent_max = self.upstream.ejection.percent_max;
        if ejected.saturating_add(1).saturating_mul(100) > servers.all.len().saturating_mul(percent_max) {
            server.readmit();
            return;
        }
        let until = now.saturating_add(millis(self.upstream.ejection.duration));
        if server.eject(until) <= now {
            self.ejections.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(upstream = self.name, server = %server.name(), "the server is left alone for how it answers");
        }
    }
}

impl Turn {
    /// Whose turn it is.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// The server has answered.
    pub fn succeeded(&self) {
        self.is_told.store(true, Ordering::Relaxed);
        self.server.succeeded();
    }

    /// The server has not answered, or not as one that works.
    pub fn failed(&self, now: Instant) {
        self.is_told.store(true, Ordering::Relaxed);
        let max = self.pool.upstream.ejection.failures;
        if self.server.failed() >= max && max != 0 {
            self.pool.eject(&self.server, self.pool.since_birth(now));
        }
    }
}

/// Every upstream at work.
#[derive(Debug)]
pub struct Pools {
    usual: Arc<Pool>,
    named: BTreeMap<String, Arc<Pool>>,
}

/// What the upstream of routes that name none is called.
pub const USUAL: &str = "upstream";

impl Pools {
    /// `upstreams` at work. Those that were `before` just as they are now go on.
    pub fn start(upstreams: &Upstreams, before: Option<&Self>) -> Self {
        let start = |name: &str, upstream: &Arc<Upstream>, before: Option<&Arc<Pool>>| {
            let same = before.filter(|pool| pool.upstream == *upstream);
            same.cloned().unwrap_or_else(|| Arc::new(Pool::new(name, upstream)))
        };
        let named = upstreams.named.iter().map(|(name, upstream)| {
            let before = before.and_then(|before| before.named.get(name));
            (name.clone(), start(name, upstream, before))
        });
        Self { usual: start(USUAL, &upstreams.usual, before.map(|before| &before.usual)), named: named.collect() }
    }

    /// The one of this name, or else the usual one.
    pub fn of(&self, name: Option<&str>) -> Option<&Arc<Pool>> {
        name.map_or(Some(&self.usual), |name| self.named.get(name))
    }

    /// Each of them.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Pool>> {
        std::iter::once(&self.usual).chain(self.named.values())
    }
}

/// Whose turn it is of `several`.
fn turn(counter: &AtomicUsize, several: usize) -> usize {
    match several {
        0 | 1 => 0,
        several => counter.fetch_add(1, Ordering::Relaxed).checked_rem(several).unwrap_or(0),
    }
}

/// All of them, from this one on.
fn rotated(all: &[Arc<Server>], start: usize) -> impl Iterator<Item = &Arc<Server>> {
    let (before, after) = all.split_at_checked(start).unwrap_or((&[], all));
    after.iter().chain(before)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{base::files::Files, forward::UpstreamConfig};

    fn pool(config: &str) -> Arc<Pool> {
        let config: UpstreamConfig = serde_saphyr::from_str(config).unwrap();
        Arc::new(Pool::new("orders", &Arc::new(config.compile(&Files::memory([("", "")])).unwrap())))
    }

    const THREE: &str =
        "url: http://orders\naddresses: [{address: '10.0.0.1:1'}, {address: '10.0.0.2:1'}, {address: '10.0.0.3:1'}]\n";

    /// The last numbers of the addresses that requests go to, one after the other, each ending as `fails` says.
    fn asked(pool: &Arc<Pool>, now: Instant, count: usize, fails: impl Fn(&str) -> bool) -> String {
        let ask = |_| {
            let turn = pool.choose(7, &[], now).map_err(|none| format!("{none:?} "));
            let turn = turn.map(|turn| {
                let name = turn.server().name().to_string();
                if fails(&name) {
                    turn.failed(now);
                } else {
                    turn.succeeded();
                }
                name.split(['.', ':']).nth(3).unwrap().to_owned()
            });
            turn.unwrap_or_else(|none| none)
        };
        (0..count).map(ask).collect()
    }

    #[test]
    fn servers_have_their_turns_by_weight() {
        let now = Instant::now();
        assert_eq!(asked(&pool(THREE), now, 6, |_| false), "123123");
        let weighted = THREE.replace("'10.0.0.2:1'}", "'10.0.0.2:1', weight: 2}");
        assert_eq!(asked(&pool(&weighted), now, 8, |_| false), "21322132");
    }

    #[test]
    fn the_server_with_the_fewest_requests_under_way_gets_the_next() {
        let pool = pool(&THREE.replace("addresses", "balance: least_requests\naddresses"));
        let now = Instant::now();
        let turns: Vec<_> = (0..3).map(|_| pool.choose(0, &[], now).unwrap()).collect();
        let busiest: Vec<_> = turns.iter().map(|turn| turn.server().address().clone()).collect();
        assert!(busiest.iter().enumerate().all(|(index, address)| !busiest[..index].contains(address)));
        let [first, ..] = &busiest[..] else { panic!("three turns") };
        drop(turns.into_iter().next());
        assert_eq!(pool.choose(0, &[], now).unwrap().server().address(), first);
    }

    #[test]
    fn a_user_keeps_its_server_while_that_is_available() {
        let pool = pool(&THREE.replace("addresses", "balance: user_hash\naddresses"));
        let now = Instant::now();
        let server = |key| pool.choose(key, &[], now).unwrap().server().address().clone();
        let before: Vec<_> = (0..200).map(|key| (key, server(key))).collect();
        assert!(before.iter().all(|(key, address)| server(*key) == *address));
        let gone = before[0].1.clone();
        let turn = pool.choose(before[0].0, &[], now).unwrap();
        (0..5).for_each(|_| turn.failed(now));
        for (key, address) in before {
            assert_eq!(server(key) == address, address != gone, "{key}");
        }
    }

    #[test]
    fn a_server_that_fails_again_and_again_is_left_alone_then_tried_once() {
        let pool = pool(THREE);
        let now = Instant::now();
        let one = |name: &str| name.contains(".1:");
        assert_eq!(asked(&pool, now, 15, one), "123123123123123");
        assert_eq!(asked(&pool, now, 4, one), "2323");
        assert_eq!((pool.ejections(), pool.states(now)[0].1), (1, State::Ejected));
        let later = now + Duration::from_secs(31);
        // One request goes there, and only one, until it is known what comes of it.
        let turns: Vec<_> = (0..6).map(|_| pool.choose(0, &[], later).unwrap()).collect();
        assert_eq!(turns.iter().filter(|turn| one(turn.server().name())).count(), 1);
        turns.iter().filter(|turn| one(turn.server().name())).for_each(|turn| turn.failed(later));
        drop(turns);
        assert!(!asked(&pool, later, 6, one).contains('1'));
        let still_later = later + Duration::from_secs(31);
        assert_eq!(asked(&pool, still_later, 9, |_| false).matches('1').count(), 3);
    }

    #[test]
    fn no_more_servers_are_left_alone_than_may_be() {
        let now = Instant::now();
        let half = pool(THREE);
        asked(&half, now, 60, |_| true);
        assert_eq!(half.states(now).iter().filter(|(_, state)| *state == State::Ejected).count(), 1);
        let all = pool(&format!("{THREE}ejection: {{ failures: 2, percent_max: 100 }}\n"));
        assert_eq!(asked(&all, now, 7, |_| true), "123123Down ");
        assert_eq!(asked(&all, now + Duration::from_secs(31), 4, |_| true).matches("Down").count(), 1);
        let never = pool(&format!("{THREE}ejection: {{ failures: 0, percent_max: 100 }}\n"));
        assert!(!asked(&never, now, 60, |_| true).contains("Down"));
        // The only server there is stays, unless its upstream says otherwise.
        let only = pool("url: 'http://10.0.0.1:1'");
        assert_eq!(asked(&only, now, 9, |_| true), "111111111");
    }

    #[test]
    fn a_server_on_trial_is_one_of_those_that_are_left_alone() {
        let pool = pool("url: http://orders\naddresses: [{address: '10.0.0.1:1'}, {address: '10.0.0.2:1'}]\n");
        let now = Instant::now();
        let turns = || [pool.choose(0, &[], now).unwrap(), pool.choose(0, &[], now).unwrap()];
        let [one, other] = turns();
        (0..5).for_each(|_| one.failed(now));
        let ejected = |at| pool.states(at).iter().filter(|(_, state)| *state == State::Ejected).count();
        assert_eq!(ejected(now), 1);
        // Both are out of order, and the time of the first is up: whichever fails first, the other one is asked.
        let later = now + Duration::from_secs(31);
        (0..9).for_each(|_| other.failed(later));
        assert_eq!(ejected(later), 0, "the first is on trial");
        assert!(!asked(&pool, later, 20, |_| true).contains("Down"));
        assert_eq!(ejected(later), 1);
    }

    #[test]
    fn a_trial_of_which_nothing_comes_is_followed_by_another() {
        let pool = pool(&format!("{THREE}ejection: {{ failures: 1 }}\n"));
        let now = Instant::now();
        pool.choose(0, &[], now).unwrap().failed(now);
        let later = now + Duration::from_secs(31);
        let trial = || {
            let mut turns = (0..3).map(|_| pool.choose(0, &[], later).unwrap());
            turns.find(|turn| turn.server().name().contains(".1:")).unwrap()
        };
        let first = trial();
        assert!(!asked(&pool, later, 6, |_| false).contains('1'));
        drop(first);
        // What came of one is not forgotten when it ends.
        trial().failed(later);
        assert!(!asked(&pool, later, 6, |_| false).contains('1'));
    }

    #[test]
    fn what_is_said_of_health_counts_in_a_row_but_for_the_first_time() {
        let pool = pool(&format!("{THREE}health: {{ path: /healthz }}\n"));
        let now = Instant::now();
        let health = pool.upstream().health.clone().unwrap();
        let server = &pool.servers()[0];
        let state = || pool.states(now)[0].1;
        assert!(server.note_health(false, true, &health));
        assert_eq!((state(), asked(&pool, now, 4, |_| false).as_str()), (State::Unhealthy, "2323"));
        assert!(!server.note_health(true, false, &health));
        assert!(!server.note_health(false, false, &health));
        assert!(!server.note_health(true, false, &health));
        assert_eq!(state(), State::Unhealthy);
        assert!(server.note_health(true, false, &health));
        assert_eq!(state(), State::Available);
        assert!(!server.note_health(false, false, &health) && !server.note_health(false, false, &health));
        assert!(!server.note_health(true, false, &health));
        assert!(!server.note_health(false, false, &health) && !server.note_health(false, false, &health));
        assert!(server.note_health(false, false, &health));
        for server in pool.servers() {
            server.note_health(false, true, &health);
        }
        assert_eq!(asked(&pool, now, 1, |_| false), "Down ");
    }

    #[test]
    fn requests_under_way_are_bounded_and_counted_until_they_end() {
        let pool = pool(&format!("{THREE}requests_max: 2\n"));
        let now = Instant::now();
        let turns = [pool.choose(0, &[], now).unwrap(), pool.choose(0, &[], now).unwrap()];
        assert_eq!(pool.choose(0, &[], now).unwrap_err(), NoServer::Busy);
        assert_eq!(pool.under_way(), 2);
        drop(turns);
        assert!(pool.choose(0, &[], now).is_ok());
        assert_eq!(pool.under_way(), 0);
        assert!(pool.servers().iter().all(|server| server.under_way() == 0));
    }

    #[test]
    fn a_request_goes_to_another_server_than_the_one_that_failed_it_if_there_is_one() {
        let pool = pool(THREE);
        let now = Instant::now();
        let addresses: Vec<_> = pool.servers().iter().map(|server| server.address().clone()).collect();
        for _ in 0..6 {
            assert_eq!(pool.choose(0, &addresses[..2], now).unwrap().server().address(), &addresses[2]);
        }
        assert!(pool.has_other(&addresses[..2], now) && !pool.has_other(&addresses, now));
        assert!(pool.choose(0, &addresses, now).is_ok());
        assert_eq!(pool.retries(), 7);
    }

    #[test]
    fn servers_that_stay_keep_what_is_known_of_them() {
        let named = pool("url: http://orders.internal:80\nejection: { percent_max: 100 }");
        let now = Instant::now();
        assert_eq!(named.choose(0, &[], now).unwrap_err(), NoServer::Unknown);
        let address = |last| Address::Tcp(([10, 0, 0, last], 80).into());
        named.learn(vec![(address(1), 1), (address(2), 1), (address(1), 1)]);
        assert_eq!(named.servers().len(), 2);
        asked(&named, now, 10, |name| name.contains(".1:"));
        named.learn(vec![(address(3), 1), (address(1), 1)]);
        let states: Vec<_> =
            named.states(now).iter().map(|(server, state)| (server.name().to_string(), *state)).collect();
        assert_eq!(states, [("10.0.0.3:80".into(), State::Available), ("10.0.0.1:80".into(), State::Ejected)]);
        assert_eq!(asked(&named, now, 3, |_| false), "333");
    }

    #[test]
    fn an_upstream_goes_on_when_another_one_changes() {
        let upstreams = |usual: &str, other: &str| {
            let config = |text: &str| serde_saphyr::from_str::<UpstreamConfig>(text).unwrap();
            let named = BTreeMap::from([("orders".to_owned(), config(other))]);
            Upstreams::compile(&config(usual), &named, &Files::memory([("", "")])).unwrap()
        };
        let before = Pools::start(&upstreams("url: http://a", "url: http://b"), None);
        let after = Pools::start(&upstreams("url: http://a", "url: http://b\nretries_max: 0"), Some(&before));
        let is_same = |name| Arc::ptr_eq(before.of(name).unwrap(), after.of(name).unwrap());
        assert!(is_same(None) && !is_same(Some("orders")));
        assert_ne!(before.of(Some("orders")).unwrap().group(), after.of(Some("orders")).unwrap().group());
        assert!(after.of(Some("other")).is_none());
        assert!(after.of(None).unwrap().take_over() && !before.of(None).unwrap().take_over());
    }
}
