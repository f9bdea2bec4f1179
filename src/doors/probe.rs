//! Asks a server of an upstream whether it is well.

use std::{io, sync::Arc};

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::Empty;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::trust::Trust;
use crate::{
    base::problem::causes,
    forward::{
        address::Place,
        upstream::{Http2, Upstream},
        watch::Health,
    },
};

/// What is asked of each server of an upstream, and how.
#[derive(Debug)]
pub(super) struct Question<'a> {
    pub(super) upstream: &'a Upstream,
    pub(super) health: &'a Health,
    pub(super) trust: Option<Arc<Trust>>,
}

impl Question<'_> {
    /// Asks the server at `place`.
    ///
    /// # Errors
    /// Why it is not well, for operators.
    pub(super) async fn put(&self, place: &Place) -> Result<(), String> {
        let answer = async {
            match place {
                Place::Network(address) => self.over(TcpStream::connect(address).await?).await,
                Place::Socket(path) => self.over(UnixStream::connect(path).await?).await,
            }
        };
        match timeout(self.health.timeout, answer).await {
            Ok(Ok(status)) if status.is_success() => Ok(()),
            Ok(Ok(status)) => Err(format!("it answered {status}")),
            Ok(Err(error)) => Err(causes(&error)),
            Err(_) => Err("it did not answer in time".into()),
        }
    }

    async fn over<S>(&self, stream: S) -> io::Result<StatusCode>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (Some(trust), Some(tls)) = (&self.trust, &self.upstream.tls) else {
            return self.exchange(stream, self.upstream.http2 == Http2::Only).await;
        };
        let name = ServerName::try_from(tls.server_name.clone()).map_err(io::Error::other)?;
        let stream = TlsConnector::from(trust.client.clone()).connect(name, stream).await?;
        let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        self.exchange(stream, http2).await
    }

    async fn exchange<S>(&self, stream: S, http2: bool) -> io::Result<StatusCode>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let scheme = if self.upstream.tls.is_some() { "https" } else { "http" };
        let host = self.upstream.host.to_str().map_err(io::Error::other)?;
        let path = &self.health.path;
        let target = if http2 { format!("{scheme}://{host}{path}") } else { path.clone() };
        let request = Request::builder()
            .method(Method::GET)
            .uri(target)
            .header(header::USER_AGENT, concat!("portcullis/", env!("CARGO_PKG_VERSION")));
        let request = if http2 { request } else { request.header(header::HOST, host) };
        let request = request.body(Empty::<Bytes>::new()).map_err(io::Error::other)?;
        let stream = TokioIo::new(stream);
        let answer = if http2 {
            let begun = http2::handshake(TokioExecutor::new(), stream).await;
            let (mut sender, connection) = begun.map_err(io::Error::other)?;
            beside(connection, sender.send_request(request)).await
        } else {
            let (mut sender, connection) = http1::handshake(stream).await.map_err(io::Error::other)?;
            beside(connection, sender.send_request(request)).await
        };
        answer.map(|answer| answer.status()).map_err(io::Error::other)
    }
}

/// What comes of `exchange` while its `connection` is at work. How that ends, the exchange learns.
async fn beside<T>(connection: impl Future, exchange: impl Future<Output = T>) -> T {
    let work = async {
        connection.await;
        std::future::pending().await
    };
    tokio::select! { outcome = exchange => outcome, never = work => never }
}
