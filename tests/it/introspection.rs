//! Opaque tokens, against an issuer that is asked and does not always answer well.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use portcullis::{
    base::files::Files,
    config::{self, Loaded},
    server::http1::{Http1Server, answer},
};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use crate::{
    house::{self, House, NOW},
    proof, upgrade, wire,
};

/// What the issuer does with a question.
#[derive(Clone)]
enum Mood {
    /// Says so of every token.
    Says(Value),
    Answers(u16, &'static str, &'static str),
    Redirects,
    Silence,
}

/// A question as it came.
struct Question {
    authorization: String,
    form: HashMap<String, String>,
}

struct Issuer {
    server: Http1Server,
    mood: Arc<Mutex<Mood>>,
    asked: Arc<Mutex<Vec<Question>>>,
}

impl Issuer {
    async fn start(mood: Mood) -> Self {
        let (mood, asked) = (Arc::new(Mutex::new(mood)), Arc::new(Mutex::new(Vec::new())));
        let (now, seen) = (mood.clone(), asked.clone());
        let server = Http1Server::start(house::loopback().await, move |request| {
            let (mood, seen) = (now.lock().unwrap().clone(), seen.clone());
            async move {
                let question = Question::read(request).await;
                seen.lock().unwrap().push(question);
                respond(mood).await
            }
        });
        Self { server: server.unwrap(), mood, asked }
    }

    fn become_(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    fn questions(&self) -> usize {
        self.asked.lock().unwrap().len()
    }

    /// An entry of `issuers` that asks here.
    fn entry(&self, settings: &str) -> String {
        format!(
            "introspection: {{ issuer: 'https://issuer.example', introspection_uri: 'http://{}/ask', client_id: 'ga:te', \
             fetch_timeout_ms: 300, {settings} }}",
            self.server.address()
        )
    }
}

impl Question {
    async fn read(request: Request<Incoming>) -> Self {
        assert_eq!((request.method().as_str(), request.uri().path()), ("POST", "/ask"));
        assert_eq!(request.headers()[header::CONTENT_TYPE], "application/x-www-form-urlencoded");
        let authorization = request.headers().get(header::AUTHORIZATION).map(|it| it.to_str().unwrap().to_owned());
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let form = url::form_urlencoded::parse(&body).into_owned().collect();
        Self { authorization: authorization.unwrap_or_default(), form }
    }
}

async fn respond(mood: Mood) -> Response<Full<Bytes>> {
    match mood {
        Mood::Says(claims) => answer(StatusCode::OK, "application/json", claims.to_string()),
        Mood::Answers(status, kind, body) => answer(StatusCode::from_u16(status).unwrap(), kind, body),
        Mood::Redirects => {
            let mut response = answer(StatusCode::FOUND, "application/json", "");
            response.headers_mut().insert(header::LOCATION, "/ask".parse().unwrap());
            response
        }
        Mood::Silence => std::future::pending().await,
    }
}

/// What an issuer says of a good token: neither `sub` nor `jti`, as for client credentials.
fn active() -> Value {
    json!({
        "active": true, "token_type": "Bearer", "client_id": "1example23456789", "aud": "api", "iat": NOW - 10, "exp": NOW + 600,
        "iss": "https://issuer.example", "scope": "crossDomainService/read", "callerApp": "ExampleChatApplication",
        "onBehalfOf": { "sub": "user-1", "username": "jane", "groups": [] },
    })
}

fn active_with(name: &str, value: Value) -> Mood {
    let mut claims = active();
    if value.is_null() {
        claims.as_object_mut().unwrap().remove(name);
    } else {
        claims[name] = value;
    }
    Mood::Says(claims)
}

const SECRET: &str = "audiences: [api], client_secret: { file: secret }";

async fn gate(entries: &[String]) -> House {
    House::of(load(entries), NOW).await
}

fn load(entries: &[String]) -> Loaded {
    let list: String = entries.iter().map(|entry| format!("  - {entry}\n")).collect();
    let text = format!(
        "listen: 127.0.0.1:0\norigins: ['{}']\nupstream: {{ url: 'http://127.0.0.1:1' }}\nissuers:\n{list}routes:\n\
         \x20 - {{ methods: [GET], path: '/users/{{id}}/data', action: readOnly, resource: 'UserData::\"{{path.id}}\"', \
         attributes: {{ owner: 'User::\"{{path.id}}\"' }} }}\n",
        proof::ORIGIN
    );
    let keys = json!({ "keys": [house::key("agents").jwk()] }).to_string();
    let names = ["policies/schema.cedarschema", "policies/users.cedar"];
    let policies = names.map(|name| (name, house::repository(name)));
    let more = [("secret", "s3/cr:et\n".to_owned()), ("keys.json", keys), ("key.pem", private_key())];
    let files = policies.iter().chain(&more);
    let files = Files::memory(files.map(|(name, text)| (*name, text.as_str())));
    config::parse("config.yaml".into(), text, files).unwrap_or_else(|error| panic!("{error}"))
}

fn private_key() -> String {
    let arguments = ["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"];
    let made = std::process::Command::new("openssl").args(arguments).output().unwrap();
    String::from_utf8(made.stdout).unwrap()
}

async fn call(house: &mut House, token: &str) -> (u16, &'static str) {
    let fields = [("authorization".to_owned(), format!("Bearer {token}"))];
    let (answer, record) = house.ask(&wire::request("GET", "/users/user-1/data", &fields)).await;
    (answer.status, record.unwrap().code)
}

/// Waits for a reload, but not for ever.
async fn becomes(house: &mut House, token: &str, wanted: (u16, &str)) {
    let start = std::time::Instant::now();
    while call(house, token).await != wanted {
        assert!(start.elapsed() < Duration::from_secs(20), "it does not become {wanted:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_active_token_is_asked_about_once_and_let_in() {
    let issuer = Issuer::start(Mood::Says(active())).await;
    let mut house = gate(&[issuer.entry(SECRET)]).await;
    for _ in 0..5 {
        assert_eq!(call(&mut house, "opaque/token+1").await, (200, "allowed"));
    }
    assert_eq!(issuer.questions(), 1);
    let asked = issuer.asked.lock().unwrap();
    assert_eq!(asked[0].form["token"], "opaque/token+1");
    assert_eq!(asked[0].form["token_type_hint"], "access_token");
    let basic = STANDARD.decode(asked[0].authorization.strip_prefix("Basic ").unwrap()).unwrap();
    assert_eq!(String::from_utf8(basic).unwrap(), "ga%3Ate:s3%2Fcr%3Aet");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_by_a_token_without_an_end_ends_with_the_answer_about_it() {
    let issuer = Issuer::start(active_with("exp", json!(null))).await;
    let (upstream, _) = upgrade::upstream(upgrade::SWITCHES).await;
    let mut house = House::before(load(&[issuer.entry(SECRET)]), &format!("http://{upstream}")).await;
    let mut stream = upgrade::tunnel_by(&house, "opaque").await;
    // `cache_max_s` and `leeway_s` are 60 and 10.
    for (now, passes) in [(NOW + 69, true), (NOW + 70, false)] {
        house.at(now);
        stream.write_all(b"more").await.unwrap();
        assert_eq!(upgrade::next(&mut stream).await, if passes { &b"MORE"[..] } else { b"" });
    }
    assert_eq!(house.record().await.unwrap().code, "token_expired");
    assert_eq!(issuer.questions(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_outlives_a_reload_until_its_issuers_rules_change() {
    let issuer = Issuer::start(Mood::Says(active())).await;
    let folder = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    std::fs::create_dir(folder.path().join("policies")).unwrap();
    for name in ["policies/schema.cedarschema", "policies/users.cedar"] {
        put(name, &house::repository(name));
    }
    put("secret", "s3cret");
    let config = format!(
        "listen: 127.0.0.1:0\nadmin: 127.0.0.1:0\nupstream: {{ url: UPSTREAM }}\nissuers:\n  - {}\nroutes:\n\
         \x20 - {{ methods: [GET], path: '/users/{{id}}/data', action: readOnly, resource: 'UserData::\"{{path.id}}\"', \
         attributes: {{ owner: 'User::\"{{path.id}}\"' }} }}\n",
        issuer.entry(SECRET)
    );
    let mut house = House::following(folder.path(), &config).await;
    assert_eq!(call(&mut house, "a").await, (200, "allowed"));
    put("policies/stop.cedar", "@id(\"stop\") forbid (principal, action, resource);");
    becomes(&mut house, "a", (403, "access_denied")).await;
    assert_eq!(issuer.questions(), 1, "the token is known, whatever the policies say now");
    put("policies/stop.cedar", "");
    put("secret", "another");
    becomes(&mut house, "a", (200, "allowed")).await;
    assert_eq!(issuer.questions(), 2, "asked anew by who now is another to the issuer");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_of_a_token_is_checked_like_claims_that_were_signed() {
    let issuer = Issuer::start(Mood::Silence).await;
    let mut house = gate(&[issuer.entry(SECRET)]).await;
    let cases = [
        (active_with("active", json!(false)), (401, "token_inactive")),
        (active_with("exp", json!(NOW - 60)), (401, "token_expired")),
        (active_with("exp", json!("soon")), (401, "token_malformed")),
        (active_with("exp", json!(null)), (200, "allowed")),
        (active_with("nbf", json!(NOW + 60)), (401, "token_early")),
        (active_with("aud", json!("other")), (401, "audience_wrong")),
        (active_with("aud", json!(null)), (401, "audience_wrong")),
        (active_with("iss", json!("https://other.example")), (401, "issuer_unknown")),
        (active_with("iss", json!(null)), (200, "allowed")),
        (active_with("client_id", json!(null)), (401, "client_refused")),
        (active_with("token_type", json!("bearer")), (200, "allowed")),
        (active_with("token_type", json!("DPoP")), (401, "binding_unchecked")),
        (active_with("token_type", json!("refresh_token")), (401, "token_use_wrong")),
        (active_with("token_type", json!(null)), (401, "token_use_wrong")),
        (active_with("token_use", json!("refresh_token")), (401, "token_use_wrong")),
        (active_with("token_use", json!("access_token")), (200, "allowed")),
        (active_with("scope", json!("other")), (403, "access_denied")),
        (active_with("onBehalfOf", json!({ "sub": "user-2" })), (403, "access_denied")),
        (active_with("cnf", json!({ "jkt": "x" })), (401, "binding_unchecked")),
    ];
    for (number, (mood, wanted)) in cases.into_iter().enumerate() {
        issuer.become_(mood);
        assert_eq!(call(&mut house, &format!("token-{number}")).await, wanted, "case {number}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_clear_answer_the_token_is_neither_believed_nor_called_false() {
    let issuer = Issuer::start(Mood::Silence).await;
    let mut house = gate(&[issuer.entry(SECRET)]).await;
    for mood in [
        Mood::Silence,
        Mood::Redirects,
        Mood::Answers(500, "application/json", "{\"active\":true}"),
        Mood::Answers(401, "application/json", "{\"error\":\"invalid_client\"}"),
        Mood::Answers(400, "application/json", "{\"active\":true}"),
        Mood::Answers(200, "text/html", "{\"active\":true}"),
        Mood::Answers(200, "application/json", "{\"active\":true,\"active\":false}"),
        Mood::Answers(200, "application/json", "{\"active\":\"true\"}"),
        Mood::Answers(200, "application/json", "{}"),
        Mood::Answers(200, "application/json", "[true]"),
        Mood::Answers(200, "application/json", ""),
    ] {
        issuer.become_(mood);
        assert_eq!(call(&mut house, "opaque").await, (503, "introspection_unavailable"));
    }
    issuer.become_(Mood::Says(active()));
    assert_eq!(call(&mut house, "opaque").await, (200, "allowed"));
    let metrics = wire::send(house.app.admin_address(), &wire::request("GET", "/metrics", &[])).await;
    let metrics = String::from_utf8(metrics).unwrap();
    for (outcome, count) in [("active", 1), ("inactive", 0), ("failed", 11)] {
        let line = format!(
            "portcullis_introspections_total{{issuer=\"https://issuer.example\",outcome=\"{outcome}\"}} {count}"
        );
        assert!(metrics.contains(&line), "{line} is not in\n{metrics}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_serves_for_its_time_and_no_longer() {
    let issuer = Issuer::start(Mood::Says(active())).await;
    let mut house = gate(&[issuer.entry(&format!("{SECRET}, cache_max_s: 30"))]).await;
    assert_eq!(call(&mut house, "opaque").await, (200, "allowed"));
    issuer.become_(active_with("active", json!(false)));
    house.at(NOW + 29);
    assert_eq!(call(&mut house, "opaque").await, (200, "allowed"));
    house.at(NOW + 30);
    assert_eq!(call(&mut house, "opaque").await, (401, "token_inactive"));
    assert_eq!(call(&mut house, "opaque").await, (401, "token_inactive"));
    assert_eq!(issuer.questions(), 2, "that a token is of no use is remembered too");
    // No longer than the token itself.
    issuer.become_(active_with("exp", json!(NOW + 35)));
    assert_eq!(call(&mut house, "other").await, (200, "allowed"));
    house.at(NOW + 46);
    issuer.become_(active_with("exp", json!(NOW + 35)));
    assert_eq!(call(&mut house, "other").await, (401, "token_expired"));
}

#[tokio::test(flavor = "multi_thread")]
async fn first_uses_at_once_are_one_question_and_a_flood_is_bounded() {
    let issuer = Issuer::start(Mood::Says(active())).await;
    let house = gate(&[issuer.entry(&format!("{SECRET}, questions_max: 2"))]).await;
    let address = house.app.address();
    let ask = move |token: String| async move {
        let fields = [("authorization".to_owned(), format!("Bearer {token}"))];
        let request = wire::request("GET", "/users/user-1/data", &fields);
        wire::Answer::parse(&wire::send(address, &request).await).status
    };
    let mut calls = tokio::task::JoinSet::new();
    (0..50).for_each(|_| drop(calls.spawn(ask("same".into()))));
    assert_eq!(calls.join_all().await, vec![200; 50]);
    assert_eq!(issuer.questions(), 1);

    issuer.become_(Mood::Silence);
    let mut calls = tokio::task::JoinSet::new();
    (0..50).for_each(|number| drop(calls.spawn(ask(format!("random-{number}")))));
    assert_eq!(calls.join_all().await, vec![503; 50]);
    tokio::time::sleep(Duration::from_millis(400)).await;
    // Two questions take the time in which the others wait for a place.
    assert!(issuer.questions() <= 1 + 4, "{} questions", issuer.questions());
    issuer.become_(Mood::Says(active()));
    assert_eq!(ask("after".into()).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_strange_tokens_does_not_hold_up_those_that_were_good() {
    let issuer = Issuer::start(Mood::Says(active())).await;
    let entry = issuer.entry(&format!("{SECRET}, questions_max: 2, cache_max_s: 30"));
    let mut house = gate(&[entry.replace("fetch_timeout_ms: 300", "fetch_timeout_ms: 5000")]).await;
    assert_eq!(call(&mut house, "good").await, (200, "allowed"));
    house.at(NOW + 31);
    // Strange tokens take their places and do not give them back for a while.
    issuer.become_(Mood::Silence);
    let address = house.app.address();
    let strangers: Vec<_> = (0..6)
        .map(|number| {
            let fields = [("authorization".to_owned(), format!("Bearer strange-{number}"))];
            let request = wire::request("GET", "/users/user-1/data", &fields);
            tokio::spawn(async move { wire::send(address, &request).await })
        })
        .collect();
    while issuer.questions() < 3 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    issuer.become_(Mood::Says(active()));
    let asked = std::time::Instant::now();
    let token = [("authorization".to_owned(), "Bearer good".to_owned())];
    let answer = wire::send(address, &wire::request("GET", "/users/user-1/data", &token)).await;
    assert_eq!(wire::Answer::parse(&answer).status, 200);
    assert!(asked.elapsed() < Duration::from_secs(4), "it waited for the strangers");
    strangers.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_active_and_will_not_do_is_not_asked_about_again_and_again() {
    let issuer = Issuer::start(active_with("aud", json!("other"))).await;
    let mut house = gate(&[issuer.entry(SECRET)]).await;
    for _ in 0..5 {
        assert_eq!(call(&mut house, "opaque").await, (401, "audience_wrong"));
    }
    assert_eq!(issuer.questions(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_token_is_shown_only_to_the_issuer_whose_it_is() {
    let (first, second) = (Issuer::start(Mood::Says(active())).await, Issuer::start(Mood::Says(active())).await);
    let signing =
        "oidc_generic: { issuer: 'https://issuer.example', audiences: [api], jwks_file: keys.json }".to_owned();
    let marked = second.entry(&format!("{SECRET}, token_prefix: opq_"));
    let mut house = gate(&[signing, first.entry(SECRET), marked]).await;
    let mut claims = house::claims();
    (claims["iss"], claims["aud"]) = ("https://issuer.example".into(), "api".into());
    let signed = house::key("agents").sign(&claims).unwrap();
    assert_eq!(call(&mut house, &signed).await, (200, "allowed"));
    let tampered = format!("{}AAAA", &signed[..signed.len() - 4]);
    assert_eq!(call(&mut house, &tampered).await, (401, "signature_invalid"));
    assert_eq!((first.questions(), second.questions()), (0, 0), "a JWT is shown to nobody");
    assert_eq!(call(&mut house, "anything").await, (200, "allowed"));
    assert_eq!(call(&mut house, "a.b.c.d").await, (200, "allowed"));
    assert_eq!((first.questions(), second.questions()), (2, 0));
    assert_eq!(call(&mut house, "opq_x").await, (200, "allowed"));
    assert_eq!((first.questions(), second.questions()), (2, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_issuer_that_takes_the_rest_a_token_of_no_kind_is_malformed() {
    let issuer = Issuer::start(Mood::Says(active())).await;
    let mut house = gate(&[issuer.entry(&format!("{SECRET}, token_prefix: opq_"))]).await;
    assert_eq!(call(&mut house, "anything").await, (401, "token_malformed"));
    assert_eq!(issuer.questions(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_opaque_token_may_be_bound_to_a_key() {
    let issuer = Issuer::start(Mood::Silence).await;
    let mut bound = active();
    bound["token_type"] = "DPoP".into();
    bound["cnf"] = json!({ "jkt": proof::thumbprint(house::key("holder")) });
    issuer.become_(Mood::Says(bound));
    let mut house = gate(&[issuer.entry(&format!("{SECRET}, dpop: accepted"))]).await;
    let fields = |scheme: &str| {
        let proof = proof::Proof::default().fields("GET", "/users/user-1/data", "opaque");
        [proof, vec![("authorization".to_owned(), format!("{scheme} opaque"))]].concat()
    };
    for (scheme, wanted) in [("DPoP", "allowed"), ("Bearer", "binding_unchecked"), ("DPoP", "allowed")] {
        let (_, record) = house.ask(&wire::request("GET", "/users/user-1/data", &fields(scheme))).await;
        assert_eq!(record.unwrap().code, wanted);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gate_may_show_who_it_is_by_a_key() {
    let issuer = Issuer::start(Mood::Says(active())).await;
    let mut house = gate(&[issuer.entry("audiences: [api], private_key: { file: key.pem }, private_key_id: k1")]).await;
    assert_eq!(call(&mut house, "opaque").await, (200, "allowed"));
    let asked = issuer.asked.lock().unwrap();
    assert_eq!(asked[0].authorization, "");
    assert_eq!(asked[0].form["client_id"], "ga:te");
    assert_eq!(asked[0].form["client_assertion"].split('.').count(), 3);
}
