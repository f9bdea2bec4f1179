//! A small HTTP/1.1 server for what is not the data path: the admin listener and the demo's parts.

use std::{convert::Infallible, io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::TcpListener,
    sync::Semaphore,
    task::{JoinHandle, JoinSet},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{listener::LINGER, socket::Listening};

/// Connections served at once; more wait.
const CONNECTIONS_MAX: usize = 256;

/// The longest a client may take to send a request head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// A server at work; dropping it ends it and every connection.
#[derive(Debug)]
pub struct Serving {
    finishing: CancellationToken,
    task: JoinHandle<()>,
}

/// A server at work on TCP.
#[derive(Debug)]
pub struct Http1Server {
    address: SocketAddr,
    _serving: Serving,
}

impl Serving {
    /// Serves what comes to `listening` with `handler`.
    pub fn start<H, F>(listening: Listening, handler: H) -> Self
    where
        H: Fn(Request<Incoming>) -> F + Send + Sync + 'static,
        F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
    {
        let finishing = CancellationToken::new();
        let task = tokio::spawn(accept(listening, Arc::new(handler), finishing.clone()));
        Self { finishing, task }
    }

    /// Accepts nothing more, and waits for what is under way, but not longer than `patience`.
    pub async fn finish(&mut self, patience: Duration) {
        self.finishing.cancel();
        let _ = timeout(patience, &mut self.task).await;
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Http1Server {
    /// Serves `listener` with `handler`.
    ///
    /// # Errors
    /// When the listener has no address.
    pub fn start<H, F>(listener: TcpListener, handler: H) -> io::Result<Self>
    where
        H: Fn(Request<Incoming>) -> F + Send + Sync + 'static,
        F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
    {
        let address = listener.local_addr()?;
        Ok(Self { address, _serving: Serving::start(listener.into(), handler) })
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }
}

async fn accept<H, F>(listening: Listening, handler: Arc<H>, finishing: CancellationToken)
where
    H: Fn(Request<Incoming>) -> F + Send + Sync + 'static,
    F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    while let Ok(place) = places.clone().acquire_owned().await {
        let accepted = tokio::select! {
            biased;
            () = finishing.cancelled() => break,
            accepted = listening.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let handler = handler.clone();
        let service = service_fn(move |request| {
            let answer = handler(request);
            async move { Ok::<_, Infallible>(answer.await) }
        });
        let mut server = http1::Builder::new();
        server.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
        let finishing = finishing.clone();
        connections.spawn(async move {
            let _place = place;
            let mut connection = pin!(server.serve_connection(TokioIo::new(stream), service));
            let served = tokio::select! {
                served = &mut connection => served,
                // A request may be on its way on a connection that is new: hyper would close that at once.
                () = async { finishing.cancelled().await; sleep(LINGER).await } => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = served {
                tracing::debug!(%error, "a connection ended badly");
            }
        });
        while connections.try_join_next().is_some() {}
    }
    drop(listening);
    while connections.join_next().await.is_some() {}
}

/// An answer with a body.
pub fn answer(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    response
}

/// An answer in JSON.
pub fn json(status: StatusCode, body: &serde_json::Value) -> Response<Full<Bytes>> {
    answer(status, "application/json", body.to_string())
}
