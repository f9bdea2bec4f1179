//! Records as JSON lines, written by a thread of their own, so that a slow reader never holds up a request. When the queue is full,
//! or the records cannot be written, they are dropped and counted.

use std::{
    fs::File,
    io::{self, Write},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread::JoinHandle,
    time::Duration,
};

use prometheus::{IntCounter, IntGauge};

use super::{Record, Sink};

/// How many records may wait for the writer.
const QUEUE_RECORDS_MAX: usize = 16 * 1024;

/// How many bytes of them.
const QUEUE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// How long the writer waits for more once a record has come. To wake it for each would cost a request more than its record does.
const GATHER: Duration = Duration::from_millis(2);

/// Records that are written together at most.
const BATCH_MAX: usize = 1024;

/// What a stream is given at once, where a line is no longer than that: as much as a pipe takes in one piece (`PIPE_BUF`), so that
/// what others write there does not stand within a line.
const PIECE_BYTES: usize = 4096;

/// The same of a regular file, which takes what it is given at once in one piece.
const FILE_PIECE_BYTES: usize = 64 * 1024;

/// How often there is something to do although no record came.
const IDLE_EVERY: Duration = Duration::from_secs(1);

/// What lines are written to.
pub trait Out: Send + 'static {
    /// Writes lines, each without its break. When this returns those that are not lost are as durable as they will be.
    ///
    /// # Errors
    /// How many of them are lost, and why.
    fn write(&mut self, lines: Vec<Vec<u8>>) -> Result<(), (usize, io::Error)>;

    /// Does what is due now and then; for the last time, where it `ends`. Tells whether it has found out that lines are taken: that
    /// nothing is wrong does not say so.
    ///
    /// # Errors
    /// What the system says.
    fn rest(&mut self, ends: bool) -> io::Result<bool>;
}

/// What the writer is sent.
enum Message {
    /// A record.
    Line(Vec<u8>),
    /// What the lines that come later are written to.
    Turn(Next),
}

/// Gives what is written to next.
type Next = Box<dyn FnOnce() -> Box<dyn Out> + Send>;

/// The queue.
pub struct Lines {
    sender: Mutex<Option<SyncSender<Message>>>,
    /// Bytes that a record may have.
    longest: usize,
    state: Arc<State>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

/// What is counted of records.
#[derive(Clone, Debug)]
pub struct Counts {
    /// Those that were written.
    pub written: IntCounter,
    /// Those that could not be.
    pub dropped: IntCounter,
    /// Those that wait for it.
    pub waiting: IntGauge,
}

/// What the queue and its writer share.
struct State {
    bytes: AtomicUsize,
    /// Whether the last attempt to write failed.
    failing: AtomicBool,
    counts: Counts,
}

impl std::fmt::Debug for Lines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Lines")
    }
}

impl Lines {
    /// Writes to `out`, and counts in `counts`, which are its own.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn new(out: impl Out, counts: Counts) -> io::Result<Self> {
        let (sender, receiver) = sync_channel(QUEUE_RECORDS_MAX);
        let state = Arc::new(State { bytes: AtomicUsize::new(0), failing: AtomicBool::new(false), counts });
        let shared = state.clone();
        let thread = std::thread::Builder::new().name("records".into());
        let writer = thread.spawn(move || drain(&receiver, Box::new(out), &shared))?;
        Ok(Self { sender: Mutex::new(Some(sender)), longest: usize::MAX, state, writer: Mutex::new(Some(writer)) })
    }

    /// The same, whose records have at most so many bytes: what would be more is left out, and told.
    #[must_use]
    pub const fn of_at_most(mut self, bytes: usize) -> Self {
        self.longest = bytes;
        self
    }

    /// Writes out what waits. Records that come later are dropped.
    pub fn close(&self) {
        drop(self.sender.lock().unwrap_or_else(PoisonError::into_inner).take());
        if let Some(writer) = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = writer.join();
        }
    }

    /// Writes to what `next` gives from here on; that is asked once what waits now is where it was written to before, and that is
    /// closed.
    pub fn turn_to<O: Out>(&self, next: impl FnOnce() -> O + Send + 'static) {
        let sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(sender) = sender {
            let _ = sender.send(Message::Turn(Box::new(move || Box::new(next()))));
        }
    }

    /// Takes a record that another gate made; waits while the queue is full.
    pub fn take_over(&self, line: Vec<u8>) {
        let sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (state, bytes) = (&self.state, line.len());
        state.enter_anyway(bytes);
        if sender.is_none_or(|sender| sender.send(Message::Line(line)).is_err()) {
            state.leave(1, bytes);
            state.counts.dropped.inc();
        }
    }
}

impl Sink for Lines {
    fn write(&self, record: &Record) {
        let line = record.line(self.longest).filter(|line| self.state.enter(line));
        let queued = line.is_some_and(|line| {
            let sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner);
            let bytes = line.len();
            let sent = sender.as_ref().is_some_and(|sender| sender.try_send(Message::Line(line)).is_ok());
            if !sent {
                self.state.leave(1, bytes);
            }
            sent
        });
        if !queued {
            self.state.counts.dropped.inc();
        }
    }

    fn has_room(&self, several: usize) -> bool {
        let state = &self.state;
        // Records differ in size: half of what fits is kept for those to come.
        !state.failing.load(Ordering::Relaxed)
            && state.waiting().saturating_add(several) <= QUEUE_RECORDS_MAX
            && state.bytes.load(Ordering::Relaxed) <= QUEUE_BYTES_MAX / 2
    }
}

impl State {
    fn waiting(&self) -> usize {
        usize::try_from(self.counts.waiting.get()).unwrap_or(0)
    }

    fn enter_anyway(&self, bytes: usize) -> usize {
        self.counts.waiting.inc();
        self.bytes.fetch_add(bytes, Ordering::Relaxed)
    }

    fn enter(&self, line: &[u8]) -> bool {
        let before = self.enter_anyway(line.len());
        let fits = before.saturating_add(line.len()) <= QUEUE_BYTES_MAX;
        if !fits {
            self.leave(1, line.len());
        }
        fits
    }

    fn leave(&self, records: usize, bytes: usize) {
        self.counts.waiting.sub(i64::try_from(records).unwrap_or(i64::MAX));
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Notes what came of writing, and tells once when it begins to fail.
    fn note<T>(&self, outcome: Result<T, &io::Error>) {
        let failed = outcome.is_err();
        let failing = self.failing.swap(failed, Ordering::Relaxed);
        if let (Err(error), false) = (outcome, failing) {
            tracing::error!(%error, "decision records cannot be written");
        }
    }

    /// Notes what came of a rest. INVARIANT: where a line was lost one that is written, or a receiver that was asked, says that the
    /// next is not, and nothing else does.
    fn note_rest(&self, rested: &io::Result<bool>) {
        match rested {
            Ok(false) => {}
            Ok(true) => self.note(Ok(())),
            Err(error) => self.note(Err::<(), _>(error)),
        }
    }
}

/// Writes lines until no sender is left, all that wait together.
fn drain(receiver: &Receiver<Message>, mut out: Box<dyn Out>, state: &State) {
    loop {
        match receiver.recv_timeout(IDLE_EVERY) {
            Ok(first) => {
                std::thread::sleep(GATHER);
                let (mut lines, mut turn) = (Vec::new(), None);
                for message in std::iter::once(first).chain(receiver.try_iter()) {
                    match message {
                        Message::Line(line) => lines.push(line),
                        Message::Turn(next) => turn = Some(next),
                    }
                    if turn.is_some() || lines.len() == BATCH_MAX {
                        break;
                    }
                }
                let (records, bytes) = (lines.len(), lines.iter().map(Vec::len).sum());
                let outcome = out.write(lines);
                state.leave(records, bytes);
                let lost = outcome.as_ref().err().map_or(0, |(lost, _)| *lost);
                let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
                state.counts.written.inc_by(count(records.saturating_sub(lost)));
                state.counts.dropped.inc_by(count(lost));
                state.note(outcome.as_ref().map_err(|(_, error)| error));
                let rested = out.rest(false);
                if outcome.is_ok() {
                    state.note_rest(&rested);
                }
                if let Some(next) = turn {
                    state.note_rest(&out.rest(true));
                    drop(out);
                    out = next();
                }
            }
            Err(RecvTimeoutError::Timeout) => state.note_rest(&out.rest(false)),
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    state.note_rest(&out.rest(true));
}

/// Lines to a stream that nobody turns back, several at a time.
#[derive(Debug)]
pub struct Stream<W> {
    out: W,
    /// What it is given at once, where a line is no longer than that.
    piece_bytes: usize,
    /// Whether half a line may stand there.
    broken: bool,
}

impl Stream<File> {
    /// To whatever `out` is.
    pub fn to_open(out: File) -> Self {
        let is_file = out.metadata().is_ok_and(|it| it.is_file());
        Self { piece_bytes: if is_file { FILE_PIECE_BYTES } else { PIECE_BYTES }, ..Self::to(out) }
    }
}

impl<W: Write> Stream<W> {
    /// To `out`.
    pub const fn to(out: W) -> Self {
        Self { out, piece_bytes: PIECE_BYTES, broken: false }
    }

    /// Writes whole lines, each of which is tried; how many of them are lost, and why.
    fn put(&mut self, lines: &[u8]) -> Result<(), (usize, io::Error)> {
        let (mut lost, mut at) = (None, 0);
        while let Some(left) = lines.get(at..).filter(|left| !left.is_empty()) {
            match self.put_some(left) {
                Ok(written) => at = at.saturating_add(written),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.broken |= lines.get(..at).and_then(<[u8]>::last).is_some_and(|before| *before != b'\n');
                    let rest_of_line = memchr::memchr(b'\n', left).map_or(left.len(), |end| end.saturating_add(1));
                    at = at.saturating_add(rest_of_line);
                    lost = Some((lost.map_or(1, |(before, _): (usize, _)| before.saturating_add(1)), error));
                }
            }
        }
        lost.map_or(Ok(()), Err)
    }

    fn put_some(&mut self, lines: &[u8]) -> io::Result<usize> {
        if self.broken {
            self.out.write_all(b"\n")?;
            self.broken = false;
        }
        match self.out.write(lines)? {
            0 => Err(io::ErrorKind::WriteZero.into()),
            written => Ok(written),
        }
    }
}

impl<W: Write + Send + 'static> Out for Stream<W> {
    fn write(&mut self, lines: Vec<Vec<u8>>) -> Result<(), (usize, io::Error)> {
        let (mut lost, mut last) = (0_usize, None);
        let mut piece = Vec::with_capacity(PIECE_BYTES);
        let mut lines = lines.into_iter().peekable();
        while let Some(line) = lines.next() {
            piece.extend_from_slice(&line);
            piece.push(b'\n');
            let with_next = lines.peek().map(|next| piece.len().saturating_add(next.len()).saturating_add(1));
            if with_next.is_some_and(|bytes| bytes <= self.piece_bytes) {
                continue;
            }
            if let Err((more, error)) = self.put(&piece) {
                lost = lost.saturating_add(more);
                last = Some(error);
            }
            piece.clear();
        }
        let flushed = self.out.flush();
        match last.or(flushed.err()) {
            Some(error) => Err((lost, error)),
            None => Ok(()),
        }
    }

    fn rest(&mut self, _: bool) -> io::Result<bool> {
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts() -> Counts {
        let [written, dropped] = ["written", "dropped"].map(|name| IntCounter::new(name, name).unwrap());
        Counts { written, dropped, waiting: IntGauge::new("waiting", "waiting").unwrap() }
    }

    impl Counts {
        fn all(&self) -> (u64, u64, i64) {
            (self.written.get(), self.dropped.get(), self.waiting.get())
        }
    }

    /// What it is given at once.
    #[derive(Clone, Default)]
    struct Pieces(Arc<Mutex<Vec<Vec<u8>>>>);

    impl Write for Pieces {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().push(bytes.to_vec());
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl Pieces {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().concat()).unwrap()
        }
    }

    #[test]
    fn a_record_is_one_line_whatever_is_in_it() {
        let out = Pieces::default();
        let counts = counts();
        let lines = Lines::new(Stream::to(out.clone()), counts.clone()).unwrap();
        let hostile = "\u{1b}[2J\n{\"decision\":\"allow\"}".to_owned();
        for _ in 0..3 {
            lines.write(&Record { agent: Some(hostile.as_str().into()), ..Record::default() });
        }
        lines.close();
        let text = out.text();
        assert_eq!(text.lines().count(), 3);
        for line in text.lines() {
            let record: serde_json::Value = serde_json::from_str(line).unwrap();
            assert_eq!(record["agent"], hostile.as_str());
            assert!(!line.contains('\u{1b}'));
        }
        lines.write(&Record::default());
        assert_eq!(counts.all(), (3, 1, 0), "nobody writes any more");
    }

    /// Counts how often it is written to.
    struct Counting(Arc<AtomicUsize>);

    impl Out for Counting {
        fn write(&mut self, _: Vec<Vec<u8>>) -> Result<(), (usize, io::Error)> {
            self.0.fetch_add(1, Ordering::SeqCst);
            Ok(())
        }
        fn rest(&mut self, _: bool) -> io::Result<bool> {
            Ok(false)
        }
    }

    #[test]
    fn that_a_line_was_lost_is_not_forgotten_for_want_of_another() {
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        let state = State { bytes: AtomicUsize::new(0), failing: AtomicBool::new(false), counts: counts() };
        let failing = || state.failing.load(Ordering::Relaxed);
        state.note_rest(&Ok(false));
        assert!(!failing());
        state.note(Err::<(), _>(&full()));
        state.note_rest(&Ok(false));
        assert!(failing(), "nothing was written since");
        state.note_rest(&Ok(true));
        assert!(!failing());
        state.note_rest(&Err(full()));
        assert!(failing());
        state.note(Ok(()));
        assert!(!failing());
    }

    #[test]
    fn what_comes_together_is_written_together() {
        let (counts, times) = (counts(), Arc::new(AtomicUsize::new(0)));
        let lines = Lines::new(Counting(times.clone()), counts.clone()).unwrap();
        for _ in 0..BATCH_MAX {
            lines.write(&Record::default());
        }
        lines.close();
        assert_eq!(counts.all(), (1024, 0, 0));
        // Each wait is long enough for hundreds; a machine that is busy may take several.
        assert!(times.load(Ordering::SeqCst) < 200, "{times:?}");
    }

    #[test]
    fn a_stream_is_given_whole_lines_as_many_as_a_pipe_takes_at_once() {
        let pieces = Pieces::default();
        let lines: Vec<Vec<u8>> = [1000, 3094, 1, 4095, 0, 9000, 7].into_iter().map(|long| vec![b'a'; long]).collect();
        Stream::to(pieces.clone()).write(lines).unwrap();
        let pieces = pieces.0.lock().unwrap();
        assert_eq!(pieces.iter().map(Vec::len).collect::<Vec<_>>(), [4096, 2, 4096, 1, 9001, 8]);
        assert!(pieces.iter().all(|piece| piece.ends_with(b"\n")));
    }

    #[test]
    fn a_file_is_given_more_at_once_than_a_pipe() {
        let (_reader, pipe) = std::io::pipe().unwrap();
        let pipe = Stream::to_open(File::from(std::os::fd::OwnedFd::from(pipe)));
        let mut file = Stream::to_open(tempfile::tempfile().unwrap());
        assert_eq!((pipe.piece_bytes, file.piece_bytes), (4096, 65_536));
        file.write(vec![vec![b'a'; 9000]; 20]).unwrap();
        assert_eq!(file.out.metadata().unwrap().len(), 9001 * 20);
    }

    /// Takes 10 bytes, then is full, then takes everything.
    struct Full(Pieces, usize);

    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.1 += 1;
            match self.1 {
                1 => self.0.write(&bytes[..10]),
                2..=4 => Err(std::io::ErrorKind::StorageFull.into()),
                _ => self.0.write(bytes),
            }
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_cannot_be_written_is_counted_and_spoils_no_other_line() {
        let out = Pieces::default();
        let counts = counts();
        let lines = Lines::new(Stream::to(Full(out.clone(), 0)), counts.clone()).unwrap();
        for _ in 0..5 {
            lines.write(&Record::default());
        }
        lines.close();
        let text = out.text();
        let whole = text.lines().filter(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()).count();
        assert_eq!((whole, counts.all()), (2, (2, 3, 0)), "{text}");
    }
}
