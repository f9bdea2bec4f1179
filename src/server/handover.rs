//! Listening sockets that come from whoever started this process, by the protocol of systemd (`sd_listen_fds(3)`): systemd itself,
//! or the gate that this one takes over from. The latter adds a line to itself as the last descriptor, by which it learns that
//! this one is ready, and this one that it may begin.

use std::{
    env, io,
    net::{SocketAddr, TcpListener as StdListener},
    os::{
        fd::OwnedFd,
        unix::net::{UnixListener, UnixStream as StdStream},
    },
    process::{Child, Command},
    time::Duration,
};

use command_fds::{CommandFdExt, FdMapping};
use listenfd::ListenFd;
use sd_notify::NotifyState;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, UnixStream},
    time::{sleep, timeout},
};

use super::socket::Listening;
use crate::base::address::Address;

/// How long a gate that is to take over may need until it is ready.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long one that does not get ready may need to say so.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// The first descriptor that is handed over (`SD_LISTEN_FDS_START`).
const FIRST: i32 = 3;

/// What is said on the line, either way.
const WORD: u8 = b'.';

/// What a gate says that is ready and takes the records of the one before, in their file's stead.
const WORD_WITH_RECORDS: u8 = b'+';

/// Why sockets were not handed over.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    /// What was handed over is no listening TCP socket.
    #[error("descriptor {0} was handed over and is no TCP socket")]
    Foreign(usize),
    /// A socket that the configuration does not know.
    #[error("a socket was handed over that listens on {0}, where no listener nor `admin` is")]
    Unknown(SocketAddr),
    /// It is bound to a file, which whoever made it removes.
    #[error("the socket {0} cannot be handed over: only TCP's can; restart the gate")]
    File(Address),
    /// The other gate has gone, or gone on by itself.
    #[error("the other gate is gone, or did not get ready; what it says stands in its log")]
    Gone,
    /// The other gate takes too long.
    #[error("the other gate was not ready within {} s", PATIENCE.as_secs())]
    Slow,
    /// What the system says.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// The sockets that this process listens on.
#[derive(Debug, Default)]
pub struct Sockets {
    /// Handed over, and not yet asked for.
    handed: Vec<StdListener>,
    /// At work.
    held: Vec<StdListener>,
    /// A Unix socket at work.
    file: Option<Address>,
    predecessor: Option<StdStream>,
    takes_records: bool,
}

/// A gate that has taken over.
#[derive(Debug)]
pub struct TakenOver {
    /// The number of its process.
    pub process: u32,
    /// Where it takes records, one JSON object a line.
    pub records: Option<StdStream>,
}

impl Sockets {
    /// Those that were handed to this process. Changes the environment, so it comes before any other thread.
    ///
    /// # Errors
    /// [`HandoverError::Foreign`].
    pub fn handed() -> Result<Self, HandoverError> {
        let mut descriptors = ListenFd::from_env();
        let (mut handed, mut predecessor) = (Vec::new(), None);
        for index in 0..descriptors.len() {
            if let Ok(Some(listener)) = descriptors.take_tcp_listener(index) {
                handed.push(listener);
            } else if let Ok(Some(line)) = descriptors.take_unix_listener(index).map(connected) {
                predecessor = Some(line);
            } else {
                return Err(HandoverError::Foreign(index));
            }
        }
        Ok(Self { handed, predecessor, ..Self::default() })
    }

    /// Listens on `address`: with the socket that was handed over, if there is one, or with a new one.
    ///
    /// # Errors
    /// What the system says.
    pub async fn listen(&mut self, address: &Address) -> io::Result<Listening> {
        let Some(address) = address.tcp() else {
            self.file = Some(address.clone());
            return Listening::bind(address).await;
        };
        let at = self.handed.iter().position(|it| it.local_addr().is_ok_and(|bound| bound == address));
        let listener = match at {
            Some(at) => self.handed.swap_remove(at),
            None => TcpListener::bind(address).await?.into_std()?,
        };
        listener.set_nonblocking(true)?;
        self.held.push(listener.try_clone()?);
        TcpListener::from_std(listener).map(Listening::from)
    }

    /// Sees that nothing was handed over that nobody serves: clients would connect to it and wait.
    ///
    /// # Errors
    /// [`HandoverError::Unknown`].
    pub fn complete(&self) -> Result<(), HandoverError> {
        match self.handed.first() {
            Some(stray) => Err(HandoverError::Unknown(stray.local_addr()?)),
            None => Ok(()),
        }
    }

    /// Whether another gate serves on these sockets until this one is ready.
    pub const fn has_predecessor(&self) -> bool {
        self.predecessor.is_some()
    }

    /// The gate before will be asked for the records of what is under way with it.
    pub const fn take_records(&mut self) {
        self.takes_records = true;
    }

    /// Tells whoever started this process that it is ready. After that it may take connections. Over what comes back the gate
    /// before sends records, where that was [asked for](Self::take_records).
    ///
    /// # Errors
    /// [`HandoverError::Gone`], when the gate before goes on by itself.
    pub async fn take_over(&mut self) -> Result<Option<StdStream>, HandoverError> {
        let Some(line) = self.predecessor.take() else {
            tell(&[NotifyState::Ready]);
            return Ok(None);
        };
        let mut line = open(line)?;
        let word = if self.takes_records { WORD_WITH_RECORDS } else { WORD };
        // INVARIANT: never do two gates serve that do not know of each other. A word that was not heard is not answered.
        line.write_u8(word).await.map_err(|_| HandoverError::Gone)?;
        line.read_u8().await.map_err(|_| HandoverError::Gone)?;
        self.takes_records.then(|| close(line)).transpose()
    }

    /// Starts the program anew, as it is on disk now and with the same arguments, on these sockets. When this returns, the new
    /// process takes connections; on an error it has been ended.
    ///
    /// # Errors
    /// [`HandoverError`]; this process is as it was.
    pub async fn pass_on(&self) -> Result<TakenOver, HandoverError> {
        if let Some(file) = &self.file {
            return Err(HandoverError::File(file.clone()));
        }
        let (ours, theirs) = StdStream::pair()?;
        let mut successor = Successor(Some(self.command(theirs)?.spawn()?));
        let mut line = open(ours)?;
        let Ok(word) = timeout(PATIENCE, line.read_u8()).await.map_err(|_| HandoverError::Slow)? else {
            successor.last_words().await;
            return Err(HandoverError::Gone);
        };
        line.write_u8(WORD).await.map_err(|_| HandoverError::Gone)?;
        let process = successor.release().ok_or(HandoverError::Gone)?;
        tell(&[NotifyState::MainPid(process)]);
        // The other gate serves already, whatever becomes of the line.
        let records = (word == WORD_WITH_RECORDS).then(|| close(line).ok()).flatten();
        Ok(TakenOver { process, records })
    }

    /// This program, with these sockets and its end of the line.
    fn command(&self, line: StdStream) -> Result<Command, HandoverError> {
        let listeners = self.held.iter().map(|it| it.try_clone().map(OwnedFd::from));
        let descriptors = listeners.chain([Ok(line.into())]).collect::<io::Result<Vec<_>>>()?;
        let mut arguments = env::args_os();
        let mut command = Command::new(arguments.next().ok_or(HandoverError::Gone)?);
        command.args(arguments).env("LISTEN_FDS", descriptors.len().to_string());
        command.env_remove("LISTEN_PID").env_remove("LISTEN_FDNAMES").env_remove("LISTEN_FDS_FIRST_FD");
        let mappings = (FIRST..).zip(descriptors).map(|(child_fd, parent_fd)| FdMapping { parent_fd, child_fd });
        command.fd_mappings(mappings.collect()).map_err(io::Error::other)?;
        Ok(command)
    }
}

/// Tells the service manager, if there is one.
pub fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "the service manager could not be told");
    }
}

/// The line, if that is what it is: a socket that listens has no other end.
fn connected(socket: Option<UnixListener>) -> Option<StdStream> {
    let line = StdStream::from(OwnedFd::from(socket?));
    line.peer_addr().is_ok().then_some(line)
}

fn open(line: StdStream) -> io::Result<UnixStream> {
    line.set_nonblocking(true)?;
    UnixStream::from_std(line)
}

/// For whoever reads or writes it in a thread of his own.
fn close(line: UnixStream) -> Result<StdStream, HandoverError> {
    let line = line.into_std()?;
    line.set_nonblocking(false)?;
    Ok(line)
}

/// A gate that is starting; dropping it ends it.
struct Successor(Option<Child>);

impl Successor {
    /// Lets it say why it ends, but not for long.
    async fn last_words(&mut self) {
        let lives = |child: &mut Child| matches!(child.try_wait(), Ok(None));
        let ends = async {
            while self.0.as_mut().is_some_and(lives) {
                sleep(Duration::from_millis(10)).await;
            }
        };
        let _ = timeout(LAST_WORDS, ends).await;
    }

    fn release(&mut self) -> Option<u32> {
        self.0.take().map(|child| child.id())
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
