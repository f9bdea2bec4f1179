//! Records in a file over the change from one gate to the next. The one before closes the file when the next has taken over, and
//! sends it what is still to come: one gate alone writes, and no record is lost.

use std::{
    io::{self, BufRead, BufReader, Read},
    net::Shutdown,
    os::unix::net::UnixStream,
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use serde_json::{Map, Value};

use super::{
    Lines,
    file::{FileSettings, LINE_BYTES_MAX, RecordFile},
    lines::Out,
};

/// How long the gate before may need until it has closed the file. Records wait in their queue.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often it is looked whether it has.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// A file of records that another gate may still write to.
#[derive(Debug)]
pub struct Heir {
    settings: FileSettings,
    file: Option<RecordFile>,
    deadline: Instant,
}

impl Heir {
    /// Of the file of `settings`, once it is closed.
    ///
    /// # Errors
    /// What is sure to keep it from being opened then.
    pub fn of(settings: FileSettings) -> io::Result<Self> {
        RecordFile::check(&settings)?;
        let deadline = Instant::now().checked_add(PATIENCE).unwrap_or_else(Instant::now);
        Ok(Self { settings, file: None, deadline })
    }

    fn file(&mut self) -> io::Result<&mut RecordFile> {
        let file = match self.file.take() {
            Some(file) => file,
            None => loop {
                match RecordFile::open(self.settings.clone()) {
                    Err(busy) if busy.kind() == io::ErrorKind::ResourceBusy && Instant::now() < self.deadline => {
                        thread::sleep(LOOK_EVERY);
                    }
                    opened => break opened?,
                }
            },
        };
        Ok(self.file.insert(file))
    }
}

impl Out for Heir {
    fn write(&mut self, lines: Vec<Vec<u8>>) -> Result<(), (usize, io::Error)> {
        match self.file() {
            Ok(file) => file.write(lines),
            Err(error) => Err((lines.len(), error)),
        }
    }

    fn rest(&mut self, ends: bool) -> io::Result<()> {
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
    /// Adds what comes over `line` to `lines`, until it ends.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn read(line: UnixStream, lines: Arc<Lines>) -> io::Result<Self> {
        let from = line.try_clone()?;
        let reader = thread::Builder::new().name("bequest".into()).spawn(move || read(from, &lines))?;
        Ok(Self { line, reader })
    }

    /// Takes no more: what was sent until now is added, and the gate before counts the rest as dropped.
    pub fn close(self) {
        // On an error the line has ended by itself.
        let _ = self.line.shutdown(Shutdown::Read);
        let _ = self.reader.join();
    }
}

fn read(from: impl Read, lines: &Lines) {
    let mut from = BufReader::new(from);
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
