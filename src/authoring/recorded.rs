//! Decision records, read again.

use std::io::{BufRead, Read};

use serde::Deserialize;

use crate::{audit::PREFLIGHT, entities::recorded::RecordedQuestion, pages::CODES, refusal::Stage};

/// The longest line that is read, in bytes.
pub const LINE_BYTES_MAX: u64 = 1024 * 1024;

/// What is read of a decision record.
#[derive(Clone, Debug, Deserialize)]
pub struct RecordLine {
    /// Names the decision.
    pub decision_id: String,
    /// `allow`, `deny` or `abandoned`.
    pub decision: String,
    /// `allowed`, or the code of the refusal.
    pub code: String,
    /// When.
    #[serde(default)]
    pub time: String,
    /// The status answered.
    #[serde(default)]
    pub status: u16,
    /// The method.
    #[serde(default)]
    pub method: String,
    /// The path.
    #[serde(default)]
    pub path: String,
    /// The route.
    pub route: Option<String>,
    /// The token's issuer.
    pub issuer: Option<String>,
    /// The agent.
    pub agent: Option<String>,
    /// The user acted for.
    pub user: Option<String>,
    /// The calling app.
    pub app: Option<String>,
    /// The Cedar action.
    pub action: Option<String>,
    /// The Cedar resource.
    pub resource: Option<String>,
    /// What was missing.
    pub missing: Option<String>,
    /// The limit that was used up.
    pub limit: Option<String>,
    /// The upstream that it was for, where that is not the usual one.
    pub upstream: Option<String>,
    /// The path that it got, where that is another.
    pub upstream_path: Option<String>,
    /// The store whose policies decided.
    pub store: Option<String>,
    /// The policies that decided.
    #[serde(default)]
    pub policies: Vec<String>,
    /// Where attributes came from.
    #[serde(default)]
    pub attributes: Vec<RecordedOrigin>,
    /// The question put to them.
    pub question: Option<RecordedQuestion>,
}

/// Where an attribute came from.
#[derive(Clone, Debug, Deserialize)]
pub struct RecordedOrigin {
    /// Whose it is.
    pub of: String,
    /// The attribute.
    pub name: String,
    /// Where it came from.
    pub source: String,
    /// Since when that is known, in seconds.
    pub age_s: Option<u64>,
}

/// What policies had to do with a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// They decided.
    Decided,
    /// It was refused, or left, before they were asked: whatever they say makes no difference.
    None,
    /// That cannot be told: the code is not known here.
    Unknown,
}

/// Whether what has this code was let in and answered by the gate itself: the policies were not asked.
pub fn is_answered_here(code: &str) -> bool {
    code == PREFLIGHT || CODES.contains(&code)
}

impl RecordLine {
    /// What the policies had to do with it.
    pub fn part_of_policies(&self) -> Part {
        if is_answered_here(&self.code) {
            return Part::None;
        }
        if self.question.is_some() || self.decision == "allow" {
            return Part::Decided;
        }
        match Stage::of_code(&self.code) {
            Some(Stage::Policy) => Part::Decided,
            Some(Stage::Request | Stage::Token | Stage::Route | Stage::Mapping) => Part::None,
            Some(Stage::Upstream) | None if self.decision == "abandoned" => Part::None,
            Some(Stage::Upstream) | None => Part::Unknown,
        }
    }

    /// What the policies said, whatever became of the request afterwards.
    pub fn code_of_policies(&self) -> &str {
        if self.decision == "allow" { "allowed" } else { &self.code }
    }
}

/// What stands on a line.
#[derive(Clone, Debug)]
pub enum Content {
    /// A record.
    Record(Box<RecordLine>),
    /// A word of the chain's own, and how many records could not be written as it says.
    OfChain {
        /// Those records.
        dropped: u64,
    },
}

/// A line of the chain's own.
#[derive(Deserialize)]
#[serde(tag = "chain", rename_all = "snake_case")]
enum ChainLine {
    Opened,
    Signed,
    Torn,
    Dropped { records: u64 },
}

/// What stands on `line`.
///
/// # Errors
/// Why it is neither a record nor a line of the chain's own.
pub fn content(line: &[u8]) -> Result<Content, String> {
    let error = match serde_json::from_slice(line) {
        Ok(record) => return Ok(Content::Record(Box::new(record))),
        Err(error) => error,
    };
    match serde_json::from_slice(line) {
        Ok(ChainLine::Opened | ChainLine::Signed | ChainLine::Torn) => Ok(Content::OfChain { dropped: 0 }),
        Ok(ChainLine::Dropped { records }) => Ok(Content::OfChain { dropped: records }),
        Err(_) => Err(error.to_string()),
    }
}

/// A line of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// It was read.
    Read,
    /// It is longer than [`LINE_BYTES_MAX`], and was passed over.
    TooLong,
    /// There is none.
    End,
}

/// Reads the next line of `log` into `line`.
///
/// # Errors
/// Where it cannot be read.
pub fn next_line(log: &mut impl BufRead, line: &mut Vec<u8>) -> Result<Line, String> {
    let mut long = false;
    loop {
        line.clear();
        let mut bounded = log.take(LINE_BYTES_MAX);
        let read = bounded.read_until(b'\n', line).map_err(|error| format!("cannot read the records: {error}"))?;
        let whole = line.ends_with(b"\n") || u64::try_from(read).unwrap_or(u64::MAX) < LINE_BYTES_MAX;
        match (read, whole, long) {
            (0, _, false) => return Ok(Line::End),
            (_, true, true) => return Ok(Line::TooLong),
            (_, true, false) => return Ok(Line::Read),
            (_, false, _) => long = true,
        }
    }
}
