//! The composition root: from a configuration to a gate at work, and back to quiet.

use std::{
    io,
    os::unix::net::UnixStream,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::{task::spawn_blocking, time::sleep};

use crate::{
    audit::Sink,
    base::{
        address::Address,
        clock::Clock,
        outside::Outside,
        problem::{Problem, Problems},
        secret::Secret,
        sights::Sights,
    },
    config::{Compiled, Loaded, Servers, servers::Drain},
    doors::{proxy::ProxyDoor, trust, upkeep::Upkeep},
    logs,
    metrics::Metrics,
    pipeline::Gate,
    reload::{Install, Reloader, Reloads},
    server::counters::Redis,
    server::{
        admin,
        fetch::HttpFetch,
        handover::{HandoverError, Sockets, TakenOver},
        http1::Serving,
        listener::{Listener, Place, Way},
        otlp::Exporter,
        socket::Listening,
        sql::Sql,
        tls::Tls,
    },
    snapshot::{Current, Revisions, Snapshot},
};

/// How long requests to the admin listener may take once another gate has it.
const ADMIN_PATIENCE: Duration = Duration::from_secs(5);

/// How often it is looked whether the last request on an old snapshot has ended.
const RETIRE_EVERY: Duration = Duration::from_secs(1);

/// A gate at work.
#[derive(Debug)]
pub struct App {
    listener: Listener,
    addresses: Vec<Address>,
    admin: Serving,
    admin_address: Address,
    draining: Arc<AtomicBool>,
    sockets: Arc<Sockets>,
    bequest: Option<UnixStream>,
    works: Arc<Works>,
    reloads: Arc<Reloads>,
    reloader: Option<Reloader>,
    gate: Gate,
}

/// What a configuration is put to work in.
#[derive(Debug)]
struct Works {
    current: Arc<Current>,
    outside: Outside,
    upkeep: Upkeep,
    /// One for each listener.
    tls: Vec<Arc<Tls>>,
    admin_token: Arc<ArcSwapOption<Secret>>,
    drain: ArcSwap<Drain>,
    exporter: Arc<Exporter>,
    /// What stays as it is while the gate runs.
    servers: Servers,
}

/// Why a gate does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration has problems.
    #[error("{0}")]
    Config(#[from] Problems),
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {error}")]
    Listen {
        /// The address.
        address: Address,
        /// What the system says.
        error: io::Error,
    },
    /// Sockets cannot be taken over.
    #[error("{0}")]
    Handover(#[from] HandoverError),
    /// Another gate serves as long as this one cannot.
    #[error("no keys of {0}: the gate before goes on")]
    WithoutKeys(String),
    /// TLS cannot be set up.
    #[error("no TLS: {0}")]
    Tls(String),
}

impl App {
    /// Compiles `loaded` and opens its doors. Keys are being fetched when this returns.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left running.
    pub async fn start(
        loaded: &Loaded,
        clock: Arc<dyn Clock>,
        sink: Arc<dyn Sink>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, StartError> {
        Self::start_on(Sockets::default(), loaded, clock, sink, metrics).await
    }

    /// The same on `sockets`, as far as there are any. Where another gate serves on them, this one is ready first.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left running.
    pub async fn start_on(
        mut sockets: Sockets,
        loaded: &Loaded,
        clock: Arc<dyn Clock>,
        sink: Arc<dyn Sink>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, StartError> {
        let compiled = loaded.compile()?;
        compiled.tell();
        trust::check(&compiled.blueprint.upstreams).map_err(|problems| problems.within(&compiled.source))?;
        let servers = &compiled.servers;
        let fetch = outbound()?;
        let (mut places, mut addresses) = (Vec::new(), Vec::new());
        for plan in &servers.listeners {
            let tls = Arc::new(
                Tls::new(plan.tls.as_ref(), plan.http2).map_err(|problems| problems.within(&compiled.source))?,
            );
            let (listening, address) = listen(&mut sockets, &plan.listen).await?;
            places.push(Place { listening, way: Way { tls, http2: plan.http2, proxied: plan.proxy_protocol } });
            addresses.push(address);
        }
        let tls = places.iter().map(|place| place.way.tls.clone()).collect();
        let (operators, admin_address) = listen(&mut sockets, &servers.admin).await?;
        sockets.complete()?;
        let outside = Outside {
            clock: clock.clone(),
            fetch: Arc::new(fetch),
            databases: Arc::new(Sql),
            counters: Arc::new(Redis),
            files: loaded.files(),
        };
        let current = Arc::new(Current::new(compiled.blueprint.start(&outside, None)));
        let upkeep = Upkeep::default();
        let (exported, dropped) = metrics.spans();
        let exporter = Arc::new(Exporter::start(exported, dropped));
        let traces = exporter.turn_to(servers.traces.as_ref());
        traces.map_err(|problem| Problems::from(problem).within(&compiled.source))?;
        let gate = Gate::new(current.clone(), clock.clone(), sink, metrics.clone()).traced(exporter.clone());
        if sockets.has_predecessor() {
            current.load().issuers().first_attempts().await;
            let without = current.load().issuers().without_keys().join(", ");
            if !without.is_empty() {
                return Err(StartError::WithoutKeys(without));
            }
        }
        // INVARIANT: no connection is taken from a socket that another gate serves before that has heard that this one is ready.
        let bequest = sockets.take_over().await?;
        let draining = Arc::new(AtomicBool::new(false));
        let reloads = Arc::new(Reloads::default());
        let admin_token = Arc::new(ArcSwapOption::from_pointee(servers.admin_token.clone()));
        let state = admin::State {
            current: current.clone(),
            reloads: reloads.clone(),
            metrics: metrics.clone(),
            draining: draining.clone(),
            token: admin_token.clone(),
        };
        let admin = admin::start(operators, state);
        let door = ProxyDoor::new(gate.clone(), upkeep.clone());
        let listener = Listener::start(places, door, gate.clone(), servers, metrics);
        let snapshot = current.load();
        tokio::join!(snapshot.issuers().first_attempts(), upkeep.keep(snapshot.pools()));
        let drain = ArcSwap::from_pointee(servers.drain);
        let servers = compiled.servers;
        let works = Arc::new(Works { current, outside, upkeep, tls, admin_token, drain, exporter, servers });
        let (sockets, reloader) = (Arc::new(sockets), None);
        Ok(Self {
            listener,
            addresses,
            admin,
            admin_address,
            draining,
            sockets,
            bequest,
            works,
            reloads,
            reloader,
            gate,
        })
    }

    /// Keeps the gate up with the configuration at `path`, of which `sights` saw the version that it was started with.
    pub fn follow(&mut self, path: PathBuf, sights: Arc<Sights>) {
        self.reloads.begin(sights.revision());
        let (works, reloads, clock) = (self.works.clone(), self.reloads.clone(), self.works.outside.clock.clone());
        self.reloader = Some(Reloader::start(path, sights, works, reloads, clock));
    }

    /// Reloads now, where a configuration is followed.
    pub fn reload(&self) {
        if let Some(reloader) = &self.reloader {
            reloader.reload();
        }
    }

    /// Where agents connect, in the order of the configuration.
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// Where operators connect.
    pub const fn admin_address(&self) -> &Address {
        &self.admin_address
    }

    /// Which version of everything is in force.
    pub fn revisions(&self) -> Revisions {
        self.works.current.load().revisions().clone()
    }

    /// How the gate stops, as the configuration in force says.
    pub fn drain(&self) -> Drain {
        **self.works.drain.load()
    }

    /// Over what the gate before sends its records, once.
    pub const fn bequest(&mut self) -> Option<UnixStream> {
        self.bequest.take()
    }

    /// Starts the program anew on the same sockets, as it is on disk now; tells of it once it takes connections. What is
    /// left to do then is to [`hand_over`](Self::hand_over).
    ///
    /// # Errors
    /// [`HandoverError`]; this gate serves as before.
    pub fn pass_on(&self) -> impl Future<Output = Result<TakenOver, HandoverError>> + Send + use<> {
        let sockets = self.sockets.clone();
        async move { sockets.pass_on().await }
    }

    /// Leaves the sockets to the gate that has taken over, and waits for requests under way as [`stop`](Self::stop) does.
    pub async fn hand_over(mut self) {
        self.admin.finish(ADMIN_PATIENCE).await;
        let patience = self.drain().patience;
        self.stop(patience).await;
    }

    /// Says that it is not ready, and goes on for a while: a load balancer sends requests until it has looked.
    pub async fn withdraw(&self) {
        self.draining.store(true, Ordering::Release);
        sleep(self.drain().delay).await;
    }

    /// Stops being ready, stops taking requests, and waits for those under way, but not longer than `patience`. When
    /// this returns every request has its record.
    pub async fn stop(mut self, patience: Duration) {
        self.reloader = None;
        self.draining.store(true, Ordering::Release);
        drop(self.sockets);
        self.listener.drain(patience).await;
        let gate = self.gate.clone();
        let _ = spawn_blocking(move || gate.settle()).await;
        self.works.exporter.close().await;
    }
}

impl Install for Works {
    async fn install(&self, compiled: Compiled) -> Result<(), Problems> {
        let Compiled { blueprint, servers, source, .. } = compiled;
        self.check_fixed(&servers)?;
        trust::check(&blueprint.upstreams).map_err(|problems| problems.within(&source))?;
        let prepared = self.tls.iter().zip(&servers.listeners).map(|(tls, plan)| tls.prepare(plan.tls.as_ref()));
        let prepared = prepared.collect::<Result<Vec<_>, _>>().map_err(|problems| problems.within(&source))?;
        self.exporter.turn_to(servers.traces.as_ref()).map_err(|problem| problem.within(&source))?;
        let snapshot = blueprint.start(&self.outside, Some(&self.current.load()));
        // Keys that are new are there before the first token is verified with them, and servers before the first request is
        // sent to them, if they can be had.
        tokio::join!(snapshot.issuers().first_attempts(), self.upkeep.keep(snapshot.pools()));
        self.tls.iter().zip(prepared).for_each(|(tls, accepting)| tls.replace(accepting));
        let before = self.current.replace(snapshot);
        self.admin_token.store(servers.admin_token.map(Arc::new));
        self.drain.store(Arc::new(servers.drain));
        if let Some(logs) = logs::installed() {
            logs.configure(servers.log.level);
        }
        tokio::spawn(retire(before));
        Ok(())
    }
}

impl Works {
    /// What is bound to sockets is not changed under them.
    fn check_fixed(&self, servers: &Servers) -> Result<(), Problem> {
        let before = &self.servers;
        let changed_listener = || before.listeners.iter().zip(&servers.listeners).find_map(|(a, b)| a.differs(b));
        let changed = [
            ("listeners", before.listeners.len() != servers.listeners.len()),
            (changed_listener().unwrap_or_default(), changed_listener().is_some()),
            ("admin", before.admin != servers.admin),
            ("records.stdout`, `records.file`, `records.syslog` or `records.otlp", before.records != servers.records),
            ("log.format", before.log.format != servers.log.format),
            ("limits.connections_max", before.connections_max != servers.connections_max),
            ("limits.streams_max", before.streams_max != servers.streams_max),
        ];
        match changed.iter().find(|(_, changed)| *changed) {
            Some((name, _)) => Err(Problem::new(format!("`{name}` cannot change while the gate runs"))
                .fix("restart the gate, or put the setting back")),
            None => Ok(()),
        }
    }
}

/// Lets go of a snapshot when the last request on it has ended, where that holds up none: a large one takes its time.
async fn retire(snapshot: Arc<Snapshot>) {
    while Arc::strong_count(&snapshot) > 1 {
        sleep(RETIRE_EVERY).await;
    }
    let _ = spawn_blocking(move || drop(snapshot)).await;
}

/// Listens at `address`; tells where that is, since of port 0 the system makes another.
async fn listen(sockets: &mut Sockets, address: &Address) -> Result<(Listening, Address), StartError> {
    let failed = |error| StartError::Listen { address: address.clone(), error };
    let listening = sockets.listen(address).await.map_err(failed)?;
    let address = listening.address().map_err(failed)?;
    Ok((listening, address))
}

/// What dials out. The connector to the upstream wants the machine's certificate authorities to be there, and panics
/// where they are not, so they are looked for here.
pub(crate) fn outbound() -> Result<HttpFetch, StartError> {
    // A second gate in one process finds the provider installed, which is as good.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let mut roots = rustls::RootCertStore::empty();
    pingora_rustls::load_platform_certs_incl_env_into_store(&mut roots).map_err(|error| {
        StartError::Tls(format!("no certificate authorities ({error}); install ca-certificates or set SSL_CERT_FILE"))
    })?;
    HttpFetch::new().map_err(|error| StartError::Tls(error.to_string()))
}
