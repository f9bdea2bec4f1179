//! One record per visit: who asked what, what was answered and why. A record never holds a token, and of its claims
//! only the identifiers named here.

use std::{
    io::Write,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::JoinHandle,
};

use serde::Serialize;

/// How a visit was decided.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Let through.
    Allow,
    /// Refused.
    Deny,
    /// The client left before there was a decision.
    #[default]
    Abandoned,
}

/// A decision record: one JSON line.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Record {
    /// When the request arrived: RFC 3339, UTC, milliseconds.
    pub time: String,
    /// Names the decision; also told to client and upstream. A ULID.
    pub decision_id: String,
    /// How it was decided.
    pub decision: Outcome,
    /// `allowed`, or the exact reason of the refusal (`docs/errors.md`).
    pub code: &'static str,
    /// The status answered; 0 when nothing was.
    pub status: u16,
    /// The method, cut to 16 bytes.
    pub method: String,
    /// The path as received, cut to 1024 bytes; the query is left out.
    pub path: String,
    /// The peer's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// The route's methods and path template.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<Arc<str>>,
    /// The token's issuer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer: Option<Arc<str>>,
    /// The agent's Cedar id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<Arc<str>>,
    /// The Cedar id of the user acted for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<Arc<str>>,
    /// The calling app.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app: Option<Arc<str>>,
    /// The Cedar action.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action: Option<Arc<str>>,
    /// The Cedar resource.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    /// The claim or attribute that was missing, for `claim_missing`; the scope, for `scope_missing`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missing: Option<String>,
    /// Ids of the policies that decided.
    pub policies: Vec<String>,
    /// Whether the token was already known.
    pub token_cached: bool,
    /// From arrival to decision, in microseconds.
    pub decision_us: u64,
    /// From arrival to the end of the answer, in microseconds.
    pub duration_us: u64,
}

/// Where records go.
pub trait Sink: Send + Sync + 'static {
    /// Takes one record and says whether it did; must not block.
    fn write(&self, record: &Record) -> bool;
}

/// How many records may wait for the writer.
const QUEUE_RECORDS_MAX: usize = 16 * 1024;

/// Records as JSON lines, written by a thread of their own, so that a slow reader never holds up a request. When the
/// queue is full a record is dropped and counted.
pub struct Lines {
    queue: Mutex<Option<SyncSender<Vec<u8>>>>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl std::fmt::Debug for Lines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Lines")
    }
}

impl Lines {
    /// Writes to `out`.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn new(out: impl Write + Send + 'static) -> std::io::Result<Self> {
        let (sender, receiver) = sync_channel(QUEUE_RECORDS_MAX);
        let writer = std::thread::Builder::new().name("records".into()).spawn(move || drain(&receiver, out))?;
        Ok(Self { queue: Mutex::new(Some(sender)), writer: Mutex::new(Some(writer)) })
    }

    /// Writes out what waits. Records that come later are dropped.
    pub fn close(&self) {
        drop(self.queue.lock().unwrap_or_else(PoisonError::into_inner).take());
        if let Some(writer) = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = writer.join();
        }
    }
}

impl Sink for Lines {
    fn write(&self, record: &Record) -> bool {
        let Ok(mut line) = serde_json::to_vec(record) else { return false };
        line.push(b'\n');
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.as_ref().is_some_and(|queue| queue.try_send(line).is_ok())
    }
}

/// Writes lines until no sender is left, flushing whenever none waits.
fn drain(receiver: &Receiver<Vec<u8>>, mut out: impl Write) {
    while let Ok(first) = receiver.recv() {
        let mut waiting = std::iter::once(first).chain(receiver.try_iter());
        let written = waiting.try_for_each(|line| out.write_all(&line));
        if let Err(error) = written.and_then(|()| out.flush()) {
            tracing::error!(%error, "decision records cannot be written");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_record_is_one_line_whatever_is_in_it() {
        let out = Shared::default();
        let lines = Lines::new(out.clone()).unwrap();
        let hostile = "\u{1b}[2J\n{\"decision\":\"allow\"}".to_owned();
        for _ in 0..3 {
            assert!(lines.write(&Record { agent: Some(hostile.as_str().into()), ..Record::default() }));
        }
        lines.close();
        let text = String::from_utf8(out.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.lines().count(), 3);
        for line in text.lines() {
            let record: serde_json::Value = serde_json::from_str(line).unwrap();
            assert_eq!(record["agent"], hostile.as_str());
            assert!(!line.contains('\u{1b}'));
        }
        assert!(!lines.write(&Record::default()), "nobody writes any more");
    }
}
