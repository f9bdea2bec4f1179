//! Key rings against key servers that misbehave, with the fetches they saw.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Response, StatusCode, header};
use http_body_util::Full;
use portcullis::{
    base::files::Files,
    config,
    demo::keys::SigningKey,
    server::http1::{Http1Server, answer},
};
use serde_json::json;

use crate::{
    house::{self, House},
    wire,
};

/// What a key server does with the next request.
#[derive(Clone)]
enum Mood {
    Keys(Vec<&'static str>),
    Status(u16),
    Body(String),
    Redirect(String),
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
        let server = Http1Server::start(house::loopback().await, move |_| {
            seen.fetch_add(1, Ordering::SeqCst);
            let mood = now.lock().unwrap().clone();
            respond(mood)
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
        let text = format!(
            "listen: 127.0.0.1:0\nupstream: {{ url: 'http://127.0.0.1:1' }}\nissuers:\n\
             \x20 - oidc_generic: {{ issuer: '{issuer}', audiences: [api], fetch_timeout_ms: 300, {settings} }}\nroutes:\n\
             \x20 - {{ methods: [GET], path: '/users/{{id}}/data', action: readOnly, resource: 'UserData::\"{{path.id}}\"', \
             attributes: {{ owner: 'User::\"{{path.id}}\"' }} }}\n"
        );
        let names = ["policies/schema.cedarschema", "policies/users.cedar"];
        let files = names.map(|name| (name, house::repository(name)));
        let files = Files::memory(files.iter().map(|(name, text)| (*name, text.as_str())));
        let loaded = config::parse("config.yaml".into(), text, files).unwrap_or_else(|error| panic!("{error}"));
        House::of(loaded, house::NOW).await
    }
}

async fn respond(mood: Mood) -> Response<Full<Bytes>> {
    let text = |status, body: String| answer(status, "application/json", body);
    match mood {
        Mood::Keys(names) => {
            let keys: Vec<_> = names.iter().map(|name| house::key(name).jwk()).collect();
            text(StatusCode::OK, json!({ "keys": keys }).to_string())
        }
        Mood::Status(status) => text(StatusCode::from_u16(status).unwrap(), "{\"keys\":[]}".into()),
        Mood::Body(body) => text(StatusCode::OK, body),
        Mood::Redirect(to) => {
            let mut response = text(StatusCode::FOUND, String::new());
            response.headers_mut().insert(header::LOCATION, to.parse().unwrap());
            response
        }
        Mood::Silence => std::future::pending().await,
    }
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
async fn a_redirect_is_not_followed() {
    let elsewhere = KeyServer::start(Mood::Keys(vec!["agents"])).await;
    let server = KeyServer::start(Mood::Redirect(elsewhere.url())).await;
    let mut house = server.house("cooldown_s: 1").await;
    assert_eq!(call(&mut house, "agents").await, (503, "keys_unavailable"));
    assert_eq!(elsewhere.fetches(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_key_is_fetched_when_a_token_names_it() {
    let server = KeyServer::start(Mood::Keys(vec!["agents"])).await;
    let mut house = server.house("cooldown_s: 1").await;
    assert_eq!(call(&mut house, "agents").await, (200, "allowed"));
    server.become_(Mood::Keys(vec!["agents", "stranger"]));
    until(&mut house, "stranger", (200, "allowed")).await;
    assert_eq!(call(&mut house, "agents").await, (200, "allowed"));
    assert_eq!(server.fetches(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_tokens_with_unknown_keys_cost_one_fetch() {
    let server = KeyServer::start(Mood::Keys(vec!["agents"])).await;
    let house = server.house("cooldown_s: 3600").await;
    let address = house.app.address();
    let mut calls = tokio::task::JoinSet::new();
    for index in 0..200 {
        let key = house::key("stranger");
        let header = json!({ "alg": "RS256", "kid": format!("random-{index}") }).to_string();
        let payload = house::claims()
            .to_string()
            .replace("https://cognito-idp.us-east-1.amazonaws.com/us-east-1_agents", "https://issuer.example");
        let token = key.sign_text(&header, &payload).unwrap();
        let fields = [("authorization".to_owned(), format!("Bearer {token}"))];
        let request = wire::request("GET", "/users/user-1/data", &fields);
        calls.spawn(async move { wire::Answer::parse(&wire::send(address, &request).await).status });
    }
    let statuses = calls.join_all().await;
    assert_eq!(statuses, vec![401; 200]);
    assert_eq!(server.fetches(), 1, "the first fetch was a moment ago, so none is due");
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
async fn while_fetching_fails_the_last_good_keys_serve_and_unknown_ones_are_503() {
    let server = KeyServer::start(Mood::Keys(vec!["agents"])).await;
    let mut house = server.house("cooldown_s: 1, refresh_interval_s: 1, stale_max_s: 4").await;
    assert_eq!(call(&mut house, "agents").await, (200, "allowed"));
    server.become_(Mood::Status(500));
    until(&mut house, "stranger", (503, "keys_unavailable")).await;
    assert_eq!(call(&mut house, "agents").await, (200, "allowed"));
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
