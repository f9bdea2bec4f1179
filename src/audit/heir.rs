//! Records in a file over the change from one gate to the next. The one before closes the file when the next has taken over, and
//! sends it what is still to come: one gate alone writes, and no record is lost.

use std::{
    convert::Infallible,
    io::{self, BufRead, BufReader, Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    sync::{
        Arc,
        mpsc::{Receiver, Sender, TryRecvError, channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use serde_json::{Map, Value};

use super::{
    Lines,
    file::{FileSettings, LINE_BYTES_MAX, RecordFile},
    lines::{Out, Stream},
};

/// How long the gate before may need until it has closed the file. Records wait in their queue.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often it is looked whether it has, where it did not say so.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// A file of records that another gate may still write to.
#[derive(Debug)]
pub struct Heir {
    settings: FileSettings,
    /// Ends when the gate before has closed it; none once that was waited for.
    closed: Option<Receiver<Infallible>>,
    file: Option<RecordFile>,
}

/// Held for as long as the gate before has not said that it has closed the file.
#[derive(Debug)]
pub struct Unclosed(#[expect(dead_code, reason = "it tells by going")] Sender<Infallible>);

impl Heir {
    /// Of the file of `settings`, once it is closed.
    ///
    /// # Errors
    /// What is sure to keep it from being opened then.
    pub fn of(settings: FileSettings) -> io::Result<(Self, Unclosed)> {
        RecordFile::check(&settings)?;
        let (unclosed, closed) = channel();
        Ok((Self { settings, closed: Some(closed), file: None }, Unclosed(unclosed)))
    }

    fn file(&mut self) -> io::Result<&mut RecordFile> {
        let file = match (self.file.take(), self.closed.take()) {
            (Some(file), _) => file,
            (None, Some(closed)) => open_once(&closed, &self.settings)?,
            (None, None) => RecordFile::open(self.settings.clone())?,
        };
        Ok(self.file.insert(file))
    }
}

/// INVARIANT: until the gate before has closed the file nobody else opens it, nor one in its place. For a moment none is there, when that gate
/// begins another, and longer where somebody has moved it away: it would find the new one taken.
fn open_once(closed: &Receiver<Infallible>, settings: &FileSettings) -> io::Result<RecordFile> {
    let deadline = Instant::now().checked_add(PATIENCE);
    let _ = closed.recv_timeout(PATIENCE);
    loop {
        match RecordFile::open(settings.clone()) {
            Err(busy)
                if busy.kind() == io::ErrorKind::ResourceBusy && deadline.is_some_and(|it| Instant::now() < it) =>
            {
                thread::sleep(LOOK_EVERY);
            }
            opened => return opened,
        }
    }
}

/// Where the gate that has taken over is sent records, once the file is closed: that it hears first.
pub fn bequeath(mut line: UnixStream) -> Stream<UnixStream> {
    // Where the line has ended the records that follow are lost, and counted.
    let _ = line.write_all(b"\n");
    Stream::to(line)
}

impl Out for Heir {
    fn write(&mut self, lines: Vec<Vec<u8>>) -> Result<(), (usize, io::Error)> {
        match self.file() {
            Ok(file) => file.write(lines),
            Err(error) => Err((lines.len(), error)),
        }
    }

    fn rest(&mut self, ends: bool) -> io::Result<bool> {
        let is_unclosed = |closed: &Receiver<Infallible>| closed.try_recv() != Err(TryRecvError::Disconnected);
        if !ends && self.closed.as_ref().is_some_and(is_unclosed) {
            return Ok(false);
        }
        self.file()?.rest(ends)
    }
}

/// The records of the gate before, as it ends.
#[derive(Debug)]
pub struct Bequest {
    line: UnixStream,
    reader: JoinHandle<()>,
}

impl Bequest {
    /// Adds what comes over `line` to `lines`, until it ends, and gives up `unclosed` as soon as anything comes.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn read(line: UnixStream, lines: Arc<Lines>, unclosed: Option<Unclosed>) -> io::Result<Self> {
        let from = line.try_clone()?;
        let reader = thread::Builder::new().name("bequest".into()).spawn(move || read(from, &lines, unclosed))?;
        Ok(Self { line, reader })
    }

    /// Takes no more: what was sent until now is added, and the gate before counts the rest as dropped.
    pub fn close(self) {
        // On an error the line has ended by itself.
        let _ = self.line.shutdown(Shutdown::Read);
        let _ = self.reader.join();
    }
}

fn read(from: impl Read, lines: &Lines, unclosed: Option<Unclosed>) {
    let mut from = BufReader::new(from);
    let _ = from.read_exact(&mut [0]);
    drop(unclosed);
    loop {
        let mut line = Vec::new();
        let read = from.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line);
        // Half a line is one that the gate before has counted as dropped.
        if !read.is_ok_and(|bytes| bytes > 0) || line.pop() != Some(b'\n') {
            return;
        }
        match serde_json::from_slice::<Map<String, Value>>(&line) {
            Ok(_) => lines.take_over(line),
            Err(error) => {
                tracing::error!(%error, "what the gate before sent is no record");
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;
    use crate::audit::{chain::Reader, file::ChainSettings};

    fn settings(folder: &TempDir) -> FileSettings {
        let chain = ChainSettings { key: None, sign_every: PATIENCE };
        FileSettings {
            path: folder.path().join("records.jsonl"),
            bytes_max: 1 << 20,
            age_max: None,
            keep: 3,
            sync: false,
            chain: Some(chain),
        }
    }

    fn record() -> Vec<Vec<u8>> {
        vec![br#"{"record":1}"#.to_vec()]
    }

    /// Records in the chain of these files, the oldest first.
    fn chained(folder: &TempDir, names: &[&str]) -> u64 {
        let mut reader = Reader::new(None);
        for name in names {
            reader.begin_file().unwrap();
            let text = fs::read_to_string(folder.path().join(name)).unwrap();
            text.split_terminator('\n').for_each(|line| reader.line(line.as_bytes()).unwrap());
        }
        reader.end().unwrap();
        reader.account().records
    }

    #[test]
    fn a_file_that_is_moved_away_before_the_gate_before_has_closed_it_is_begun_anew_by_that_gate() {
        let folder = tempfile::tempdir().unwrap();
        let mut before = RecordFile::open(settings(&folder)).unwrap();
        before.write(record()).unwrap();
        let (mut heir, unclosed) = Heir::of(settings(&folder)).unwrap();
        fs::rename(folder.path().join("records.jsonl"), folder.path().join("records.jsonl.1")).unwrap();
        heir.rest(false).unwrap();
        let next = thread::spawn(move || {
            heir.write(record()).unwrap();
            heir.rest(true).unwrap();
        });
        // Longer than it takes to begin a file, if it did.
        thread::sleep(LOOK_EVERY * 5);
        before.write(record()).unwrap();
        drop(before);
        drop(unclosed);
        next.join().unwrap();
        assert_eq!(chained(&folder, &["records.jsonl.1", "records.jsonl"]), 3);
    }

    #[test]
    fn a_file_that_could_never_be_gone_on_with_is_not_waited_for() {
        for name in ["records.jsonl", "records.jsonl.1"] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join(name);
            // As a gate leaves it that makes no chain.
            fs::write(&path, "{\"record\":1}\n").unwrap();
            assert_eq!(Heir::of(settings(&folder)).unwrap_err().kind(), io::ErrorKind::InvalidData, "{name}");
            fs::remove_file(&path).unwrap();
            let mut before = RecordFile::open(settings(&folder)).unwrap();
            before.write(record()).unwrap();
            // Half a line may be one that is being written.
            fs::OpenOptions::new()
                .append(true)
                .open(folder.path().join("records.jsonl"))
                .unwrap()
                .write_all(b"{")
                .unwrap();
            assert!(Heir::of(settings(&folder)).is_ok(), "{name}");
        }
    }

    #[test]
    fn a_file_is_had_as_soon_as_the_gate_before_has_closed_it_and_not_only_with_a_record() {
        let folder = tempfile::tempdir().unwrap();
        let (mut heir, unclosed) = Heir::of(settings(&folder)).unwrap();
        heir.rest(false).unwrap();
        assert!(RecordFile::open(settings(&folder)).is_ok());
        drop(unclosed);
        heir.rest(false).unwrap();
        assert_eq!(RecordFile::open(settings(&folder)).unwrap_err().kind(), io::ErrorKind::ResourceBusy);
    }
}
