//! Addresses: where somebody listens, be it TCP's or a Unix socket, and whose an address is.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
};

use schemars::JsonSchema;
use serde::Deserialize;

/// Bytes of a socket's path: the system has room for 107, and a new socket is made in a folder of its own beside it first.
const PATH_BYTES_MAX: usize = 90;

/// An address to listen at, or to connect to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(with = "String", inline)]
pub enum Address {
    /// Address and port.
    Tcp(SocketAddr),
    /// The absolute path of a socket.
    Unix(PathBuf),
}

impl Address {
    /// Address and port, where it has them.
    pub const fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }

    /// Whether not both can be listened at: port 0 is any that is free, and `0.0.0.0` and `[::]` are every address.
    pub fn is_taken_by(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Tcp(one), Self::Tcp(other)) => covers(*one, *other) || covers(*other, *one),
            _ => self == other,
        }
    }

    /// Whether who connects to `other` surely gets to who listens here: whether an address of a network is this machine's,
    /// only that machine can tell.
    pub fn is_reached_at(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Tcp(own), Self::Tcp(to)) => {
                let mut to = *to;
                if to.ip().to_canonical() == Ipv4Addr::UNSPECIFIED {
                    to.set_ip(Ipv4Addr::LOCALHOST.into());
                } else if to.ip().is_unspecified() {
                    to.set_ip(Ipv6Addr::LOCALHOST.into());
                }
                let near = to.ip().to_canonical().is_loopback() || !own.ip().to_canonical().is_unspecified();
                covers(*own, to) && near
            }
            _ => self == other,
        }
    }
}

/// Whether who listens at `own` is at `other` too.
fn covers(own: SocketAddr, other: SocketAddr) -> bool {
    let (own_ip, other_ip) = (own.ip().to_canonical(), other.ip().to_canonical());
    let every = own_ip.is_unspecified() && (own_ip.is_ipv6() || other_ip.is_ipv4());
    let same = own_ip == other_ip && scope(own) == scope(other);
    own.port() == other.port() && own.port() != 0 && (every || same)
}

/// The interface that an address is of, where it says so.
const fn scope(address: SocketAddr) -> u32 {
    match address {
        SocketAddr::V6(address) => address.scope_id(),
        SocketAddr::V4(_) => 0,
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}

impl TryFrom<String> for Address {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let usable =
            |path: &Path| path.is_absolute() && path.file_name().is_some() && path.as_os_str().len() <= PATH_BYTES_MAX;
        let parsed = match text.strip_prefix("unix:") {
            Some(path) => Some(PathBuf::from(path)).filter(|path| usable(path)).map(Self::Unix),
            None => text.parse().ok().map(Self::Tcp),
        };
        parsed.ok_or_else(|| {
            format!(
                "`{text}` is no address to listen at: write `127.0.0.1:8080`, or `unix:/run/gate.sock` with an absolute path of at most {PATH_BYTES_MAX} bytes"
            )
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Whose address it is: whoever has one of IPv6 has a whole network of them, a /64.
pub const fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_of_tcp_or_of_a_socket_and_is_shown_as_it_is_written() {
        let read = |text: &str| Address::try_from(text.to_owned());
        for good in ["127.0.0.1:8080", "[::1]:0", "unix:/run/gate.sock"] {
            assert_eq!(read(good).unwrap().to_string(), good);
        }
        let long = format!("unix:/{}", "a".repeat(PATH_BYTES_MAX));
        for bad in ["", "127.0.0.1", ":8080", "localhost:80", "unix:", "unix:gate.sock", "unix:/", "unix:/a/..", &long]
        {
            assert!(read(bad).is_err(), "{bad}");
        }
        assert!(read("unix:/a").unwrap().is_taken_by(&read("unix:/a").unwrap()));
        assert!(!read("127.0.0.1:0").unwrap().is_taken_by(&read("127.0.0.1:0").unwrap()));
    }

    #[test]
    fn who_connects_to_this_machine_itself_gets_to_who_listens_there() {
        let read = |text: &str| Address::try_from(text.to_owned()).unwrap();
        for (own, to, reached) in [
            ("127.0.0.1:99", "127.0.0.1:99", true),
            ("127.0.0.1:99", "0.0.0.0:99", true),
            ("0.0.0.0:99", "0.0.0.0:99", true),
            ("0.0.0.0:99", "127.0.0.2:99", true),
            ("[::]:99", "127.0.0.1:99", true),
            ("[::]:99", "[::]:99", true),
            ("10.0.0.1:99", "[::ffff:10.0.0.1]:99", true),
            ("unix:/a", "unix:/a", true),
            ("0.0.0.0:99", "10.0.0.1:99", false),
            ("0.0.0.0:99", "[::1]:99", false),
            ("127.0.0.1:99", "127.0.0.1:98", false),
            ("127.0.0.1:0", "127.0.0.1:0", false),
            ("unix:/a", "unix:/b", false),
        ] {
            assert_eq!(read(own).is_reached_at(&read(to)), reached, "{own} {to}");
        }
    }

    #[test]
    fn addresses_overlap_in_either_spelling_and_where_one_is_every_address() {
        let overlap = |one: &str, other: &str| {
            let read = |text: &str| Address::try_from(text.to_owned()).unwrap();
            let taken = read(one).is_taken_by(&read(other));
            assert_eq!(read(other).is_taken_by(&read(one)), taken, "{one} {other}");
            taken
        };
        for (one, other) in [
            ("[::ffff:127.0.0.1]:99", "127.0.0.1:99"),
            ("0.0.0.0:99", "127.0.0.1:99"),
            ("0.0.0.0:99", "[::ffff:10.0.0.1]:99"),
            ("[::]:99", "10.0.0.1:99"),
            ("[::]:99", "[::1]:99"),
            ("[::]:99", "0.0.0.0:99"),
        ] {
            assert!(overlap(one, other), "{one} {other}");
        }
        for (one, other) in [
            ("0.0.0.0:99", "127.0.0.1:98"),
            ("0.0.0.0:99", "[::1]:99"),
            ("127.0.0.1:99", "127.0.0.2:99"),
            ("[::]:0", "0.0.0.0:0"),
            ("[fe80::1%1]:99", "[fe80::1%2]:99"),
            ("127.0.0.1:99", "unix:/a"),
        ] {
            assert!(!overlap(one, other), "{one} {other}");
        }
    }
}
