//! WebSocket through the gate: what is switched, what is not, and what nobody is to see of it.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use portcullis::audit::Outcome;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};

use crate::{
    assertion,
    house::{self, House, ROUTES},
    readers::{Message, strict},
    wire::{self, Answer},
};

const ASKS: &str =
    "upgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-version: 13\r\nsec-websocket-key: eA==\r\n";

pub(crate) const SWITCHES: &str = "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-accept: eA==\r\n\r\n";

/// What an upstream got, connection by connection.
pub(crate) type Got = Arc<Mutex<Vec<Vec<u8>>>>;

/// An upstream that answers each head with `answer`, a moment after it came. Where that switches, what comes next is sent
/// back in upper case.
pub(crate) async fn upstream(answer: &'static str) -> (SocketAddr, Got) {
    let listener = house::loopback().await;
    let (address, got) = (listener.local_addr().unwrap(), Got::default());
    let all = got.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let index = {
                let mut all = all.lock().unwrap();
                all.push(Vec::new());
                all.len() - 1
            };
            tokio::spawn(serve(stream, answer, all.clone(), index));
        }
    });
    (address, got)
}

async fn serve(mut stream: TcpStream, answer: &'static str, got: Got, index: usize) {
    let (mut part, mut switched, mut answered) = ([0; 4096], false, 0);
    while let Ok(read @ 1..) = stream.read(&mut part).await {
        let heads = {
            let mut got = got.lock().unwrap();
            got[index].extend_from_slice(&part[..read]);
            got[index].windows(4).filter(|four| four == b"\r\n\r\n").count()
        };
        if switched {
            stream.write_all(&part[..read].to_ascii_uppercase()).await.unwrap();
        } else if heads > answered {
            answered = heads;
            sleep(Duration::from_millis(100)).await;
            switched = answer.starts_with("HTTP/1.1 101");
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    }
}

async fn gate(upstream: SocketAddr) -> House {
    gate_with(upstream, "client_timeout_ms: 1000, tunnel_idle_ms: 1000").await
}

async fn gate_with(upstream: SocketAddr, limits: &str) -> House {
    let text = ROUTES.replace("127.0.0.1:1'", "127.0.0.1:1', read_timeout_ms: 2000");
    let text = format!("{text}limits: {{ {limits} }}\n");
    House::build_for(&text, &format!("http://{upstream}")).await
}

fn request(fields: &str) -> String {
    request_by(&house::good_token(), fields)
}

fn request_by(token: &str, fields: &str) -> String {
    format!("GET /users/user-1/data HTTP/1.1\r\nhost: gate\r\nauthorization: Bearer {token}\r\n{fields}\r\n")
}

/// The requests that reached the upstream, each canonical, whatever else came then.
fn requests(got: &Got) -> Vec<Message> {
    got.lock().unwrap().iter().flat_map(|stream| strict(stream).unwrap()).collect()
}

/// Reads until the head of an answer is there, and the body that its length announces.
async fn answer(stream: &mut TcpStream) -> Answer {
    let mut bytes = Vec::new();
    loop {
        let read = timeout(Duration::from_secs(5), stream.read_buf(&mut bytes)).await.expect("an answer").unwrap();
        let answer = Answer::parse(&bytes);
        let length = answer.header("content-length").map_or(0, |length| length.parse().unwrap());
        if read == 0 || (bytes.windows(4).any(|four| four == b"\r\n\r\n") && answer.body.len() >= length) {
            return answer;
        }
    }
}

pub(crate) async fn next(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = timeout(Duration::from_secs(5), stream.read_buf(&mut bytes)).await.expect("bytes or an end");
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_flow_both_ways_once_the_upstream_has_switched() {
    let (upstream, got) = upstream(SWITCHES).await;
    let mut house = gate(upstream).await;
    let mut stream = TcpStream::connect(house.app.address()).await.unwrap();
    let forged = "connection: upgrade, x-portcullis-user, x-portcullis-agent, keep-alive\r\nx-portcullis-user: victim\r\nkeep-alive: 5\r\n";
    stream.write_all(request(&format!("{ASKS}{forged}")).as_bytes()).await.unwrap();
    let switched = answer(&mut stream).await;
    let named = |name: &str| switched.header(name).map(str::to_ascii_lowercase);
    assert_eq!(
        (switched.status, named("upgrade"), named("connection")),
        (101, Some("websocket".into()), Some("upgrade".into()))
    );
    let asked = requests(&got);
    let [asked] = &asked[..] else { panic!("{asked:?}") };
    assert_eq!(asked.target, "/users/user-1/data");
    for (name, value) in [
        ("x-portcullis-user", "user-1"),
        ("x-portcullis-agent", "1example23456789"),
        ("x-portcullis-app", "ExampleChatApplication"),
        ("upgrade", "websocket"),
        ("connection", "Upgrade"),
        ("sec-websocket-key", "eA=="),
    ] {
        assert_eq!(asked.all(name), [value], "{name}");
    }
    let parts = [&b"ping"[..], b"GET /users/user-2/data HTTP/1.1\r\nhost: gate\r\n\r\n", b"\x81\x00\xff"];
    for part in parts {
        stream.write_all(part).await.unwrap();
        assert_eq!(next(&mut stream).await, part.to_ascii_uppercase());
    }
    stream.shutdown().await.unwrap();
    assert_eq!(next(&mut stream).await, b"");
    let record = house.record().await.unwrap();
    assert_eq!((record.decision, record.code, record.status), (Outcome::Allow, "allowed", 101));
    let passed = u64::try_from(parts.concat().len()).unwrap();
    assert_eq!((record.body_bytes, record.answer_bytes), (passed, passed));
    assert!(house.record().await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_keeps_what_is_between_the_upstream_and_the_gate() {
    const SAYS: &str = "x-portcullis-user: user-1\r\nX_Portcullis_Decision: 1\r\nx-hop: 1\r\nkeep-alive: timeout=5\r\n\
        proxy-connection: keep-alive\r\nproxy-authenticate: Basic\r\nte: trailers\r\ntrailer: x\r\nx-else: 1\r\n";
    for (status, rest, connection) in [
        ("101 Switching Protocols", "upgrade: websocket\r\nconnection: upgrade, x-hop\r\n\r\n", "upgrade"),
        ("200 OK", "upgrade: h2c\r\nconnection: upgrade, x-hop\r\ncontent-length: 2\r\n\r\nok", "keep-alive"),
        ("403 Forbidden", "connection: x-hop, content-length\r\ncontent-length: 2\r\n\r\nno", "keep-alive"),
    ] {
        let told: &'static str = format!("HTTP/1.1 {status}\r\n{SAYS}{rest}").leak();
        let (upstream, _) = upstream(told).await;
        let house = gate(upstream).await;
        let mut stream = TcpStream::connect(house.app.address()).await.unwrap();
        stream.write_all(request(ASKS).as_bytes()).await.unwrap();
        let answer = answer(&mut stream).await;
        assert_eq!(answer.header("connection").map(str::to_ascii_lowercase).as_deref(), Some(connection));
        let mut others: Vec<_> = answer.headers.iter().map(|(name, _)| name.to_ascii_lowercase()).collect();
        others.retain(|name| !["connection", "date", "content-length"].contains(&name.as_str()));
        others.sort();
        assert_eq!(
            others,
            if status.starts_with("101") { vec!["upgrade", "x-else"] } else { vec!["x-else"] },
            "{status}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_sent_on_before_the_upstream_has_switched() {
    const REFUSES: &str = "HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno";
    const ANSWERS: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    for told in [SWITCHES, REFUSES, ANSWERS] {
        for pause in [0, 30] {
            let (upstream, got) = upstream(told).await;
            let mut house = gate(upstream).await;
            let mut stream = TcpStream::connect(house.app.address()).await.unwrap();
            let (first, second) = (request(ASKS), request("x-second: 1\r\n"));
            if pause > 0 {
                stream.write_all(first.as_bytes()).await.unwrap();
                sleep(Duration::from_millis(pause)).await;
                stream.write_all(second.as_bytes()).await.unwrap();
            } else {
                stream.write_all(format!("{first}{second}").as_bytes()).await.unwrap();
            }
            sleep(Duration::from_millis(60)).await;
            let early = got.lock().unwrap().concat();
            assert!(early.windows(4).filter(|four| four == b"\r\n\r\n").count() < 2, "before the answer");
            let mut bytes = Vec::new();
            let _ = timeout(Duration::from_millis(400), stream.read_to_end(&mut bytes)).await;
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let all = String::from_utf8_lossy(&got.lock().unwrap().concat()).into_owned();
            assert!(
                all.matches("x-portcullis-decision: ").count() < 2 && !all.contains("x-second"),
                "{told} {pause}\n{all}"
            );
            assert_eq!(text.matches("HTTP/1.1 ").count(), 1, "{told} {pause}\n{text}");
            drop(stream);
            assert!(house.record().await.is_some() && house.record().await.is_none());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_that_the_upstream_refuses_leaves_requests_that_are_decided_one_by_one() {
    for told in
        ["HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", "HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno"]
    {
        let (upstream, got) = upstream(told).await;
        let mut house = gate(upstream).await;
        let mut stream = TcpStream::connect(house.app.address()).await.unwrap();
        let status = told[9..12].parse().unwrap();
        let without = format!("GET /users/user-1/data HTTP/1.1\r\nhost: gate\r\n{ASKS}\r\n");
        let elsewhere = request(ASKS).replace("user-1", "user-2");
        let turns =
            [(request(ASKS), status), (without, 401), (elsewhere, 403), (request(""), status), (request(ASKS), status)];
        for (request, status) in turns {
            stream.write_all(request.as_bytes()).await.unwrap();
            assert_eq!(answer(&mut stream).await.status, status, "{told}");
        }
        let mut decisions = Vec::new();
        for code in ["allowed", "token_missing", "access_denied", "allowed", "allowed"] {
            let record = house.record().await.unwrap();
            assert_eq!(record.code, code);
            decisions.extend((code == "allowed").then_some(record.decision_id));
        }
        let asked = requests(&got);
        assert_eq!(asked.iter().filter_map(|it| it.only("x-portcullis-decision")).collect::<Vec<_>>(), decisions);
        // Bytes of the other protocol are no request.
        stream.write_all(b"\x81\x85\0\0\0\0hello\r\n\r\n").await.unwrap();
        assert_eq!(answer(&mut stream).await.status, 400);
        assert_eq!(requests(&got).len(), 3);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_other_protocol_is_handed_through() {
    let settings = "http2-settings: AAMAAABkAARAAAAAAAIAAAAA\r\n";
    let h2c = format!("upgrade: h2c\r\nconnection: Upgrade, HTTP2-Settings\r\n{settings}");
    let (plain, got) = upstream("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    let house = gate(plain).await;
    for fields in [
        &h2c[..],
        "upgrade: h2c\r\n",
        "upgrade: websocket, h2c\r\nconnection: upgrade\r\n",
        "upgrade: TLS/1.0\r\nconnection: upgrade\r\n",
    ] {
        let answer = Answer::parse(
            &wire::send(house.app.address(), request(&format!("{fields}connection: close\r\n")).as_bytes()).await,
        );
        assert_eq!(answer.status, 200, "{fields}");
        let asked = requests(&got).pop().unwrap();
        assert!(["upgrade", "http2-settings", "connection"].iter().all(|name| asked.all(name).is_empty()), "{asked:?}");
    }
    // An upstream that switches unasked, or to something else, is not followed.
    const H2C: &str = "HTTP/1.1 101 Switching Protocols\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n";
    for (told, fields) in [(SWITCHES, &h2c[..]), (H2C, &h2c), (H2C, ASKS), (SWITCHES, "")] {
        let (eager, _) = upstream(told).await;
        let mut house = gate(eager).await;
        let (answer, record) = house.ask(request(fields).as_bytes()).await;
        assert_eq!((answer.status, record.unwrap().code), (502, "upstream_invalid"), "{told} {fields}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgraded_connection_that_breaks_gets_no_words_of_ours() {
    let listener = house::loopback().await;
    let upstream = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = stream.read(&mut [0; 4096]).await;
                stream.write_all(format!("{SWITCHES}hello").as_bytes()).await.unwrap();
                sleep(Duration::from_millis(100)).await;
                // What was sent meanwhile is left unread, so that the connection is reset.
            });
        }
    });
    let mut house = gate(upstream).await;
    let mut stream = TcpStream::connect(house.app.address()).await.unwrap();
    stream.write_all(request(ASKS).as_bytes()).await.unwrap();
    assert_eq!(answer(&mut stream).await.status, 101);
    stream.write_all(b"never read").await.unwrap();
    let mut rest = Vec::new();
    let _ = timeout(Duration::from_secs(5), stream.read_to_end(&mut rest)).await.unwrap();
    assert!(rest.is_empty() || rest == b"hello", "{:?}", String::from_utf8_lossy(&rest));
    assert_eq!(house.record().await.unwrap().status, 101);
    // Silence ends it too.
    let (quiet, _) = self::upstream(SWITCHES).await;
    let mut house = gate(quiet).await;
    let bytes = wire::send(house.app.address(), request(ASKS).as_bytes()).await;
    let text = String::from_utf8_lossy(&bytes);
    assert!(text.starts_with("HTTP/1.1 101") && text.ends_with("\r\n\r\n"), "{text}");
    assert_eq!(house.record().await.unwrap().code, "tunnel_idle");
}

/// A tunnel through `house`, to an upstream that gives back in upper case what it gets.
pub(crate) async fn tunnel(house: &House) -> TcpStream {
    tunnel_by(house, &house::good_token()).await
}

/// The same, opened with this token.
pub(crate) async fn tunnel_by(house: &House, token: &str) -> TcpStream {
    let mut stream = TcpStream::connect(house.app.address()).await.unwrap();
    stream.write_all(request_by(token, ASKS).as_bytes()).await.unwrap();
    assert_eq!(answer(&mut stream).await.status, 101);
    stream.write_all(b"ping").await.unwrap();
    assert_eq!(next(&mut stream).await, b"PING");
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_may_be_silent_for_as_long_as_it_may_whatever_bodies_may() {
    let (upstream, _) = upstream(SWITCHES).await;
    let mut house = gate_with(upstream, "client_timeout_ms: 100, tunnel_idle_ms: 2500").await;
    let mut stream = tunnel(&house).await;
    // Longer than a body may pause, and than an answer may.
    for _ in 0..2 {
        sleep(Duration::from_millis(2100)).await;
        stream.write_all(b"ping").await.unwrap();
        assert_eq!(next(&mut stream).await, b"PING");
    }
    assert_eq!(next(&mut stream).await, b"");
    assert_eq!(house.record().await.unwrap().code, "tunnel_idle");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_ends_with_the_token_that_it_was_opened_by() {
    let expires = house::claims()["exp"].as_u64().unwrap();
    for (now, passes) in [(expires - 1, true), (expires + 9, true), (expires + 11, false)] {
        let (upstream, got) = upstream(SWITCHES).await;
        let mut house = gate_with(upstream, "tunnel_idle_ms: 60000").await;
        let mut stream = tunnel(&house).await;
        house.at(now);
        stream.write_all(b"more").await.unwrap();
        assert_eq!(next(&mut stream).await, if passes { &b"MORE"[..] } else { b"" }, "{now}");
        assert_eq!(got.lock().unwrap().concat().ends_with(b"more"), passes, "{now}");
        drop(stream);
        let record = house.record().await.unwrap();
        assert_eq!((record.decision, record.status), (Outcome::Allow, 101));
        assert_eq!(record.code, if passes { "allowed" } else { "token_expired" });
    }
    // It ends by itself too, when nothing passes.
    let (upstream, _) = upstream(SWITCHES).await;
    let mut house = gate_with(upstream, "tunnel_idle_ms: 60000").await;
    house.at(expires + 9);
    let mut stream = tunnel(&house).await;
    house.at(expires + 10);
    assert_eq!(next(&mut stream).await, b"");
    assert_eq!(house.record().await.unwrap().code, "token_expired");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_attack_succeeds_because_it_asks_for_an_upgrade() {
    let mut house = House::build(None, &[], house::NOW).await;
    let token = house::good_token();
    let cases: Value = serde_saphyr::from_str(&house::repository("tests/attacks/paths.yaml")).unwrap();
    let mut count = 0;
    for case in cases["cases"].as_array().unwrap() {
        let head = match (&case["when"]["request"], &case["when"]["raw"]) {
            (Value::String(line), _) => {
                format!("{line} HTTP/1.1\r\nhost: gate\r\nauthorization: Bearer {token}\r\nconnection: close\r\n\r\n")
            }
            (_, Value::String(raw)) => raw.replace("${token}", &token),
            _ => panic!("{case}"),
        };
        let request = head.replacen("\r\n", &format!("\r\n{ASKS}"), 1);
        let (answer, _) = house.ask(request.as_bytes()).await;
        let usual = case["then"]["status"].as_u64().unwrap();
        assert!([usual, 400].contains(&answer.status.into()), "{}: {}", case["name"], answer.status);
        count += 1;
    }
    assert!(count > 30 && house.service.received() == 0, "{count}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_assertion_of_the_body_keeps_no_tunnel_shut() {
    let (upstream, got) = upstream(SWITCHES).await;
    let loaded = House::load(Some(&assertion::config("binds: [method, target, body]")), &assertion::keys());
    let house = House::before(loaded, &format!("http://{upstream}")).await;
    let mut stream = TcpStream::connect(house.app.address()).await.unwrap();
    stream.write_all(request(ASKS).as_bytes()).await.unwrap();
    assert_eq!(answer(&mut stream).await.status, 101);
    assert_eq!(requests(&got)[0].all("x-portcullis-assertion").len(), 1);
    for part in [&b"ping"[..], b"\x81\x00\xff"] {
        stream.write_all(part).await.unwrap();
        assert_eq!(next(&mut stream).await, part.to_ascii_uppercase());
    }
}
