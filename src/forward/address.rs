//! Where a server of an upstream listens: as configured, and as found.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use url::Url;

use crate::base::address::Address;

/// Where a server is said to be.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Location {
    /// At whatever addresses this name has, on this port.
    Name(String, u16),
    /// There.
    Address(Address),
}

/// Bytes of a socket's path, which the system bounds.
const SOCKET_BYTES_MAX: usize = 100;

impl Location {
    /// `host:port` or `unix:/path`.
    pub fn parse(text: &str) -> Option<Self> {
        if text.starts_with("unix:") {
            return Self::socket(text);
        }
        let (_, port) = text.rsplit_once(':')?;
        let port = port.parse().ok()?;
        let origin = Url::parse(&format!("http://{text}")).ok().and_then(|url| Origin::of(&url))?;
        Some(Self::at(&origin.host, port))
    }

    /// `unix:/path`.
    pub fn socket(text: &str) -> Option<Self> {
        let path = PathBuf::from(text.strip_prefix("unix:")?);
        let fits = path.is_absolute() && path.as_os_str().len() <= SOCKET_BYTES_MAX;
        fits.then_some(Self::Address(Address::Unix(path)))
    }

    /// `host`, a name or an address without brackets, on `port`.
    pub fn at(host: &str, port: u16) -> Self {
        match host.parse::<IpAddr>() {
            Ok(ip) => Self::Address(Address::Tcp(SocketAddr::new(ip, port))),
            Err(_) => Self::Name(host.to_owned(), port),
        }
    }
}

/// Scheme, host and port, and nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Without brackets.
    pub host: String,
    /// The scheme's own, where none is given.
    pub port: u16,
    /// Whether the scheme is `https`.
    pub tls: bool,
}

impl Origin {
    /// That of `url`, where it is of HTTP and names nothing more.
    pub fn of(url: &Url) -> Option<Self> {
        let tls = match url.scheme() {
            "http" => false,
            "https" => true,
            _ => return None,
        };
        let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none() && url.username().is_empty();
        let host = url.host_str()?.trim_matches(['[', ']']).to_owned();
        (bare && url.password().is_none()).then_some(Self { host, port: url.port_or_known_default()?, tls })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let origin = |text: &str| {
            let origin = Url::parse(text).ok().and_then(|url| Origin::of(&url))?;
            Some((origin.host, origin.port, origin.tls))
        };
        assert_eq!(origin("http://127.0.0.1:9000"), Some(("127.0.0.1".into(), 9000, false)));
        assert_eq!(origin("https://orders.internal/"), Some(("orders.internal".into(), 443, true)));
        assert_eq!(origin("http://[::1]:80"), Some(("::1".into(), 80, false)));
        for other in
            ["127.0.0.1:9000", "ftp://a", "http://a/b", "http://a/?q", "http://u:p@a", "http://a/#f", "http://"]
        {
            assert_eq!(origin(other), None, "{other}");
        }
    }

    #[test]
    fn an_address_is_host_and_port_or_a_socket() {
        let shown = |text: &str| match Location::parse(text)? {
            Location::Name(host, port) => Some(format!("name {host} {port}")),
            Location::Address(address) => Some(address.to_string()),
        };
        for (text, expected) in [
            ("10.0.0.1:80", "10.0.0.1:80"),
            ("[::1]:9000", "[::1]:9000"),
            ("orders.internal:8443", "name orders.internal 8443"),
            ("unix:/run/orders.sock", "unix:/run/orders.sock"),
        ] {
            assert_eq!(shown(text).as_deref(), Some(expected));
        }
        let long = format!("unix:/{}", "a".repeat(SOCKET_BYTES_MAX));
        for text in ["", "a", "a:", ":80", "a:80/b", "a:x", "u@a:80", "a:65536", "unix:run", "unix:", "::1", &long] {
            assert_eq!(shown(text), None, "{text}");
        }
    }
}
