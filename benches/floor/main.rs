//! The floor under the gate: its listener, and what it forwards by, with nobody between them who decides; or, with `--stock`,
//! pingora alone. A program of its own that benchmarks compare the gate with: nothing that `serve` reads makes it this.
//!
//! `floor [--stock] CONFIG` listens and forwards as a gate's configuration says, whatever it says of who may do what.

use std::{error::Error, path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use mimalloc::MiMalloc;
use pingora_core::{
    Error as Failure, ErrorType,
    server::{Server, configuration::ServerConf},
    upstreams::peer::HttpPeer,
};
use pingora_proxy::{ProxyHttp, Session, http_proxy_service};
use portcullis::{
    audit::{Record, Sink},
    base::{address::Address, clock::SystemClock, files::Files, outside::Outside},
    config::{self, Compiled},
    doors::upkeep::Upkeep,
    forward::Pool,
    metrics::Metrics,
    pipeline::Gate,
    server::{
        fetch::HttpFetch,
        listener::{Listener, Place, Way},
        socket::Listening,
        tls::Tls,
    },
    snapshot::Current,
};
use tokio::signal::unix::{SignalKind, signal};

/// The gate's.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Lets everything through.
struct PassThrough {
    pool: Arc<Pool>,
    server: Address,
    upkeep: Upkeep,
    client_timeout: Duration,
}

#[async_trait]
impl ProxyHttp for PassThrough {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn early_request_filter(&self, session: &mut Session, (): &mut ()) -> pingora_core::Result<()> {
        session.set_read_timeout(Some(self.client_timeout));
        session.set_write_timeout(Some(self.client_timeout));
        Ok(())
    }

    async fn upstream_peer(&self, _: &mut Session, (): &mut ()) -> pingora_core::Result<Box<HttpPeer>> {
        self.upkeep.peer(&self.pool, &self.server, None)
    }
}

/// The same without anything of ours.
struct Stock(Address);

#[async_trait]
impl ProxyHttp for Stock {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(&self, _: &mut Session, (): &mut ()) -> pingora_core::Result<Box<HttpPeer>> {
        let server = self.0.tcp().ok_or_else(|| Failure::explain(ErrorType::InternalError, "not at a TCP address"))?;
        Ok(Box::new(HttpPeer::new(server, false, String::new())))
    }
}

/// Where records of connections without a request go.
struct Nowhere;

impl Sink for Nowhere {
    fn write(&self, _: &Record) {}

    fn has_room(&self, _: usize) -> bool {
        true
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let (is_stock, path) = match &*arguments {
        [path] => (false, path),
        [stock, path] if stock == "--stock" => (true, path),
        _ => return Err("usage: floor [--stock] CONFIG".into()),
    };
    let compiled = config::load(Path::new(path))?.compile()?;
    if is_stock {
        return stock(&compiled);
    }
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(pass_through(compiled))
}

fn stock(compiled: &Compiled) -> Result<(), Box<dyn Error>> {
    let upstream = compiled.blueprint.upstreams.of(None).ok_or("no upstream")?;
    let pool = Pool::new("floor", upstream);
    let server = pool.servers().first().ok_or("the upstream has a name")?.address().clone();
    let threads = std::thread::available_parallelism()?.get();
    // Told to end, it ends at once.
    let (grace_period_seconds, graceful_shutdown_timeout_seconds) = (Some(0), Some(0));
    let settings =
        ServerConf { threads, grace_period_seconds, graceful_shutdown_timeout_seconds, ..ServerConf::default() };
    let mut pingora = Server::new_with_opt_and_conf(None, settings);
    pingora.bootstrap();
    let mut service = http_proxy_service(&pingora.configuration, Stock(server));
    for listener in &compiled.servers.listeners {
        service.add_tcp(&listener.listen.to_string());
    }
    pingora.add_service(service);
    pingora.run_forever()
}

async fn pass_through(compiled: Compiled) -> Result<(), Box<dyn Error>> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let mut places = Vec::new();
    for plan in &compiled.servers.listeners {
        let tls = Arc::new(Tls::new(plan.tls.as_ref(), plan.http2)?);
        let way = Way { tls, http2: plan.http2, proxied: plan.proxy_protocol };
        places.push(Place { listening: Listening::bind(&plan.listen).await?, way });
    }
    let (clock, metrics) = (Arc::new(SystemClock), Arc::new(Metrics::new()?));
    let outside =
        Outside::without_databases(clock.clone(), Arc::new(HttpFetch::new()?), Files::disk(std::env::temp_dir()));
    let client_timeout = compiled.blueprint.limits.client_timeout;
    let current = Arc::new(Current::new(compiled.blueprint.start(&outside, None)));
    let pool = current.load().pools().of(None).ok_or("no upstream")?.clone();
    let server = pool.servers().first().ok_or("the upstream has a name")?.address().clone();
    let door = PassThrough { pool, server, upkeep: Upkeep::default(), client_timeout };
    let gate = Gate::new(current, clock, Arc::new(Nowhere), metrics.clone());
    let _listener = Listener::start(places, door, gate, &compiled.servers, metrics);
    signal(SignalKind::terminate())?.recv().await;
    Ok(())
}
