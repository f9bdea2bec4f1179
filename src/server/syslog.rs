//! Sends records to a collector of syslog. A datagram that a socket took, and what a connection took, counts as written: no
//! collector says what has arrived.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, TcpStream, ToSocketAddrs, UdpSocket},
    os::unix::net::UnixDatagram,
    time::Duration,
};

use crate::{
    audit::{
        lines::Out,
        syslog::{Collector, Header, SyslogSettings},
    },
    base::clock::{Clock, SystemClock},
};

/// How long a collector may take to connect, and to take a message.
const PATIENCE: Duration = Duration::from_secs(2);

/// Bytes of what a collector says, which is nothing that we know: they are read so that it does not stall.
const SAID_BYTES: usize = 1024;

/// The way to a collector.
#[derive(Debug)]
pub struct Syslog {
    to: Collector,
    header: Header,
    line: Option<Line>,
}

#[derive(Debug)]
enum Line {
    Unix(UnixDatagram),
    Udp(UdpSocket),
    Tcp(TcpStream),
}

impl Syslog {
    /// The way to that of `settings`, which need not be there yet; and the longest record that it takes, in bytes.
    pub fn new(settings: &SyslogSettings) -> (Self, usize) {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let header = Header::new(settings, host.trim_end(), std::process::id());
        let longest = settings.message_bytes_max.saturating_sub(header.bytes());
        (Self { to: settings.to.clone(), header, line: None }, longest)
    }

    /// Connects where there is no connection, or its other end has left.
    fn line(&mut self) -> io::Result<&mut Line> {
        let line = match self.line.take().filter(Line::is_open) {
            Some(line) => line,
            None => Line::to(&self.to)?,
        };
        Ok(self.line.insert(line))
    }

    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        let sent = match &mut self.line {
            Some(line) => line.send(message),
            None => self.line()?.send(message),
        };
        if sent.is_err() {
            self.line = None;
        }
        sent
    }
}

impl Out for Syslog {
    fn write(&mut self, lines: Vec<Vec<u8>>) -> Result<(), (usize, io::Error)> {
        let all = lines.len();
        self.line().map_err(|error| (all, error))?;
        for (index, line) in lines.iter().enumerate() {
            let message = self.header.message(&SystemClock.now().rfc3339(), line);
            let sent = match self.send(&message) {
                // Whoever has left may be back.
                Err(error) if !is_slow(&error) => self.send(&message),
                sent => sent,
            };
            sent.map_err(|error| (all.saturating_sub(index), error))?;
        }
        Ok(())
    }

    fn rest(&mut self, ends: bool) -> io::Result<bool> {
        match (ends, self.line.take()) {
            (true, Some(Line::Tcp(stream))) => stream.shutdown(Shutdown::Write).map(|()| false),
            (true, _) => Ok(false),
            (false, line) => {
                self.line = line;
                // One that failed is another by now, and takes what it is given. A socket may belong to somebody who reads nothing.
                Ok(matches!(self.line()?, Line::Tcp(_)))
            }
        }
    }
}

impl Line {
    fn to(collector: &Collector) -> io::Result<Self> {
        match collector {
            Collector::Unix(path) => {
                let socket = UnixDatagram::unbound()?;
                socket.connect(path)?;
                socket.set_write_timeout(Some(PATIENCE))?;
                Ok(Self::Unix(socket))
            }
            Collector::Udp(place) => each_address(place, |address| {
                let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                let socket = UdpSocket::bind(any)?;
                socket.connect(address)?;
                socket.set_write_timeout(Some(PATIENCE))?;
                Ok(Self::Udp(socket))
            }),
            Collector::Tcp(place) => each_address(place, |address| {
                let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
                stream.set_write_timeout(Some(PATIENCE))?;
                Ok(Self::Tcp(stream))
            }),
        }
    }

    /// Whether the other end has not left, as far as it says so.
    fn is_open(&self) -> bool {
        let Self::Tcp(stream) = self else { return true };
        let mut said = [0; SAID_BYTES];
        let read = stream.set_nonblocking(true).and_then(|()| (&*stream).read(&mut said));
        let is_open = match read {
            Ok(bytes) => bytes > 0,
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        };
        is_open && stream.set_nonblocking(false).is_ok()
    }

    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        match self {
            Self::Unix(socket) => socket.send(message).map(drop),
            Self::Udp(socket) => socket.send(message).map(drop),
            Self::Tcp(stream) => {
                let count = format!("{} ", message.len());
                stream.write_all(&[count.as_bytes(), message].concat())
            }
        }
    }
}

/// Who takes no more within a time is not asked again at once.
fn is_slow(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// The first that can be had of what `place` stands for.
fn each_address(place: &str, connect: impl Fn(std::net::SocketAddr) -> io::Result<Line>) -> io::Result<Line> {
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in place.to_socket_addrs()? {
        match connect(address) {
            Ok(line) => return Ok(line),
            Err(error) => last = error,
        }
    }
    Err(last)
}
