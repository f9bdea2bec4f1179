//! `portcullis explain`: why one request is decided as it is.

use std::{
    io::Read,
    net::IpAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value};

use super::{
    bad_config,
    explained::told,
    fail,
    terminal::{Screen, escaped, show, tame},
};
use crate::{
    app,
    authoring::{
        account::Account,
        asked::AskedRequest,
        reached::Reached,
        recorded::{self, RecordLine},
        rehearsal::{Part, Stage, Token},
        replay::Replay,
    },
    base::{
        clock::{Clock, SystemClock, Timestamp},
        counters::Uncounted,
        json,
        outside::Outside,
        problem::{Problem, Problems},
    },
    config::{self, Loaded},
    entities::hiding::Reading,
    policy::{Decision, stores::DEFAULT},
    server::sql::Sql,
    snapshot::Blueprint,
    token::algorithm::Algorithm,
};

/// The largest HAR file that is read, in bytes.
const HAR_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// The most that is read of a command or of claims, in bytes.
const TEXT_BYTES_MAX: u64 = 1024 * 1024;

/// What `--unverified` leaves out.
const NOT_LOOKED_AT: &str = "`--unverified`: not looked at: the signature, the key (`kid`) and whether the issuer may sign by \
                             that algorithm, the times (`iat`, `exp`, `nbf`), and what the token is bound to (`cnf`)";

/// What cannot be taken for genuine.
const NO_JWT: &str = "the token is no JWT: what it says cannot be read";

// What is asked for is one of a group, beside which clap waives what an option `requires`: each names what it cannot stand
// beside, too.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("what").required(true).args(["url", "curl", "har", "log"])))]
pub(super) struct Options {
    /// The configuration file.
    #[arg(long, default_value = "config.yaml", env = "PORTCULLIS_CONFIG")]
    config: PathBuf,
    /// The request: a path or a URL.
    url: Option<String>,
    /// Its method.
    #[arg(short = 'X', long, default_value = "GET", requires = "url", conflicts_with_all = ["curl", "har", "log"])]
    method: String,
    /// A header field, `Name: value`; may be repeated.
    #[arg(short = 'H', long = "header", value_name = "FIELD", requires = "url", conflicts_with_all = ["curl", "har", "log"])]
    headers: Vec<String>,
    /// The agent's token, in the place of what the request holds.
    #[arg(long, conflicts_with_all = ["claims", "log"])]
    token: Option<String>,
    /// What the token says, in JSON, or `@FILE`: a key that stands in for the issuer's signs it.
    #[arg(long, value_name = "JSON", conflicts_with_all = ["unverified", "log"])]
    claims: Option<String>,
    /// Take the token for genuine: what it says is signed again by a key that stands in, and its times are left out.
    #[arg(long, conflicts_with = "log")]
    unverified: bool,
    /// A curl command; `-` reads it from standard input.
    #[arg(long, value_name = "COMMAND")]
    curl: Option<String>,
    /// A HAR file.
    #[arg(long, value_name = "FILE")]
    har: Option<PathBuf>,
    /// The entry of the HAR file, from 0.
    #[arg(long, default_value_t = 0, requires = "har", conflicts_with_all = ["url", "curl", "log"])]
    entry: usize,
    /// A log of decision records; `-` for standard input.
    #[arg(long, value_name = "FILE", requires = "id")]
    log: Option<PathBuf>,
    /// The decision in that log.
    #[arg(long, requires = "log", conflicts_with_all = ["url", "curl", "har"])]
    id: Option<String>,
    /// When, RFC 3339. Default now.
    #[arg(long, value_name = "TIME", value_parser = moment, conflicts_with = "log")]
    at: Option<Timestamp>,
    /// The address that the request comes from.
    #[arg(long, conflicts_with = "log")]
    peer: Option<IpAddr>,
    /// Ask no issuer and no source.
    #[arg(long, conflicts_with = "log")]
    offline: bool,
    /// Tell it as JSON.
    #[arg(long)]
    json: bool,
}

fn moment(text: &str) -> Result<Timestamp, String> {
    Timestamp::parse_rfc3339(text).ok_or_else(|| "not a time such as 2026-01-31T12:00:00Z".to_owned())
}

pub(super) async fn run(options: Options) -> ExitCode {
    let loaded = match config::load(&options.config) {
        Ok(loaded) => loaded,
        Err(problems) => return bad_config(&options.config, &problems),
    };
    let account = match (&options.log, &options.id) {
        (Some(log), Some(id)) => of_record(&loaded, log, id),
        _ => of_request(&options, loaded).await,
    };
    match account {
        Ok(account) if options.json => {
            let text = serde_json::to_string_pretty(&account).unwrap_or_default();
            show(&format!("{}\n", escaped(&text)));
            ExitCode::SUCCESS
        }
        Ok(account) => {
            show(&told(&Screen::new(), &account));
            ExitCode::SUCCESS
        }
        Err(Failure::Config(problems)) => bad_config(&options.config, &problems),
        Err(Failure::Other(message)) => fail(&format!("portcullis: {}\n", tame(&message))),
    }
}

enum Failure {
    Config(Problems),
    Other(String),
}

impl From<Problems> for Failure {
    fn from(problems: Problems) -> Self {
        Self::Config(problems)
    }
}

impl From<String> for Failure {
    fn from(message: String) -> Self {
        Self::Other(message)
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self::Config(problem.into())
    }
}

async fn of_request(options: &Options, loaded: Loaded) -> Result<Account, Failure> {
    let asked = asked(options)?;
    let (asked, token) = match (&options.claims, options.unverified) {
        (Some(claims), _) => (asked.without_token(), Token::Of(given_claims(claims)?, Map::new())),
        (None, true) => {
            let (_, token) = asked.token.clone().ok_or_else(|| "the request holds no token".to_owned())?;
            (asked.without_token(), unverified(&token)?)
        }
        (None, false) => (asked, Token::AsIs),
    };
    let fetch = Arc::new(app::outbound().map_err(|error| error.to_string())?);
    let outside = Outside {
        clock: Arc::new(SystemClock),
        fetch,
        databases: Arc::new(Sql),
        counters: Arc::new(Uncounted),
        files: loaded.files(),
    };
    let reached = if options.offline { Reached::default() } else { Reached::through(&outside) };
    let stage = if matches!(token, Token::AsIs) { Stage::real(&loaded)? } else { Stage::new(loaded)? };
    let part = Part {
        now: options.at.unwrap_or_else(|| SystemClock.now()),
        peer: options.peer.map(|ip| (ip, 0).into()),
        certificate: None,
        token,
        answers: Vec::new(),
        request: asked.head,
    };
    let mut account = Account::of(&stage.with(reached.within(outside)).rehearse(&part).await?);
    account.notes.extend(options.unverified.then(|| NOT_LOOKED_AT.to_owned()));
    account.notes.extend(reached.failures());
    account.notes.extend(way_round(&account.code).map(str::to_owned));
    Ok(account)
}

/// What to do where nobody can be asked whether a token is genuine.
fn way_round(code: &str) -> Option<&'static str> {
    match code {
        "keys_unavailable" => Some(
            "nobody can tell here whether the token is genuine: `--unverified` takes it for that, `--claims` takes what \
             you say instead",
        ),
        "introspection_unavailable" => {
            Some("nobody can tell here what the token says: `--claims` takes what you say instead")
        }
        _ => None,
    }
}

fn asked(options: &Options) -> Result<AskedRequest, String> {
    let asked = match (&options.curl, &options.har) {
        (Some(command), _) if command == "-" => AskedRequest::from_curl(&read(Path::new("-"), TEXT_BYTES_MAX)?),
        (Some(command), _) => AskedRequest::from_curl(command),
        (None, Some(path)) => AskedRequest::from_har(&read(path, HAR_BYTES_MAX)?, options.entry),
        (None, None) => {
            let fields = options.headers.iter().map(|field| {
                let (name, value) = field.split_once(':').ok_or_else(|| format!("`{field}` is no header field"))?;
                Ok((name.trim().to_owned(), value.trim().to_owned()))
            });
            let fields: Vec<_> = fields.collect::<Result<_, String>>()?;
            AskedRequest::new(&options.method, options.url.as_deref().unwrap_or_default(), &fields)
        }
    }?;
    options.token.as_ref().map_or_else(|| Ok(asked.clone()), |token| asked.with_token(token))
}

fn read(path: &Path, bytes_max: u64) -> Result<String, String> {
    let failed = |error: std::io::Error| format!("cannot read `{}`: {error}", path.display());
    let mut text = String::new();
    let all: Box<dyn Read> = if path == Path::new("-") {
        Box::new(std::io::stdin().lock())
    } else {
        Box::new(std::fs::File::open(path).map_err(failed)?)
    };
    let read = all.take(bytes_max.saturating_add(1)).read_to_string(&mut text).map_err(failed)?;
    if u64::try_from(read).unwrap_or(u64::MAX) > bytes_max {
        return Err(format!("`{}` is larger than {} MiB", path.display(), bytes_max >> 20));
    }
    Ok(text)
}

fn given_claims(text: &str) -> Result<Map<String, Value>, String> {
    let text = match text.strip_prefix('@') {
        Some(path) => read(Path::new(path), TEXT_BYTES_MAX)?,
        None => text.to_owned(),
    };
    json::parse_object(text.as_bytes()).map_err(|error| format!("the claims are no JSON object: {error}"))
}

/// What `token` says, for whoever knows that it is genuine, but for what is [`NOT_LOOKED_AT`]. What no signature would make
/// good, such as a time that is none, stays as it is, for the gate to refuse.
fn unverified(token: &str) -> Result<Token, String> {
    let parts: Vec<_> = token.split('.').collect();
    let [header, payload, _] = parts.as_slice() else { return Err(NO_JWT.into()) };
    let (mut header, mut claims) = (part_of_jwt(header)?, part_of_jwt(payload)?);
    header.entry("alg").or_insert(Value::Null);
    header.retain(|name, value| match name.as_str() {
        "alg" => value.as_str().and_then(Algorithm::from_name).is_none(),
        "kid" => !value.is_string(),
        _ => true,
    });
    let missing = ["iat", "exp"].into_iter().filter(|name| !claims.contains_key(*name)).map(str::to_owned).collect();
    claims.retain(|name, value| match name.as_str() {
        "iat" | "exp" | "nbf" => value.as_f64().and_then(Timestamp::from_numeric_date).is_none(),
        "cnf" => !value.is_object(),
        _ => true,
    });
    Ok(Token::Again(claims, header, missing))
}

fn part_of_jwt(part: &str) -> Result<Map<String, Value>, String> {
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| NO_JWT)?;
    json::parse_object(&bytes).map_err(|error| format!("the gate takes no such token (token_malformed): {error}"))
}

fn of_record(loaded: &Loaded, log: &Path, id: &str) -> Result<Account, Failure> {
    let record = find(log, id)?;
    Ok(of_line(&loaded.compile()?.blueprint, &record)?)
}

/// Why a recorded decision was made, as far as its record tells.
pub(super) fn of_line(blueprint: &Blueprint, record: &RecordLine) -> Result<Account, String> {
    let Some(question) = &record.question else {
        let mut account = Account::of_parts(record, None);
        if record.part_of_policies() == recorded::Part::Decided {
            account.notes.push("the record holds no question, so that it cannot be told what the policies saw: set `records: { questions: true }`".into());
        }
        return Ok(account);
    };
    let store = blueprint.stores.named(record.store.as_deref());
    let store = store.ok_or_else(|| "the configuration no longer has the store that decided".to_owned())?;
    let pseudonyms = blueprint.records.recording.pseudonyms.as_ref();
    let reading = pseudonyms.map_or_else(Reading::default, |it| Reading::new(it, &store.policies.literals()));
    let replay = Replay::new(&store.policies, DEFAULT, reading);
    let (question, doubts) = replay.read(question)?;
    if !doubts.is_empty() {
        let mut account = Account::of_parts(record, None);
        account.notes.extend(doubts.iter().map(|why| format!("what policies say to this cannot be told: {why}")));
        return Ok(account);
    }
    let mut account = Account::of_parts(record, Some(&store.policies.explain(&question)));
    let now = store.policies.decide(&question);
    if record.decision != "abandoned" && said(&now) != (record.decision == "allow", record.policies.clone()) {
        let now = now.result().map_or_else(|denied| format!("denied: {denied}"), |_| "allowed".to_owned());
        account.notes.push(format!("the policies are others now: it would be {now}"));
    }
    Ok(account)
}

fn said(decision: &Decision) -> (bool, Vec<String>) {
    let ids = |notes: &[Arc<crate::policy::PolicyNote>]| notes.iter().map(|note| note.id.clone()).collect();
    match decision.result() {
        Ok(allowed) => (true, ids(allowed.determining())),
        Err(denied) => (false, ids(&denied.determining)),
    }
}

fn find(log: &Path, id: &str) -> Result<RecordLine, String> {
    let mut lines: Box<dyn std::io::BufRead> = if log == Path::new("-") {
        Box::new(std::io::stdin().lock())
    } else {
        let file = std::fs::File::open(log).map_err(|error| format!("cannot read `{}`: {error}", log.display()))?;
        Box::new(std::io::BufReader::new(file))
    };
    let mut line = Vec::new();
    while recorded::next_line(&mut lines, &mut line)? != recorded::Line::End {
        let holds = line.windows(id.len().max(1)).any(|part| part == id.as_bytes());
        let record: Option<RecordLine> = holds.then(|| serde_json::from_slice(&line).ok()).flatten();
        if let Some(record) = record.filter(|record| record.decision_id == id) {
            return Ok(record);
        }
    }
    Err(format!("no record of the decision `{id}` in `{}`", log.display()))
}
