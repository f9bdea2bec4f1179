//! The configuration of a lookup: an HTTP server or a database that is asked about one key.

use std::{path::PathBuf, sync::Arc, time::Duration};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use schemars::JsonSchema;
use serde::Deserialize;
use url::Url;

use crate::base::{
    fetch::Transport,
    files::Files,
    problem::{Problem, Problems, bounded},
    rows::{DatabaseAddress, Query},
    secret::{Secret, SecretSource},
    spanned::Spanned,
};

/// Whom to ask.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LookupConfig {
    /// An HTTP server.
    Http(HttpLookup),
    /// A database.
    Sql(SqlLookup),
}

/// `http`: `GET` of a URL, answered with JSON.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HttpLookup {
    /// The URL; `{id}` in its path or query stands for the key, percent-encoded.
    pub url: Spanned<String>,
    /// `Authorization`, whole. Default: none.
    pub authorization: Option<SecretSource>,
    /// A waiver: `accept_plain_http`.
    pub transport: Option<TransportWaiver>,
    /// Where in the answer the object is that is meant, a JSON pointer. Default: the whole.
    pub at: Option<Spanned<String>>,
    /// How answers are kept and questions bounded.
    #[serde(default)]
    pub keep: KeepConfig,
}

/// `sql`: one statement with parameters.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SqlLookup {
    /// A SQLite file.
    pub sqlite: Option<Spanned<PathBuf>>,
    /// A secret: the URL of a PostgreSQL database.
    pub postgres: Option<SecretSource>,
    /// A waiver: `accept_plain_connection`.
    pub transport: Option<ConnectionWaiver>,
    /// The statement. `$1` is the key, as text.
    pub statement: Spanned<String>,
    /// Connections that are held at most, half of them for what is known already. Default 4.
    pub connections_max: Option<Spanned<u32>>,
    /// How answers are kept and questions bounded.
    #[serde(default)]
    pub keep: KeepConfig,
}

/// What must be spelled out to fetch over plain HTTP.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "LookupTransportWaiver")]
pub enum TransportWaiver {
    /// Whoever sits between can forge what decides.
    AcceptPlainHttp,
}

/// What must be spelled out to reach a database that does not prove who it is.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ConnectionWaiver {
    /// Whoever sits between can forge what decides.
    AcceptPlainConnection,
}

/// How answers are kept, and questions bounded.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct KeepConfig {
    /// Milliseconds that an answer may take. Default 500.
    pub timeout_ms: Option<Spanned<u64>>,
    /// Seconds that an answer serves. Default 30.
    pub fresh_s: Option<Spanned<u64>>,
    /// Seconds that nothing is asked again about what the source does not know. Default 5.
    pub absent_s: Option<Spanned<u64>>,
    /// Seconds for which an answer serves beyond that while the source fails. Default 0.
    pub stale_max_s: Option<Spanned<u64>>,
    /// Answers that are kept. Default 10000.
    pub answers_max: Option<Spanned<u64>>,
    /// Questions under way at once; as many again about what is known already. Default 64.
    pub questions_max: Option<Spanned<usize>>,
    /// Failures of its own, in a row, after which the source is left alone. Default 5.
    pub failures_max: Option<Spanned<u32>>,
    /// Seconds for which it is left alone. Default 5.
    pub pause_s: Option<Spanned<u64>>,
}

/// A lookup, compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LookupPlan {
    /// What records and metrics call it.
    pub(crate) name: Arc<str>,
    pub(super) whom: Whom,
    pub(super) keep: Keep,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Whom {
    Http { url: UrlTemplate, authorization: Option<Secret>, at: String },
    Sql(Query),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Keep {
    pub(super) timeout: Duration,
    pub(super) fresh: Duration,
    pub(super) absent: Duration,
    pub(super) stale_max: Duration,
    pub(super) answers_max: u64,
    pub(super) questions_max: usize,
    pub(super) failures_max: u32,
    pub(super) pause: Duration,
}

impl LookupConfig {
    /// Compiles the lookup of what has these `keys`, whose names stand in the URL and whose numbers in the statement.
    ///
    /// # Errors
    /// Every [`Problem`] it has.
    pub(crate) fn compile(&self, keys: &[&str], files: &Files) -> Result<LookupPlan, Problems> {
        let mut problems = Problems::default();
        let keep = problems.keep(self.keep().compile());
        let whom = match self {
            Self::Http(http) => problems.keep(http.compile(keys, files)),
            Self::Sql(sql) => {
                let timeout = keep.map_or(Duration::MAX, |keep| keep.timeout);
                problems.keep(sql.compile(keys.len(), timeout, files)).map(|(name, query)| (name, Whom::Sql(query)))
            }
        };
        let plan = keep.zip(whom).map(|(keep, (name, whom))| LookupPlan { name: name.into(), whom, keep });
        problems.into_result(plan)
    }

    const fn keep(&self) -> &KeepConfig {
        match self {
            Self::Http(http) => &http.keep,
            Self::Sql(sql) => &sql.keep,
        }
    }
}

impl LookupPlan {
    /// How many questions may be under way: about what is strange, and about what is known.
    pub(super) fn places(&self) -> [usize; 2] {
        match &self.whom {
            Whom::Http { .. } => [self.keep.questions_max; 2],
            // No more than there are connections, so that none is waited for in vain.
            Whom::Sql(query) => {
                let connections = usize::try_from(query.connections_max).unwrap_or(usize::MAX);
                let strange = connections.div_euclid(2);
                [strange, connections.saturating_sub(strange)].map(|places| places.min(self.keep.questions_max))
            }
        }
    }

    /// Whether values come with SQL's types, which are fewer than JSON's.
    pub(crate) const fn is_sql(&self) -> bool {
        matches!(self.whom, Whom::Sql(_))
    }
}

impl HttpLookup {
    fn compile(&self, keys: &[&str], files: &Files) -> Result<(String, Whom), Problems> {
        let mut problems = Problems::default();
        let transport = match self.transport {
            Some(TransportWaiver::AcceptPlainHttp) => Transport::PlainHttp,
            None => Transport::Trustworthy,
        };
        let url = UrlTemplate::parse(&self.url.value, keys, transport).map_err(|message| {
            Problem::at(&self.url, message).fix(format!(
                "write an https URL (http for loopback, or with `transport: accept_plain_http`) with `{{{}}}` in its path or query",
                keys.join("}`, `{")
            ))
        });
        let url = problems.keep(url);
        let authorization = problems.keep(self.authorization.as_ref().map(|secret| secret.read(files)).transpose());
        let at = self.at.as_ref().map_or(Ok(String::new()), |at| match at.value.starts_with('/') {
            true => Ok(at.value.clone()),
            false => Err(Problem::at(at, "not a JSON pointer").fix("write it as in `/result/0`")),
        });
        let at = problems.keep(at);
        let name = url.as_ref().map(|url| format!("http {}", url.authority));
        let whom = (|| Some((name?, Whom::Http { url: url?, authorization: authorization?, at: at? })))();
        problems.into_result(whom)
    }
}

impl SqlLookup {
    fn compile(&self, keys: usize, timeout: Duration, files: &Files) -> Result<(String, Query), Problems> {
        let mut problems = Problems::default();
        let address = match (&self.sqlite, &self.postgres) {
            (Some(path), None) => problems.keep(sqlite(path, files)),
            (None, Some(secret)) => problems.keep(secret.read(files)).and_then(|url| {
                let checked = postgres(&url, self.transport.is_some());
                problems.keep(checked.map_err(|message| {
                    Problem::at(&self.statement, message).fix("write `postgres://user:password@host/database`")
                }))
            }),
            _ => {
                let problem = Problem::at(&self.statement, "a statement for no database, or for two");
                problems.push(problem.fix("give `sqlite: path` or `postgres: { file: … }`"));
                None
            }
        };
        let statement = &self.statement;
        if !(1..=keys).any(|number| statement.value.contains(&format!("${number}"))) {
            problems.push(
                Problem::at(statement, "the statement has no parameter").fix("write `$1` where the key is to stand"),
            );
        }
        let connections = bounded(self.connections_max.as_ref(), "connections_max", 4, 2..=100);
        let connections_max = problems.keep(connections);
        let query = (|| {
            let (name, address) = address?;
            let statement = statement.value.clone();
            Some((name, Query { address, statement, connections_max: connections_max?, timeout }))
        })();
        problems.into_result(query)
    }
}

fn sqlite(path: &Spanned<PathBuf>, files: &Files) -> Result<(String, DatabaseAddress), Problem> {
    let file = files.path(&path.value).map_err(|error| Problem::unreadable(path, &error))?;
    match files.unobserved().stamp(&path.value) {
        Ok(_) => Ok((format!("sqlite {}", path.value.display()), DatabaseAddress::Sqlite(file))),
        Err(error) => Err(Problem::unreadable(path, &error)),
    }
}

/// A database on another machine must prove who it is, and nobody may sit between.
fn postgres(url: &Secret, waived: bool) -> Result<(String, DatabaseAddress), String> {
    let known = Url::parse(url.expose()).ok().filter(|url| matches!(url.scheme(), "postgres" | "postgresql"));
    let mut known = known.ok_or("the secret holds no URL of a PostgreSQL database")?;
    let query: Vec<(String, String)> = known.query_pairs().into_owned().collect();
    let given = |names: [&str; 2]| query.iter().find(|(name, _)| names.contains(&name.as_str())).map(|(_, it)| it);
    let host = given(["host", "hostaddr"]).cloned().or_else(|| known.host_str().map(str::to_owned));
    let host = host.ok_or("the URL names no host")?;
    let here = host.starts_with('/')
        || Url::parse(&format!("http://{host}")).is_ok_and(|url| Transport::Trustworthy.admits(&url));
    match given(["sslmode", "ssl-mode"]).map(String::as_str) {
        _ if here || waived => {}
        Some("verify-full") => {}
        None => drop(known.query_pairs_mut().append_pair("sslmode", "verify-full")),
        Some(_) => return Err("`sslmode` is not `verify-full`, so that another could be taken for the database".into()),
    }
    let name = format!("postgres {host}{}", known.path());
    Ok((name, DatabaseAddress::Postgres(Secret::from(String::from(known)))))
}

impl KeepConfig {
    fn compile(&self) -> Result<Keep, Problems> {
        let mut problems = Problems::default();
        let mut number = |value: &Option<Spanned<u64>>, name, default, range| {
            problems.keep(bounded(value.as_ref(), name, default, range))
        };
        let timeout = number(&self.timeout_ms, "timeout_ms", 500, 1..=60_000).map(Duration::from_millis);
        let fresh = number(&self.fresh_s, "fresh_s", 30, 1..=86_400).map(Duration::from_secs);
        let absent = number(&self.absent_s, "absent_s", 5, 1..=86_400).map(Duration::from_secs);
        let stale_max = number(&self.stale_max_s, "stale_max_s", 0, 0..=86_400).map(Duration::from_secs);
        let pause = number(&self.pause_s, "pause_s", 5, 1..=3_600).map(Duration::from_secs);
        let answers_max = number(&self.answers_max, "answers_max", 10_000, 1..=10_000_000);
        let questions_max = problems.keep(bounded(self.questions_max.as_ref(), "questions_max", 64, 1..=10_000));
        let failures_max = problems.keep(bounded(self.failures_max.as_ref(), "failures_max", 5, 1..=1_000));
        let keep = (|| {
            Some(Keep {
                timeout: timeout?,
                fresh: fresh?,
                absent: absent?,
                stale_max: stale_max?,
                answers_max: answers_max?,
                questions_max: questions_max?,
                failures_max: failures_max?,
                pause: pause?,
            })
        })();
        problems.into_result(keep)
    }
}

/// All that has a meaning of its own somewhere in a URL.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A URL with holes in its path or query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct UrlTemplate {
    /// Text, and then the number of the key that follows it, if any.
    parts: Vec<(String, Option<usize>)>,
    authority: String,
}

impl UrlTemplate {
    fn parse(text: &str, keys: &[&str], transport: Transport) -> Result<Self, String> {
        let (mut parts, mut rest) = (Vec::new(), text);
        while let Some((before, after)) = rest.split_once('{') {
            let (name, after) = after.split_once('}').ok_or("`{` without `}`")?;
            let key =
                keys.iter().position(|key| *key == name).ok_or_else(|| format!("nothing is known as `{{{name}}}`"))?;
            parts.push((before.to_owned(), Some(key)));
            rest = after;
        }
        if parts.is_empty() {
            return Err("the URL is the same whatever is asked about".into());
        }
        parts.push((rest.to_owned(), None));
        let mut template = Self { parts, authority: String::new() };
        // Holes are in path or query: with other keys, the URL is still at the same origin.
        let example = |key: &str| template.fill(&vec![key; keys.len()]);
        let (one, other) = example("a").zip(example("b")).ok_or("not a URL that is written in one way")?;
        let is_plain = one.username().is_empty() && one.password().is_none();
        if !is_plain || !transport.admits(&one) || one.origin() != other.origin() || one.fragment().is_some() {
            return Err("not the URL of an answer that could be believed".into());
        }
        template.authority = one.authority().to_owned();
        Ok(template)
    }

    /// The URL for these keys; `None` where one would be read as something else, such as `..`.
    pub(super) fn fill(&self, keys: &[&str]) -> Option<Url> {
        let mut text = String::new();
        for (literal, key) in &self.parts {
            text.push_str(literal);
            if let Some(key) = key {
                let key = keys.get(*key)?;
                if key.is_empty() {
                    return None;
                }
                text.extend(utf8_percent_encode(key, ENCODED));
            }
        }
        Url::parse(&text).ok().filter(|url| url.as_str() == text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(text: &str) -> Result<UrlTemplate, String> {
        UrlTemplate::parse(text, &["id", "user"], Transport::Trustworthy)
    }

    #[test]
    fn what_fills_a_hole_cannot_leave_it() {
        let url = template("https://data.example/docs/{id}/meta?for={user}").unwrap();
        let fill = |id: &str, user: &str| url.fill(&[id, user]).map(String::from);
        assert_eq!(fill("a", "b").unwrap(), "https://data.example/docs/a/meta?for=b");
        assert_eq!(
            fill("a/../b?x#y", "é&q=1").unwrap(),
            "https://data.example/docs/a%2F..%2Fb%3Fx%23y/meta?for=%C3%A9%26q%3D1"
        );
        for id in ["", ".", ".."] {
            assert_eq!(fill(id, "b"), None, "{id}");
        }
    }

    #[test]
    fn a_url_that_could_lead_elsewhere_is_refused() {
        for text in [
            "https://data.example/docs",
            "https://{id}.example/docs",
            "https://{id}/docs",
            "https://data.example:{id}/docs",
            "https://{id}@data.example/docs",
            "{id}://data.example/",
            "http://data.example/{id}",
            "ftp://data.example/{id}",
            "https://data.example/{other}",
            "https://data.example/{id",
            "https://data.example/../{id}",
            "https://data.example/#{id}",
        ] {
            assert!(template(text).is_err(), "{text}");
        }
        assert!(template("http://127.0.0.1:8/{id}").is_ok());
    }

    #[test]
    fn a_database_elsewhere_proves_who_it_is() {
        let address = |url: &str, waived| match postgres(&Secret::from(url.to_owned()), waived) {
            Ok((_, DatabaseAddress::Postgres(url))) => Some(url.expose().to_owned()),
            _ => None,
        };
        for (url, plain, waived) in [
            (
                "postgres://u:p@127.0.0.1:5/d",
                Some("postgres://u:p@127.0.0.1:5/d"),
                Some("postgres://u:p@127.0.0.1:5/d"),
            ),
            ("postgres:///d?host=/run/pg", Some("postgres:///d?host=/run/pg"), Some("postgres:///d?host=/run/pg")),
            (
                "postgres://db.example/d",
                Some("postgres://db.example/d?sslmode=verify-full"),
                Some("postgres://db.example/d"),
            ),
            ("postgres://db.example/d?sslmode=require", None, Some("postgres://db.example/d?sslmode=require")),
            (
                "postgres://127.0.0.1/d?host=db.example&sslmode=disable",
                None,
                Some("postgres://127.0.0.1/d?host=db.example&sslmode=disable"),
            ),
            ("mysql://127.0.0.1/d", None, None),
            ("127.0.0.1", None, None),
        ] {
            assert_eq!(address(url, false).as_deref(), plain, "{url}");
            assert_eq!(address(url, true).as_deref(), waived, "{url}");
        }
    }
}
