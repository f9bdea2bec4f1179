//! The one seam for outbound HTTP. Rooms ask for a document; who dials is decided at the edge of the house.

use async_trait::async_trait;
use url::Url;

/// Fetches small documents (key sets, discovery). Implementations bound time and size and follow no redirect.
#[async_trait]
pub trait Fetch: Send + Sync + 'static {
    /// The body of a successful (200) answer to `GET url`.
    async fn get(&self, url: &Url) -> Result<Vec<u8>, FetchError>;
}

/// Why a document could not be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// No connection, a TLS failure, or the connection broke.
    #[error("unreachable: {0}")]
    Unreachable(String),
    /// No complete answer within the time allowed.
    #[error("no answer within {0} ms")]
    TimedOut(u128),
    /// An answer other than 200; redirects count as such.
    #[error("status {0} instead of 200")]
    Status(u16),
    /// The body is larger than allowed.
    #[error("body over {0} bytes")]
    TooLarge(usize),
}

/// Whether keys may be fetched from `url`: over https, or over http on loopback only, where nobody sits between.
pub fn is_trustworthy(url: &Url) -> bool {
    match url.scheme() {
        "https" => url.has_host(),
        "http" => match url.host() {
            Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
            Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
            Some(url::Host::Domain(name)) => name == "localhost",
            None => false,
        },
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_over_https_or_loopback_only() {
        for (url, trusted) in [
            ("https://issuer.example/jwks", true),
            ("http://127.0.0.1:9/jwks", true),
            ("http://[::1]/jwks", true),
            ("http://localhost/jwks", true),
            ("http://issuer.example/jwks", false),
            ("http://127.0.0.1.example/jwks", false),
            ("http://169.254.169.254/jwks", false),
            ("file:///etc/passwd", false),
        ] {
            assert_eq!(Url::parse(url).map(|url| is_trustworthy(&url)), Ok(trusted), "{url}");
        }
    }
}
