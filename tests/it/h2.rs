//! HTTP/2 from clients: with curl, h2load and a client that does what a well-behaved one does not.

use std::{net::SocketAddr, path::Path, process::Command, sync::Arc, time::Duration};

use bytes::Bytes;
use h2::{
    Reason, RecvStream, SendStream,
    client::{ResponseFuture, SendRequest},
};
use http::{HeaderName, HeaderValue, Method, Request, Uri, uri::PathAndQuery};
use portcullis::audit::{Outcome, Record};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    house::{self, House, ROUTES, bearer},
    readers::strict,
    tls,
    wire::{self, Answer},
};

/// No exchange in these tests takes longer.
const PATIENCE: Duration = Duration::from_secs(5);

async fn gate(settings: &str) -> House {
    House::build(Some(&format!("{ROUTES}{settings}")), &[], house::NOW).await
}

/// A gate in front of `upstream`.
async fn gate_for(upstream: SocketAddr, settings: &str) -> House {
    House::build_for(&format!("{ROUTES}{settings}"), &format!("http://{upstream}")).await
}

/// A connection in HTTP/2.
pub(crate) struct Client {
    send: SendRequest<Bytes>,
    connection: JoinHandle<Result<(), h2::Error>>,
}

impl Client {
    /// One in the clear, whose client knows beforehand.
    pub(crate) async fn to(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).await.unwrap()).await
    }

    /// One by TLS, to a gate whose certificate is from this authority.
    pub(crate) async fn secured(address: SocketAddr, authority: &Path) -> Self {
        Self::over(secured(address, authority, &["h2"]).await).await
    }

    pub(crate) async fn over(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Self {
        let (send, connection) = timeout(PATIENCE, h2::client::handshake(io)).await.unwrap().unwrap();
        Self { send, connection: tokio::spawn(connection) }
    }
    pub(crate) async fn begin(&mut self, request: Request<()>, is_whole: bool) -> (ResponseFuture, SendStream<Bytes>) {
        let mut send = timeout(PATIENCE, self.send.clone().ready()).await.unwrap().unwrap();
        send.send_request(request, is_whole).unwrap()
    }

    /// What comes of a request without a body. `None` where it cannot be said.
    pub(crate) async fn ask(&mut self, request: Request<()>) -> Option<Result<Answer, h2::Error>> {
        let mut send = timeout(PATIENCE, self.send.clone().ready()).await.unwrap().ok()?;
        let (response, _) = send.send_request(request, true).ok()?;
        Some(whole(response).await)
    }

    /// What comes of a request with this body, sent in two parts and ended by itself.
    pub(crate) async fn ask_with(&mut self, request: Request<()>, body: &[u8]) -> Answer {
        let (response, mut send) = self.begin(request, false).await;
        let (first, second) = body.split_at(body.len() / 2);
        for part in [first, second].into_iter().filter(|part| !part.is_empty()) {
            send.send_data(Bytes::copy_from_slice(part), false).unwrap();
        }
        send.send_data(Bytes::new(), true).unwrap();
        whole(response).await.unwrap()
    }

    /// What comes of the good call for this user.
    pub(crate) async fn call(&mut self, user: &str) -> Answer {
        self.ask(good(user)).await.unwrap().unwrap()
    }

    /// How the connection ends.
    pub(crate) async fn end(self) -> Result<(), h2::Error> {
        let Self { send, connection } = self;
        drop(send);
        timeout(PATIENCE, connection).await.expect("the connection ends").unwrap()
    }
}

/// A connection by TLS, whose client offers these protocols.
pub(crate) async fn secured(address: SocketAddr, authority: &Path, offered: &[&str]) -> TlsStream<TcpStream> {
    secured_over(TcpStream::connect(address).await.unwrap(), authority, offered).await
}

/// The same, over a connection that is there.
pub(crate) async fn secured_over(stream: TcpStream, authority: &Path, offered: &[&str]) -> TlsStream<TcpStream> {
    let address = stream.peer_addr().unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(authority).unwrap()).unwrap();
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = offered.iter().map(|name| name.as_bytes().to_vec()).collect();
    let stream = TlsConnector::from(Arc::new(config)).connect(ServerName::from(address.ip()), stream).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), offered.first().map(|name| name.as_bytes()));
    stream
}

/// An answer, read to its end.
pub(crate) async fn whole(response: ResponseFuture) -> Result<Answer, h2::Error> {
    let (head, mut body) = timeout(PATIENCE, response).await.expect("an answer")?.into_parts();
    let bytes = rest(&mut body).await?;
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let headers = head.headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect();
    Ok(Answer { status: head.status.as_u16(), headers, body: String::from_utf8_lossy(&bytes).into_owned() })
}

async fn rest(body: &mut RecvStream) -> Result<Vec<u8>, h2::Error> {
    let mut bytes = Vec::new();
    while let Some(part) = timeout(PATIENCE, body.data()).await.expect("more of the answer") {
        let part = part?;
        body.flow_control().release_capacity(part.len())?;
        bytes.extend(part);
    }
    Ok(bytes)
}

/// A request, if it can be said in HTTP/2 by a client that knows how.
pub(crate) fn request(method: &str, target: &str, fields: &[(String, String)]) -> Option<Request<()>> {
    let path = PathAndQuery::try_from(target).ok().filter(|path| path.as_str() == target)?;
    let uri = Uri::builder().scheme("http").authority("gate.example").path_and_query(path).build().ok()?;
    let mut request = Request::new(());
    *request.method_mut() = Method::from_bytes(method.as_bytes()).ok()?;
    *request.uri_mut() = uri;
    for (name, value) in fields {
        request.headers_mut().append(HeaderName::try_from(name).ok()?, HeaderValue::try_from(value).ok()?);
    }
    Some(request)
}

fn good(user: &str) -> Request<()> {
    request("GET", &format!("/users/{user}/data"), &[bearer()]).unwrap()
}

/// The next record, however long it takes.
async fn record(house: &mut House) -> Record {
    for _ in 0..10 {
        if let Some(record) = house.record().await {
            return record;
        }
    }
    panic!("there is no record");
}

async fn run(folder: &Path, program: &str, arguments: &[&str]) -> String {
    let arguments: Vec<_> = arguments.iter().map(|it| (*it).to_owned()).collect();
    let (folder, program) = (folder.to_owned(), program.to_owned());
    let run = move || Command::new(program).args(arguments).current_dir(folder).output().unwrap();
    let output = tokio::task::spawn_blocking(run).await.unwrap();
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_speaks_http2_by_tls_where_it_chooses_to_and_in_the_clear_where_it_begins_with_it() {
    let folder = tls::folder();
    let path = folder.path();
    let (secured, clear) = (tls::gate(path, "", "off").await, gate("").await);
    let (off, clear_off) = (tls::gate_with(path, "", "off", "http2: off\n").await, gate("http2: off\n").await);
    for (house, asked, spoken) in [
        (&secured, "--http2", "2"),
        (&secured, "--http1.1", "1.1"),
        (&off, "--http2", "1.1"),
        (&clear, "--http2-prior-knowledge", "2"),
        (&clear, "--http1.1", "1.1"),
        // An upgrade is not taken up (CVE-2026-32136).
        (&clear, "--http2", "1.1"),
        (&clear_off, "--http1.1", "1.1"),
    ] {
        let scheme = if std::ptr::eq(house, &secured) || std::ptr::eq(house, &off) { "https" } else { "http" };
        let url = format!("{scheme}://{}/users/user-1/data", house.app.address());
        let said = "-w%{http_version} %{http_code}";
        let arguments = ["-sS", "--max-time", "5", "--cacert", "ca.pem", "-o/dev/null", said, asked, &url];
        assert_eq!(run(path, "curl", &arguments).await, format!("{spoken} 401"), "{scheme} {asked}");
    }
    let url = format!("http://{}/", clear_off.app.address());
    let told = run(path, "curl", &["-sS", "--max-time", "5", "--http2-prior-knowledge", &url]).await;
    assert!(!told.contains("decision_id"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_stream_is_decided_by_itself_with_the_certificate_of_its_connection() {
    let folder = tls::folder();
    let path = folder.path();
    let mut house = tls::gate(path, ", client_certificate: accepted", "accepted").await;
    let bound = tls::token(path, Some("first"));
    for (certificate, code) in [("first", "allowed"), ("second", "certificate_mismatch")] {
        let (cert, key) = (format!("{certificate}.pem"), format!("{certificate}.key"));
        let url = format!("https://{}/users/user-1/data", house.app.address());
        let bearer = format!("authorization: Bearer {bound}");
        let shown = ["--cacert", "ca.pem", "--cert", &cert, "--key", &key, "-H", &bearer, "-w", "[%{http_version}]"];
        let told = run(path, "curl", &[&["-sS", "--max-time", "5", "--http2"], &shown[..], &[&*url; 3]].concat()).await;
        assert_eq!(told.matches("[2]").count(), 3);
        for _ in 0..3 {
            let record = record(&mut house).await;
            assert_eq!((record.code, record.peer.as_deref()), (code, Some("127.0.0.1")));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_of_one_connection_share_nothing_but_the_connection() {
    let mut house = gate("").await;
    let mut client = Client::to(house.app.address()).await;
    let mut under_way = Vec::new();
    for user in ["user-1", "user-2", "user-1", "nowhere"] {
        under_way.push(client.begin(good(user), true).await.0);
    }
    let none = request("GET", "/users/user-1/data", &[]).unwrap();
    under_way.push(client.begin(none, true).await.0);
    for (response, status) in under_way.into_iter().zip([200, 403, 200, 403, 401]) {
        let answer = whole(response).await.unwrap();
        assert_eq!(answer.status, status, "{answer:?}");
        let challenged = answer.header("www-authenticate").is_some_and(|it| it.starts_with("Bearer"));
        assert_eq!(challenged, status == 401);
        if status != 200 {
            assert_eq!(answer.header("content-type"), Some("application/problem+json"));
            assert_eq!(answer.json()["status"], status);
        }
    }
    let mut codes = Vec::new();
    for _ in 0..5 {
        codes.push(record(&mut house).await.code);
    }
    codes.sort_unstable();
    assert_eq!(codes, ["access_denied", "access_denied", "allowed", "allowed", "token_missing"]);
    assert_eq!(house.service.received(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_on_is_said_as_in_http1() {
    let text = format!("{ROUTES}identity: {{ forward_cookies: true }}\n");
    let mut loaded = House::load(Some(&text), &[]);
    loaded.config.upstream.forward_host = true;
    let house = House::of(loaded, house::NOW).await;
    let mut client = Client::to(house.app.address()).await;
    let field = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let fields = [
        bearer(),
        field("cookie", "a=1"),
        field("cookie", "b=2"),
        field("te", "trailers"),
        field("x-portcullis-user", "victim"),
        field("X_Portcullis_User", "victim"),
    ];
    let target = "/users/user-1/data?a=%2F&b=//..";
    let answer = client.ask(request("GET", target, &fields).unwrap()).await.unwrap().unwrap();
    let seen = answer.json();
    assert_eq!(seen["target"], target);
    assert_eq!(seen["headers"]["host"], serde_json::json!(["gate.example"]));
    assert_eq!(seen["headers"]["cookie"], serde_json::json!(["a=1; b=2"]));
    assert_eq!(seen["headers"]["x-portcullis-user"], serde_json::json!(["user-1"]));
    for absent in ["te", "x_portcullis_user", "authorization", "connection", "upgrade"] {
        assert_eq!(seen["headers"][absent], serde_json::Value::Null, "{absent}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_beside_the_authority_says_the_same_or_is_refused() {
    let mut house = gate("").await;
    let mut client = Client::to(house.app.address()).await;
    for (host, status, code) in [
        ("gate.example", 200, "allowed"),
        ("other.example", 400, "request_invalid"),
        ("Gate.example", 400, "request_invalid"),
    ] {
        let fields = [bearer(), ("host".to_owned(), host.to_owned())];
        let answer = client.ask(request("GET", "/users/user-1/data", &fields).unwrap()).await.unwrap().unwrap();
        assert_eq!((answer.status, record(&mut house).await.code), (status, code), "{host}");
    }
    assert_eq!(house.service.received(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_does_not_wait_for_the_body_and_disturbs_no_other_stream() {
    let mut house = gate("").await;
    let mut client = Client::to(house.app.address()).await;
    let post = request("POST", "/users/user-1/data", &[]).unwrap();
    let (response, mut body) = client.begin(post, false).await;
    // The answer may be here before.
    let _ = body.send_data(Bytes::from_static(&[b'x'; 1000]), false);
    let answer = whole(response).await.unwrap();
    assert_eq!((answer.status, answer.header("www-authenticate").is_some()), (401, true));
    let reason = timeout(PATIENCE, std::future::poll_fn(|context| body.poll_reset(context))).await.unwrap();
    assert_eq!(reason.unwrap(), Reason::NO_ERROR);
    assert_eq!(record(&mut house).await.code, "token_missing");
    assert_eq!(client.call("user-1").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_passes_whole_and_one_that_does_not_come_ends_its_stream() {
    let mut house = gate("limits: { client_timeout_ms: 700 }\n").await;
    let mut client = Client::to(house.app.address()).await;
    let post = || request("POST", "/users/user-1/data", &[bearer()]).unwrap();
    let (response, mut body) = client.begin(post(), false).await;
    let sending = async {
        for _ in 0..100 {
            body.reserve_capacity(20_000);
            while body.capacity() < 20_000 {
                let more = timeout(PATIENCE, std::future::poll_fn(|context| body.poll_capacity(context))).await;
                more.unwrap().unwrap().unwrap();
            }
            body.send_data(Bytes::from_static(&[b'x'; 20_000]), false).unwrap();
        }
        body.send_data(Bytes::new(), true).unwrap();
    };
    let (answer, ()) = tokio::join!(whole(response), sending);
    let answer = answer.unwrap();
    assert_eq!((answer.status, &answer.json()["body_bytes"]), (200, &2_000_000.into()));
    assert_eq!(record(&mut house).await.code, "allowed");

    let (response, mut body) = client.begin(post(), false).await;
    for _ in 0..4 {
        body.send_data(Bytes::from_static(b"abc"), false).unwrap();
        sleep(Duration::from_millis(300)).await;
    }
    assert!(house.record().await.is_none(), "a body may be slow");
    let error = whole(response).await.unwrap_err();
    assert_eq!(error.reason(), Some(Reason::CANCEL), "{error}");
    let ended = record(&mut house).await;
    assert_eq!((ended.code, ended.decision), ("body_timed_out", Outcome::Allow));
    assert_eq!(client.call("user-1").await.status, 200);
}

/// A body without an announced length, which ends in a frame with nothing in it: to the upstream that is one end and not two,
/// the second of which would stand before the next request.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_ends_in_an_empty_frame_ends_once() {
    let listener = house::loopback().await;
    let house = gate_for(listener.local_addr().unwrap(), "").await;
    let got = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut got = Vec::new();
        for ends in 1..=2 {
            while got.windows(7).filter(|seven| seven == b"\r\n0\r\n\r\n").count() < ends {
                assert!(stream.read_buf(&mut got).await.unwrap() > 0);
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await.unwrap();
        }
        got
    });
    let mut client = Client::to(house.app.address()).await;
    for _ in 0..2 {
        let post = request("POST", "/users/user-1/data", &[bearer()]).unwrap();
        let (response, mut body) = client.begin(post, false).await;
        body.send_data(Bytes::from_static(b"before"), false).unwrap();
        body.send_data(Bytes::new(), false).unwrap();
        body.send_data(Bytes::from_static(b"after"), false).unwrap();
        // Sent by itself.
        sleep(Duration::from_millis(100)).await;
        body.send_data(Bytes::new(), true).unwrap();
        assert_eq!(whole(response).await.unwrap().status, 200);
    }
    let got = timeout(PATIENCE, got).await.unwrap().unwrap();
    let messages = strict(&got).unwrap();
    assert_eq!(messages.len(), 2, "{}", String::from_utf8_lossy(&got));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_stops_reading_is_not_waited_for() {
    let endless = endless_upstream().await;
    let mut house = gate_for(endless, "limits: { client_timeout_ms: 300 }\n").await;
    let mut client = Client::to(house.app.address()).await;
    let (response, _) = client.begin(good("user-1"), true).await;
    // Neither what has come is released, nor the connection closed.
    let response = timeout(PATIENCE, response).await.unwrap().unwrap();
    let ended = record(&mut house).await;
    assert_eq!((ended.code, ended.status), ("client_gone", 200));
    drop(response);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_taken_back_while_the_upstream_works_ends_at_once() {
    let slow = slow_upstream(Duration::from_secs(30)).await;
    let mut house = gate_for(slow, "").await;
    let mut client = Client::to(house.app.address()).await;
    let (_response, mut body) = client.begin(good("user-1"), true).await;
    sleep(Duration::from_millis(200)).await;
    body.send_reset(Reason::CANCEL);
    let ended = house.record().await.expect("a record, soon");
    assert_eq!((ended.code, ended.decision, ended.status), ("client_gone", Outcome::Allow, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_answer_comes_whole() {
    const BYTES: usize = 5_000_000;
    let listener = house::loopback().await;
    let address = listener.local_addr().unwrap();
    let bytes: Vec<u8> = (0..BYTES).map(|at| u8::try_from(at % 251).unwrap()).collect();
    let sent = bytes.clone();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = stream.read(&mut [0; 4096]).await;
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {BYTES}\r\n\r\n");
        let _ = stream.write_all(&[head.as_bytes(), &sent].concat()).await;
    });
    let house = gate_for(address, "").await;
    let mut client = Client::to(house.app.address()).await;
    let (response, _) = client.begin(good("user-1"), true).await;
    let mut body = timeout(PATIENCE, response).await.unwrap().unwrap().into_body();
    assert!(rest(&mut body).await.unwrap() == bytes, "it is another");
}

/// An upstream whose answer does not end.
async fn endless_upstream() -> SocketAddr {
    let listener = house::loopback().await;
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = stream.read(&mut [0; 4096]).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100000000000\r\n\r\n").await;
        while stream.write_all(&[b'x'; 16 * 1024]).await.is_ok() {}
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_reset_while_it_is_decided_ends_the_lookup() {
    let listener = house::loopback().await;
    let issuer = format!(
        "  - introspection: {{ issuer: 'https://opaque.example', introspection_uri: 'http://{}/', client_id: gate, \
         client_secret: {{ file: nonce-secret }}, audiences: [api], fetch_timeout_ms: 60000 }}\nroutes:",
        listener.local_addr().unwrap()
    );
    let text = ROUTES
        .replace("routes:", &issuer)
        .replace(
            "scope_prefix: crossDomainService/",
            "scope_prefix: crossDomainService/\n      agent_id_prefix: a\n      user_id_prefix: a",
        )
        .replace("client_id: gate", "agent_id_prefix: b, user_id_prefix: b, client_id: gate");
    let mut house = House::build(Some(&text), &[], house::NOW).await;
    let mut client = Client::to(house.app.address()).await;
    let fields = [("authorization".to_owned(), "Bearer opaque-and-unknown".to_owned())];
    let (response, mut body) = client.begin(request("GET", "/users/user-1/data", &fields).unwrap(), true).await;
    let (mut asked, _) = timeout(PATIENCE, listener.accept()).await.expect("the issuer is asked").unwrap();
    assert!(asked.read(&mut [0; 4096]).await.unwrap() > 0);
    body.send_reset(Reason::CANCEL);
    let ended = record(&mut house).await;
    assert_eq!((ended.code, ended.decision, ended.status), ("abandoned", Outcome::Abandoned, 0));
    let closed = timeout(PATIENCE, asked.read(&mut [0; 64])).await.expect("the question is taken back");
    assert!(matches!(closed, Ok(0) | Err(_)));
    drop(response);
    assert_eq!(client.ask(request("GET", "/", &[]).unwrap()).await.unwrap().unwrap().status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_that_stops_says_so_and_finishes_the_streams_under_way() {
    let slow = slow_upstream(Duration::from_millis(500)).await;
    let house = gate_for(slow, "").await;
    let address = house.app.address();
    let mut client = Client::to(address).await;
    let (response, _) = client.begin(good("user-1"), true).await;
    sleep(Duration::from_millis(80)).await;
    let (app, mut records) = house.part();
    let stopping = tokio::spawn(app.stop(Duration::from_secs(30)));
    sleep(Duration::from_millis(100)).await;
    assert!(client.ask(good("user-1")).await.is_none_or(|answer| answer.is_err()), "the client was told");
    let answer = whole(response).await.unwrap();
    assert_eq!((answer.status, answer.body.as_str()), (200, "ok"));
    timeout(PATIENCE, stopping).await.expect("a prompt end").unwrap();
    assert_eq!(records.try_recv().unwrap().code, "allowed");
    let ended = client.end().await;
    assert!(ended.is_ok(), "{ended:?}");
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_are_cut_off_at_the_end_of_the_drain_and_recorded() {
    let slow = slow_upstream(Duration::from_secs(30)).await;
    let house = gate_for(slow, "").await;
    let mut client = Client::to(house.app.address()).await;
    let mut under_way = Vec::new();
    for _ in 0..3 {
        under_way.push(client.begin(good("user-1"), true).await);
    }
    sleep(Duration::from_millis(200)).await;
    let (app, mut records) = house.part();
    timeout(PATIENCE, app.stop(Duration::from_millis(20))).await.expect("a prompt end");
    for _ in 0..3 {
        let record = records.try_recv().expect("every record is there when the gate has stopped");
        assert_eq!((record.decision, record.status), (Outcome::Allow, 0));
    }
    for (response, _) in under_way {
        assert!(whole(response).await.is_err());
    }
}

/// An upstream that takes its time.
async fn slow_upstream(pause: Duration) -> SocketAddr {
    let listener = house::loopback().await;
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = stream.read(&mut [0; 4096]).await;
                sleep(pause).await;
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_requests_are_served_at_once_than_may_be() {
    let slow = slow_upstream(Duration::from_millis(400)).await;
    let mut house = gate_for(slow, "limits: { streams_max: 2 }\n").await;
    let mut client = Client::to(house.app.address()).await;
    // The first tells the client how many there may be.
    assert_eq!(client.call("user-2").await.status, 403);
    assert_eq!(record(&mut house).await.code, "access_denied");
    let started = std::time::Instant::now();
    let mut under_way = Vec::new();
    for _ in 0..4 {
        let mut send = timeout(PATIENCE, client.send.clone().ready()).await.unwrap().unwrap();
        under_way.push(send.send_request(good("user-1"), true).unwrap().0);
    }
    for response in under_way {
        assert_eq!(whole(response).await.unwrap().status, 200);
    }
    assert!(started.elapsed() > Duration::from_millis(750), "{:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_is_too_large_is_431_with_a_record_and_a_much_larger_one_without() {
    let mut house = gate("limits: { head_bytes_max: 4096 }\n").await;
    for (bytes, code) in [(2000, Some("allowed")), (4096, Some("head_too_large")), (9000, None)] {
        let mut client = Client::to(house.app.address()).await;
        let fields = [bearer(), ("x-large".to_owned(), "a".repeat(bytes))];
        let answer = client.ask(request("GET", "/users/user-1/data", &fields).unwrap()).await.unwrap().unwrap();
        assert_eq!(answer.status, if code == Some("allowed") { 200 } else { 431 }, "{bytes}");
        assert_eq!(house.record().await.map(|record| record.code), code, "{bytes}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_has_no_more_fields_than_it_may_have_in_either_version() {
    for (max, settings) in [(96, ""), (10, "limits: { fields_max: 10 }\n")] {
        let mut house = gate(settings).await;
        // Beside the token, and in HTTP/1.1 what the client says of its connection, there is the host.
        for (more, code) in [(max, "allowed"), (max + 1, "head_too_large"), (400, "head_too_large")] {
            let fields = |own: usize| {
                let others = (own..more).map(|number| (format!("x-{number}"), "a".to_owned()));
                [bearer()].into_iter().chain(others).collect::<Vec<_>>()
            };
            let status = if code == "allowed" { 200 } else { 431 };
            let (answer, record) = house.ask(&wire::request("GET", "/users/user-1/data", &fields(3))).await;
            assert_eq!((answer.status, record.unwrap().code), (status, code), "{max} {more}");
            let mut client = Client::to(house.app.address()).await;
            let request = request("GET", "/users/user-1/data", &fields(2)).unwrap();
            assert_eq!(client.ask(request).await.unwrap().unwrap().status, status, "{max} {more}");
            assert_eq!(house.record().await.unwrap().code, code, "{max} {more}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_begins_a_connection_in_the_clear_or_never() {
    let mut house = gate("limits: { client_timeout_ms: 300 }\n").await;
    let address = house.app.address();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    // Half of it is half a head.
    let answer = Answer::parse(&wire::send(address, &preface[..12]).await);
    assert_eq!((answer.status, house.record().await.unwrap().code), (408, "head_timed_out"));
    // What follows it and is nothing ends the connection.
    assert_eq!(wire::send(address, b"PRI * HTTP/2.0\r\n\r\nGET / HTTP/1.1\r\n\r\n").await.get(3), Some(&4), "SETTINGS");
    // After a request in HTTP/1.1 it is none.
    let mut both = b"GET / HTTP/1.1\r\nhost: gate\r\n\r\n".to_vec();
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(&both).await.unwrap();
    both.clear();
    while !both.ends_with(b"}") {
        assert!(stream.read_buf(&mut both).await.unwrap() > 0);
    }
    stream.write_all(preface).await.unwrap();
    both.clear();
    timeout(PATIENCE, stream.read_to_end(&mut both)).await.unwrap().unwrap();
    assert!(both.starts_with(b"HTTP/1.1 400"), "{:?}", String::from_utf8_lossy(&both));
    assert_eq!(house.record().await.unwrap().code, "token_missing");
    assert_eq!(house.record().await.unwrap().code, "framing_conflict");
}

#[tokio::test(flavor = "multi_thread")]
async fn h2load_is_answered_by_the_same_rules() {
    if !house::present("h2load") {
        return;
    }
    let mut house = gate("").await;
    let url = format!("http://{}/users/user-1/data", house.app.address());
    let folder = tempfile::tempdir().unwrap();
    let (name, value) = bearer();
    let bearer = format!("{name}: {value}");
    let told = run(folder.path(), "h2load", &["-n", "500", "-c", "4", "-m", "20", "-H", &bearer, &url]).await;
    assert!(told.contains("500 2xx, 0 3xx, 0 4xx, 0 5xx"), "{told}");
    for _ in 0..500 {
        assert_eq!(record(&mut house).await.code, "allowed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_not_as_long_as_announced_is_not_taken_for_a_whole_one() {
    let mut house = gate("").await;
    let mut client = Client::to(house.app.address()).await;
    // While a token is not known yet, the end may come before the decision.
    assert_eq!(client.call("user-1").await.status, 200);
    assert_eq!(record(&mut house).await.code, "allowed");
    for (sent, is_more) in [("abc", false), ("abcdefgh", true)] {
        let fields = [bearer(), ("content-length".to_owned(), "5".to_owned())];
        let (response, mut body) = client.begin(request("POST", "/users/user-1/data", &fields).unwrap(), false).await;
        body.send_data(Bytes::from_static(sent.as_bytes()), !is_more).unwrap();
        assert_eq!(whole(response).await.unwrap_err().reason(), Some(Reason::PROTOCOL_ERROR));
        assert_eq!(record(&mut house).await.code, "client_gone", "{sent}");
    }
    assert_eq!(client.call("user-1").await.status, 200);
}

/// A gate that follows what it finds in a folder of certificates.
pub(crate) async fn following(path: &Path) -> House {
    let config = "listen: 127.0.0.1:0\nadmin: 127.0.0.1:0\ntls: { certificate: gate.pem, private_key: { file: gate.key } }\n\
        upstream: { url: UPSTREAM }\nissuers:\n\
        \x20 - oidc_generic: { issuer: 'https://issuer.example', audiences: [api], jwks_file: keys.json }\n\
        routes:\n  - { methods: [POST], path: '/users/{id}/data', action: readOnly, resource: 'UserData::\"{path.id}\"', \
        attributes: { owner: 'User::\"{path.id}\"' } }\n";
    House::following(path, config).await
}

/// Gives that gate another certificate and key.
pub(crate) fn renew(path: &Path) {
    for kind in ["pem", "key"] {
        std::fs::copy(path.join(format!("first.{kind}")), path.join(format!("gate.{kind}"))).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_by_an_old_handshake_ends_with_the_streams_under_way() {
    let folder = tls::folder();
    let path = folder.path();
    let mut house = following(path).await;
    let mut client = Client::secured(house.app.address(), &path.join("ca.pem")).await;
    let fields = [("authorization".to_owned(), format!("Bearer {}", tls::token(path, None)))];
    let post = || request("POST", "/users/user-1/data", &fields).unwrap();
    let (response, mut body) = client.begin(post(), false).await;
    renew(path);
    let started = std::time::Instant::now();
    while client.ask(post()).await.is_some_and(|answer| answer.is_ok()) {
        assert!(started.elapsed() < Duration::from_secs(20), "the old connection is kept");
        sleep(Duration::from_millis(50)).await;
    }
    while house.record().await.is_some() {}
    body.send_data(Bytes::from_static(b"abc"), true).unwrap();
    assert_eq!(whole(response).await.unwrap().status, 200);
    assert_eq!(record(&mut house).await.code, "allowed");
    // The gate may have closed it before the client has said its last.
    let ended = client.end().await;
    assert!(ended.as_ref().err().is_none_or(h2::Error::is_io), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn by_tls_a_client_speaks_what_it_has_chosen_and_soon() {
    let folder = tls::folder();
    let settings = "limits: { client_timeout_ms: 300 }\n";
    let mut house = tls::gate_with(folder.path(), "", "off", settings).await;
    let authority = folder.path().join("ca.pem");
    for (offered, begins) in
        [(&["h2"][..], &b""[..]), (&["h2"], b"PRI * HTTP/2.0\r\n"), (&["h2"], b"GET / HTTP/1.1\r\n\r\n")]
    {
        let mut stream = secured(house.app.address(), &authority, offered).await;
        stream.write_all(begins).await.unwrap();
        let mut answer = Vec::new();
        let ended = timeout(Duration::from_secs(2), stream.read_to_end(&mut answer)).await;
        assert!(ended.is_ok() && !answer.starts_with(b"HTTP/1"), "{begins:?}: {answer:?}");
    }
    for offered in [&[][..], &["http/1.1"]] {
        let mut stream = secured(house.app.address(), &authority, offered).await;
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        let _ = timeout(Duration::from_secs(2), stream.read_to_end(&mut answer)).await.expect("an end");
        assert!(answer.starts_with(b"HTTP/1.1 400"), "{offered:?}: {answer:?}");
        assert_eq!(house.record().await.unwrap().code, "framing_conflict");
    }
    assert!(house.record().await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_clients_are_refused_in_their_words() {
    let settings = "rates: [{ name: agents, by: [agent], requests: 3, per_s: 86400 }]\n";
    let unreachable = "127.0.0.1:1".parse().unwrap();
    let mut house = gate_for(unreachable, settings).await;
    let mut client = Client::to(house.app.address()).await;
    let grpc = || ("content-type".to_owned(), "application/grpc+proto".to_owned());
    for (target, fields, status, code, told) in [
        ("/users/user-1/data", vec![grpc()], 401, "16", "token_missing"),
        ("/users/user-2/data", vec![grpc(), bearer()], 403, "7", "access_denied"),
        ("/nowhere", vec![grpc(), bearer()], 404, "12", "route_missing"),
        ("/users/user-1/data", vec![grpc(), bearer()], 502, "14", "upstream_unreachable"),
        ("/users/user-1/data", vec![grpc(), bearer()], 429, "8", "client_limited"),
    ] {
        let answer = client.ask(request("POST", target, &fields).unwrap()).await.unwrap().unwrap();
        let record = record(&mut house).await;
        assert_eq!((answer.status, record.code), (status, told));
        assert_eq!(
            (answer.header("grpc-status"), answer.header("content-type")),
            (Some(code), Some("application/grpc"))
        );
        assert_eq!(answer.header("grpc-message"), Some(&*format!("{told}, decision {}", record.decision_id)));
        assert_eq!((answer.header("content-length"), &*answer.body), (None, ""));
    }
    // Whoever does not speak gRPC gets the problem document.
    let plain = client.ask(request("POST", "/users/user-1/data", &[]).unwrap()).await.unwrap().unwrap();
    assert_eq!((plain.header("grpc-status"), &plain.json()["status"]), (None, &401.into()));
    let old = wire::send(house.app.address(), &wire::request("POST", "/users/user-1/data", &[grpc()])).await;
    assert_eq!(Answer::parse(&old).header("grpc-status"), None);
}
