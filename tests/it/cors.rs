//! Web pages: what browsers are told of them beside what the cases say.

use std::net::SocketAddr;

use portcullis::{
    authoring::{
        account::{Account, Passage},
        rehearsal::{Part, Stage, Token},
    },
    base::clock::Timestamp,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    house::{self, House, NOW, ROUTES, bearer},
    wire::{self, Answer},
};

/// The usual route, for pages.
fn routes() -> String {
    ROUTES.replace("action: readOnly,", "action: readOnly, cors: { origins: ['https://app.example'] },")
}

fn field(name: &str, value: &str) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

fn preflight() -> Vec<u8> {
    let fields = [field("origin", "https://app.example"), field("access-control-request-method", "PUT")];
    wire::request("OPTIONS", "/users/user-1/data", &fields)
}

/// A server that answers every request with these fields.
async fn server(fields: &'static str) -> SocketAddr {
    let listener = house::loopback().await;
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") && stream.read_buf(&mut head).await.is_ok_and(|read| read > 0) {}
            let answer = format!("HTTP/1.1 200 OK\r\n{fields}content-length: 2\r\nconnection: close\r\n\r\n{{}}");
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    address
}

fn all<'a>(answer: &'a Answer, name: &str) -> Vec<&'a str> {
    answer.headers.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| &**value).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_route_for_pages_the_gate_speaks_and_the_upstream_does_not() {
    let said = "Access-Control-Allow-Origin: https://evil.example\r\naccess-control-allow-origin: *\r\n\
                Access-Control-Allow-Credentials: true\r\nAccess-Control-Expose-Headers: *\r\n\
                Access-Control-Allow-Private-Network: true\r\nVary: accept-encoding\r\n";
    let upstream = format!("http://{}", server(said).await);
    let mut house = House::build_for(&routes(), &upstream).await;
    for (origin, told) in [("https://app.example", vec!["https://app.example"]), ("https://evil.example", vec![])] {
        let fields = [bearer(), field("origin", origin)];
        let (answer, record) = house.ask(&wire::request("GET", "/users/user-1/data", &fields)).await;
        assert_eq!((answer.status, record.unwrap().code), (200, "allowed"));
        assert_eq!(all(&answer, "access-control-allow-origin"), told, "{origin}");
        for name in ["allow-credentials", "expose-headers", "allow-private-network"] {
            assert_eq!(all(&answer, &format!("access-control-{name}")), [""; 0], "{origin} {name}");
        }
        assert_eq!(all(&answer, "vary"), ["accept-encoding", "origin"]);
    }
    // Elsewhere it is the upstream's to say.
    let mut house = House::build_for(ROUTES, &upstream).await;
    let fields = [bearer(), field("origin", "https://app.example")];
    let (answer, _) = house.ask(&wire::request("GET", "/users/user-1/data", &fields)).await;
    assert_eq!(all(&answer, "access-control-allow-origin"), ["https://evil.example", "*"]);
    assert_eq!(all(&answer, "vary"), ["accept-encoding"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_reads_that_the_upstream_is_not_there() {
    let mut house = House::build_for(&routes(), "http://127.0.0.1:1").await;
    let fields = [bearer(), field("origin", "https://app.example")];
    let (answer, record) = house.ask(&wire::request("GET", "/users/user-1/data", &fields)).await;
    assert_eq!((answer.status, record.unwrap().code), (502, "upstream_unreachable"));
    assert_eq!(all(&answer, "access-control-allow-origin"), ["https://app.example"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn preflights_are_counted_and_are_bounded_as_whoever_asks_is() {
    let rates = "rates: [{ name: pages, by: [peer], requests: 2, per_s: 86400 }]\n";
    let mut house = House::build(Some(&(routes() + rates)), &[], NOW).await;
    for expected in [(204, "preflight"), (204, "preflight"), (429, "peer_limited")] {
        let (answer, record) = house.ask(&preflight()).await;
        let record = record.unwrap();
        assert_eq!((answer.status, record.code), expected);
        assert_eq!(record.preflight.unwrap().method, "PUT");
        assert_eq!(all(&answer, "access-control-allow-origin").is_empty(), expected.0 == 429);
    }
    let text = house.operators("/metrics").await.body;
    for (code, count) in [("preflight", 2), ("peer_limited", 1)] {
        let line =
            format!("portcullis_requests_total{{code=\"{code}\",route=\"GET,POST,PUT /users/{{id}}/data\"}} {count}");
        assert!(text.contains(&line), "{line} is not in\n{text}");
    }
    assert_eq!(house.service.received(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_goes_on_after_a_preflight() {
    let mut house = House::build(Some(&routes()), &[], NOW).await;
    let first = String::from_utf8(preflight()).unwrap().replace("connection: close\r\n", "");
    let second = wire::request("GET", "/users/user-1/data", &[bearer()]);
    let mut stream = tokio::net::TcpStream::connect(house.app.address()).await.unwrap();
    stream.write_all(first.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        assert!(stream.read_buf(&mut answer).await.unwrap() > 0);
    }
    assert_eq!(Answer::parse(&answer).status, 204);
    stream.write_all(&second).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert_eq!(Answer::parse(&answer).status, 200);
    assert_eq!((house.record().await.unwrap().code, house.record().await.unwrap().code), ("preflight", "allowed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preflight_is_explained() {
    let loaded = House::load(Some(&routes()), &[]);
    let stage = Stage::new(loaded).unwrap();
    let explain = async |request: String| {
        let now = Timestamp::from_seconds(NOW);
        let part = Part { now, peer: None, token: Token::AsIs, certificate: None, answers: Vec::new(), request };
        Account::of(&stage.rehearse(&part).await.unwrap())
    };
    let request = String::from_utf8(preflight()).unwrap();
    let account = explain(request.clone()).await;
    assert_eq!((&*account.decision, &*account.code), ("allow", "preflight"));
    let passages: Vec<_> = account.stages.iter().map(|it| it.outcome).collect();
    let (passed, not) = (Passage::Passed, Passage::NotReached);
    assert_eq!(passages, [passed, not, passed, not, not, not]);
    let account = explain(request.replace("app.example", "evil.example")).await;
    assert_eq!((&*account.decision, &*account.code), ("deny", "preflight_refused"));
    assert_eq!(account.reason.as_deref(), Some("a page asks whose origin is not in the route's `cors`"));
}
