//! The PROXY protocol, versions 1 and 2: what a load balancer that passes connections on writes before their first byte. It is
//! read to the byte and to the letter; whether its writer is to be believed, the caller knows.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::{AsyncRead, AsyncReadExt};

/// What version 2 begins with; version 1 is longer than that.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// Bytes of a header in version 1, its line break included.
const LINE_BYTES_MAX: usize = 107;

/// Bytes of a header in version 2 after its first sixteen: addresses, and whatever else the balancer tells.
const REST_BYTES_MAX: u16 = 4096;

/// Whom a connection is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The load balancer, which looks whether we are well.
    Itself,
    /// Somebody whose address it does not say.
    Unknown,
    /// Somebody at this address.
    Client(SocketAddr),
}

/// Why there is no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoHeader {
    /// Nothing came at all.
    Nothing,
    /// Something else came, or not all of it.
    Malformed,
}

impl From<std::io::Error> for NoHeader {
    fn from(_: std::io::Error) -> Self {
        Self::Malformed
    }
}

/// Reads a header and nothing beyond it.
///
/// # Errors
/// [`NoHeader`].
pub async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Source, NoHeader> {
    let mut start = [0; SIGNATURE.len()];
    let (first, others) = start.split_at_mut(1);
    if !matches!(stream.read(first).await, Ok(1)) {
        return Err(NoHeader::Nothing);
    }
    stream.read_exact(others).await?;
    let source = if start == SIGNATURE {
        read_binary(stream).await?
    } else if start.starts_with(b"PROXY ") {
        let mut line = start.to_vec();
        while line.last() != Some(&b'\n') && line.len() < LINE_BYTES_MAX {
            line.push(stream.read_u8().await?);
        }
        std::str::from_utf8(&line).ok().and_then(source_of_line)
    } else {
        None
    };
    source.ok_or(NoHeader::Malformed)
}

fn source_of_line(line: &str) -> Option<Source> {
    let mut words = line.strip_prefix("PROXY ")?.strip_suffix("\r\n")?.split(' ');
    let family = words.next()?;
    if family == "UNKNOWN" {
        return Some(Source::Unknown);
    }
    let [Some(from), Some(to), Some(from_port), Some(to_port), None] = std::array::from_fn(|_| words.next()) else {
        return None;
    };
    let address = |text: &str| match family {
        "TCP4" => text.parse().ok().map(IpAddr::V4),
        "TCP6" => text.parse().ok().map(IpAddr::V6),
        _ => None,
    };
    let (address, _) = address(from).zip(address(to))?;
    let (port, _) = port(from_port).zip(port(to_port))?;
    Some(Source::Client(SocketAddr::new(address.to_canonical(), port)))
}

/// A number without a sign or zeros before it.
fn port(text: &str) -> Option<u16> {
    text.parse::<u16>().ok().filter(|port| port.to_string() == text)
}

async fn read_binary(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<Source>, NoHeader> {
    let (command, family, length) = (stream.read_u8().await?, stream.read_u8().await?, stream.read_u16().await?);
    if length > REST_BYTES_MAX {
        return Err(NoHeader::Malformed);
    }
    let mut rest = vec![0; length.into()];
    stream.read_exact(&mut rest).await?;
    Ok(source_of_bytes(command, family, &rest))
}

fn source_of_bytes(command: u8, family: u8, rest: &[u8]) -> Option<Source> {
    let from_to = match (command, family) {
        (0x20, _) => return Some(Source::Itself),
        (0x21, 0x00) => return Some(Source::Unknown),
        (0x21, 0x11) => 12,
        (0x21, 0x21) => 36,
        // Both ends of a connection between Unix sockets.
        (0x21, 0x31) => 216,
        _ => return None,
    };
    let (addresses, more) = rest.split_at_checked(from_to)?;
    if !are_values(more) {
        return None;
    }
    Some(match *addresses {
        [a, b, c, d, _, _, _, _, high, low, _, _] => {
            Source::Client(SocketAddr::new(Ipv4Addr::new(a, b, c, d).into(), u16::from_be_bytes([high, low])))
        }
        [.., high, low, _, _] if addresses.len() == 36 => {
            let address: [u8; 16] = *addresses.first_chunk()?;
            let address = IpAddr::V6(Ipv6Addr::from(address)).to_canonical();
            Source::Client(SocketAddr::new(address, u16::from_be_bytes([high, low])))
        }
        _ => Source::Unknown,
    })
}

/// Whether these are values with their types and lengths, to the last byte. What they say nobody here asks.
fn are_values(mut bytes: &[u8]) -> bool {
    while let [_, high, low, rest @ ..] = bytes {
        let Some(rest) = rest.get(u16::from_be_bytes([*high, *low]).into()..) else { return false };
        bytes = rest;
    }
    bytes.is_empty()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What is read of `bytes`, and what is left of them.
    fn read_of(bytes: &[u8]) -> (Result<Source, NoHeader>, usize) {
        let mut stream = bytes;
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let source = runtime.block_on(read(&mut stream));
        (source, stream.len())
    }

    fn binary(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, rest].concat()
    }

    #[test]
    fn version_1_is_read_to_the_letter() {
        let client = |text: &str| Ok(Source::Client(text.parse().unwrap()));
        for (line, is) in [
            ("PROXY TCP4 203.0.113.9 10.0.0.1 4711 443\r\n", client("203.0.113.9:4711")),
            ("PROXY TCP6 2001:db8::1 ::1 1 65535\r\n", client("[2001:db8::1]:1")),
            ("PROXY TCP6 ::ffff:203.0.113.9 ::1 1 2\r\n", client("203.0.113.9:1")),
            ("PROXY UNKNOWN\r\n", Ok(Source::Unknown)),
            ("PROXY UNKNOWN whatever it says\r\n", Ok(Source::Unknown)),
        ] {
            assert_eq!(read_of(format!("{line}GET /").as_bytes()), (is, 5), "{line}");
        }
        for line in [
            "GET / HTTP/1.1\r\nhost: a\r\n\r\n",
            "PROXY TCP4 203.0.113.9 10.0.0.1 4711 443\n",
            "PROXY TCP4 203.0.113.9 10.0.0.1 4711 443 \r\n",
            "PROXY  TCP4 203.0.113.9 10.0.0.1 4711 443\r\n",
            "PROXY TCP4 203.0.113.9 10.0.0.1 4711\r\n",
            "PROXY TCP4 203.0.113.9 10.0.0.1 04711 443\r\n",
            "PROXY TCP4 203.0.113.9 10.0.0.1 +4711 443\r\n",
            "PROXY TCP4 203.0.113.9 10.0.0.1 4711 65536\r\n",
            "PROXY TCP4 2001:db8::1 ::1 1 2\r\n",
            "PROXY TCP4 203.0.113.09 10.0.0.1 1 2\r\n",
            "PROXY TCP6 203.0.113.9 10.0.0.1 1 2\r\n",
            "PROXY UDP4 203.0.113.9 10.0.0.1 1 2\r\n",
            "PROXY UNKNOWN and no end",
            "proxy TCP4 203.0.113.9 10.0.0.1 1 2\r\n",
            "PROXY",
        ] {
            assert_eq!(read_of(line.as_bytes()).0, Err(NoHeader::Malformed), "{line}");
        }
        let long = format!("PROXY UNKNOWN {}\r\n", "a".repeat(LINE_BYTES_MAX));
        assert_eq!(read_of(long.as_bytes()).0, Err(NoHeader::Malformed));
        assert_eq!(read_of(b"").0, Err(NoHeader::Nothing));
    }

    #[test]
    fn version_2_is_read_to_the_byte() {
        let v4 = [203, 0, 113, 9, 10, 0, 0, 1, 0x12, 0x67, 1, 187];
        let mut v6 = [0; 36];
        (v6[0], v6[1], v6[15], v6[33]) = (0x20, 1, 9, 80);
        let values = [&v4[..], &[4, 0, 2, 1, 2, 5, 0, 0]].concat();
        for (bytes, is) in [
            (binary(0x21, 0x11, &v4), Source::Client("203.0.113.9:4711".parse().unwrap())),
            (binary(0x21, 0x11, &values), Source::Client("203.0.113.9:4711".parse().unwrap())),
            (binary(0x21, 0x21, &v6), Source::Client("[2001::9]:80".parse().unwrap())),
            (binary(0x21, 0x31, &[0; 216]), Source::Unknown),
            (binary(0x21, 0, b"anything"), Source::Unknown),
            (binary(0x20, 0x11, &v4), Source::Itself),
            (binary(0x20, 0, &[]), Source::Itself),
        ] {
            assert_eq!(read_of(&[&bytes[..], b"GET /"].concat()), (Ok(is), 5), "{bytes:?}");
        }
        for bytes in [
            binary(0x21, 0x11, &v4[..11]),
            binary(0x21, 0x11, &[&v4[..], &[4, 0, 2, 1]].concat()),
            binary(0x21, 0x21, &v6[..35]),
            binary(0x21, 0x31, &[0; 215]),
            binary(0x21, 0x12, &v4),
            binary(0x21, 0x41, &v4),
            binary(0x22, 0x11, &v4),
            binary(0x11, 0x11, &v4),
            binary(0x20, 0, &[0; 4097]),
            binary(0x21, 0x11, &v4)[..20].to_vec(),
            SIGNATURE.to_vec(),
        ] {
            assert_eq!(read_of(&bytes).0, Err(NoHeader::Malformed), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn what_a_balancer_writes_is_what_is_read_and_no_byte_more(from: SocketAddr, to: SocketAddr, behind: Vec<u8>) {
            let family = if from.is_ipv4() { "TCP4" } else { "TCP6" };
            let line = format!("PROXY {family} {} {} {} {}\r\n", from.ip(), to.ip(), from.port(), to.port());
            let (source, left) = read_of(&[line.as_bytes(), &behind].concat());
            let is = Source::Client(SocketAddr::new(from.ip().to_canonical(), from.port()));
            if from.is_ipv4() == to.is_ipv4() {
                prop_assert_eq!((source, left), (Ok(is), behind.len()));
            } else {
                prop_assert_eq!(source, Err(NoHeader::Malformed));
            }
            let ports = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
            let addresses = |address: SocketAddr| match (from.ip(), address.ip()) {
                (IpAddr::V4(_), IpAddr::V4(address)) => address.octets().to_vec(),
                (IpAddr::V4(_), IpAddr::V6(_)) => vec![0; 4],
                (IpAddr::V6(_), IpAddr::V6(address)) => address.octets().to_vec(),
                (IpAddr::V6(_), IpAddr::V4(_)) => vec![0; 16],
            };
            let header = binary(0x21, if from.is_ipv4() { 0x11 } else { 0x21 }, &[addresses(from), addresses(to), ports].concat());
            prop_assert_eq!(read_of(&[&header[..], &behind].concat()), (Ok(is), behind.len()));
            // No beginning of it is one.
            for end in 1..header.len() {
                prop_assert_eq!(read_of(&header[..end]).0, Err(NoHeader::Malformed));
            }
        }

        #[test]
        fn whatever_comes_is_read_within_bounds(bytes: Vec<u8>, begins in 0..3_usize) {
            let start: &[u8] = [&b""[..], b"PROXY TCP4 ", &SIGNATURE][begins];
            let bytes = [start, &bytes].concat();
            let (source, left) = read_of(&bytes);
            let read = bytes.len() - left;
            prop_assert!(read <= 16 + usize::from(REST_BYTES_MAX));
            prop_assert!(source.is_err() || read >= 15);
        }
    }
}
