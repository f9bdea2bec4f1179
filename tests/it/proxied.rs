//! Connections that a load balancer passes on (the PROXY protocol), and how many connections and requests one peer may have.

use std::{net::SocketAddr, time::Duration};

use portcullis::audit::Record;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::{sleep, timeout},
};

use crate::{
    h2::{self, Client},
    house::{self, House, ROUTES, bearer},
    tls,
    wire::{self, Answer, Kept},
};

const PATIENCE: Duration = Duration::from_secs(5);

/// Who is trusted here: a balancer at 127.0.0.2, and one behind it.
const BALANCERS: &str = "proxy_protocol: required\ntrusted_proxies: { addresses: [127.0.0.2, 10.0.0.0/8] }\n";

async fn gate(settings: &str) -> House {
    House::build(Some(&format!("{ROUTES}{settings}")), &[], house::NOW).await
}

/// A connection from `host` of the loopback network.
async fn from(host: u8, address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from(([127, 0, 0, host], 0))).unwrap();
    timeout(PATIENCE, socket.connect(address)).await.unwrap().unwrap()
}

/// What comes back of these bytes, until the other side closes.
async fn sent(mut stream: TcpStream, bytes: &[u8]) -> Vec<u8> {
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("the connection is closed");
    answer
}

fn good_call(more: &[(&str, &str)]) -> Vec<u8> {
    let mut fields = vec![bearer()];
    fields.extend(more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    wire::request("GET", "/users/user-1/data", &fields)
}

const LINE: &[u8] = b"PROXY TCP4 203.0.113.9 192.0.2.1 4711 443\r\n";

/// A header in version 2.
fn binary(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [&b"\r\n\r\n\0\r\nQUIT\n"[..], &[command, family], &length, rest].concat()
}

fn of(record: &Record) -> (&str, u16, Option<&str>, Option<&str>) {
    (record.code, record.status, record.peer.as_deref(), record.via.as_deref())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_peer_is_whom_a_trusted_balancer_says_and_its_header_goes_before_those_of_requests() {
    let mut house = gate(BALANCERS).await;
    let address = house.app.address();
    let v6 = [&[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9][..], &[0; 16], &[1, 2, 3, 4]].concat();
    let inner = b"PROXY TCP4 10.0.0.7 192.0.2.1 1 443\r\n";
    let forwarded = ("x-forwarded-for", "198.51.100.1");
    for (header, fields, peer, via) in [
        (LINE.to_vec(), &[][..], Some("203.0.113.9"), Some("127.0.0.2")),
        (binary(0x21, 0x21, &v6), &[], Some("2001:db8::9"), Some("127.0.0.2")),
        // Nobody's word but that of a proxy that is trusted itself.
        (LINE.to_vec(), &[forwarded], Some("203.0.113.9"), Some("127.0.0.2")),
        (inner.to_vec(), &[forwarded], Some("198.51.100.1"), Some("10.0.0.7")),
        (b"PROXY UNKNOWN\r\n".to_vec(), &[forwarded], None, Some("127.0.0.2")),
        (binary(0x21, 0x31, &[0; 216]), &[forwarded], None, Some("127.0.0.2")),
        (binary(0x20, 0, &[]), &[], Some("127.0.0.2"), None),
    ] {
        let answer = sent(from(2, address).await, &[header.clone(), good_call(fields)].concat()).await;
        assert_eq!(Answer::parse(&answer).status, 200, "{header:?}");
        assert_eq!(of(&house.record().await.unwrap()), ("allowed", 200, peer, via), "{header:?}");
    }
    let mut stream = from(2, address).await;
    stream.write_all(LINE).await.unwrap();
    assert_eq!(Client::over(stream).await.call("user-1").await.status, 200);
    assert_eq!(of(&house.record().await.unwrap()), ("allowed", 200, Some("203.0.113.9"), Some("127.0.0.2")));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_header_comes_before_tls_and_tells_whom_limits_count() {
    let folder = tls::folder();
    let settings = format!(
        "{BALANCERS}rates: [{{ name: peers, by: [peer], requests: 1, per_s: 3600, burst: 1 }}]\nlimits: {{ connections_per_peer_max: 1 }}\n"
    );
    let mut house = tls::gate_with(folder.path(), "", "off", &settings).await;
    let token = tls::token(folder.path(), None);
    let request = h2::request("GET", "/users/user-1/data", &[("authorization".into(), format!("Bearer {token}"))]);
    for (client, code) in [(9, "allowed"), (9, "peer_limited"), (10, "allowed")] {
        let mut stream = from(2, house.app.address()).await;
        stream.write_all(format!("PROXY TCP4 203.0.113.{client} 192.0.2.1 1 443\r\n").as_bytes()).await.unwrap();
        let secured = h2::secured_over(stream, &folder.path().join("ca.pem"), &["h2"]).await;
        let mut two = Client::over(secured).await;
        two.ask(request.clone().unwrap()).await.unwrap().unwrap();
        let record = house.record().await.unwrap();
        let peer = format!("203.0.113.{client}");
        assert_eq!((record.code, record.peer.as_deref()), (code, Some(peer.as_str())));
        if client == 10 {
            // One more of this peer is let go without an answer: there is no TLS to give it in.
            let refused =
                sent(from(2, house.app.address()).await, b"PROXY TCP4 203.0.113.10 192.0.2.1 2 443\r\n").await;
            assert!(refused.is_empty(), "{refused:?}");
            assert_eq!(of(&house.record().await.unwrap()), ("peer_overloaded", 0, Some("203.0.113.10"), None));
        }
        two.end().await.unwrap();
        // Until its place is free again.
        let free = async {
            while !house.operators("/metrics").await.body.contains("\nportcullis_connections 0\n") {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(12 * PATIENCE, free).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_else_passes_connections_on_and_nothing_but_a_header_begins_one() {
    let mut house = gate(&format!("{BALANCERS}limits: {{ client_timeout_ms: 300 }}\n")).await;
    let address = house.app.address();
    let refused = ("proxy_untrusted", 0, Some("127.0.0.1"), None);
    for bytes in [[LINE, &good_call(&[])].concat(), good_call(&[])] {
        assert!(sent(from(1, address).await, &bytes).await.is_empty());
        assert_eq!(of(&house.record().await.unwrap()), refused);
    }
    let malformed = ("proxy_header_invalid", 0, Some("127.0.0.2"), None);
    for bytes in [
        good_call(&[]),
        [b"PROXY TCP4 203.0.113.9\r\n", &*good_call(&[])].concat(),
        binary(0x21, 0x12, &[0; 12]),
        LINE[..20].to_vec(),
    ] {
        assert!(sent(from(2, address).await, &bytes).await.is_empty(), "{bytes:?}");
        assert_eq!(of(&house.record().await.unwrap()), malformed, "{bytes:?}");
    }
    // A balancer that looks whether somebody is there, and no more.
    drop(from(2, address).await);
    assert!(house.record().await.is_none());
    let metrics = house.operators("/metrics").await.body;
    for line in ["{code=\"proxy_untrusted\"} 2", "{code=\"proxy_header_invalid\"} 4", "{code=\"overloaded\"} 0"] {
        assert!(
            metrics.contains(&format!("portcullis_connections_refused_total{line}\n")),
            "{line} is not in {metrics}"
        );
    }
    assert!(metrics.contains("\nportcullis_connections 0\n"), "{metrics}");

    // Where it is off, such a header is a request like no other.
    let mut house = gate("trusted_proxies: { addresses: [127.0.0.2] }\n").await;
    let answer = sent(from(2, house.app.address()).await, &[LINE, &good_call(&[])].concat()).await;
    assert_eq!(Answer::parse(&answer).status, 400);
    assert_eq!(house.record().await.unwrap().code, "ambiguous_path");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_peer_has_so_many_connections_and_a_proxy_as_many_as_there_are() {
    let settings = "trusted_proxies: { addresses: [127.0.0.2] }\nlimits: { connections_per_peer_max: 2 }\n";
    let mut house = gate(settings).await;
    let address = house.app.address();
    let request = String::from_utf8(good_call(&[])).unwrap().replace("connection: close\r\n", "");
    let mut held = Vec::new();
    for host in [1, 1, 2, 2, 2, 3] {
        let mut stream = from(host, address).await;
        stream.write_all(request.as_bytes()).await.unwrap();
        assert_eq!(house.record().await.unwrap().code, "allowed");
        held.push(stream);
    }
    let answer = Answer::parse(&sent(from(1, address).await, b"").await);
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("5")));
    assert_eq!(of(&house.record().await.unwrap()), ("peer_overloaded", 503, Some("127.0.0.1"), None));
    let metrics = house.operators("/metrics").await.body;
    assert!(metrics.contains("portcullis_connections_refused_total{code=\"peer_overloaded\"} 1\n"), "{metrics}");
    held.remove(0);
    let start = std::time::Instant::now();
    while Answer::parse(&sent(from(1, address).await, &good_call(&[])).await).status != 200 {
        assert!(start.elapsed() < PATIENCE, "a connection that has ended still counts");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_ends_after_so_many_requests() {
    let house = gate("limits: { requests_per_connection_max: 3 }\n").await;
    let address = house.app.address();
    let request = String::from_utf8(good_call(&[])).unwrap().replace("connection: close", "x-more: 1");
    let mut kept = Kept::to(address).await;
    for _ in 0..2 {
        let answer = kept.ask(request.as_bytes()).await.to_ascii_lowercase();
        assert!(answer.starts_with("http/1.1 200") && !answer.contains("connection: close"), "{answer}");
    }
    let last = kept.ask(request.as_bytes()).await.to_ascii_lowercase();
    assert!(last.starts_with("http/1.1 200") && last.contains("connection: close"), "{last}");
    assert!(kept.is_closed().await);

    let mut two = Client::to(address).await;
    for _ in 0..3 {
        assert_eq!(two.call("user-1").await.status, 200);
    }
    let request = h2::request("GET", "/users/user-1/data", &[bearer()]).unwrap();
    match two.ask(request).await {
        None => {}
        Some(Err(error)) => {
            assert!(error.is_go_away() || error.reason() == Some(::h2::Reason::REFUSED_STREAM), "{error:?}");
        }
        Some(Ok(answer)) => panic!("a fourth request is served: {answer:?}"),
    }
    two.end().await.unwrap();
}

#[test]
fn whoever_passes_connections_on_must_be_named() {
    let check = |settings: &str| {
        let (_folder, file) = crate::cli::folder(&format!("{settings}{}", crate::config::MINIMAL));
        let output = crate::cli::portcullis().args(["check", "--config", file.to_str().unwrap()]).output().unwrap();
        crate::cli::text(&output.stderr)
    };
    for (settings, said) in [
        ("proxy_protocol: required\n", &["nobody is trusted to say whom connections are from", "config.yaml:1:17"][..]),
        ("proxy_protocol: required\ntrusted_proxies: { addresses: [0.0.0.0/0] }\n", &["everybody would be believed"]),
        (
            "trusted_proxies: { addresses: [10.0.0.0/8] }\nlisteners:\n  - { listen: 'unix:/a', proxy_protocol: required }\n",
            &["nobody on a Unix socket has an address that could be trusted", "config.yaml:3:"],
        ),
        ("limits: { connections_per_peer_max: 0 }\n", &["`connections_per_peer_max` is out of range"]),
        ("limits: { requests_per_connection_max: 0 }\n", &["`requests_per_connection_max` is out of range"]),
    ] {
        let shown = check(settings);
        for part in said {
            assert!(shown.contains(part), "{part} is not in {shown}");
        }
    }
    assert!(!check("proxy_protocol: off\n").contains("proxy_protocol"));
}
