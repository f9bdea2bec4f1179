//! Whoever asks too often is told when to come again, alone or with other gates, and others are not held up by it.

use std::{
    future::pending,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::{io::copy_bidirectional, net::TcpStream, sync::watch};

use crate::{
    house::{self, House, NOW},
    wire::{self, Answer},
};

/// The repository's configuration with these `rates` and whatever else.
async fn build(more: &str) -> House {
    let text = house::repository("config.yaml").replace("[1example23456789]", "[1example23456789, another]") + more;
    House::build(Some(&text), &[], NOW).await
}

fn token(changes: &Value) -> String {
    let mut claims = house::claims();
    claims.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    house::key("agents").sign(&claims).unwrap()
}

async fn ask(house: &mut House, token: &str) -> (Answer, Value) {
    let fields = [("authorization".to_owned(), format!("Bearer {token}"))];
    let (answer, record) = house.ask(&wire::request("GET", "/users/user-1/data", &fields)).await;
    (answer, serde_json::to_value(record.expect("a record")).unwrap())
}

fn of(answer: &(Answer, Value)) -> (u16, &str) {
    (answer.0.status, answer.1["code"].as_str().unwrap())
}

/// Asks until that is allowed again.
async fn allowed_again(house: &mut House, token: &str) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while ask(house, token).await.0.status != 200 {
        assert!(Instant::now() < deadline, "never allowed again");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_asks_too_often_is_told_when_to_come_again_and_others_are_not() {
    let mut house = build("rates: [{ name: agents, by: [agent], requests: 1, per_s: 3, burst: 2 }]\n").await;
    let (mine, anothers) = (token(&json!({})), token(&json!({ "client_id": "another", "sub": "another" })));
    for _ in 0..2 {
        assert_eq!(of(&ask(&mut house, &mine).await), (200, "allowed"));
    }
    let refused = ask(&mut house, &mine).await;
    assert_eq!(of(&refused), (429, "client_limited"));
    assert_eq!((&refused.1["limit"], &refused.1["agent"]), (&"agents".into(), &"1example23456789".into()));
    let after: u64 = refused.0.header("retry-after").unwrap().parse().unwrap();
    assert_eq!(after, 3, "not before there is one again");
    assert_eq!(refused.0.json()["type"], "urn:portcullis:refusal:client_limited");
    assert_eq!(of(&ask(&mut house, &anothers).await), (200, "allowed"), "another agent has a bucket of its own");
    allowed_again(&mut house, &mine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_is_limited_before_anything_is_verified() {
    let mut house = build("rates: [{ name: peers, by: [peer], requests: 3, per_s: 3600 }]\n").await;
    for _ in 0..3 {
        assert_eq!(of(&ask(&mut house, "no.real.token").await), (401, "token_malformed"));
    }
    assert_eq!(of(&ask(&mut house, "no.real.token").await), (429, "peer_limited"));
    let good = ask(&mut house, &token(&json!({}))).await;
    assert_eq!((of(&good), &good.1["limit"], &good.1["agent"]), ((429, "peer_limited"), &"peers".into(), &Value::Null));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pair_of_agent_and_user_has_a_bucket_and_a_user_too() {
    let rates = "rates:\n  - { name: pairs, by: [agent, user], requests: 2, per_s: 3600 }\n  - { name: users, by: [user], requests: 3, per_s: 3600 }\n";
    let mut house = build(rates).await;
    let other = json!({ "client_id": "another", "sub": "another" });
    let (first, second) = (token(&json!({})), token(&other));
    let user = json!({ "onBehalfOf": { "sub": "user-2", "username": "joe" } });
    assert_eq!(ask(&mut house, &first).await.0.status, 200);
    assert_eq!(ask(&mut house, &first).await.0.status, 200);
    assert_eq!(ask(&mut house, &first).await.1["limit"], "pairs");
    assert_eq!(ask(&mut house, &second).await.0.status, 200, "another agent, the same user: the third");
    assert_eq!(ask(&mut house, &second).await.1["limit"], "users");
    assert_eq!(of(&ask(&mut house, &token(&user)).await), (403, "access_denied"), "another user of the first agent");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_limited_stays_so_over_a_reload_that_leaves_the_limit_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("policies")).unwrap();
    for name in ["policies/schema.cedarschema", "policies/users.cedar"] {
        std::fs::write(folder.path().join(name), house::repository(name)).unwrap();
    }
    let keys = json!({ "keys": [house::key("agents").jwk()] });
    std::fs::write(folder.path().join("keys.json"), keys.to_string()).unwrap();
    let config = house::repository("config.yaml")
        .replace("jwks_uri: http://127.0.0.1:9100/us-east-1_agents/.well-known/jwks.json", "jwks_file: keys.json")
        .replace("http://127.0.0.1:9000", "UPSTREAM")
        .replace("127.0.0.1:8080", "127.0.0.1:0")
        .replace("# admin: 127.0.0.1:9901", "admin: 127.0.0.1:0")
        + "rates: [{ name: agents, by: [agent], requests: 1, per_s: 3600 }]\n";
    let mut house = House::following(folder.path(), &config).await;
    let mine = token(&json!({}));
    assert_eq!(ask(&mut house, &mine).await.0.status, 200);
    assert_eq!(of(&ask(&mut house, &mine).await), (429, "client_limited"));
    let path = folder.path().join("config.yaml");
    let reload = |text: &str, before: u64| {
        std::fs::write(&path, text).unwrap();
        format!("portcullis_reloads_total{{outcome=\"good\"}} {}\n", before + 1)
    };
    let text = std::fs::read_to_string(&path).unwrap();
    for (change, count, status) in
        [(format!("{text}\n"), 0, 429), (text.replace("requests: 1,", "requests: 5,"), 1, 200)]
    {
        let counted = reload(&change, count);
        let deadline = Instant::now() + Duration::from_secs(20);
        while !house.operators("/metrics").await.body.contains(&counted) {
            assert!(Instant::now() < deadline, "never reloaded");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(ask(&mut house, &mine).await.0.status, status);
    }
}

/// What proves to Redis who the gate is; `house` has it in a file.
const PASSWORD: &str = "for tests only";

/// A Redis server of this test's own.
struct Redis(Child, String);

impl Redis {
    fn start(port: u16) -> Self {
        let folder = house::folder_with(&["redis-server"], Vec::new()).unwrap();
        let port = port.to_string();
        let options = ["--port", &port, "--bind", "127.0.0.1", "--save", "", "--requirepass", PASSWORD];
        let server = Command::new(folder.join("redis-server")).args(options).stdout(Stdio::null()).spawn().unwrap();
        let redis = Self(server, port);
        let deadline = Instant::now() + Duration::from_secs(10);
        while redis.ask("ping") != "PONG\n" {
            assert!(Instant::now() < deadline, "no Redis");
            std::thread::sleep(Duration::from_millis(20));
        }
        redis
    }

    fn ask(&self, command: &str) -> String {
        let mut client = Command::new("redis-cli");
        client.args(["-p", &self.1, "-a", PASSWORD, "--no-auth-warning"]).args(command.split(' '));
        String::from_utf8(client.output().unwrap().stdout).unwrap()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A gate whose limit is counted at `port`.
async fn sharing(port: u16, shared: &str) -> House {
    let rates = format!("rates: [{{ name: agents, by: [agent], requests: 3, per_s: 3600, shared: {shared} }}]\n");
    let place = format!("redis: 'redis://127.0.0.1:{port}/0', password: {{ file: nonce-secret }}, timeout_ms: 2000");
    build(&format!("{rates}counters: {{ {place} }}\n")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn gates_that_share_a_limit_count_together() {
    if !house::present("redis-server") {
        return;
    }
    let port = free_port();
    let _redis = Redis::start(port);
    let (mut one, mut other) = (sharing(port, "refuse").await, sharing(port, "refuse").await);
    let mine = token(&json!({}));
    assert_eq!(of(&ask(&mut one, &mine).await), (200, "allowed"));
    assert_eq!(of(&ask(&mut other, &mine).await), (200, "allowed"));
    assert_eq!(of(&ask(&mut one, &mine).await), (200, "allowed"));
    let refused = ask(&mut other, &mine).await;
    assert_eq!(of(&refused), (429, "client_limited"));
    let after: u64 = refused.0.header("retry-after").unwrap().parse().unwrap();
    assert!((1_000..=1_200).contains(&after), "{after}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_whoever_counts_each_limit_does_what_it_says() {
    if !house::present("redis-server") {
        return;
    }
    let port = free_port();
    let mine = token(&json!({}));
    let (mut strict, mut open) = (sharing(port, "refuse").await, sharing(port, "accept_uncounted").await);
    let refused = ask(&mut strict, &mine).await;
    assert_eq!((of(&refused), refused.0.header("retry-after")), ((503, "limit_unavailable"), Some("5")));
    assert_eq!(of(&ask(&mut open, &mine).await), (200, "allowed"));
    for house in [&strict, &open] {
        let metrics = house.operators("/metrics").await.body;
        assert!(metrics.contains("portcullis_limits_unanswered_total{limit=\"agents\"} 1\n"), "{metrics}");
    }
    let redis = Redis::start(port);
    allowed_again(&mut strict, &mine).await;
    let keys = redis.ask("keys *");
    assert!(keys.starts_with("portcullis:rate:agents:") && !keys.contains("1example"), "{keys}");
    let expires: i64 = redis.ask(&format!("pttl {}", keys.trim())).trim().parse().unwrap();
    assert!((1..=3_600_000).contains(&expires), "{expires}");
}

/// A way to `port`. Whenever it is told to, connections on it are lost, and neither end hears of that.
pub(crate) async fn way_to(port: u16) -> (u16, watch::Sender<()>) {
    let listener = house::loopback().await;
    let at = listener.local_addr().unwrap().port();
    let lose = watch::Sender::new(());
    let told = lose.clone();
    tokio::spawn(async move {
        while let Ok((mut from, _)) = listener.accept().await {
            let mut lost = told.subscribe();
            tokio::spawn(async move {
                let mut to = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                tokio::select! {
                    _ = copy_bidirectional(&mut from, &mut to) => {}
                    _ = lost.changed() => pending::<()>().await,
                }
            });
        }
    });
    (at, lose)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_to_whoever_counts_that_has_fallen_silent_is_soon_another() {
    if !house::present("redis-server") {
        return;
    }
    let port = free_port();
    let _redis = Redis::start(port);
    let (way, lose) = way_to(port).await;
    let place = format!("redis: 'redis://127.0.0.1:{way}/0', password: {{ file: nonce-secret }}, timeout_ms: 500");
    let rates = "rates: [{ name: agents, by: [agent], requests: 100, per_s: 3600, shared: refuse }]\n";
    let mut house = build(&format!("{rates}counters: {{ {place} }}\n")).await;
    let mine = token(&json!({}));
    assert_eq!(of(&ask(&mut house, &mine).await), (200, "allowed"));
    lose.send_replace(());
    assert_eq!(of(&ask(&mut house, &mine).await), (503, "limit_unavailable"));
    allowed_again(&mut house, &mine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_beyond_those_that_may_be_under_way_are_refused_at_once() {
    let listener = house::loopback().await;
    let address = listener.local_addr().unwrap();
    let config = house::repository("config.yaml") + "limits: { requests_max: 1 }\n";
    let mut house = House::build_for(&config, &format!("http://{address}")).await;
    let mine = token(&json!({}));
    let request = wire::request("GET", "/users/user-1/data", &[("authorization".to_owned(), format!("Bearer {mine}"))]);
    let gate = house.app.address();
    let waiting = tokio::spawn({
        let request = request.clone();
        async move { wire::send(gate, &request).await }
    });
    // The first one is under way once its upstream has it.
    let (mut upstream, _) = listener.accept().await.unwrap();
    let (answer, record) = house.ask(&request).await;
    let record = record.unwrap();
    assert_eq!((answer.status, record.code, answer.header("retry-after")), (503, "overloaded", Some("5")));
    tokio::io::AsyncWriteExt::write_all(&mut upstream, b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
    let first = Answer::parse(&waiting.await.unwrap());
    assert_eq!(first.status, 204);
}

#[test]
fn limits_that_mean_nothing_are_errors() {
    let problems = |text: &str| {
        let text = house::repository("config.yaml") + text;
        let names = ["policies/schema.cedarschema", "policies/users.cedar"].map(|name| (name, house::repository(name)));
        let files = portcullis::base::files::Files::memory(names.iter().map(|(name, text)| (*name, text.as_str())));
        let loaded = portcullis::config::parse("config.yaml".into(), text, files);
        loaded
            .and_then(|loaded| loaded.compile())
            .map(|_| String::new())
            .unwrap_or_else(|problems| problems.to_string())
    };
    for (text, said) in [
        ("rates: [{ name: a b, by: [peer], requests: 1 }]", "not a name"),
        ("rates: [{ name: a, by: [], requests: 1 }]", "nothing to count by"),
        ("rates: [{ name: a, by: [peer, peer], requests: 1 }]", "nothing to count by, or something twice"),
        ("rates: [{ name: a, by: [peer], requests: 0 }]", "`requests` is out of range"),
        ("rates: [{ name: a, by: [peer], requests: 1, burst: 0 }]", "`burst` is out of range"),
        ("rates: [{ name: a, by: [peer], requests: 1, per_s: 86400, burst: 400000 }]", "would not be full again"),
        (
            "rates: [{ name: a, by: [peer], requests: 1 }, { name: a, by: [user], requests: 1 }]",
            "two limits have one name",
        ),
        ("rates: [{ name: a, by: [peer], requests: 1, shared: refuse }]", "nothing says where it is kept"),
        ("counters: { redis: 'redis://127.0.0.1' }", "no limit is shared"),
        (
            "rates: [{ name: a, by: [peer], requests: 1, shared: refuse }]\ncounters: { redis: 'redis://10.0.0.1' }",
            "nothing proves that it is the one",
        ),
        (
            "rates: [{ name: a, by: [peer], requests: 1, shared: refuse }]\ncounters: { redis: 'http://127.0.0.1' }",
            "is not the address of a Redis server",
        ),
        (
            "rates: [{ name: a, by: [peer], requests: 1, shared: refuse }]\ncounters: { redis: 'rediss://10.0.0.1', timeout_ms: 0 }",
            "`timeout_ms` is out of range",
        ),
        ("rates: [{ name: a, by: [peer], requests: 1, shared: open }]", "unknown variant `open`"),
    ] {
        let problems = problems(&format!("{text}\n"));
        assert!(problems.contains(said), "{text}: {problems}");
    }
    let kept = |counters: &str| {
        let limit = "rates: [{ name: a, by: [peer], requests: 1, shared: refuse }]";
        problems(&format!("{limit}\ncounters: {{ {counters} }}\n"))
    };
    for none in ["limits", "x", "-1", "+1", "1/2", "1/", "/1", "65536"] {
        let problems = kept(&format!("redis: 'redis://127.0.0.1/{none}'"));
        assert!(problems.contains("the path is not the number of a database"), "{none}: {problems}");
    }
    for database in ["", "/", "/0", "/15", ":6380/99"] {
        let problems = kept(&format!("redis: 'redis://127.0.0.1{database}'"));
        assert!(!problems.contains("redis"), "{database}: {problems}");
    }
    for nobody in ["rediss://10.0.0.1#insecure", "redis://0.0.0.0", "redis://[::]", "redis://"] {
        let problems = kept(&format!("redis: '{nobody}'"));
        assert!(problems.contains("is not the address of a Redis server"), "{nobody}: {problems}");
    }
    assert!(kept("redis: 'redis://127.0.0.1', user: gate").contains("nothing proves who the gate is there"));
}
