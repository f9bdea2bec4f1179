//! A client that sends exactly the bytes it is given.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// No exchange in these tests takes longer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What came back.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }

    /// The first answer in `bytes`, as far as its head and the rest behind it are concerned.
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes).into_owned();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|it| it.parse().ok()).unwrap_or(0);
        let headers = lines.filter_map(|line| line.split_once(": ")).map(|(n, v)| (n.into(), v.into())).collect();
        Self { status, headers, body: body.into() }
    }
}

/// Sends `request` on a connection of its own and reads until the other side closes; status 0 if it does not.
pub(crate) async fn send(address: SocketAddr, request: &[u8]) -> Vec<u8> {
    let mut stream = timeout(PATIENCE, TcpStream::connect(address)).await.unwrap().unwrap();
    // The other side may close before it has read everything.
    let _ = timeout(PATIENCE, stream.write_all(request)).await.unwrap();
    let mut answer = Vec::new();
    if timeout(PATIENCE, stream.read_to_end(&mut answer)).await.is_err() {
        answer.splice(..0, b"HTTP/1.1 0 the connection stays open\r\n".iter().copied());
    }
    answer
}

/// A whole request, closing the connection after it.
pub(crate) fn request(method: &str, target: &str, fields: &[(String, String)]) -> Vec<u8> {
    let mut text = format!("{method} {target} HTTP/1.1\r\nhost: gate.example\r\nconnection: close\r\n").into_bytes();
    for (name, value) in fields {
        text.extend(format!("{name}: {value}\r\n").bytes());
    }
    text.extend(b"\r\n");
    text
}

/// A connection that is used again and again.
pub(crate) struct Kept(TcpStream);

impl Kept {
    pub(crate) async fn to(address: SocketAddr) -> Self {
        Self(timeout(PATIENCE, TcpStream::connect(address)).await.unwrap().unwrap())
    }

    /// Whether the other side closes it.
    pub(crate) async fn is_closed(&mut self) -> bool {
        matches!(timeout(PATIENCE, self.0.read(&mut [0])).await, Ok(Ok(0)))
    }

    /// Sends a request; gives the answer's head and body, which must be in JSON.
    pub(crate) async fn ask(&mut self, request: &[u8]) -> String {
        self.0.write_all(request).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"}") {
            let read = timeout(PATIENCE, self.0.read_buf(&mut answer)).await.unwrap().unwrap();
            assert!(read > 0, "the connection was closed after {}", String::from_utf8_lossy(&answer));
        }
        String::from_utf8(answer).unwrap()
    }
}
