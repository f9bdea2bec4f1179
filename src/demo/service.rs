//! The cross-domain service of the demo: two users' data, no token code. It answers with the identity headers it got
//! and counts what reaches it.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use serde_json::json;
use tokio::net::TcpListener;

use crate::server::http1::{Http1Server, json as json_answer};

/// The largest request body that is read, in bytes.
const BODY_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The service at work.
#[derive(Debug)]
pub struct Service {
    server: Http1Server,
    received: Arc<AtomicU64>,
}

impl Service {
    /// Serves on `listener`.
    ///
    /// # Errors
    /// When the listener has no address.
    pub fn start(listener: TcpListener) -> io::Result<Self> {
        let received = Arc::new(AtomicU64::new(0));
        let counter = received.clone();
        let server = Http1Server::start(listener, move |request| {
            counter.fetch_add(1, Ordering::Relaxed);
            respond(request)
        })?;
        Ok(Self { server, received })
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// How many requests have reached it.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

async fn respond(request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let Ok(body) = Limited::new(body, BODY_BYTES_MAX).collect().await else {
        return json_answer(StatusCode::PAYLOAD_TOO_LARGE, &json!({}));
    };
    let mut headers: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (name, value) in &head.headers {
        headers.entry(name.as_str()).or_default().push(String::from_utf8_lossy(value.as_bytes()).into_owned());
    }
    json_answer(
        StatusCode::OK,
        &json!({
            "service": "crossDomainService",
            "method": head.method.as_str(),
            "target": head.uri.path_and_query().map(http::uri::PathAndQuery::as_str),
            "body_bytes": body.to_bytes().len(),
            "headers": headers,
        }),
    )
}
