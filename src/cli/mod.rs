//! The command line.

mod audit;
mod explain;
mod explained;
mod replay;
mod terminal;
mod test;

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use clap::{Parser, Subcommand};
use futures_util::{FutureExt, future::OptionFuture};
use sd_notify::NotifyState;
use tokio::{
    signal::unix::{SignalKind, signal},
    task::spawn_blocking,
};
use tracing::Level;
use tracing_subscriber::{EnvFilter, Layer, filter::filter_fn, layer::SubscriberExt, util::SubscriberInitExt};

use crate::{
    app::{App, StartError},
    audit::{
        Lines,
        file::RecordFile,
        heir::{Bequest, Heir},
        lines::Stream,
    },
    authoring::lint::{self, Lint, Oddity},
    base::{
        clock::SystemClock,
        problem::{Problems, Source},
    },
    config::{self, records::RecordSinks},
    demo,
    doors::trust,
    metrics::Metrics,
    server::{
        handover::{self, Sockets, TakenOver},
        probe, tls,
    },
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
    /// Report everything `serve` would refuse to start on, and what is odd about policies and routes taken together.
    Check(CheckOptions),
    /// Run scenarios through the gate, without a network, and tell what they exercise.
    Test(test::Options),
    /// Tell why one request is decided as it is: every stage, what the policies saw, and the nearest miss.
    Explain(explain::Options),
    /// Tell what would change of recorded decisions under other policies.
    Replay(replay::Options),
    /// Verify recorded decisions.
    #[command(subcommand)]
    Audit(audit::Command),
    /// Print the JSON Schema of `config.yaml`, for editors.
    Schema,
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

#[derive(Debug, clap::Args)]
struct CheckOptions {
    #[command(flatten)]
    file: ConfigFile,
    /// Fail where there is a warning of this name; `all` for any. May be repeated.
    #[arg(short = 'D', long = "deny", value_name = "WARNING", value_parser = lint_name)]
    deny: Vec<String>,
}

fn lint_name(text: &str) -> Result<String, String> {
    let known = text == "all" || Lint::ALL.iter().any(|lint| lint.name() == text);
    known.then(|| text.to_owned()).ok_or_else(|| format!("`all`, or one of {}", Lint::ALL.map(Lint::name).join(", ")))
}

impl Cli {
    /// Does what the command line says.
    pub fn run(self) -> ExitCode {
        match self.command {
            Command::Check(options) => check(&options),
            Command::Serve(file) => with_logs(|| match Sockets::handed() {
                Ok(sockets) => on_runtime(serve(file.config, sockets)),
                Err(error) => fail(&format!("portcullis: {error}\n")),
            }),
            Command::Test(options) => on_runtime(test::run(options)),
            Command::Audit(command) => audit::run(&command),
            Command::Replay(options) => replay::run(&options),
            Command::Explain(options) => on_runtime(explain::run(options)),
            Command::Schema => schema(),
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
    let count = counted(problems.0.len(), "problem", "problems");
    say(&mut std::io::stderr(), &format!("{problems}portcullis: {count} in {}\n", path.display()));
    ExitCode::from(EXIT_CONFIG)
}

fn check(options: &CheckOptions) -> ExitCode {
    let path = &options.file.config;
    let found = config::load(path).and_then(|loaded| {
        let compiled = loaded.compile()?;
        if !compiled.candidate_problems.0.is_empty() {
            return Err(Problems(compiled.candidate_problems.0));
        }
        trust::check(&compiled.blueprint.upstreams)?;
        let within = |problems: Problems| problems.within(&compiled.source);
        for listener in &compiled.servers.listeners {
            listener.tls.as_ref().map(|files| tls::acceptor(files, listener.http2)).transpose().map_err(within)?;
        }
        let oddities = lint::oddities(&loaded.config, &compiled).map_err(within)?;
        Ok((compiled, oddities))
    });
    let (compiled, oddities) = match found {
        Ok(found) => found,
        Err(problems) => return bad_config(path, &problems),
    };
    say(&mut std::io::stderr(), &warnings(&oddities, &compiled.source));
    let is_denied = |lint: Lint| options.deny.iter().any(|name| name == "all" || name == lint.name());
    let denied = oddities.iter().filter(|oddity| is_denied(oddity.lint)).count();
    if denied > 0 {
        let denied = counted(denied, "warning is", "warnings are");
        say(&mut std::io::stderr(), &format!("portcullis: {denied} denied in {}\n", path.display()));
        return ExitCode::from(EXIT_CONFIG);
    }
    let blueprint = &compiled.blueprint;
    let routes = counted(blueprint.routes.routes().len(), "route", "routes");
    let policies = counted(blueprint.stores.len(), "policy", "policies");
    let warned = match oddities.len() {
        0 => String::new(),
        several => format!(", {}", counted(several, "warning", "warnings")),
    };
    say(&mut std::io::stdout(), &format!("{}: good ({routes}, {policies}{warned})\n", path.display()));
    ExitCode::SUCCESS
}

/// Warnings of one name that are shown whole.
const SHOWN_MAX: usize = 20;

fn warnings(oddities: &[Oddity], source: &Arc<Source>) -> String {
    let mut text = String::new();
    for lint in Lint::ALL {
        let mut of_lint = oddities.iter().filter(|oddity| oddity.lint == lint);
        for oddity in of_lint.by_ref().take(SHOWN_MAX) {
            text += &format!("warning: {}\n{}", lint.name(), oddity.problem.clone().within(source));
        }
        let more: Vec<_> = of_lint.map(|oddity| format!("`{}`", oddity.of)).collect();
        if !more.is_empty() {
            text += &format!("warning: {}\n  and {} more: {}\n", lint.name(), more.len(), more.join(", "));
        }
    }
    text
}

fn counted(count: usize, one: &str, several: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { several })
}

fn schema() -> ExitCode {
    say(&mut std::io::stdout(), &format!("{:#}\n", config::schema()));
    ExitCode::SUCCESS
}

async fn serve(path: PathBuf, mut sockets: Sockets) -> ExitCode {
    let sights = Arc::default();
    let loaded = match config::load_noting(&path, &sights) {
        Ok(loaded) => loaded,
        Err(problems) => return bad_config(&path, &problems),
    };
    let metrics = match Metrics::new() {
        Ok(metrics) => Arc::new(metrics),
        Err(error) => return fail(&format!("portcullis: {error}\n")),
    };
    let sinks = match loaded.records() {
        Ok(sinks) => sinks,
        Err(problems) => return bad_config(&path, &problems),
    };
    let has_predecessor = sockets.has_predecessor();
    let (lines, file) = match records(sinks, &metrics, has_predecessor) {
        Ok(Written { all, file }) => (Arc::new(all), file),
        Err(error) => return fail(&format!("portcullis: {error}\n")),
    };
    if file.is_some() {
        sockets.take_records();
    }
    let kinds = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup(), SignalKind::user_defined2()];
    let [Ok(mut terminate), Ok(mut interrupt), Ok(mut hangup), Ok(mut anew)] = kinds.map(signal) else {
        return fail("portcullis: no signals\n");
    };
    let mut app = match App::start_on(sockets, &loaded, Arc::new(SystemClock), lines.clone(), metrics).await {
        Ok(app) => app,
        Err(StartError::Config(problems)) => return bad_config(&path, &problems),
        Err(error) => return fail(&format!("portcullis: {error}\n")),
    };
    let listen: Vec<_> = app.addresses().iter().map(ToString::to_string).collect();
    tracing::info!(listen = listen.join(", "), admin = %app.admin_address(), "the gate stands");
    app.follow(path, sights);
    let bequest = file.clone().zip(app.bequest()).map(|(file, line)| Bequest::read(line, file));
    let bequest = match bequest.transpose() {
        Ok(bequest) => bequest,
        Err(error) => return fail(&format!("portcullis: {error}\n")),
    };
    let mut passing = None;
    let is_patient = loop {
        tokio::select! {
            _ = terminate.recv() => break true,
            // Somebody at a terminal, for whom no load balancer looks.
            _ = interrupt.recv() => break false,
            _ = hangup.recv() => app.reload(),
            _ = anew.recv(), if passing.is_none() => passing = Some(app.pass_on().boxed()),
            Some(passed) = OptionFuture::from(passing.as_mut()) => match passed {
                Ok(TakenOver { process, records }) => {
                    tracing::info!(process, "another gate has taken over; draining");
                    // One gate alone writes to a file: what is still to be recorded here goes there by the other one.
                    if let Some((file, line)) = file.zip(records) {
                        let _ = spawn_blocking(move || file.turn_to(Stream::to(line))).await;
                    }
                    app.hand_over().await;
                    close(bequest, lines).await;
                    return ExitCode::SUCCESS;
                }
                Err(error) => {
                    tracing::error!(%error, "no other gate has taken over; this one goes on");
                    passing = None;
                }
            },
        }
    };
    drop(passing);
    handover::tell(&[NotifyState::Stopping]);
    tracing::info!("draining");
    if is_patient {
        app.withdraw().await;
    }
    let patience = app.drain().patience;
    app.stop(patience).await;
    close(bequest, lines).await;
    ExitCode::SUCCESS
}

/// Writes what is left of records.
async fn close(bequest: Option<Bequest>, lines: Arc<Vec<Arc<Lines>>>) {
    let close = move || {
        if let Some(bequest) = bequest {
            bequest.close();
        }
        lines.iter().for_each(|lines| lines.close());
    };
    let _ = spawn_blocking(close).await;
}

/// What records are written to.
struct Written {
    all: Vec<Arc<Lines>>,
    /// That of these which is the file.
    file: Option<Arc<Lines>>,
}

/// Opens what records are written to. The file of one that `has_predecessor` is open once that has closed it.
fn records(sinks: RecordSinks, metrics: &Metrics, has_predecessor: bool) -> std::io::Result<Written> {
    let (mut all, mut filed) = (Vec::new(), None);
    if sinks.stdout {
        let (written, dropped) = metrics.records("stdout");
        all.push(Arc::new(Lines::new(Stream::to(std::io::stdout()), written, dropped)?));
    }
    if let Some(settings) = sinks.file {
        let path = settings.path.display().to_string();
        let (written, dropped) = metrics.records("file");
        let lines = match has_predecessor {
            true => Heir::of(settings).and_then(|heir| Lines::new(heir, written, dropped)),
            false => RecordFile::open(settings).and_then(|file| Lines::new(file, written, dropped)),
        };
        let lines =
            lines.map_err(|error| std::io::Error::new(error.kind(), format!("records to `{path}`: {error}")))?;
        all.push(filed.insert(Arc::new(lines)).clone());
    }
    Ok(Written { all, file: filed })
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
