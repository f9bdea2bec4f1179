//! The one seam for outbound HTTP. Rooms ask for a document; who dials is decided at the edge of the house.

use std::time::Duration;

use async_trait::async_trait;
use url::Url;

use super::secret::Secret;

/// A question to another server.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// Whom.
    pub url: &'a Url,
    /// What is posted, as a form; without it the document is got.
    pub form: Option<&'a Secret>,
    /// `Authorization`.
    pub authorization: Option<&'a Secret>,
}

impl<'a> Ask<'a> {
    /// Asks for the document at `url`.
    pub const fn get(url: &'a Url) -> Self {
        Self { url, form: None, authorization: None }
    }
}

/// A small JSON document.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Document {
    /// Its bytes.
    pub body: Vec<u8>,
    /// How long it is fresh, where the server says so (RFC 9111 section 4.2.1).
    pub fresh_for: Option<Duration>,
}

/// Fetches small documents: key sets, metadata, introspection. Implementations bound time and size, take JSON only, and
/// follow redirects to the same origin only.
#[async_trait]
pub trait Fetch: Send + Sync + 'static {
    /// The document of a successful (200) answer.
    async fn fetch(&self, ask: Ask<'_>) -> Result<Document, FetchError>;
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
    /// An answer other than 200.
    #[error("status {0} instead of 200")]
    Status(u16),
    /// A redirect to another origin, or one too many.
    #[error("a redirect that is not followed: to another origin, of a posted form, or the fourth")]
    Redirect,
    /// The body is larger than allowed.
    #[error("body over {0} bytes")]
    TooLarge(usize),
    /// Not JSON by its `Content-Type`.
    #[error("`Content-Type` is not JSON")]
    NotJson,
}

/// Whether documents that decide may be fetched from a place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// Over https, or over http on loopback, where nobody sits between.
    #[default]
    Trustworthy,
    /// Over http too: whoever sits between can forge what is fetched.
    PlainHttp,
}

impl Transport {
    /// Whether `url` is such a place.
    pub fn admits(self, url: &Url) -> bool {
        match url.scheme() {
            "https" => url.has_host(),
            "http" => url.has_host() && (self == Self::PlainHttp || is_loopback(url)),
            _ => false,
        }
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_come_over_https_or_loopback_unless_it_is_spelled_out() {
        for (url, trusted, plain) in [
            ("https://issuer.example/jwks", true, true),
            ("http://127.0.0.1:9/jwks", true, true),
            ("http://[::1]/jwks", true, true),
            ("http://localhost/jwks", true, true),
            ("http://issuer.example/jwks", false, true),
            ("http://127.0.0.1.example/jwks", false, true),
            ("http://169.254.169.254/jwks", false, true),
            ("file:///etc/passwd", false, false),
        ] {
            let admits = |transport: Transport| Url::parse(url).map(|url| transport.admits(&url));
            assert_eq!(admits(Transport::Trustworthy), Ok(trusted), "{url}");
            assert_eq!(admits(Transport::PlainHttp), Ok(plain), "{url}");
        }
    }
}
