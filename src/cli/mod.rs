//! The command line.

mod audit;
mod browse;
mod browsing;
mod explain;
mod explained;
mod follow;
mod replay;
mod serve;
mod tail;
mod terminal;
mod test;
mod whole;

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use clap::{Parser, Subcommand};

use self::terminal::tame;
use crate::{
    authoring::lint::{self, Lint, Oddity},
    base::{
        address::Address,
        problem::{Problems, Source},
    },
    config::{self, log::LogConfig},
    demo,
    doors::trust,
    logs,
    server::{otlp, probe, tls},
};

/// Exit code for a configuration that cannot be used (`EX_USAGE` of sysexits.h).
pub const EXIT_CONFIG: u8 = 64;

/// The variable by which the environment says how much is logged.
const LOG_VARIABLE: &str = "RUST_LOG";

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
    /// Show decisions as they are made, a line each.
    Tail(tail::Options),
    /// Verify recorded decisions.
    #[command(subcommand)]
    Audit(audit::Command),
    /// Print the JSON Schema of `config.yaml`, for editors.
    Schema(SchemaOptions),
    /// Ask a running gate whether it is ready; for container health checks.
    Health(HealthOptions),
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
struct HealthOptions {
    #[command(flatten)]
    file: ConfigFile,
    /// Where it is asked, in place of `admin` in the configuration file, which is then not read.
    #[arg(long, value_name = "ADDRESS", value_parser = admin_address)]
    admin: Option<Address>,
}

fn admin_address(text: &str) -> Result<Address, String> {
    Address::try_from(text.to_owned())
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
            Command::Serve(file) => serve::run(file.config),
            Command::Test(options) => on_runtime(test::run(options)),
            Command::Audit(command) => audit::run(&command),
            Command::Tail(options) => tail::run(&options),
            Command::Replay(options) => replay::run(&options),
            Command::Explain(options) => on_runtime(explain::run(options)),
            Command::Schema(options) => schema(&options),
            Command::Health(options) => on_runtime(health(options)),
            Command::Demo(options) => with_logs(&LogConfig::default(), || on_runtime(demo::run(options))),
        }
    }
}

/// Logs as `config` says, as far as the environment says nothing else.
fn with_logs(config: &LogConfig, run: impl FnOnce() -> ExitCode) -> ExitCode {
    let said = std::env::var_os(LOG_VARIABLE).filter(|text| !text.is_empty());
    match said.map(|text| text.to_string_lossy().parse()).transpose() {
        Ok(environment) => logs::install(config, environment),
        Err(reason) => {
            say(&mut std::io::stderr(), &format!("portcullis: {LOG_VARIABLE}: {}\n", tame(&reason)));
            return ExitCode::from(EXIT_CONFIG);
        }
    }
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
        let within = |problems: Problems| problems.within(&compiled.source);
        let mut problems = within(compiled.candidate_problems.clone());
        problems.keep(trust::check(&compiled.blueprint.upstreams).map_err(within));
        for listener in &compiled.servers.listeners {
            let acceptor = listener.tls.as_ref().map(|files| tls::acceptor(files, listener.http2));
            problems.keep(acceptor.transpose().map_err(within));
        }
        for receiver in [&compiled.servers.traces, &compiled.servers.records.otlp].into_iter().flatten() {
            problems.keep(otlp::check(receiver).map_err(|problem| within(problem.into())));
        }
        let oddities = problems.keep(lint::oddities(&loaded.config, &compiled).map_err(within));
        problems.into_result(oddities.map(|oddities| (compiled, oddities)))
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
    say(
        &mut std::io::stdout(),
        &format!("{}: good ({routes}, {policies}{warned})\n  {}\n", path.display(), blueprint.revisions),
    );
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

#[derive(Debug, clap::Args)]
struct SchemaOptions {
    /// That of decision records instead.
    #[arg(long)]
    records: bool,
}

fn schema(options: &SchemaOptions) -> ExitCode {
    let schema = if options.records { crate::audit::schema() } else { config::schema() };
    say(&mut std::io::stdout(), &format!("{schema:#}\n"));
    ExitCode::SUCCESS
}

/// The longest a health check takes.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(3);

async fn health(options: HealthOptions) -> ExitCode {
    let path = options.file.config;
    // The file's form alone: a policy that is being edited says nothing of the gate that runs.
    let admin = match options.admin.map_or_else(|| config::load(&path).map(|it| it.config.admin_address()), Ok) {
        Ok(admin) => admin,
        Err(problems) => return bad_config(&path, &problems),
    };
    match tokio::time::timeout(HEALTH_TIMEOUT, probe::ready(admin)).await {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => fail(&format!("portcullis: {error}\n")),
        Err(_) => fail("portcullis: no answer\n"),
    }
}
