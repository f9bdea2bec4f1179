//! The command line.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use tracing::Level;
use tracing_subscriber::{EnvFilter, Layer, filter::filter_fn, layer::SubscriberExt, util::SubscriberInitExt};

use crate::{
    app::{App, DRAIN_PATIENCE, StartError},
    audit::Lines,
    base::{
        clock::SystemClock,
        problem::{Problem, Problems},
    },
    config, demo,
    metrics::Metrics,
    server::{probe, tls},
};

/// Exit code for a configuration that cannot be used (`EX_USAGE` of sysexits.h).
pub const EXIT_CONFIG: u8 = 64;

/// Stack of a worker, in bytes: Cedar's evaluator recurses as deep as the longest expression that is let in.
pub const WORKER_STACK_BYTES: usize = 8 * 1024 * 1024;

/// An authorizing reverse proxy for agents that act on behalf of users.
#[derive(Debug, Parser)]
#[command(version, about)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gate.
    Serve(ConfigFile),
    /// Report everything `serve` would refuse to start on.
    Check(ConfigFile),
    /// Ask a running gate whether it is ready; for container health checks.
    Health(ConfigFile),
    /// Show the whole flow on this machine: an issuer, a service and the gate, in one process.
    Demo(demo::Options),
}

#[derive(Debug, clap::Args)]
struct ConfigFile {
    /// The configuration file.
    #[arg(long, default_value = "config.yaml", env = "PORTCULLIS_CONFIG")]
    config: PathBuf,
}

impl Cli {
    /// Does what the command line says.
    pub fn run(self) -> ExitCode {
        match self.command {
            Command::Check(file) => check(&file.config),
            Command::Serve(file) => with_logs(|| on_runtime(serve(file.config))),
            Command::Health(file) => on_runtime(health(file.config)),
            Command::Demo(options) => with_logs(|| on_runtime(demo::run(options))),
        }
    }
}

fn with_logs(run: impl FnOnce() -> ExitCode) -> ExitCode {
    let chosen = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    // What libraries log below warnings may hold header fields, and so tokens: no setting lets it through. What pingora
    // says of requests, our records say without the query.
    let ours = filter_fn(|event| {
        let target = event.target();
        target.starts_with("portcullis") || (*event.level() <= Level::WARN && !target.starts_with("pingora_proxy"))
    });
    let lines = tracing_subscriber::fmt::layer().json().with_writer(std::io::stderr);
    tracing_subscriber::registry().with(lines.with_filter(chosen).with_filter(ours)).init();
    run()
}

fn on_runtime(work: impl Future<Output = ExitCode>) -> ExitCode {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    match builder.thread_stack_size(WORKER_STACK_BYTES).enable_all().build() {
        Ok(runtime) => runtime.block_on(work),
        Err(error) => fail(&format!("portcullis: no runtime: {error}\n")),
    }
}

fn say(out: &mut impl Write, text: &str) {
    // A closed terminal or pipe leaves nobody to tell.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

fn fail(text: &str) -> ExitCode {
    say(&mut std::io::stderr(), text);
    ExitCode::FAILURE
}

fn bad_config(path: &Path, problems: &Problems) -> ExitCode {
    let count = problems.0.len();
    let noun = if count == 1 { "problem" } else { "problems" };
    say(&mut std::io::stderr(), &format!("{problems}portcullis: {count} {noun} in {}\n", path.display()));
    ExitCode::from(EXIT_CONFIG)
}

fn check(path: &Path) -> ExitCode {
    match config::load(path).and_then(|loaded| loaded.compile()) {
        Ok(compiled) => {
            if let Some(Err(error)) = compiled.servers.tls.as_ref().map(tls::acceptor) {
                return bad_config(path, &Problem::new(error).into());
            }
            say(&mut std::io::stderr(), &compiled.warnings.to_string());
            let (routes, policies) = (compiled.blueprint.routes.routes().len(), compiled.blueprint.stores.len());
            say(&mut std::io::stdout(), &format!("{}: good ({routes} routes, {policies} policies)\n", path.display()));
            ExitCode::SUCCESS
        }
        Err(problems) => bad_config(path, &problems),
    }
}

async fn serve(path: PathBuf) -> ExitCode {
    let sights = Arc::default();
    let loaded = match config::load_noting(&path, &sights) {
        Ok(loaded) => loaded,
        Err(problems) => return bad_config(&path, &problems),
    };
    let metrics = match Metrics::new() {
        Ok(metrics) => Arc::new(metrics),
        Err(error) => return fail(&format!("portcullis: {error}\n")),
    };
    let lines = match Lines::new(std::io::stdout(), metrics.records_dropped().clone()) {
        Ok(lines) => Arc::new(lines),
        Err(error) => return fail(&format!("portcullis: {error}\n")),
    };
    let signals = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()].map(signal);
    let [Ok(mut terminate), Ok(mut interrupt), Ok(mut hangup)] = signals else {
        return fail("portcullis: no signals\n");
    };
    let mut app = match App::start(&loaded, Arc::new(SystemClock), lines.clone(), metrics).await {
        Ok(app) => app,
        Err(StartError::Config(problems)) => return bad_config(&path, &problems),
        Err(error) => return fail(&format!("portcullis: {error}\n")),
    };
    tracing::info!(listen = %app.address(), admin = %app.admin_address(), "the gate stands");
    app.follow(path, sights);
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => app.reload(),
        }
    }
    tracing::info!("draining");
    app.stop(DRAIN_PATIENCE).await;
    lines.close();
    ExitCode::SUCCESS
}

/// The longest a health check takes.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(3);

async fn health(path: PathBuf) -> ExitCode {
    // The file's form alone: a policy that is being edited says nothing of the gate that runs.
    let admin = match config::load(&path) {
        Ok(loaded) => loaded.config.admin_address(),
        Err(problems) => return bad_config(&path, &problems),
    };
    match tokio::time::timeout(HEALTH_TIMEOUT, probe::ready(admin)).await {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => fail(&format!("portcullis: {error}\n")),
        Err(_) => fail("portcullis: no answer\n"),
    }
}
