//! A plain HTTP/1.1 client for this machine: the health check and the demo's walk.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream};
use tokio_util::either::Either;

use super::socket::Socket;
use crate::base::address::Address;

/// The longest an exchange may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The largest answer that is read, in bytes.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;

/// Why there was no answer.
pub type ProbeError = Box<dyn std::error::Error + Send + Sync>;

/// Sends one request on a connection of its own.
///
/// # Errors
/// When there is no complete answer in time.
pub async fn send(
    address: impl Into<Address>,
    mut request: Request<Full<Bytes>>,
) -> Result<Response<Bytes>, ProbeError> {
    let address = address.into();
    let host = address.tcp().map_or_else(|| "localhost".to_owned(), |address| address.to_string()).parse()?;
    request.headers_mut().entry(header::HOST).or_insert(host);
    tokio::time::timeout(TIMEOUT, exchange(&address, request)).await?
}

async fn exchange(address: &Address, request: Request<Full<Bytes>>) -> Result<Response<Bytes>, ProbeError> {
    let stream: Socket = match address {
        Address::Tcp(address) => Either::Left(TcpStream::connect(address).await?),
        Address::Unix(path) => Either::Right(UnixStream::connect(path).await?),
    };
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let (head, body) = sender.send_request(request).await?.into_parts();
    let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await?.to_bytes();
    connection.abort();
    Ok(Response::from_parts(head, body))
}

/// Asks the admin listener at `address` whether the gate is ready.
///
/// # Errors
/// When it is not, with what it says.
pub async fn ready(address: impl Into<Address>) -> Result<(), ProbeError> {
    let request = Request::builder().method(Method::GET).uri("/readyz").body(Full::default())?;
    let response = send(address, request).await?;
    match response.status() {
        StatusCode::OK => Ok(()),
        _ => Err(String::from_utf8_lossy(response.body()).into()),
    }
}
