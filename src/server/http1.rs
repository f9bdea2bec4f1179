//! A small HTTP/1.1 server for what is not the data path: the admin listener and the demo's parts.

use std::{convert::Infallible, io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::Semaphore,
    task::{JoinHandle, JoinSet},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{listener::LINGER, socket::Listening, stall::Impatient};

/// Connections served at once; more wait.
const CONNECTIONS_MAX: usize = 256;

/// The longest a client may take to send a request head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest it may take nothing of an answer.
const STALLED_MAX: Duration = Duration::from_secs(10);

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
        let (handler, finishing) = (handler.clone(), finishing.clone());
        connections.spawn(async move {
            let _place = place;
            serve(stream, handler, finishing).await;
        });
        while connections.try_join_next().is_some() {}
    }
    drop(listening);
    while connections.join_next().await.is_some() {}
}

/// Serves one connection.
async fn serve<H, F>(stream: impl AsyncRead + AsyncWrite + Unpin, handler: Arc<H>, finishing: CancellationToken)
where
    H: Fn(Request<Incoming>) -> F,
    F: Future<Output = Response<Full<Bytes>>>,
{
    let service = service_fn(move |request| {
        let answer = handler(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    let stream = TokioIo::new(Impatient::new(stream, STALLED_MAX));
    let mut connection = pin!(server.serve_connection(stream, service));
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

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn whoever_does_not_read_the_answer_is_not_waited_for() {
        let (mut client, server) = tokio::io::duplex(1000);
        client.write_all(b"GET / HTTP/1.1\r\nhost: gate\r\n\r\n").await.unwrap();
        let long = |_: Request<Incoming>| async { answer(StatusCode::OK, "text/plain", vec![b'x'; 1_000_000]) };
        let served = serve(server, Arc::new(long), CancellationToken::new());
        assert!(timeout(Duration::from_secs(60), served).await.is_ok(), "it hangs");
        drop(client);
    }
}
