//! Fetching key sets: HTTP/1.1 over TLS or loopback, one answer, no redirect, bounded in time and size.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use url::Url;

use crate::base::fetch::{Fetch, FetchError};

/// The largest document that is taken, in bytes.
const DOCUMENT_BYTES_MAX: usize = 1024 * 1024;

/// The longest a fetch may take, whatever the caller's own limit.
const TIMEOUT_MAX: Duration = Duration::from_secs(60);

/// Dials out.
#[derive(Clone, Debug)]
pub struct HttpFetch(Client<HttpsConnector<HttpConnector>, Empty<Bytes>>);

impl HttpFetch {
    /// A client that trusts the web's certificate authorities.
    ///
    /// # Errors
    /// When the cryptography offers no TLS version.
    pub fn new() -> Result<Self, rustls::Error> {
        let connector = HttpsConnectorBuilder::new()
            .with_provider_and_webpki_roots(rustls::crypto::aws_lc_rs::default_provider())?
            .https_or_http()
            .enable_http1()
            .build();
        Ok(Self(Client::builder(TokioExecutor::new()).pool_max_idle_per_host(1).build(connector)))
    }

    async fn document(&self, url: &Url) -> Result<Vec<u8>, FetchError> {
        let request = Request::get(url.as_str())
            .header(header::ACCEPT, "application/json, application/jwk-set+json")
            .header(header::USER_AGENT, concat!("portcullis/", env!("CARGO_PKG_VERSION")))
            .body(Empty::new())
            .map_err(|error| unreachable(&error))?;
        let response = self.0.request(request).await.map_err(|error| unreachable(&error))?;
        if response.status() != StatusCode::OK {
            return Err(FetchError::Status(response.status().as_u16()));
        }
        let body = Limited::new(response.into_body(), DOCUMENT_BYTES_MAX).collect().await.map_err(|error| {
            let too_large = error.is::<http_body_util::LengthLimitError>();
            if too_large { FetchError::TooLarge(DOCUMENT_BYTES_MAX) } else { unreachable(&*error) }
        })?;
        Ok(body.to_bytes().into())
    }
}

/// An error with its causes: the outermost alone does not say what happened.
fn unreachable(error: &(dyn std::error::Error + 'static)) -> FetchError {
    let causes = std::iter::successors(Some(error), |error| error.source());
    FetchError::Unreachable(causes.map(ToString::to_string).collect::<Vec<_>>().join(": "))
}

#[async_trait]
impl Fetch for HttpFetch {
    async fn get(&self, url: &Url) -> Result<Vec<u8>, FetchError> {
        tokio::time::timeout(TIMEOUT_MAX, self.document(url))
            .await
            .unwrap_or_else(|_| Err(FetchError::TimedOut(TIMEOUT_MAX.as_millis())))
    }
}
