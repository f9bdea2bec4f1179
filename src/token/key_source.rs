//! Where an issuer's keys come from, and how they are had from there once.

use std::{path::PathBuf, time::Duration};

use tokio::time::timeout;
use url::{Host, Url};

use super::jwks::{JwksError, KeySet};
use crate::base::{
    fetch::{Ask, Document, FetchError, Transport},
    json,
    outside::Outside,
};

/// Where an issuer's keys come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// A key set at this address.
    Url(Url),
    /// The key set that the issuer's metadata names (OpenID Connect Discovery 1.0 section 4, RFC 8414).
    Discovery {
        /// The issuer, exactly as tokens and metadata must name it.
        issuer: String,
        /// Where the metadata may be, in this order.
        metadata: [Url; 2],
        /// How the key set may be fetched.
        transport: Transport,
    },
    /// A key set in a file.
    File {
        /// The file.
        path: PathBuf,
        /// What it held when the configuration was read: with other keys it is another source.
        digest: [u8; 32],
    },
    /// A key set in the configuration.
    Inline(String),
}

/// Why keys could not be had from their source.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The document could not be fetched.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The file could not be read.
    #[error("cannot read `{}`: {error}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the file system says.
        error: std::io::Error,
    },
    /// The document is no key set.
    #[error(transparent)]
    Jwks(#[from] JwksError),
    /// The metadata is not JSON.
    #[error("metadata: {0}")]
    Metadata(#[from] serde_json::Error),
    /// The metadata speaks of another issuer.
    #[error("metadata names another issuer")]
    OtherIssuer,
    /// The metadata names no key set that may be fetched.
    #[error("metadata names no `jwks_uri` that may be fetched: over https or loopback, at a host with a name")]
    NoJwksUri,
}

impl SourceError {
    /// Whether the issuer says, in a well-formed key set, that it has no key that can be used.
    pub(super) const fn is_withdrawal(&self) -> bool {
        matches!(self, Self::Jwks(JwksError::NoneUsable(_)))
    }
}

impl KeySource {
    /// What the source is known by, where its keys are kept for a while.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Url(url) | Self::Discovery { metadata: [url, _], .. } => url.to_string(),
            Self::File { path, .. } => path.display().to_string(),
            Self::Inline(_) => "inline".into(),
        }
    }

    /// Gets the key set once; each document within `limit`.
    ///
    /// # Errors
    /// [`SourceError`].
    pub async fn load(&self, outside: &Outside, limit: Duration) -> Result<(Document, KeySet), SourceError> {
        let get = async |url: &Url| {
            let fetched = timeout(limit, outside.fetch.fetch(Ask::get(url))).await;
            fetched.unwrap_or(Err(FetchError::TimedOut(limit.as_millis())))
        };
        let document = match self {
            Self::Url(url) => get(url).await?,
            Self::File { path, .. } => {
                let (files, read) = (outside.files.clone(), path.clone());
                let text = tokio::task::spawn_blocking(move || files.read(&read)).await;
                let failed = |error| SourceError::File { path: path.clone(), error };
                let text = text.unwrap_or_else(|error| Err(std::io::Error::other(error))).map_err(failed)?;
                Document { body: text.into_bytes(), fresh_for: None }
            }
            Self::Inline(text) => Document { body: text.clone().into_bytes(), fresh_for: None },
            Self::Discovery { issuer, metadata, transport } => {
                let [metadata, other] = metadata;
                let (metadata, found) = match get(metadata).await {
                    Err(FetchError::Status(_)) => (other, get(other).await?),
                    found => (metadata, found?),
                };
                let found = json::parse_object(&found.body)?;
                if found.get("issuer").and_then(|named| named.as_str()) != Some(issuer) {
                    return Err(SourceError::OtherIssuer);
                }
                let url = found.get("jwks_uri").and_then(|uri| uri.as_str()).and_then(|uri| Url::parse(uri).ok());
                let url = url.filter(|url| transport.admits(url) && may_follow(metadata, url));
                get(&url.ok_or(SourceError::NoJwksUri)?).await?
            }
        };
        let set = KeySet::parse(&document.body)?;
        Ok((document, set))
    }
}

/// Whether metadata may send us to `url`: never from https to http, and to an address without a name (a machine's own
/// services, say) only where the metadata is.
fn may_follow(metadata: &Url, url: &Url) -> bool {
    let keeps_tls = url.scheme() == "https" || metadata.scheme() == "http";
    keeps_tls
        && (url.host() == metadata.host() || matches!(url.host(), Some(Host::Domain(name)) if name != "localhost"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_sends_nobody_to_the_machine_itself_or_into_the_clear() {
        let follow = |metadata: &str, url: &str| may_follow(&Url::parse(metadata).unwrap(), &Url::parse(url).unwrap());
        assert!(follow("https://issuer.example/m", "https://issuer.example/k"));
        assert!(follow("https://accounts.example/m", "https://keys.example/k"));
        assert!(follow("http://127.0.0.1:9/m", "http://127.0.0.1:8/k"));
        for url in [
            "http://issuer.example/k",
            "https://127.0.0.1/k",
            "https://localhost/k",
            "https://169.254.169.254/k",
            "https://10.0.0.1/k",
            "https://[fd00:ec2::254]/k",
        ] {
            assert!(!follow("https://issuer.example/m", url), "{url}");
        }
        assert!(!follow("http://127.0.0.1:9/m", "http://127.0.0.2/k"));
    }
}
