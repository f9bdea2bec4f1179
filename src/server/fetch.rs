//! Fetching small JSON documents: HTTP/1.1 over TLS or loopback, redirects to the same origin only, bounded in time and
//! size.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use url::Url;

use crate::base::{
    fetch::{Ask, Document, Fetch, FetchError},
    problem::causes,
    secret::Secret,
};

/// The largest document that is taken, in bytes.
const DOCUMENT_BYTES_MAX: usize = 1024 * 1024;

/// The longest a fetch may take, whatever the caller's own limit.
const TIMEOUT_MAX: Duration = Duration::from_secs(60);

/// Redirects that are followed.
const REDIRECTS_MAX: usize = 3;

/// Connections kept to each server.
const IDLE_MAX: usize = 8;

/// Dials out.
#[derive(Clone, Debug)]
pub struct HttpFetch(Client<HttpsConnector<HttpConnector>, Full<Bytes>>);

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
        Ok(Self(Client::builder(TokioExecutor::new()).pool_max_idle_per_host(IDLE_MAX).build(connector)))
    }

    async fn document(&self, ask: Ask<'_>) -> Result<Document, FetchError> {
        let mut url = ask.url.clone();
        for _ in 0..=REDIRECTS_MAX {
            let response = self.answer(&url, ask).await?;
            match response.status() {
                StatusCode::OK => return read(response).await,
                status if status.is_redirection() => {
                    let next = location(&url, response.headers()).filter(|_| ask.form.is_none());
                    url = next.ok_or(FetchError::Redirect)?;
                }
                status => return Err(FetchError::Status(status.as_u16())),
            }
        }
        Err(FetchError::Redirect)
    }

    async fn answer(&self, url: &Url, ask: Ask<'_>) -> Result<Response<Incoming>, FetchError> {
        let method = if ask.form.is_some() { Method::POST } else { Method::GET };
        let mut request = Request::builder()
            .method(method)
            .uri(url.as_str())
            .header(header::ACCEPT, "application/json, application/jwk-set+json")
            .header(header::USER_AGENT, concat!("portcullis/", env!("CARGO_PKG_VERSION")));
        if ask.form.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        }
        if let Some(secret) = ask.authorization {
            let mut value = HeaderValue::from_str(secret.expose()).map_err(|error| unreachable(&error))?;
            value.set_sensitive(true);
            request = request.header(header::AUTHORIZATION, value);
        }
        let body = ask.form.map_or_else(Bytes::new, |form| Bytes::copy_from_slice(Secret::expose(form).as_bytes()));
        let request = request.body(Full::new(body)).map_err(|error| unreachable(&error))?;
        self.0.request(request).await.map_err(|error| unreachable(&error))
    }
}

/// Where an answer redirects to, if that is at the same origin.
fn location(from: &Url, headers: &HeaderMap) -> Option<Url> {
    let to = from.join(headers.get(header::LOCATION)?.to_str().ok()?).ok()?;
    (to.origin() == from.origin()).then_some(to)
}

async fn read(response: Response<Incoming>) -> Result<Document, FetchError> {
    if !is_json(response.headers()) {
        return Err(FetchError::NotJson);
    }
    let fresh_for = fresh_for(response.headers());
    let body = Limited::new(response.into_body(), DOCUMENT_BYTES_MAX).collect().await.map_err(|error| {
        let too_large = error.is::<http_body_util::LengthLimitError>();
        if too_large { FetchError::TooLarge(DOCUMENT_BYTES_MAX) } else { unreachable(&*error) }
    })?;
    Ok(Document { body: body.to_bytes().into(), fresh_for })
}

fn is_json(headers: &HeaderMap) -> bool {
    let named = headers.get(header::CONTENT_TYPE).and_then(|named| named.to_str().ok()).unwrap_or_default();
    let media_type = named.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    media_type == "application/json" || (media_type.starts_with("application/") && media_type.ends_with("+json"))
}

/// `Cache-Control` (RFC 9111 section 5.2.2), less the `Age` the document has already.
fn fresh_for(headers: &HeaderMap) -> Option<Duration> {
    let fields = headers.get_all(header::CACHE_CONTROL).iter().filter_map(|field| field.to_str().ok());
    let directives: Vec<_> =
        fields.flat_map(|field| field.split(',')).map(|it| it.trim().to_ascii_lowercase()).collect();
    if directives.iter().any(|directive| directive == "no-store" || directive == "no-cache") {
        return Some(Duration::ZERO);
    }
    let seconds = |text: &str| text.trim_matches('"').parse().ok();
    let max_age = directives.iter().find_map(|directive| seconds(directive.strip_prefix("max-age=")?))?;
    let age = headers.get(header::AGE).and_then(|age| seconds(age.to_str().ok()?)).unwrap_or(0);
    Some(Duration::from_secs(u64::saturating_sub(max_age, age)))
}

fn unreachable(error: &(dyn std::error::Error + 'static)) -> FetchError {
    FetchError::Unreachable(causes(error))
}

#[async_trait]
impl Fetch for HttpFetch {
    async fn fetch(&self, ask: Ask<'_>) -> Result<Document, FetchError> {
        tokio::time::timeout(TIMEOUT_MAX, self.document(ask))
            .await
            .unwrap_or_else(|_| Err(FetchError::TimedOut(TIMEOUT_MAX.as_millis())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn freshness_is_what_cache_control_says_less_the_age() {
        for (fields, seconds) in [
            (vec![], None),
            (vec![("cache-control", "public, max-age=600")], Some(600)),
            (vec![("cache-control", "Max-Age=\"600\""), ("age", "100")], Some(500)),
            (vec![("cache-control", "max-age=60"), ("age", "100")], Some(0)),
            (vec![("cache-control", "max-age=600, no-cache")], Some(0)),
            (vec![("cache-control", "no-store")], Some(0)),
            (vec![("cache-control", "max-age=-1")], None),
            (vec![("cache-control", "s-maxage=60")], None),
        ] {
            assert_eq!(fresh_for(&headers(&fields)), seconds.map(Duration::from_secs), "{fields:?}");
        }
    }

    #[test]
    fn only_json_is_taken() {
        for (named, taken) in [
            ("application/json", true),
            ("Application/JSON; charset=utf-8", true),
            ("application/jwk-set+json", true),
            ("text/html", false),
            ("text/html; application/json", false),
            ("", false),
        ] {
            assert_eq!(is_json(&headers(&[("content-type", named)])), taken, "{named}");
        }
        assert!(!is_json(&HeaderMap::new()));
    }

    #[test]
    fn redirects_stay_at_their_origin() {
        let from = Url::parse("https://issuer.example/a/keys").unwrap();
        for (to, followed) in [
            ("/keys", Some("https://issuer.example/keys")),
            ("other", Some("https://issuer.example/a/other")),
            ("https://issuer.example:443/x", Some("https://issuer.example/x")),
            ("https://evil.example/keys", None),
            ("//evil.example/keys", None),
            ("http://issuer.example/keys", None),
            ("https://issuer.example:444/keys", None),
            ("file:///etc/passwd", None),
        ] {
            let next = location(&from, &headers(&[("location", to)]));
            assert_eq!(next.as_ref().map(Url::as_str), followed, "{to}");
        }
        assert_eq!(location(&from, &HeaderMap::new()), None);
    }
}
