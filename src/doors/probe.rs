//! Asks a server of an upstream whether it is well.

use std::{io, sync::Arc};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
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
    base::{address::Address, problem::causes},
    forward::{
        upstream::{Http2, Upstream},
        watch::{Asks, Health},
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
    /// Asks the server at `address`.
    ///
    /// # Errors
    /// Why it is not well, for operators.
    pub(super) async fn put(&self, address: &Address) -> Result<(), String> {
        let answer = async {
            match address {
                Address::Tcp(address) => self.over(TcpStream::connect(address).await?).await,
                Address::Unix(path) => self.over(UnixStream::connect(path).await?).await,
            }
        };
        match timeout(self.health.timeout, answer).await {
            Ok(Ok(verdict)) => verdict,
            Ok(Err(error)) => Err(causes(&error)),
            Err(_) => Err("it did not answer in time".into()),
        }
    }

    async fn over<S>(&self, stream: S) -> io::Result<Verdict>
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

    async fn exchange<S>(&self, stream: S, http2: bool) -> io::Result<Verdict>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let request = self.request(http2)?;
        let stream = TokioIo::new(stream);
        if http2 {
            let begun = http2::handshake(TokioExecutor::new(), stream).await;
            let (mut sender, connection) = begun.map_err(io::Error::other)?;
            beside(connection, async { self.judge(sender.send_request(request).await).await }).await
        } else {
            let (mut sender, connection) = http1::handshake(stream).await.map_err(io::Error::other)?;
            beside(connection, async { self.judge(sender.send_request(request).await).await }).await
        }
    }

    fn request(&self, http2: bool) -> io::Result<Request<Full<Bytes>>> {
        let (method, path, body) = match &self.health.asks {
            Asks::Path(path) => (Method::GET, path.as_str(), Bytes::new()),
            Asks::Grpc(service) => (Method::POST, GRPC_CHECK, framed(service)),
        };
        let scheme = if self.upstream.tls.is_some() { "https" } else { "http" };
        let host = self.upstream.host.to_str().map_err(io::Error::other)?;
        let target = if http2 { format!("{scheme}://{host}{path}") } else { path.to_owned() };
        let request = Request::builder()
            .method(method)
            .uri(target)
            .header(header::USER_AGENT, concat!("portcullis/", env!("CARGO_PKG_VERSION")));
        let request = if http2 { request } else { request.header(header::HOST, host) };
        let request = match &self.health.asks {
            Asks::Path(_) => request,
            Asks::Grpc(_) => request.header(header::CONTENT_TYPE, "application/grpc").header(header::TE, "trailers"),
        };
        request.body(Full::new(body)).map_err(io::Error::other)
    }

    async fn judge(&self, answer: hyper::Result<Response<Incoming>>) -> io::Result<Verdict> {
        let (head, body) = answer.map_err(io::Error::other)?.into_parts();
        if !head.status.is_success() {
            return Ok(Err(format!("it answered {}", head.status)));
        }
        let Asks::Grpc(_) = &self.health.asks else { return Ok(Ok(())) };
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(io::Error::other)?;
        let code = body.trailers().and_then(|trailers| trailers.get("grpc-status")).or(head.headers.get("grpc-status"));
        let code = code.cloned();
        match code.as_ref().map(HeaderValue::as_bytes) {
            Some(b"0") if body.to_bytes() == SERVING => Ok(Ok(())),
            Some(b"0") => Ok(Err("it says that it does not serve".into())),
            code => Ok(Err(format!("it answered gRPC status {}", String::from_utf8_lossy(code.unwrap_or(b"none"))))),
        }
    }
}

/// What a server is found to be; why it is not well, for operators.
type Verdict = Result<(), String>;

/// The method of gRPC's health checking protocol, `grpc.health.v1`.
const GRPC_CHECK: &str = "/grpc.health.v1.Health/Check";

/// Bytes of an answer that are read.
const ANSWER_BYTES_MAX: usize = 1024;

/// `HealthCheckResponse { status: SERVING }`, as gRPC sends it: not compressed, two bytes long, field 1 is 1.
const SERVING: &[u8] = &[0, 0, 0, 0, 2, 0x08, 1];

/// `HealthCheckRequest { service }`, as gRPC sends it.
fn framed(service: &str) -> Bytes {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(0x0a);
        message.extend(varint(service.len()));
        message.extend_from_slice(service.as_bytes());
    }
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes();
    [&[0], &length[..], &message].concat().into()
}

/// A number as Protocol Buffers write it: seven bits a byte, the lowest first.
fn varint(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let seven = u8::try_from(number & 0x7f).unwrap_or(0);
        number >>= 7;
        if number == 0 {
            bytes.push(seven);
            return bytes;
        }
        bytes.push(seven | 0x80);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_named_as_protocol_buffers_do() {
        assert_eq!(framed(""), &[0, 0, 0, 0, 0][..]);
        assert_eq!(framed("a.B"), &[0, 0, 0, 0, 5, 0x0a, 3, b'a', b'.', b'B'][..]);
        let long = framed(&"x".repeat(300));
        assert_eq!(long[..8], [0, 0, 0, 1, 47, 0x0a, 0xac, 0x02]);
    }
}
