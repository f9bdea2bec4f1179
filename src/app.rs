//! The composition root: from a configuration to a gate at work, and back to quiet.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::net::TcpListener;

use crate::{
    audit::Sink,
    base::{clock::Clock, problem::Problems},
    config::Loaded,
    doors::{proxy::ProxyDoor, resolve::Target},
    metrics::Metrics,
    pipeline::Gate,
    server::{admin, fetch::HttpFetch, head::HeadLimits, http1::Http1Server, listener::Listener, tls},
    token::key_source::Sources,
};

/// How long requests under way may take once the gate is told to stop.
pub const DRAIN_PATIENCE: Duration = Duration::from_secs(30);

/// How long a connection may stay open without a request.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// A gate at work.
#[derive(Debug)]
pub struct App {
    listener: Listener,
    admin: Http1Server,
    draining: Arc<AtomicBool>,
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
        address: SocketAddr,
        /// What the system says.
        error: io::Error,
    },
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
        let compiled = loaded.compile()?;
        for warning in &compiled.warnings.0 {
            tracing::warn!("{}", warning.message());
        }
        let servers = compiled.servers;
        let head_bytes_max = compiled.blueprint.limits.head_bytes_max;
        let fetch = outbound()?;
        let tls = servers.tls.as_ref().map(tls::acceptor).transpose().map_err(StartError::Tls)?;
        let data = bind(servers.listen).await?;
        let operators = bind(servers.admin).await?;
        let sources = Sources { clock: clock.clone(), fetch: Arc::new(fetch), files: loaded.files().clone() };
        let snapshot = Arc::new(compiled.blueprint.start(&sources));
        let gate = Gate::new(snapshot.clone(), clock, sink, metrics.clone());
        let door = ProxyDoor::new(gate, Arc::new(Target::new(servers.upstream)), servers.client_timeout);
        let open = metrics.connections().clone();
        let unnamed = |address| move |error| StartError::Listen { address, error };
        let draining = Arc::new(AtomicBool::new(false));
        let state = admin::State {
            snapshot: snapshot.clone(),
            metrics,
            draining: draining.clone(),
            token: servers.admin_token,
        };
        let admin = admin::start(operators, state).map_err(unnamed(servers.admin))?;
        let limits = HeadLimits { bytes_max: head_bytes_max, duration_max: servers.client_timeout, idle_max: IDLE_MAX };
        let listener =
            Listener::start(data, tls, door, limits, servers.connections_max, open).map_err(unnamed(servers.listen))?;
        snapshot.issuers().first_attempts().await;
        Ok(Self { listener, admin, draining })
    }

    /// Where agents connect.
    pub const fn address(&self) -> SocketAddr {
        self.listener.address()
    }

    /// Where operators connect.
    pub const fn admin_address(&self) -> SocketAddr {
        self.admin.address()
    }

    /// Stops being ready, stops taking requests, and waits for those under way, but not longer than `patience`. When
    /// this returns every request has its record.
    pub async fn stop(self, patience: Duration) {
        self.draining.store(true, Ordering::Release);
        self.listener.drain(patience).await;
    }
}

async fn bind(address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|error| StartError::Listen { address, error })
}

/// What dials out. The connector to the upstream wants the machine's certificate authorities to be there, and panics
/// where they are not, so they are looked for here.
fn outbound() -> Result<HttpFetch, StartError> {
    // A second gate in one process finds the provider installed, which is as good.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let mut roots = rustls::RootCertStore::empty();
    pingora_rustls::load_platform_certs_incl_env_into_store(&mut roots).map_err(|error| {
        StartError::Tls(format!("no certificate authorities ({error}); install ca-certificates or set SSL_CERT_FILE"))
    })?;
    HttpFetch::new().map_err(|error| StartError::Tls(error.to_string()))
}
