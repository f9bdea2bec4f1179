//! HTTP/2 as no client that knows how would speak it: requests that are none, and floods.

use std::{
    net::SocketAddr,
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use portcullis::{
    base::clock::{Clock, SystemClock},
    demo::service::Service,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use crate::{
    cli, h2,
    house::{self, House},
    tls,
    wire::{self, Answer},
};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// What a client begins with.
const BEGINNING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A header block (RFC 7541 section 6.2.2): every field literal, none kept.
fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            number(&mut block, 0, 7, text.len());
            block.extend(text.bytes());
        }
    }
    block
}

/// A number behind a prefix of so many bits (RFC 7541 section 5.1).
fn number(block: &mut Vec<u8>, first: u8, bits: u32, mut number: usize) {
    let most = (1_usize << bits) - 1;
    if number < most {
        block.push(first | u8::try_from(number).unwrap());
        return;
    }
    block.push(first | u8::try_from(most).unwrap());
    number -= most;
    while number >= 128 {
        block.push(u8::try_from(number % 128).unwrap() | 128);
        number /= 128;
    }
    block.push(u8::try_from(number).unwrap());
}

fn request(stream: u32, fields: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &block(fields))
}

/// A connection, of which every byte is ours.
struct Wire<S>(S);

/// What comes of a stream.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// A status, as far as it is one of those that stand for themselves; and the answer's body.
    Answered(u16, String),
    Reset(u8),
    /// The connection has ended, with this reason if any.
    Ended(Option<u8>),
}

impl Wire<TcpStream> {
    async fn to(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).await.unwrap()).await
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    async fn over(mut stream: S) -> Self {
        stream.write_all(BEGINNING).await.unwrap();
        Self(stream)
    }

    async fn frame(&mut self) -> Option<(u8, u8, u32, Vec<u8>)> {
        let mut head = [0; 9];
        timeout(Duration::from_secs(20), self.0.read_exact(&mut head)).await.expect("a frame").ok()?;
        let [a, b, c, kind, flags, d, e, f, g] = head;
        let mut payload = vec![0; usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap()];
        self.0.read_exact(&mut payload).await.ok()?;
        Some((kind, flags, u32::from_be_bytes([d, e, f, g]), payload))
    }

    /// What comes of the stream with this number.
    async fn outcome(&mut self, wanted: u32) -> Outcome {
        let (mut status, mut body, mut reason) = (0, Vec::new(), None);
        loop {
            let Some((kind, flags, stream, payload)) = self.frame().await else { return Outcome::Ended(reason) };
            match kind {
                GOAWAY => reason = payload.get(7).copied(),
                RST_STREAM if stream == wanted => return Outcome::Reset(payload[3]),
                HEADERS if stream == wanted => {
                    // RFC 7541 appendix A.
                    status = match payload[0] {
                        0x88 => 200,
                        0x8c => 400,
                        0x8d => 404,
                        _ => 0,
                    };
                }
                DATA if stream == wanted => body.extend(payload),
                _ => {}
            }
            if stream == wanted && [HEADERS, DATA].contains(&kind) && flags & END_STREAM != 0 {
                return Outcome::Answered(status, String::from_utf8(body).unwrap());
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_request_is_refused_and_ends_nothing_else() {
    let mut house = House::build(None, &[], house::NOW).await;
    let bearer = format!("Bearer {}", house::good_token());
    let usual = [
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", "gate.example"),
        (":path", "/users/user-1/data"),
        ("authorization", &bearer),
    ];
    let with = |name: &str, value: Option<&'static str>| -> Vec<(&str, &str)> {
        let mut fields = usual.to_vec();
        let at = fields.iter().position(|(known, _)| *known == name).unwrap();
        match value {
            Some(value) => fields[at].1 = value,
            None => drop(fields.remove(at)),
        }
        fields
    };
    let and = |name: &'static str, value: &'static str| [&usual[..], &[(name, value)]].concat();
    let first = |name: &'static str, value: &'static str| [&[(name, value)], &usual[..]].concat();
    let cases = [
        ("no method", with(":method", None), "reset"),
        ("no scheme", with(":scheme", None), "reset"),
        ("no path", with(":path", None), "reset"),
        ("an empty path", with(":path", Some("")), "reset"),
        ("a path without a slash (CVE-2026-33186)", with(":path", Some("users/user-1/data")), "reset"),
        ("a whole URI for a path", with(":path", Some("http://gate.example/users/user-1/data")), "reset"),
        ("an authority for a path", with(":path", Some("gate.example:80")), "reset"),
        ("two slashes", with(":path", Some("//users/user-1/data")), "ambiguous_path"),
        ("a query for a path", with(":path", Some("?/users/user-1/data")), "ambiguous_path"),
        ("an asterisk", with(":path", Some("*")), "ambiguous_path"),
        ("a blank in the path", with(":path", Some("/users/user-1 x/data")), "reset"),
        ("a line break in the path", with(":path", Some("/users/user-1/data HTTP/1.1\r\nhost: x")), "reset"),
        ("a zero byte in the path", with(":path", Some("/users/user-1/data\0")), "reset"),
        ("an encoded slash", with(":path", Some("/users/user-1%2fdata/data")), "ambiguous_path"),
        ("a backslash", with(":path", Some("/users\\user-1/data")), "ambiguous_path"),
        ("no authority and no host", with(":authority", None), "request_invalid"),
        ("another host", and("host", "other.example"), "request_invalid"),
        ("user information", with(":authority", Some("gate.example@other.example")), "request_invalid"),
        ("no authority that is one", with(":authority", Some("gate example")), "reset"),
        ("two paths", first(":path", "/users/user-2/data"), "reset"),
        ("two authorities", first(":authority", "other.example"), "reset"),
        ("a status", first(":status", "200"), "reset"),
        ("a pseudo header of no protocol", first(":secret", "x"), "reset"),
        ("a pseudo header after fields", and(":path", "/users/user-2/data"), "reset"),
        ("a protocol", first(":protocol", "websocket"), "reset"),
        (
            "CONNECT in the extended form",
            [&[(":protocol", "websocket")], &with(":method", Some("CONNECT"))[..]].concat(),
            "reset",
        ),
        ("CONNECT", vec![(":method", "CONNECT"), (":authority", "victim.example:80")], "answered"),
        ("a connection", and("connection", "close, x-portcullis-user"), "reset"),
        ("a transfer coding", and("transfer-encoding", "chunked"), "reset"),
        ("a transfer coding to come", and("te", "gzip"), "reset"),
        ("an upgrade", and("upgrade", "h2c"), "reset"),
        ("a kept connection", and("keep-alive", "timeout=5"), "reset"),
        ("a kept connection to a proxy", and("proxy-connection", "keep-alive"), "reset"),
        ("a name in upper case", and("X-Upper", "a"), "reset"),
        ("a name with a colon", and("x:y", "a"), "reset"),
        ("a name with a line break", and("x\r\ny", "a"), "reset"),
        ("a value with a line break", and("x", "a\r\nx-portcullis-user: victim"), "reset"),
        ("a value with a zero byte", and("x", "a\0b"), "reset"),
        ("a value that begins with a blank", and("x", " a"), "framing_conflict"),
        ("a value that ends with a tab", and("x", "a\t"), "framing_conflict"),
        ("a length that is none", and("content-length", "+5"), "reset"),
        ("a length without a body", and("content-length", "5"), "reset"),
        ("two Authorizations", and("authorization", "Bearer x"), "several_tokens"),
    ];
    let mut wire = Wire::to(house.app.address()).await;
    let mut stream = 1;
    for (name, fields, expected) in cases {
        wire.0.write_all(&request(stream, &fields)).await.unwrap();
        let outcome = wire.outcome(stream).await;
        match (&outcome, expected) {
            (Outcome::Reset(1), "reset") | (Outcome::Answered(..), "answered") => {}
            (Outcome::Answered(400, _), code) if !["reset", "answered"].contains(&code) => {
                assert_eq!(house.record().await.unwrap().code, code, "{name}");
            }
            (Outcome::Ended(Some(1)), "reset") => {
                wire = Wire::to(house.app.address()).await;
                stream = 1;
                continue;
            }
            _ => panic!("{name}: {outcome:?}"),
        }
        stream += 2;
    }
    assert!(house.record().await.is_none());
    assert_eq!(house.service.received(), 0);
    // What is cut off of a path is neither authorised nor sent.
    wire.0.write_all(&request(stream, &with(":path", Some("/users/user-1/data#/../../user-2")))).await.unwrap();
    let Outcome::Answered(200, body) = wire.outcome(stream).await else { panic!("a fragment") };
    assert!(body.contains("\"target\":\"/users/user-1/data\""), "{body}");
    assert_eq!(house.record().await.unwrap().path, "/users/user-1/data");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_sends_what_is_no_request_again_and_again_is_let_go() {
    let mut house = House::build(None, &[], house::NOW).await;
    for (name, last) in [("host", None), ("upgrade", Some("reset"))] {
        let fields = [
            (":method", "GET"),
            (":scheme", "http"),
            (":authority", "gate.example"),
            (":path", "/users/user-1/data"),
            (name, "h2c"),
        ];
        let mut wire = Wire::to(house.app.address()).await;
        let mut sent = 0;
        let ended = loop {
            let stream = sent * 2 + 1;
            let _ = wire.0.write_all(&request(stream, &fields)).await;
            match wire.outcome(stream).await {
                Outcome::Ended(reason) => break reason,
                _ => sent += 1,
            }
            assert!(sent < 200, "{name}");
        };
        assert!((90..=101).contains(&sent), "{name}: {sent}");
        assert_eq!(ended, Some(11), "{name}: ENHANCE_YOUR_CALM");
        if last.is_none() {
            for _ in 0..100 {
                assert_eq!(house.record().await.unwrap().code, "request_invalid");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_listen_is_not_served_by_an_old_handshake() {
    let folder = tls::folder();
    let path = folder.path();
    let mut house = h2::following(path).await;
    let stream = h2::secured(house.app.address(), &path.join("ca.pem"), &["h2"]).await;
    let mut wire = Wire::over(stream).await;
    let bearer = format!("Bearer {}", tls::token(path, None));
    let fields = [
        (":method", "POST"),
        (":scheme", "https"),
        (":authority", "gate.example"),
        (":path", "/users/user-1/data"),
        ("authorization", &bearer),
    ];
    wire.0.write_all(&request(1, &fields)).await.unwrap();
    assert!(matches!(wire.outcome(1).await, Outcome::Answered(200, _)));
    assert_eq!(house.record().await.unwrap().code, "allowed");
    // It never says that it has heard.
    h2::renew(path);
    while wire.frame().await.expect("a word before the end").0 != GOAWAY {}
    wire.0.write_all(&request(3, &fields)).await.unwrap();
    assert_eq!(wire.outcome(3).await, Outcome::Reset(7), "REFUSED_STREAM");
    assert!(house.record().await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_was_reset_keeps_its_place_until_it_has_ended() {
    // Whoever connects here waits.
    let full = TcpSocket::new_v4().unwrap();
    full.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let full = full.listen(1).unwrap();
    let address = full.local_addr().unwrap();
    let mut filling = Vec::new();
    while let Ok(Ok(stream)) = timeout(Duration::from_millis(200), TcpStream::connect(address)).await {
        filling.push(stream);
    }
    let text = house::repository("config.yaml") + "limits: { streams_max: 2 }\n";
    let mut house = House::build_for(&text, &format!("http://{address}")).await;
    let bearer = format!("Bearer {}", house::good_token());
    let fields = [
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", "gate.example"),
        (":path", "/users/user-1/data"),
        ("authorization", &bearer),
    ];
    let mut wire = Wire::to(house.app.address()).await;
    let started = Instant::now();
    for stream in [1, 3, 5, 7, 9, 11, 13, 15] {
        wire.0.write_all(&request(stream, &fields)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(30)).await;
        wire.0.write_all(&frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())).await.unwrap();
    }
    // The gate waits for two seconds.
    let mut ended = 0;
    while started.elapsed() < Duration::from_millis(3500) {
        ended += usize::from(house.record().await.is_some());
    }
    assert!((1..=4).contains(&ended), "{ended}");
}

/// A gate in a process of its own, whose memory can be told.
struct Gate {
    process: Child,
    address: SocketAddr,
    token: String,
    _service: Service,
    _folder: tempfile::TempDir,
}

impl Gate {
    async fn start() -> Self {
        let service = Service::start(house::loopback().await).unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], cli::free_port()));
        let config = format!(
            "listen: {address}\nadmin: 127.0.0.1:{}\nupstream: {{ url: 'http://{}' }}\nissuers:\n\
             \x20 - oidc_generic: {{ issuer: 'https://issuer.example', audiences: [api], jwks_file: keys.json, leeway_s: 300 }}\n\
             routes:\n  - {{ methods: [GET, POST], path: '/users/{{id}}/data', action: readOnly, resource: 'UserData::\"{{path.id}}\"', \
             attributes: {{ owner: 'User::\"{{path.id}}\"' }} }}\n",
            cli::free_port(),
            service.address()
        );
        let (folder, file) = cli::folder(&config);
        let keys = serde_json::json!({ "keys": [house::key("agents").jwk()] });
        std::fs::write(folder.path().join("keys.json"), keys.to_string()).unwrap();
        let mut command = cli::portcullis();
        command.args(["serve", "--config", file.to_str().unwrap()]).stdout(Stdio::null()).stderr(Stdio::null());
        let process = command.spawn().unwrap();
        let mut claims = house::claims();
        let now = SystemClock.now().seconds();
        (claims["iss"], claims["aud"]) = ("https://issuer.example".into(), "api".into());
        (claims["iat"], claims["auth_time"], claims["exp"]) = (now.into(), now.into(), (now + 3600).into());
        let token = house::key("agents").sign(&claims).unwrap();
        let gate = Self { process, address, token, _service: service, _folder: folder };
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(address).await.is_err() {
            assert!(Instant::now() < deadline, "never ready");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        gate
    }

    /// The most memory that it has held at once, in MiB.
    fn most(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
    }

    /// Fields of the good call.
    const fn fields<'a>(&self, method: &'a str, bearer: &'a str) -> [(&'a str, &'a str); 5] {
        let path = "/users/user-1/data";
        [
            (":method", method),
            (":scheme", "http"),
            (":authority", "gate.example"),
            (":path", path),
            ("authorization", bearer),
        ]
    }

    /// Whoever else asks is let in, without waiting for what a flood began.
    async fn serves_others(&self, after: &str) {
        let fields = [("authorization".to_owned(), format!("Bearer {}", self.token))];
        let started = Instant::now();
        let answer =
            Answer::parse(&wire::send(self.address, &wire::request("GET", "/users/user-1/data", &fields)).await);
        let took = started.elapsed();
        assert!(answer.status == 200 && took < HELD_UP, "after {after}: {} in {took:?}", answer.status);
    }

    /// Sends the parts and reads nothing, until all is sent, the gate closes, or it takes no more for a second. How many went.
    async fn flood(&self, parts: impl Iterator<Item = Vec<u8>>) -> usize {
        let mut wire = Wire::to(self.address).await;
        let mut sent = 0;
        for part in parts {
            match timeout(Duration::from_secs(1), wire.0.write_all(&part)).await {
                Ok(Ok(())) => sent += 1,
                _ => break,
            }
        }
        self.serves_others(&format!("{sent} parts")).await;
        sent
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// How long another request may take while a flood's connection is still open: less than `wire` has patience.
const HELD_UP: Duration = Duration::from_secs(4);
/// MiB that floods may cost.
const MEMORY_MAX: u64 = 64;

#[tokio::test(flavor = "multi_thread")]
async fn floods_cost_little_and_hold_up_nobody() {
    let gate = Gate::start().await;
    gate.serves_others("nothing").await;
    let before = gate.most();
    let mut told = Vec::new();
    let mut tell = |name: &str, parts: usize| told.push(format!("{parts} {name} ({} MiB)", gate.most()));
    let bearer = format!("Bearer {}", gate.token);
    let good = block(&gate.fields("GET", &bearer));
    let post = block(&gate.fields("POST", &bearer));
    let streams = || (0..).map(|number| number * 2 + 1);

    // Rapid reset (CVE-2023-44487).
    let reset = streams().take(10_000).map(|stream| {
        let headers = frame(HEADERS, END_HEADERS | END_STREAM, stream, &good);
        [headers, frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())].concat()
    });
    tell("resets", gate.flood(reset).await);
    // Made to reset (CVE-2025-8671): a window that overflows.
    let overflow = streams().take(10_000).map(|stream| {
        let headers = frame(HEADERS, END_HEADERS, stream, &post);
        [headers, frame(8, 0, stream, &0x7fff_ffff_u32.to_be_bytes())].concat()
    });
    tell("made to reset", gate.flood(overflow).await);
    // Headers without an end (RUSTSEC-2024-0332).
    let continued = std::iter::once(frame(HEADERS, 0, 1, &good))
        .chain((0..100_000).map(|_| frame(CONTINUATION, 0, 1, &block(&[("x-more", &"a".repeat(1000))]))));
    tell("continuations", gate.flood(continued).await);
    let empty = std::iter::once(frame(HEADERS, 0, 1, &good))
        .chain((0..1_000).map(|_| frame(CONTINUATION, 0, 1, &[]).repeat(1000)));
    tell("empty continuations", gate.flood(empty).await);
    // Frames of bodies without a body (RUSTSEC-2026-0258).
    let data = std::iter::once(frame(HEADERS, END_HEADERS, 1, &post))
        .chain((0..1_000).map(|_| frame(DATA, 0, 1, &[]).repeat(1000)));
    tell("data", gate.flood(data).await);
    // A field that is kept, and then meant again and again in a byte each.
    let mut bomb = Vec::new();
    bomb.push(0x40);
    for text in ["x-bomb", &"a".repeat(4000)] {
        number(&mut bomb, 0, 7, text.len());
        bomb.extend(text.bytes());
    }
    let bombs = streams().take(200).map(|stream| {
        let mut block = if stream == 1 { bomb.clone() } else { Vec::new() };
        block.resize(16_000, 0x80 | 62);
        frame(HEADERS, END_HEADERS | END_STREAM, stream, &block)
    });
    tell("bombs", gate.flood(bombs).await);
    // Words that ask for an answer.
    tell(
        "settings",
        gate.flood((0..1_000).map(|_| frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0xff, 0xff]).repeat(1000))).await,
    );
    tell("pings", gate.flood((0..1_000).map(|_| frame(PING, 0, 0, &[0; 8]).repeat(1000))).await);
    // Answers that are not read.
    tell(
        "unread",
        gate.flood(streams().take(10_000).map(|stream| frame(HEADERS, END_HEADERS | END_STREAM, stream, &good))).await,
    );

    let cost = gate.most() - before;
    let told = told.join(", ");
    println!("parts taken, and the most memory by then: {told}");
    assert!(cost < MEMORY_MAX, "{cost} MiB over {before} MiB: {told}");
}
