//! What others would answer: in a rehearsal nobody is asked over a network.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Map, Value};
use url::form_urlencoded;

use crate::base::{
    fetch::{Ask, Document, Fetch, FetchError},
    outside::Outside,
    rows::{Database, Databases, Query, QueryError, Row},
};

/// What somebody who is asked would answer.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    /// Where a source is asked by HTTP.
    pub url: Option<String>,
    /// The document that it answers with; `null` is one.
    #[serde(default, deserialize_with = "given")]
    pub json: Option<Value>,
    /// The status, where that is not 200.
    pub status: Option<u16>,
    /// What a SQL source is asked, as the configuration has it; any, where there is one alone.
    pub statement: Option<String>,
    /// With which parameters; any, where this is not given.
    pub parameters: Option<Vec<String>>,
    /// The rows that it answers with.
    pub rows: Option<Vec<Map<String, Value>>>,
}

/// What stands there, be it `null`.
fn given<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

/// Everybody who may be asked in one rehearsal.
#[derive(Debug)]
pub(super) struct Answers {
    /// What is given, and whether it was asked for.
    given: Vec<(Answer, AtomicBool)>,
    /// Tokens that issuers are asked about, with what they say of them.
    pub(super) tokens: Vec<(String, Value)>,
    /// Questions that nobody answered.
    open: Mutex<Vec<String>>,
    /// Who is asked what is not given.
    beyond: Option<Outside>,
}

impl Answer {
    /// What is wrong with it, if anything is.
    pub(super) const fn problem(&self) -> Option<&'static str> {
        match (&self.url, &self.rows) {
            (Some(_), Some(_)) => Some("either `url` or `rows`"),
            (None, None) => Some("neither `url` nor `rows`"),
            (Some(_), None) if self.parameters.is_some() => Some("`parameters` are of a SQL source"),
            (Some(_), None) if self.statement.is_some() => Some("`statement` is of a SQL source"),
            (Some(_), None) if self.json.is_none() == self.status.is_none() => Some("`json` or `status`, one of them"),
            (None, Some(_)) if self.json.is_some() || self.status.is_some() => Some("`json` is of an HTTP source"),
            _ => None,
        }
    }

    /// What it answers.
    fn asked(&self) -> String {
        let statement = self.statement.as_ref().map(|statement| format!(" to `{statement}`"));
        let parameters = self.parameters.as_ref().map(|parameters| format!(" for the parameters {parameters:?}"));
        match &self.url {
            Some(url) => format!("`{url}`"),
            None => format!("rows{}{}", statement.unwrap_or_default(), parameters.unwrap_or_default()),
        }
    }
}

impl Answers {
    pub(super) fn new(given: Vec<Answer>, tokens: Vec<(String, Value)>, beyond: Option<Outside>) -> Self {
        let given = given.into_iter().map(|answer| (answer, AtomicBool::new(false))).collect();
        Self { given, tokens, open: Mutex::new(Vec::new()), beyond }
    }

    /// The questions that nobody answered, each once.
    pub(super) fn open(&self) -> Vec<String> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What is given and nobody asked for.
    pub(super) fn unused(&self) -> Vec<String> {
        let unused = self.given.iter().filter(|(_, was_asked)| !was_asked.load(Ordering::Relaxed));
        unused.map(|(answer, _)| format!("nobody asked for what `answers` gives: {}", answer.asked())).collect()
    }

    /// The first answer that `is_meant`.
    fn take(&self, is_meant: impl Fn(&Answer) -> bool) -> Option<&Answer> {
        let (answer, was_asked) = self.given.iter().find(|(answer, _)| is_meant(answer))?;
        was_asked.store(true, Ordering::Relaxed);
        Some(answer)
    }

    fn note(&self, question: String) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if !open.contains(&question) {
            open.push(question);
        }
    }

    /// What an issuer says of the token in `form` (RFC 7662).
    fn introspected(&self, form: &str) -> Option<Document> {
        let (_, token) = form_urlencoded::parse(form.as_bytes()).find(|(name, _)| name == "token")?;
        let (_, said) = self.tokens.iter().find(|(known, _)| *known == token)?;
        Some(Document { body: said.to_string().into_bytes(), fresh_for: None })
    }
}

#[async_trait]
impl Fetch for Answers {
    async fn fetch(&self, ask: Ask<'_>) -> Result<Document, FetchError> {
        if let Some(said) = ask.form.and_then(|form| self.introspected(form.expose())) {
            return Ok(said);
        }
        let given = self.take(|answer| answer.url.as_deref() == Some(ask.url.as_str()));
        match given {
            Some(Answer { json: Some(json), .. }) => {
                Ok(Document { body: json.to_string().into_bytes(), fresh_for: None })
            }
            Some(Answer { status: Some(status), .. }) => Err(FetchError::Status(*status)),
            _ => {
                if let Some(beyond) = &self.beyond {
                    return beyond.fetch.fetch(ask).await;
                }
                self.note(format!("nothing in `answers` is for `{}`", ask.url));
                Err(FetchError::Unreachable("not in a rehearsal".into()))
            }
        }
    }
}

/// The databases of a rehearsal.
pub(super) struct Tables(pub(super) Arc<Answers>);

/// A statement: who answers it here, whoever really does, and its text.
struct Table(Arc<Answers>, Option<Arc<dyn Database>>, String);

#[async_trait]
impl Database for Table {
    async fn rows(&self, parameters: &[&str], rows_max: usize) -> Result<Vec<Row>, QueryError> {
        let is_meant = |answer: &Answer| {
            answer.rows.is_some()
                && answer.statement.as_ref().is_none_or(|wanted| *wanted == self.2)
                && answer.parameters.as_ref().is_none_or(|wanted| wanted == parameters)
        };
        match self.0.take(is_meant).and_then(|answer| answer.rows.as_ref()) {
            Some(rows) => Ok(rows.iter().take(rows_max.saturating_add(1)).cloned().collect()),
            None => {
                if let Some(real) = &self.1 {
                    return real.rows(parameters, rows_max).await;
                }
                self.0.note(format!("nothing in `answers` has rows for the parameters {parameters:?}"));
                Err(QueryError::Failed("not in a rehearsal".into()))
            }
        }
    }
}

impl Databases for Tables {
    fn open(&self, query: &Query) -> Arc<dyn Database> {
        let real = self.0.beyond.as_ref().map(|beyond| beyond.databases.open(query));
        Arc::new(Table(self.0.clone(), real, query.statement.clone()))
    }
}
