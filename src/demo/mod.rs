//! `portcullis demo`: the whole flow on one machine, from the same `config.yaml` and `policies/` that a newcomer
//! reads. Starts an issuer, a service and the gate, and walks the flow aloud. Nothing here is reachable from `serve`.

mod cost;
pub mod issuer;
pub mod service;
mod walk;

use std::{io::Write, net::SocketAddr, path::PathBuf, process::ExitCode, sync::Arc};

use tokio::net::TcpListener;

use self::{
    issuer::{Issuer, Realm},
    service::Service,
    walk::{Journal, Walk},
};
use crate::{
    app::{App, StartError},
    base::{address::Address, clock::SystemClock, files::Files, spanned::Spanned},
    config::{self, Config, Loaded},
    metrics::Metrics,
};

/// What the demo can be told.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Options {
    /// Walk the flow and leave; exit code 0 only if every step went as it should.
    #[arg(long)]
    once: bool,
    /// Use this configuration and its policies instead of the built-in copy of the repository's own.
    #[arg(long)]
    config: Option<PathBuf>,
    /// Only tell what a request costs inside the gate, by the quickest of ten rounds of so many walks together.
    #[arg(long, value_name = "WALKS", num_args = 0..=1, default_missing_value = "100000", conflicts_with_all = ["once", "config"])]
    cost: Option<u32>,
    /// Tell that of this row alone.
    #[arg(long, value_name = "ROW", requires = "cost")]
    only: Option<String>,
}

/// The repository's own example, so that a binary alone can show it.
const EXAMPLE: [(&str, &str); 3] = [
    ("policies/schema.cedarschema", include_str!("../../policies/schema.cedarschema")),
    ("policies/users.cedar", include_str!("../../policies/users.cedar")),
    ("policies/consent.cedar", include_str!("../../policies/consent.cedar")),
];
const EXAMPLE_CONFIG: &str = include_str!("../../config.yaml");

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Runs the demo.
pub async fn run(options: Options) -> ExitCode {
    match show(options).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "portcullis demo: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The repository's own configuration and policies, as they were when this binary was built.
///
/// # Errors
/// As [`config::parse`].
pub fn example() -> Result<Loaded, crate::base::problem::Problems> {
    config::parse("config.yaml".into(), EXAMPLE_CONFIG.into(), Files::memory(EXAMPLE))
}

async fn show(options: Options) -> Result<bool, Failure> {
    if let Some(walks) = options.cost {
        cost::tell(walks, options.only.as_deref()).await?;
        return Ok(true);
    }
    let mut loaded = match &options.config {
        Some(path) => config::load(path)?,
        None => example()?,
    };
    let realm = Realm::new(&loaded.config)?;
    let (issuer, service) = surroundings(&mut loaded.config, realm).await?;
    let (journal, records) = Journal::new();
    let app = start(&mut loaded, Arc::new(journal)).await?;
    let address = app.addresses().iter().find_map(Address::tcp).ok_or("the gate listens nowhere")?;
    let mut walk = Walk::new(address, &issuer, &service, records);
    walk.introduce(&loaded, app.admin_address());
    let went_well = walk.go().await?;
    if !options.once {
        walk.invite().await?;
        let mut records = walk.into_records();
        loop {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => break,
                Some(record) = records.recv() => {
                    let _ = writeln!(std::io::stdout(), "{}", serde_json::to_string(&record)?);
                }
            }
        }
    }
    let patience = app.drain().patience;
    app.stop(patience).await;
    Ok(went_well)
}

/// Starts the issuer and the service, and points the configuration at them. Addresses are the configured ones where
/// those are free, and any free ones on loopback where not.
async fn surroundings(config: &mut Config, realm: Realm) -> Result<(Issuer, Service), Failure> {
    let issuer = Issuer::start(free(config_port(config)).await?, realm)?;
    let service = Service::start(free(url_port(&config.upstream.url.value)).await?)?;
    config.upstream.url = Spanned::nowhere(format!("http://{}", service.address()));
    let settings = config.issuers.value.first_mut().ok_or("the configuration names no issuer")?.settings_mut();
    settings.jwks_uri = Some(Spanned::nowhere(issuer.agents_jwks_uri()));
    settings.jwks_file = None;
    Ok((issuer, service))
}

/// Starts the gate on loopback: on the configured ports, or on any where those are taken.
async fn start(loaded: &mut Loaded, journal: Arc<Journal>) -> Result<App, Failure> {
    let metrics = Arc::new(Metrics::new()?);
    let config = &mut loaded.config;
    let loopback = |port| Spanned::nowhere(Address::from(SocketAddr::from(([127, 0, 0, 1], port))));
    let port = |address: &Address| address.tcp().map_or(0, |address| address.port());
    config.listeners.clear();
    config.proxy_protocol = None;
    config.admin = Some(loopback(port(&config.admin_address())));
    config.listen = loopback(port(&config.listen.value));
    let clock = Arc::new(SystemClock);
    match App::start(loaded, clock.clone(), journal.clone(), metrics.clone()).await {
        Err(StartError::Listen { .. }) => {
            (loaded.config.listen, loaded.config.admin) = (loopback(0), Some(loopback(0)));
            Ok(App::start(loaded, clock, journal, metrics).await?)
        }
        started => Ok(started?),
    }
}

fn config_port(config: &Config) -> u16 {
    let settings = config.issuers.value.first().map(|issuer| issuer.settings());
    settings.and_then(|settings| settings.jwks_uri.as_ref()).map_or(0, |uri| url_port(&uri.value))
}

fn url_port(url: &str) -> u16 {
    url::Url::parse(url).ok().and_then(|url| url.port()).unwrap_or(0)
}

/// A listener on loopback: on `port` if it is free, else on any.
async fn free(port: u16) -> std::io::Result<TcpListener> {
    match TcpListener::bind(("127.0.0.1", port)).await {
        Ok(listener) => Ok(listener),
        Err(_) => TcpListener::bind(("127.0.0.1", 0)).await,
    }
}
