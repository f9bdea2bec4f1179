//! Key rings against key servers that misbehave, with the fetches they saw.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{Response, StatusCode, header};
use http_body_util::Full;
use portcullis::{
    authoring::keys::SigningKey,
    base::files::Files,
    config::{self, Loaded},
    server::http1::{Http1Server, answer},
};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use crate::{
    house::{self, House},
    reload, upgrade, wire,
};

/// What a key server does with the next request.
#[derive(Clone)]
enum Mood {
    Keys(Vec<&'static str>),
    Status(u16),
    Body(String),
    Redirect(String),
    /// Keys with other header fields.
    Fields(Vec<&'static str>, Vec<(header::HeaderName, &'static str)>),
    /// Keys where they were moved to, elsewhere a redirect to there.
    Moved(&'static str),
    /// This document at this path alone.
    Only(&'static str, String),
    /// Keys, after a while.
    Late(Vec<&'static str>),
    Silence,
}

struct KeyServer {
    server: Http1Server,
    mood: Arc<Mutex<Mood>>,
    fetches: Arc<AtomicU64>,
}

impl KeyServer {
    async fn start(mood: Mood) -> Self {
        let (mood, fetches) = (Arc::new(Mutex::new(mood)), Arc::new(AtomicU64::new(0)));
        let (now, seen) = (mood.clone(), fetches.clone());
        let server = Http1Server::start(house::loopback().await, move |request| {
            seen.fetch_add(1, Ordering::SeqCst);
            let mood = now.lock().unwrap().clone();
            respond(mood, request.uri().path().to_owned())
        });
        Self { server: server.unwrap(), mood, fetches }
    }

    fn become_(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    fn fetches(&self) -> u64 {
        self.fetches.load(Ordering::SeqCst)
    }

    fn url(&self) -> String {
        format!("http://{}/keys", self.server.address())
    }

    /// A gate that fetches its keys here, with settings of the issuer beside the usual ones.
    async fn house(&self, settings: &str) -> House {
        self.gate(&format!("jwks_uri: '{}', {settings}", self.url()), "https://issuer.example").await
    }

    async fn gate(&self, settings: &str, issuer: &str) -> House {
        gate(settings, issuer, policies()).await
    }

    /// The first of these in front of `upstream`.
    async fn house_before(&self, upstream: SocketAddr, settings: &str) -> House {
        let settings = format!("jwks_uri: '{}', {settings}", self.url());
        House::before(load(&settings, "https://issuer.example", policies()), &format!("http://{upstream}")).await
    }

    /// The same, with its files in this folder.
    async fn house_in(&self, folder: &Path, settings: &str) -> House {
        std::fs::create_dir_all(folder.join("policies")).unwrap();
        for name in ["policies/schema.cedarschema", "policies/users.cedar"] {
            std::fs::write(folder.join(name), house::repository(name)).unwrap();
        }
        let settings = format!("jwks_uri: '{}', {settings}", self.url());
        gate(&settings, "https://issuer.example", Files::disk(folder)).await
    }
}

fn policies() -> Files {
    let names = ["policies/schema.cedarschema", "policies/users.cedar"];
    let files = names.map(|name| (name, house::repository(name)));
    Files::memory(files.iter().map(|(name, text)| (*name, text.as_str())))
}

async fn gate(settings: &str, issuer: &str, files: Files) -> House {
    House::of(load(settings, issuer, files), house::NOW).await
}

fn load(settings: &str, issuer: &str, files: Files) -> Loaded {
    // Short, so that a server that keeps silent does not keep the test waiting.
    let patience = if settings.contains("fetch_timeout_ms") { "" } else { "fetch_timeout_ms: 300, " };
    let text = format!(
        "listen: 127.0.0.1:0\nupstream: {{ url: 'http://127.0.0.1:1' }}\nissuers:\n\
         \x20 - oidc_generic: {{ issuer: '{issuer}', audiences: [api], {patience}{settings} }}\nroutes:\n\
         \x20 - {{ methods: [GET], path: '/users/{{id}}/data', action: readOnly, resource: 'UserData::\"{{path.id}}\"', \
         attributes: {{ owner: 'User::\"{{path.id}}\"' }} }}\n"
    );
    config::parse("config.yaml".into(), text, files).unwrap_or_else(|error| panic!("{error}"))
}

fn key_set(names: &[&str]) -> String {
    json!({ "keys": names.iter().map(|name| house::key(name).jwk()).collect::<Vec<_>>() }).to_string()
}

async fn respond(mood: Mood, path: String) -> Response<Full<Bytes>> {
    let text = |status, body: String| answer(status, "application/json", body);
    match mood {
        Mood::Keys(names) => text(StatusCode::OK, key_set(&names)),
        Mood::Fields(names, fields) => {
            let mut response = text(StatusCode::OK, key_set(&names));
            for (name, value) in fields {
                response.headers_mut().insert(name, value.parse().unwrap());
            }
            response
        }
        Mood::Moved(to) if path == to => text(StatusCode::OK, key_set(&["agents"])),
        Mood::Moved(to) => redirect(to),
        Mood::Only(there, document) if path == there => text(StatusCode::OK, document),
        Mood::Only(..) => text(StatusCode::NOT_FOUND, String::new()),
        Mood::Status(status) => text(StatusCode::from_u16(status).unwrap(), "{\"keys\":[]}".into()),
        Mood::Body(body) => text(StatusCode::OK, body),
        Mood::Redirect(to) => redirect(&to),
        Mood::Late(names) => {
            tokio::time::sleep(Duration::from_millis(1_500)).await;
            text(StatusCode::OK, key_set(&names))
        }
        Mood::Silence => std::future::pending().await,
    }
}

fn redirect(to: &str) -> Response<Full<Bytes>> {
    let mut response = answer(StatusCode::FOUND, "application/json", String::new());
    response.headers_mut().insert(header::LOCATION, to.parse().unwrap());
    response
}

/// The scenario's claims, by the issuer of these tests.
fn claims() -> Value {
    let mut claims = house::claims();
    claims["iss"] = "https://issuer.example".into();
    claims["aud"] = "api".into();
    claims
}

fn token(key: &SigningKey, issuer: &str) -> String {
    let mut claims = house::claims();
    claims["iss"] = issuer.into();
    claims["aud"] = "api".into();
    key.sign(&claims).unwrap()
}

/// Status and code of the good call with a token of `key`.
async fn call(house: &mut House, key: &str) -> (u16, &'static str) {
    call_with(house, &token(house::key(key), "https://issuer.example")).await
}

async fn call_with(house: &mut House, token: &str) -> (u16, &'static str) {
    let fields = [("authorization".to_owned(), format!("Bearer {token}"))];
    let (answer, record) = house.ask(&wire::request("GET", "/users/user-1/data", &fields)).await;
    (answer.status, record.unwrap().code)
}

/// Asks until the answer is `wanted`, but not for ever.
async fn until(house: &mut House, key: &str, wanted: (u16, &'static str)) {
    let mut last = (0, "");
    for _ in 0..100 {
        last = call(house, key).await;
        if last == wanted {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("it stays at {last:?}, should become {wanted:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_without_keys_answers_503_stays_up_and_recovers_by_itself() {
    let server = KeyServer::start(Mood::Status(500)).await;
    let mut house = server.house("cooldown_s: 1").await;
    for mood in [
        Mood::Status(500),
        Mood::Status(404),
        Mood::Body("<html>".into()),
        Mood::Body(String::new()),
        Mood::Body(json!({ "keys": [] }).to_string()),
        Mood::Body(json!({ "keys": [{ "kty": "oct", "k": "c2VjcmV0", "kid": "agents/+=" }] }).to_string()),
        Mood::Body(format!("{{\"keys\":[{}]}}", " ".repeat(2 * 1024 * 1024))),
        Mood::Fields(vec!["agents"], vec![(header::CONTENT_TYPE, "text/html")]),
        Mood::Redirect("/keys".into()),
        Mood::Silence,
    ] {
        server.become_(mood);
        assert_eq!(call(&mut house, "agents").await, (503, "keys_unavailable"));
    }
    assert_eq!(house.service.received(), 0);
    let admin = house.app.admin_address();
    assert!(portcullis::server::probe::ready(admin).await.is_err());
    server.become_(Mood::Keys(vec!["agents"]));
    until(&mut house, "agents", (200, "allowed")).await;
    assert!(portcullis::server::probe::ready(admin).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_is_followed_on_the_same_server_only() {
    let elsewhere = KeyServer::start(Mood::Keys(vec!["agents"])).await;
    let server = KeyServer::start(Mood::Redirect(elsewhere.url())).await;
    let mut house = server.house("cooldown_s: 1").await;
    assert_eq!(call(&mut house, "agents").await, (503, "keys_unavailable"));
    assert_eq!(elsewhere.fetches(), 0);
    server.become_(Mood::Moved("/new/keys"));
    until(&mut house, "agents", (200, "allowed")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_fetched_again_as_soon_as_their_server_says_but_within_bounds() {
    let fresh = |age| Mood::Fields(vec!["agents"], vec![(header::CACHE_CONTROL, age)]);
    // As short as the cool-down, however short the server says.
    let server = KeyServer::start(fresh("max-age=0")).await;
    let _house = server.house("cooldown_s: 1, refresh_interval_s: 3600").await;
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    assert_eq!(server.fetches(), 3);
    // As long as the refresh interval, however long the server says.
    let server = KeyServer::start(fresh("max-age=31536000")).await;
    let _house = server.house("cooldown_s: 1, refresh_interval_s: 2").await;
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    assert_eq!(server.fetches(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_the_issuer_does_not_have_is_not_asked_for_again_and_again() {
    let server = KeyServer::start(Mood::Keys(vec!["agents"])).await;
    let mut house = server.house("cooldown_s: 1, unknown_key_s: 3600").await;
    until_fetched(&mut house, &server, 2).await;
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    assert_eq!(call(&mut house, "stranger").await, (401, "key_unknown"));
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(server.fetches(), 2, "this key was asked for before");
    let other =
        house::key("stranger").sign_text("{\"alg\":\"RS256\",\"kid\":\"another\"}", &claims().to_string()).unwrap();
    assert_eq!(call_with(&mut house, &other).await, (401, "key_unknown"));
    assert_eq!(server.fetches(), 3, "another was not");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_a_fetch_was_too_early_for_is_asked_for_again() {
    let server = KeyServer::start(Mood::Keys(vec!["agents"])).await;
    let mut house = server.house("cooldown_s: 1, unknown_key_s: 3600, fetch_timeout_ms: 5000").await;
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    server.become_(Mood::Late(vec!["agents"]));
    let address = house.app.address();
    let other = tokio::spawn(async move { wire::Answer::parse(&wire::send(address, &unknown_key("early-499")).await) });
    while server.fetches() < 2 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    server.become_(Mood::Keys(vec!["agents", "stranger"]));
    assert_eq!(call(&mut house, "stranger").await, (401, "key_unknown"));
    assert_eq!((other.await.unwrap().status, server.fetches()), (401, 2), "one fetch answered both");
    assert_eq!(house.record().await.unwrap().code, "key_unknown");
    until(&mut house, "stranger", (200, "allowed")).await;
    assert_eq!(server.fetches(), 3);
}

/// Presents tokens with an unknown key until the server has seen `fetches`.
async fn until_fetched(house: &mut House, server: &KeyServer, fetches: u64) {
    for _ in 0..100 {
        assert_eq!(call(house, "stranger").await, (401, "key_unknown"));
        if server.fetches() >= fetches {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("no further fetch");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_while_the_issuer_fails_serves_by_the_last_good_keys() {
    let server = KeyServer::start(Mood::Keys(vec!["agents"])).await;
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("keys-copy.json");
    let settings = format!("cooldown_s: 1, jwks_copy: '{}'", copy.display());
    let mut first = server.house_in(folder.path(), &settings).await;
    assert_eq!(call(&mut first, "agents").await, (200, "allowed"));
    let mut waited = 0;
    while !copy.exists() && waited < 50 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        waited += 1;
    }
    let folder_holds = std::fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(folder_holds, 2, "the policies and the copy, nothing half-written");
    drop(first);

    server.become_(Mood::Status(500));
    let mut second = server.house_in(folder.path(), &settings).await;
    assert_eq!(call(&mut second, "agents").await, (200, "allowed"));
    assert_eq!(call(&mut second, "stranger").await, (503, "keys_unavailable"));
    assert!(portcullis::server::probe::ready(second.app.admin_address()).await.is_ok());
    server.become_(Mood::Keys(vec!["stranger"]));
    until(&mut second, "agents", (401, "key_unknown")).await;
    drop(second);

    // Neither another issuer's copy, nor another place's, nor one too old or of the future, nor one that was spoilt.
    server.become_(Mood::Status(500));
    let good = std::fs::read_to_string(&copy).unwrap();
    assert_eq!(start_with(&server, &folder, &copy, &good, &settings).await, (200, "allowed"));
    for (text, settings) in [
        (good.replace("https://issuer.example", "https://other.example"), settings.clone()),
        (good.replace(&server.url(), "https://issuer.example/keys"), settings.clone()),
        (good.replace("2026-11-18T11:08:20", "2026-11-18T11:08:18"), format!("{settings}, stale_max_s: 2")),
        (good.replace("2026-11-18T11:08:20", "2026-11-18T11:08:21"), settings.clone()),
        (good.replace("kty", "kt"), settings.clone()),
        (String::new(), settings.clone()),
    ] {
        assert_ne!(text, good);
        let outcome = start_with(&server, &folder, &copy, &text, &settings).await;
        assert_eq!(outcome, (503, "keys_unavailable"), "{text} {settings}");
    }

    // What the issuer withdraws is withdrawn here too.
    std::fs::write(&copy, &good).unwrap();
    server.become_(Mood::Body(json!({ "keys": [] }).to_string()));
    let mut house = server.house_in(folder.path(), &settings).await;
    assert_eq!(call(&mut house, "stranger").await, (503, "keys_unavailable"));
    let mut waited = 0;
    while std::fs::read_to_string(&copy).unwrap().contains("kty") && waited < 50 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        waited += 1;
    }
    drop(house);
    server.become_(Mood::Status(500));
    let mut house = server.house_in(folder.path(), &settings).await;
    assert_eq!(call(&mut house, "stranger").await, (503, "keys_unavailable"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_withdrawn_does_not_come_back_from_a_copy_that_cannot_be_written() {
    let server = KeyServer::start(Mood::Keys(vec!["agents"])).await;
    let folder = tempfile::tempdir().unwrap();
    // So long a name that nothing can be written beside it, to be put in its place.
    let copy = folder.path().join("k".repeat(250));
    let kept = json!({
        "issuer": "https://issuer.example", "source": server.url(), "fetched": "2026-11-18T11:08:20Z",
        "keys": key_set(&["agents"]),
    });
    std::fs::write(&copy, kept.to_string()).unwrap();
    let settings = format!("cooldown_s: 1, refresh_interval_s: 1, jwks_copy: '{}'", copy.display());
    server.become_(Mood::Status(500));
    let mut house = server.house_in(folder.path(), &settings).await;
    assert_eq!(call(&mut house, "agents").await, (200, "allowed"), "the copy is a good one");
    server.become_(Mood::Body(json!({ "keys": [] }).to_string()));
    until(&mut house, "agents", (503, "keys_unavailable")).await;
    server.become_(Mood::Status(500));
    let failed = server.fetches() + 2;
    while server.fetches() < failed {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(call(&mut house, "agents").await, (503, "keys_unavailable"));
    assert_eq!(std::fs::read_to_string(&copy).unwrap(), kept.to_string());
}

/// What a gate says that starts with this copy of its issuer's keys.
async fn start_with(
    server: &KeyServer,
    folder: &tempfile::TempDir,
    copy: &Path,
    text: &str,
    settings: &str,
) -> (u16, &'static str) {
    std::fs::write(copy, text).unwrap();
    let mut house = server.house_in(folder.path(), settings).await;
    call(&mut house, "stranger").await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_without_keys_has_withdrawn_those_it_had() {
    for body in [json!({ "keys": [] }), json!({ "keys": [{ "kty": "oct", "k": "AA" }] })] {
        let server = KeyServer::start(Mood::Keys(vec!["agents"])).await;
        let mut house = server.house("cooldown_s: 1, refresh_interval_s: 1").await;
        assert_eq!(call(&mut house, "agents").await, (200, "allowed"));
        server.become_(Mood::Body(body.to_string()));
        until(&mut house, "agents", (503, "keys_unavailable")).await;
        server.become_(Mood::Keys(vec!["agents"]));
        until(&mut house, "agents", (200, "allowed")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_keys_in_another_order_disturb_nobody() {
    let server = KeyServer::start(Mood::Keys(vec!["agents", "stranger"])).await;
    let mut house = server.house("cooldown_s: 1, refresh_interval_s: 1").await;
    assert_eq!(call(&mut house, "agents").await, (200, "allowed"));
    server.become_(Mood::Keys(vec!["stranger", "agents"]));
    let before = server.fetches();
    while server.fetches() < before + 2 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let token = token(house::key("agents"), "https://issuer.example");
    let fields = [("authorization".to_owned(), format!("Bearer {token}"))];
    for _ in 0..2 {
        let (_, record) = house.ask(&wire::request("GET", "/users/user-1/data", &fields)).await;
        assert!(record.unwrap().token_cached, "nothing has to be verified again");
        let before = server.fetches();
        while server.fetches() == before {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn how_an_issuers_keys_fare_is_counted() {
    let server = KeyServer::start(Mood::Keys(vec!["agents"])).await;
    let mut house = server.house("cooldown_s: 1").await;
    assert_eq!(call(&mut house, "agents").await, (200, "allowed"));
    server.become_(Mood::Status(500));
    until(&mut house, "stranger", (503, "keys_unavailable")).await;
    let metrics = wire::send(house.app.admin_address(), &wire::request("GET", "/metrics", &[])).await;
    let metrics = String::from_utf8(metrics).unwrap();
    assert!(metrics.contains("portcullis_key_fetches_total{issuer=\"https://issuer.example\",outcome=\"good\"} 1"));
    assert!(metrics.contains("portcullis_keys_age_seconds{issuer=\"https://issuer.example\"} "));
    let failed = metrics.split("outcome=\"failed\"} ").nth(1).and_then(|rest| rest.lines().next()).unwrap();
    assert!(failed.parse::<u64>().unwrap() >= 1, "{failed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_key_is_fetched_when_a_token_names_it() {
    let server = KeyServer::start(Mood::Keys(vec!["agents"])).await;
    let mut house = server.house("cooldown_s: 1").await;
    assert_eq!(call(&mut house, "agents").await, (200, "allowed"));
    server.become_(Mood::Keys(vec!["agents", "stranger"]));
    until(&mut house, "stranger", (200, "allowed")).await;
    let token = token(house::key("stranger"), "https://issuer.example");
    let fields = [("authorization".to_owned(), format!("Bearer {token}"))];
    let (_, record) = house.ask(&wire::request("GET", "/users/user-1/data", &fields)).await;
    assert!(record.unwrap().token_cached, "verified by the keys that were fetched for it");
    assert_eq!(call(&mut house, "agents").await, (200, "allowed"));
    assert_eq!(server.fetches(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_tokens_with_random_keys_cost_one_fetch_in_a_cool_down() {
    let server = KeyServer::start(Mood::Keys(vec!["agents"])).await;
    let house = server.house("cooldown_s: 1, fetch_timeout_ms: 5000").await;
    let address = house.app.address();
    let started = std::time::Instant::now();
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..20 {
        clients.spawn(async move {
            let mut kept = wire::Kept::to(address).await;
            let mut refused = 0;
            for index in 0..500 {
                let answer = kept.ask(&unknown_key(&format!("random-{client}-{index}"))).await;
                refused += usize::from(answer.contains("HTTP/1.1 401 "));
            }
            refused
        });
    }
    assert_eq!(clients.join_all().await.iter().sum::<usize>(), 10_000);
    let cooldowns = started.elapsed().as_secs() + 1;
    println!("10,000 random keys in {:?}: {} fetches", started.elapsed(), server.fetches());
    assert!((1..=1 + cooldowns).contains(&server.fetches()), "{} fetches in {cooldowns} cool-downs", server.fetches());
}

/// A request, to be followed by others, whose token names this key. It needs no good signature to do so.
fn unknown_key(kid: &str) -> Vec<u8> {
    let part = |text: String| URL_SAFE_NO_PAD.encode(text);
    let header = json!({ "alg": "RS256", "kid": kid }).to_string();
    let token = format!("{}.{}.AAAA", part(header), part(claims().to_string()));
    let last = if kid.ends_with("-499") { "close" } else { "keep-alive" };
    format!("GET /users/user-1/data HTTP/1.1\r\nhost: a\r\nconnection: {last}\r\nauthorization: Bearer {token}\r\n\r\n")
        .into()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_fetch_serves_all_who_wait_for_it() {
    let server = KeyServer::start(Mood::Keys(vec!["agents"])).await;
    let house = server.house("cooldown_s: 1").await;
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    server.become_(Mood::Keys(vec!["stranger"]));
    let address = house.app.address();
    let token = token(house::key("stranger"), "https://issuer.example");
    let request = wire::request("GET", "/users/user-1/data", &[("authorization".into(), format!("Bearer {token}"))]);
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let request = request.clone();
        calls.spawn(async move { wire::Answer::parse(&wire::send(address, &request).await).status });
    }
    assert_eq!(calls.join_all().await, vec![200; 50]);
    assert_eq!(server.fetches(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_withdrawn_key_stops_verifying_even_tokens_that_are_known() {
    let server = KeyServer::start(Mood::Keys(vec!["agents", "stranger"])).await;
    let mut house = server.house("cooldown_s: 1, refresh_interval_s: 1").await;
    assert_eq!(call(&mut house, "agents").await, (200, "allowed"));
    server.become_(Mood::Keys(vec!["stranger"]));
    until(&mut house, "agents", (401, "key_unknown")).await;
    assert_eq!(call(&mut house, "stranger").await, (200, "allowed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_ends_with_the_key_of_its_token_and_with_no_other() {
    let server = KeyServer::start(Mood::Keys(vec!["agents"])).await;
    let (upstream, _) = upgrade::upstream(upgrade::SWITCHES).await;
    let mut house = server.house_before(upstream, "cooldown_s: 1, refresh_interval_s: 1").await;
    let token = token(house::key("agents"), "https://issuer.example");
    let mut stream = upgrade::tunnel_by(&house, &token).await;
    for (keys, passes) in [(vec!["stranger", "agents"], true), (vec!["stranger"], false)] {
        server.become_(Mood::Keys(keys));
        let changed = server.fetches() + 2;
        while server.fetches() < changed {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        stream.write_all(b"more").await.unwrap();
        assert_eq!(upgrade::next(&mut stream).await, if passes { &b"MORE"[..] } else { b"" });
    }
    assert_eq!(house.record().await.unwrap().code, "key_unknown");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_decided_before_an_issuers_keys_changed_is_decided_again() {
    let server = KeyServer::start(Mood::Keys(vec!["agents"])).await;
    let mut house = server.house("cooldown_s: 1, refresh_interval_s: 1").await;
    let token = token(house::key("agents"), "https://issuer.example");
    let fields = [("authorization".to_owned(), format!("Bearer {token}"))];
    let request = wire::request("GET", "/users/user-1/data", &fields);
    for cached in [false, false, true, true] {
        assert_eq!(house.ask(&request).await.1.unwrap().decision_cached, cached);
    }
    server.become_(Mood::Keys(vec!["agents", "stranger"]));
    let changed = server.fetches() + 2;
    while server.fetches() < changed {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for cached in [false, false, true] {
        assert_eq!(house.ask(&request).await.1.unwrap().decision_cached, cached);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_fetching_fails_the_last_good_keys_serve_and_unknown_ones_are_503() {
    let server = KeyServer::start(Mood::Keys(vec!["agents"])).await;
    let mut house = server.house("cooldown_s: 1, refresh_interval_s: 1, stale_max_s: 4").await;
    assert_eq!(call(&mut house, "agents").await, (200, "allowed"));
    server.become_(Mood::Status(500));
    until(&mut house, "stranger", (503, "keys_unavailable")).await;
    assert_eq!(call(&mut house, "agents").await, (200, "allowed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_that_keeps_keys_otherwise_keeps_those_there_are() {
    let server = KeyServer::start(Mood::Keys(vec!["agents"])).await;
    let folder = reload::folder();
    let config = |settings: &str| {
        let from = format!("jwks_uri: '{}', fetch_timeout_ms: 300, cooldown_s: 1, {settings}", server.url());
        reload::CONFIG.replace("jwks_file: keys.json", &from)
    };
    let mut house = House::following(folder.path(), &config("stale_max_s: 3600")).await;
    assert_eq!(call(&mut house, "agents").await, (200, "allowed"));
    let upstream = format!("http://{}", house.service.address());
    let becomes = |settings: &str| {
        let text = config(settings).replace("UPSTREAM", &upstream);
        reload::put(folder.path(), "config.yaml", &text);
    };
    server.become_(Mood::Status(500));
    becomes("stale_max_s: 7200");
    assert_eq!(reload::reloads(&house, 1).await, (1, 0, false));
    assert_eq!(call(&mut house, "agents").await, (200, "allowed"));
    // They are no younger for that.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    becomes("stale_max_s: 1");
    assert_eq!(reload::reloads(&house, 2).await, (2, 0, false));
    until(&mut house, "agents", (503, "keys_unavailable")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_older_than_allowed_do_not_serve() {
    let server = KeyServer::start(Mood::Keys(vec!["agents"])).await;
    let mut house = server.house("cooldown_s: 1, refresh_interval_s: 1, stale_max_s: 2").await;
    assert_eq!(call(&mut house, "agents").await, (200, "allowed"));
    server.become_(Mood::Status(500));
    until(&mut house, "agents", (503, "keys_unavailable")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_issuer_costs_no_fetch() {
    let server = KeyServer::start(Mood::Keys(vec!["agents"])).await;
    let mut house = server.house("cooldown_s: 1").await;
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let token = token(house::key("stranger"), &format!("http://{}", server.server.address()));
    assert_eq!(call_with(&mut house, &token).await, (401, "issuer_unknown"));
    assert_eq!(server.fetches(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_jwks_uri_the_keys_are_discovered_at_the_issuer_itself() {
    let keys = KeyServer::start(Mood::Keys(vec!["agents"])).await;
    let metadata = KeyServer::start(Mood::Status(500)).await;
    let issuer = format!("http://{}", metadata.server.address());
    metadata.become_(Mood::Body(json!({ "issuer": issuer, "jwks_uri": keys.url() }).to_string()));
    let mut house = metadata.gate("cooldown_s: 1", &issuer).await;
    assert_eq!(call_with(&mut house, &token(house::key("agents"), &issuer)).await, (200, "allowed"));
    assert_eq!((metadata.fetches(), keys.fetches()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_discovered_by_rfc_8414_where_openid_connect_has_nothing() {
    let keys = KeyServer::start(Mood::Keys(vec!["agents"])).await;
    let metadata = KeyServer::start(Mood::Status(500)).await;
    let issuer = format!("http://{}/tenant", metadata.server.address());
    let document = json!({ "issuer": issuer, "jwks_uri": keys.url() }).to_string();
    metadata.become_(Mood::Only("/.well-known/oauth-authorization-server/tenant", document));
    let mut house = metadata.gate("cooldown_s: 1", &issuer).await;
    assert_eq!(call_with(&mut house, &token(house::key("agents"), &issuer)).await, (200, "allowed"));
    assert_eq!((metadata.fetches(), keys.fetches()), (2, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_of_another_issuer_or_with_keys_over_plain_http_is_refused() {
    let keys = KeyServer::start(Mood::Keys(vec!["agents"])).await;
    let metadata = KeyServer::start(Mood::Status(500)).await;
    let issuer = format!("http://{}", metadata.server.address());
    let mut house = metadata.gate("cooldown_s: 1", &issuer).await;
    for document in [
        json!({ "issuer": "https://other.example", "jwks_uri": keys.url() }),
        json!({ "issuer": format!("{issuer}/"), "jwks_uri": keys.url() }),
        json!({ "jwks_uri": keys.url() }),
        json!({ "issuer": issuer, "jwks_uri": "http://issuer.example/keys" }),
        json!({ "issuer": issuer, "jwks_uri": "file:///etc/passwd" }),
        json!({ "issuer": issuer }),
        json!([]),
    ] {
        metadata.become_(Mood::Body(document.to_string()));
        let before = metadata.fetches();
        while metadata.fetches() == before {
            assert_eq!(call_with(&mut house, &token(house::key("agents"), &issuer)).await, (503, "keys_unavailable"));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    assert_eq!(keys.fetches(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_fetched_from_where_a_token_says() {
    let server = KeyServer::start(Mood::Keys(vec!["agents"])).await;
    let elsewhere = KeyServer::start(Mood::Keys(vec!["stranger"])).await;
    let mut house = server.house("cooldown_s: 1").await;
    let stranger = house::key("stranger");
    for parameter in ["jku", "x5u", "iss", "issuer"] {
        let mut header = stranger.header();
        header[parameter] = elsewhere.url().into();
        let token = stranger.sign_text(&header.to_string(), &claims().to_string()).unwrap();
        assert_eq!(call_with(&mut house, &token).await, (401, "key_unknown"), "{parameter}");
    }
    for claim in ["jku", "jwks_uri", "x5u"] {
        let mut claims = claims();
        claims[claim] = elsewhere.url().into();
        assert_eq!(call_with(&mut house, &stranger.sign(&claims).unwrap()).await, (401, "key_unknown"), "{claim}");
    }
    assert_eq!(elsewhere.fetches(), 0);
}

/// A gate with so many issuers whose key servers fail was once crashed by callers that went away (CVE-2025-64527).
#[tokio::test(flavor = "multi_thread")]
async fn callers_that_go_away_while_fetches_fail_disturb_nobody() {
    let (silent, failing) = (KeyServer::start(Mood::Silence).await, KeyServer::start(Mood::Status(500)).await);
    let good = KeyServer::start(Mood::Keys(vec!["agents"])).await;
    let more: String = (0..8)
        .map(|index| {
            let url = if index % 2 == 0 { silent.url() } else { failing.url() };
            format!(
                " }}\n  - oidc_generic: {{ issuer: 'https://issuer-{index}.example', audiences: [api], jwks_uri: '{url}', \
                 cooldown_s: 1, fetch_timeout_ms: 300, agent_id_prefix: a{index}, user_id_prefix: u{index}"
            )
        })
        .collect();
    let mut house = good.house(&format!("cooldown_s: 1, agent_id_prefix: a, user_id_prefix: u{more}")).await;
    let address = house.app.address();
    let mut callers = tokio::task::JoinSet::new();
    for index in 0..160 {
        let token = token(house::key("agents"), &format!("https://issuer-{}.example", index % 8));
        let fields = [("authorization".to_owned(), format!("Bearer {token}"))];
        let request = wire::request("GET", "/users/user-1/data", &fields);
        callers.spawn(async move {
            // Every other one does not wait for its answer.
            let patience = Duration::from_millis(if index % 2 == 0 { 5 } else { 3_000 });
            tokio::time::timeout(patience, wire::send(address, &request))
                .await
                .map(|answer| wire::Answer::parse(&answer).status)
        });
    }
    let statuses = callers.join_all().await;
    assert!(statuses.iter().flatten().all(|status| *status == 503), "{statuses:?}");
    assert!(statuses.iter().flatten().count() >= 80);
    while house.record().await.is_some() {}
    // The user's prefix is another here, so the policy says no, but the token is believed.
    assert_eq!(call(&mut house, "agents").await, (403, "access_denied"));
}
