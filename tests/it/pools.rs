//! Upstreams of several servers: which one gets a request, and what happens when one does not do its part.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::{sleep, timeout},
};

use crate::{
    house::{self, House, ROUTES, bearer},
    wire,
};

/// The connection is closed once the request has come.
const CLOSES: u16 = 0;

/// Nothing is answered.
const SILENT: u16 = 1;

/// The connection is closed once the request has come, this once.
const CLOSES_ONCE: u16 = 2;

/// A server of an upstream, which answers as it is told to.
struct Server {
    address: SocketAddr,
    /// A status, or one of the above.
    does: Arc<AtomicU16>,
    /// The status of `/healthz`.
    health: Arc<AtomicU16>,
    /// What it was asked, without `/healthz`.
    asked: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Server {
    async fn start() -> Self {
        Self::at(house::loopback().await)
    }

    fn at(listener: TcpListener) -> Self {
        let address = listener.local_addr().unwrap();
        let (does, health) = (Arc::new(AtomicU16::new(200)), Arc::new(AtomicU16::new(200)));
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let all = (does.clone(), health.clone(), asked.clone());
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, all.clone()));
            }
        });
        Self { address, does, health, asked, task }
    }

    fn will(&self, does: u16) {
        self.does.store(does, Ordering::SeqCst);
    }

    /// Listens no more, once this ends.
    async fn leave(&self) {
        self.task.abort();
        while !self.task.is_finished() {
            tokio::task::yield_now().await;
        }
    }

    fn asked(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

type Told = (Arc<AtomicU16>, Arc<AtomicU16>, Arc<Mutex<Vec<String>>>);

async fn serve(mut stream: TcpStream, (does, health, asked): Told) {
    let mut bytes = Vec::new();
    while let Ok(1..) = stream.read_buf(&mut bytes).await {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        if body.len() < length.unwrap_or(0) {
            continue;
        }
        bytes.clear();
        let status = if head.starts_with("GET /healthz ") {
            health.load(Ordering::SeqCst)
        } else {
            asked.lock().unwrap().push(text.clone());
            does.load(Ordering::SeqCst)
        };
        match status {
            CLOSES => return,
            CLOSES_ONCE => return does.store(200, Ordering::SeqCst),
            SILENT => sleep(Duration::from_secs(10)).await,
            status => {
                let answer = format!("HTTP/1.1 {status} Told\r\ncontent-length: 2\r\n\r\n{{}}");
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        }
    }
}

async fn servers(count: usize) -> Vec<Server> {
    let mut servers = Vec::new();
    for _ in 0..count {
        servers.push(Server::start().await);
    }
    servers
}

/// A gate in front of these, with more settings of their upstream.
async fn gate(servers: &[&Server], settings: &str) -> House {
    let addresses: Vec<_> = servers.iter().map(|it| format!("{{ address: '{}' }}", it.address)).collect();
    let addresses = addresses.join(", ");
    let text = ROUTES.replace("127.0.0.1:1'", &format!("127.0.0.1:1', addresses: [{addresses}]{settings}"));
    House::build_for(&text, "http://orders.internal").await
}

fn call(method: &str) -> Vec<u8> {
    wire::request(method, "/users/user-1/data", &[bearer()])
}

/// Status and code of the good call, the server it went to last, and how often it was tried again.
async fn ask(house: &mut House, method: &str) -> (u16, &'static str, Option<SocketAddr>, u32) {
    let (answer, record) = house.ask(&call(method)).await;
    let record = record.expect("a record");
    (answer.status, record.code, record.server.map(|server| server.parse().unwrap()), record.retries)
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_spread_over_the_servers_under_the_name_of_the_upstream() {
    let servers = servers(3).await;
    let mut house = gate(&[&servers[0], &servers[1], &servers[2]], "").await;
    let mut seen = Vec::new();
    for _ in 0..6 {
        let (status, code, server, retries) = ask(&mut house, "GET").await;
        assert_eq!((status, code, retries), (200, "allowed", 0));
        seen.push(server.unwrap());
    }
    assert_eq!(seen[..3], seen[3..]);
    for server in &servers {
        assert_eq!(server.asked(), 2);
        assert!(server.asked.lock().unwrap()[0].contains("\r\nHost: orders.internal\r\n"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_no_server_took_goes_to_another_one_whatever_it_is() {
    let servers = servers(2).await;
    let mut house = gate(&[&servers[0], &servers[1]], "").await;
    // Nobody listens there any more.
    servers[0].leave().await;
    let mut again = 0;
    for method in ["GET", "POST", "GET", "POST"] {
        let (status, code, server, retries) = ask(&mut house, method).await;
        assert_eq!((status, code, server), (200, "allowed", Some(servers[1].address)), "{method}");
        again += retries;
    }
    assert_eq!(again, 2);
    servers[1].leave().await;
    servers[1].will(CLOSES);
    let (answer, record) = house.ask(&call("GET")).await;
    assert_eq!((answer.status, record.unwrap().code), (502, "upstream_unreachable"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_a_server_may_have_taken_is_sent_twice_only_where_that_is_as_good_as_once() {
    let servers = servers(2).await;
    let mut house = gate(&[&servers[0], &servers[1]], ", ejection: { failures: 0 }").await;
    servers[0].will(CLOSES);
    let mut outcomes = Vec::new();
    for method in ["GET", "GET", "PUT", "PUT", "POST", "POST"] {
        let (status, code, _, retries) = ask(&mut house, method).await;
        outcomes.push((method, status, code, retries));
    }
    outcomes.sort_unstable();
    assert_eq!(
        outcomes,
        [
            ("GET", 200, "allowed", 0),
            ("GET", 200, "allowed", 1),
            ("POST", 200, "allowed", 0),
            ("POST", 502, "upstream_invalid", 0),
            ("PUT", 200, "allowed", 0),
            ("PUT", 200, "allowed", 1),
        ]
    );
    assert_eq!((servers[0].asked(), servers[1].asked()), (3, 5));
    // What did not come in time may still be at work, and is not added to.
    servers[0].will(SILENT);
    servers[1].will(SILENT);
    let text = ", read_timeout_ms: 200, retries_max: 5";
    let mut house = gate(&[&servers[0], &servers[1]], text).await;
    let before = servers[0].asked() + servers[1].asked();
    assert_eq!(ask(&mut house, "GET").await.1, "upstream_timed_out");
    assert_eq!(servers[0].asked() + servers[1].asked(), before + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_is_tried_more_often_than_may_be() {
    let servers = servers(4).await;
    servers.iter().for_each(|server| server.will(CLOSES));
    let all: Vec<_> = servers.iter().collect();
    for (max, tried) in [(0, 1), (2, 3), (5, 4)] {
        let mut house = gate(&all, &format!(", ejection: {{ failures: 0 }}, retries_max: {max}")).await;
        let before: usize = servers.iter().map(Server::asked).sum();
        let (status, code, _, retries) = ask(&mut house, "GET").await;
        assert_eq!((status, code), (502, "upstream_invalid"));
        let asked: usize = servers.iter().map(Server::asked).sum();
        assert_eq!((asked - before, usize::try_from(retries).unwrap()), (tried, tried - 1), "{max}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_is_sent_again_whole_or_not_at_all() {
    let servers = servers(2).await;
    servers[0].will(CLOSES);
    let mut house = gate(&[&servers[0], &servers[1]], ", ejection: { failures: 0 }").await;
    for (length, codes) in [(60_000, ["allowed", "allowed"]), (200_000, ["allowed", "upstream_invalid"])] {
        let mut seen = Vec::new();
        for _ in 0..2 {
            let body = "x".repeat(length);
            let fields = [bearer(), ("content-length".into(), length.to_string())];
            let mut request = wire::request("PUT", "/users/user-1/data", &fields);
            request.extend(body.bytes());
            seen.push(house.ask(&request).await.1.unwrap().code);
        }
        seen.sort_unstable();
        assert_eq!(seen, codes, "{length}");
        let asked = servers[1].asked.lock().unwrap();
        assert!(asked.iter().all(|text| text.split_once("\r\n\r\n").unwrap().1.len() >= 60_000));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_sent_again_is_as_long_as_it_was() {
    let servers = servers(2).await;
    servers[0].will(CLOSES);
    let addresses = servers.iter().map(|it| format!("{{ address: '{}' }}", it.address)).collect::<Vec<_>>().join(", ");
    let settings = format!("127.0.0.1:1', addresses: [{addresses}], ejection: {{ failures: 0 }}");
    let text = format!("{}limits: {{ body_bytes_max: 1000 }}\n", ROUTES.replace("127.0.0.1:1'", &settings));
    let mut house = House::build_for(&text, "http://orders.internal").await;
    for (length, code) in [(600, "allowed"), (600, "allowed"), (1001, "body_too_large")] {
        let fields = [bearer(), ("content-length".into(), length.to_string())];
        let mut request = wire::request("PUT", "/users/user-1/data", &fields);
        request.extend(vec![b'x'; length]);
        assert_eq!(house.ask(&request).await.1.unwrap().code, code, "{length}");
    }
    assert!(servers[0].asked() > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_fails_is_left_alone_and_operators_see_it() {
    let servers = servers(2).await;
    let settings = ", retries_max: 0, ejection: { failures: 2, duration_ms: 60000, statuses: [503] }";
    let mut house = gate(&[&servers[0], &servers[1]], settings).await;
    servers[0].will(503);
    let mut statuses = Vec::new();
    for _ in 0..8 {
        statuses.push(ask(&mut house, "GET").await.0);
    }
    assert_eq!(statuses.iter().filter(|status| **status == 503).count(), 2, "{statuses:?}");
    assert_eq!(statuses[4..], [200; 4]);
    let seen: Value = house.operators("/upstreams").await.json();
    assert_eq!(seen[0]["upstream"], "upstream");
    let states: Vec<_> = seen[0]["servers"].as_array().unwrap().iter().map(|it| it["state"].clone()).collect();
    assert_eq!(states, ["ejected", "available"]);
    let metrics = house.operators("/metrics").await.body;
    for line in [
        r#"portcullis_upstream_servers{state="ejected",upstream="upstream"} 1"#,
        r#"portcullis_upstream_servers{state="available",upstream="upstream"} 1"#,
        r#"portcullis_upstream_ejections_total{upstream="upstream"} 1"#,
        r#"portcullis_upstream_requests{upstream="upstream"} 0"#,
    ] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_all_of_whose_servers_are_left_alone_is_not_asked() {
    let server = Server::start().await;
    let settings = ", ejection: { failures: 2, duration_ms: 1000, percent_max: 100 }";
    let mut house = gate(&[&server], settings).await;
    server.will(CLOSES);
    let mut codes = Vec::new();
    for _ in 0..4 {
        codes.push(ask(&mut house, "POST").await.1);
    }
    assert_eq!(codes, ["upstream_invalid", "upstream_invalid", "upstream_unavailable", "upstream_unavailable"]);
    assert_eq!(server.asked(), 2);
    let (answer, _) = house.ask(&call("GET")).await;
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("5")));
    server.will(200);
    sleep(Duration::from_millis(1100)).await;
    assert_eq!(ask(&mut house, "POST").await.1, "allowed");
    assert_eq!(ask(&mut house, "POST").await.1, "allowed");
}

/// Asks until the good call ends with this code.
async fn until(house: &mut House, code: &str) {
    for _ in 0..100 {
        if ask(house, "GET").await.1 == code {
            return;
        }
        sleep(Duration::from_millis(20)).await;
    }
    panic!("never {code}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_not_well_gets_nothing_until_it_is() {
    let servers = servers(2).await;
    let settings =
        ", health: { path: /healthz, interval_ms: 100, timeout_ms: 100, healthy_after: 1, unhealthy_after: 2 }";
    servers[0].health.store(500, Ordering::SeqCst);
    // The first answer counts before the first request does.
    let mut house = gate(&[&servers[0], &servers[1]], settings).await;
    for _ in 0..4 {
        assert_eq!(ask(&mut house, "GET").await.2, Some(servers[1].address));
    }
    servers[1].health.store(SILENT, Ordering::SeqCst);
    until(&mut house, "upstream_unavailable").await;
    servers[0].health.store(204, Ordering::SeqCst);
    until(&mut house, "allowed").await;
    let before = servers[1].asked();
    for _ in 0..4 {
        assert_eq!(ask(&mut house, "GET").await.2, Some(servers[0].address));
    }
    assert_eq!(servers[1].asked(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_user_has_a_server() {
    let servers = servers(3).await;
    let mut house = gate(&[&servers[0], &servers[1], &servers[2]], ", balance: user_hash").await;
    for _ in 0..6 {
        assert_eq!(ask(&mut house, "GET").await.0, 200);
    }
    let mut counts: Vec<_> = servers.iter().map(Server::asked).collect();
    counts.sort_unstable();
    assert_eq!(counts, [0, 0, 6]);
}

#[tokio::test(flavor = "multi_thread")]
async fn more_requests_than_an_upstream_may_have_are_turned_away() {
    let server = Server::start().await;
    let mut house = gate(&[&server], ", requests_max: 2, read_timeout_ms: 5000").await;
    server.will(SILENT);
    let address = house.app.address();
    let waiting: Vec<_> =
        (0..2).map(|_| tokio::spawn(async move { wire::send(address, &call("GET")).await })).collect();
    timeout(Duration::from_secs(5), async {
        while server.asked() < 2 {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .unwrap();
    let (answer, record) = house.ask(&call("GET")).await;
    assert_eq!((answer.status, record.unwrap().code), (503, "upstream_busy"));
    assert!(answer.header("retry-after").is_some());
    assert_eq!(server.asked(), 2);
    waiting.iter().for_each(JoinHandle::abort);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_connection_that_was_closed_costs_no_request() {
    let server = Server::start().await;
    let mut house = gate(&[&server], "").await;
    assert_eq!(ask(&mut house, "GET").await.1, "allowed");
    // It is closed with the next request on it.
    server.will(CLOSES_ONCE);
    let (status, code, _, retries) = ask(&mut house, "GET").await;
    assert_eq!((status, code, retries, server.asked()), (200, "allowed", 0, 3));
    server.will(CLOSES_ONCE);
    assert_eq!(ask(&mut house, "POST").await.1, "upstream_invalid");
    assert_eq!(server.asked(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_has_no_address_is_unreachable() {
    let mut house = House::build_for(ROUTES, "http://nobody.invalid:80").await;
    let (status, code, server, _) = ask(&mut house, "GET").await;
    assert_eq!((status, code, server), (502, "upstream_unreachable", None));
}
