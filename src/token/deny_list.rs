//! The kill switch: tokens that are refused although everything about them is right, by `jti`, `sub`, client, user, app,
//! issuer or age. The list is a file with a JSON object on each line. It is watched, so that a change takes effect
//! within a second, on tokens that are remembered too; and it is a file, so that it survives a restart.

use std::{
    collections::{HashMap, HashSet},
    io,
    path::PathBuf,
};

use serde::{Deserialize, Serialize};

use super::VerifiedToken;
use crate::base::{
    clock::Timestamp,
    digest::sha256,
    files::{FILE_BYTES_MAX, Files},
    json,
};

/// Entries that a list may have.
pub const ENTRIES_MAX: usize = 100_000;

/// How often a change is begun anew because somebody else wrote to the file.
const EDITS_MAX: usize = 10;

/// A line, as it is written. Every member that it has must be so for a token to be refused.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Entry {
    /// `iss`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// `jti`: this one token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jti: Option<String>,
    /// `sub`, as it stands in the token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sub: Option<String>,
    /// The client, as it stands in the token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// The user acted for: the Cedar id, as records have it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// `callerApp`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caller_app: Option<String>,
    /// Issued (`iat`) before this moment (RFC 3339), or without `iat`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issued_before: Option<Timestamp>,
    /// When the entry ceases to count (RFC 3339). Default never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// A note for operators.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Why a text is no deny-list.
#[derive(Debug, thiserror::Error)]
pub enum DenyListError {
    /// The file could not be read or written.
    #[error("{0}")]
    File(#[from] io::Error),
    /// A line is no entry.
    #[error("line {line}: {reason}")]
    Line {
        /// From 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// More than [`ENTRIES_MAX`] entries, or than [`FILE_BYTES_MAX`] bytes of them.
    #[error("more than {ENTRIES_MAX} entries, or {FILE_BYTES_MAX} bytes")]
    TooMany,
}

/// Names an entry: 16 hexadecimal digits of its content's SHA-256.
pub type EntryId = String;

/// The file of a deny-list.
#[derive(Clone, Debug)]
pub struct DenyFile {
    /// Where it is read from.
    pub files: Files,
    /// Its path there.
    pub path: PathBuf,
}

/// A list, indexed by what narrows each entry down the most.
#[derive(Clone, Debug, Default)]
pub struct Denials {
    entries: Vec<(EntryId, Entry)>,
    narrow: HashMap<(Narrow, String), Vec<usize>>,
    broad: Vec<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Narrow {
    Jti,
    User,
    Sub,
    Client,
    App,
}

impl Entry {
    /// Parses a line.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(line: &[u8]) -> Result<Self, String> {
        let members = json::parse_object(line).map_err(|error| error.to_string())?;
        let entry: Self = serde_json::from_value(members.into()).map_err(|error| error.to_string())?;
        let texts = [&entry.issuer, &entry.jti, &entry.sub, &entry.client_id, &entry.user, &entry.caller_app];
        if texts.iter().all(|text| text.is_none()) && entry.issued_before.is_none() {
            return Err("it names nothing, so it would refuse everybody".into());
        }
        if texts.into_iter().flatten().any(String::is_empty) {
            return Err("an empty name".into());
        }
        Ok(entry)
    }

    /// The entry on one line.
    ///
    /// # Errors
    /// None that serde is known to give.
    pub fn line(&self) -> serde_json::Result<String> {
        serde_json::to_string(self)
    }

    fn id(&self) -> EntryId {
        let content = self.line().unwrap_or_default();
        sha256(content.as_bytes()).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }

    fn narrowest(&self) -> Option<(Narrow, &String)> {
        let by = [
            (Narrow::Jti, &self.jti),
            (Narrow::User, &self.user),
            (Narrow::Sub, &self.sub),
            (Narrow::Client, &self.client_id),
            (Narrow::App, &self.caller_app),
        ];
        by.into_iter().find_map(|(field, value)| value.as_ref().map(|value| (field, value)))
    }

    fn counts_for(&self, token: &Facts<'_>, now: Timestamp) -> bool {
        let is = |asked: &Option<String>, held: Option<&str>| asked.as_deref().is_none_or(|asked| held == Some(asked));
        self.until.is_none_or(|until| now < until)
            && is(&self.issuer, Some(token.issuer))
            && is(&self.jti, token.jti)
            && is(&self.sub, token.sub)
            && is(&self.client_id, Some(token.client))
            && is(&self.user, token.user.as_deref())
            && is(&self.caller_app, token.app)
            && self.issued_before.is_none_or(|before| token.issued.is_none_or(|issued| issued < before))
    }
}

/// What entries can speak of.
struct Facts<'a> {
    issuer: &'a str,
    jti: Option<&'a str>,
    sub: Option<&'a str>,
    client: &'a str,
    user: Option<String>,
    app: Option<&'a str>,
    issued: Option<Timestamp>,
}

impl<'a> Facts<'a> {
    fn of(token: &'a VerifiedToken) -> Self {
        let text = |name: &str| token.claims().get(name).and_then(serde_json::Value::as_str);
        let issued = token.claims().get("iat").and_then(serde_json::Value::as_f64);
        Self {
            issuer: token.issuer(),
            jti: text("jti"),
            sub: text("sub"),
            client: token.client().as_str(),
            user: token.user_id(),
            app: text("callerApp"),
            issued: issued.and_then(Timestamp::from_numeric_date),
        }
    }

    fn narrow(&self) -> impl Iterator<Item = (Narrow, String)> {
        let by = [
            (Narrow::Jti, self.jti),
            (Narrow::User, self.user.as_deref()),
            (Narrow::Sub, self.sub),
            (Narrow::Client, Some(self.client)),
            (Narrow::App, self.app),
        ];
        by.into_iter().filter_map(|(field, value)| value.map(|value| (field, value.to_owned())))
    }
}

impl Denials {
    /// Whether it lacks an entry that `before` has.
    pub(super) fn forgives(&self, before: &Self) -> bool {
        let kept: HashSet<_> = self.entries.iter().map(|(id, _)| id).collect();
        before.entries.iter().any(|(id, _)| !kept.contains(id))
    }

    /// Parses a list. Empty lines and lines that begin with `#` do not count.
    ///
    /// # Errors
    /// [`DenyListError`]: one bad line voids the list, since nobody knows what it was to refuse.
    pub fn parse(text: &str) -> Result<Self, DenyListError> {
        let mut denials = Self::default();
        for (number, line) in text.lines().enumerate().filter(|(_, line)| is_entry(line)) {
            let failed = |reason| DenyListError::Line { line: number.saturating_add(1), reason };
            let entry = Entry::parse(line.as_bytes()).map_err(failed)?;
            let index = denials.entries.len();
            if index >= ENTRIES_MAX {
                return Err(DenyListError::TooMany);
            }
            match entry.narrowest() {
                Some((field, value)) => denials.narrow.entry((field, value.clone())).or_default().push(index),
                None => denials.broad.push(index),
            }
            denials.entries.push((entry.id(), entry));
        }
        Ok(denials)
    }

    /// The entries and their names.
    pub fn entries(&self) -> &[(EntryId, Entry)] {
        &self.entries
    }

    /// Whether `token` is refused.
    pub fn refuse(&self, token: &VerifiedToken, now: Timestamp) -> bool {
        if self.entries.is_empty() {
            return false;
        }
        let facts = Facts::of(token);
        let counts = |index: &usize| self.entries.get(*index).is_some_and(|(_, entry)| entry.counts_for(&facts, now));
        self.broad.iter().any(counts)
            || facts.narrow().any(|key| self.narrow.get(&key).is_some_and(|indices| indices.iter().any(counts)))
    }
}

impl DenyFile {
    /// Reads the list.
    ///
    /// # Errors
    /// [`DenyListError`].
    pub fn read(&self) -> Result<Denials, DenyListError> {
        Denials::parse(&self.files.read(&self.path)?)
    }

    /// Adds an entry at the end; gives its name.
    ///
    /// # Errors
    /// What the file system says, or `TooMany`: the list would be one that nobody can read.
    pub fn add(&self, entry: &Entry) -> Result<EntryId, DenyListError> {
        let line = entry.line().map_err(io::Error::from)?;
        self.edit(|text| {
            let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
            let longer = format!("{text}{end}{line}\n");
            let is_too_large = u64::try_from(longer.len()).unwrap_or(u64::MAX) > FILE_BYTES_MAX;
            if is_too_large || Denials::parse(text)?.entries.len() >= ENTRIES_MAX {
                return Err(DenyListError::TooMany);
            }
            Ok((Some(longer), entry.id()))
        })
    }

    /// Removes the entries of this name; gives how many there were.
    ///
    /// # Errors
    /// What the file system says.
    pub fn remove(&self, id: &str) -> Result<usize, DenyListError> {
        let is_named = |line: &str| is_entry(line) && Entry::parse(line.as_bytes()).is_ok_and(|entry| entry.id() == id);
        self.edit(|text| {
            let removed = text.lines().filter(|line| is_named(line)).count();
            let kept =
                || text.lines().filter(|line| !is_named(line)).map(|line| format!("{line}\n")).collect::<String>();
            Ok(((removed > 0).then(kept), removed))
        })
    }

    /// Puts what `edit` makes of the text in its place, if anything; anew where somebody else wrote to the file meanwhile, so
    /// that what they wrote is not lost.
    fn edit<T>(&self, edit: impl Fn(&str) -> Result<(Option<String>, T), DenyListError>) -> Result<T, DenyListError> {
        for _ in 0..EDITS_MAX {
            // Before it is read, so that what is written from then on is noticed.
            let seen = self.files.stamp(&self.path)?;
            let (text, outcome) = edit(&self.files.read(&self.path)?)?;
            let is_done = match text {
                Some(text) => self.files.replace_unless_changed(&self.path, &seen, &text)?,
                None => true,
            };
            if is_done {
                return Ok(outcome);
            }
        }
        Err(io::Error::other("others go on writing to it").into())
    }
}

fn is_entry(line: &str) -> bool {
    let line = line.trim();
    !line.is_empty() && !line.starts_with('#')
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, fs};

    use super::*;

    #[test]
    fn what_others_write_while_the_list_is_changed_is_not_lost() {
        let folder = tempfile::tempdir().unwrap();
        let file = DenyFile { files: Files::disk(folder.path()), path: "deny.jsonl".into() };
        let path = folder.path().join("deny.jsonl");
        let write = |more: &str| fs::write(&path, fs::read_to_string(&path).unwrap() + more).unwrap();
        fs::write(&path, "# one\n").unwrap();
        let times = Cell::new(0);
        let edit = |others: usize| {
            times.set(0);
            file.edit(|text| {
                if times.get() < others {
                    write("# theirs\n");
                }
                times.set(times.get() + 1);
                Ok((Some(format!("{text}# ours\n")), ()))
            })
        };
        edit(1).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "# one\n# theirs\n# ours\n");
        assert!(edit(usize::MAX).is_err());
        assert_eq!(times.get(), EDITS_MAX);
        assert_eq!(fs::read_to_string(&path).unwrap().matches("ours").count(), 1);
    }
}
