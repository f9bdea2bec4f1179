//! Assertions for the upstream: what they say, what they hold for, and that nothing else comes by their name.

use std::net::SocketAddr;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use portcullis::base::{
    digest::sha256,
    signing::{PublicKey, SigningKey},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
};

use crate::{
    h2::{self, Client},
    house::{self, House, NOW, ROUTES, bearer, claims},
    wire,
};

/// The keys of RFC 8032 section 7.1, and another.
pub(crate) const PRIVATE: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n-----END PRIVATE KEY-----\n";
const PUBLIC: &str = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n-----END PUBLIC KEY-----\n";
const OTHER: &str = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAPUAXw+hDiVqStwqnTRt+vJyYLM8uxJaMwM1V8Sr0Zgw=\n-----END PUBLIC KEY-----\n";

/// The usual routes, with assertions that have these settings too.
pub(crate) fn config(settings: &str) -> String {
    let assertion = format!(
        "identity: {{ assertion: {{ issuer: 'https://gate.example', signing_key: {{ file: signing.pem }}, {settings} }} }}\n"
    );
    ROUTES.replace("127.0.0.1:1' }", "127.0.0.1:1', audience: 'https://users.example' }") + &assertion
}

pub(crate) fn keys() -> Vec<(String, String)> {
    [("signing.pem", PRIVATE), ("other.pem", OTHER), ("own.pem", PUBLIC)]
        .map(|(name, pem)| (name.into(), pem.into()))
        .into()
}

/// What an upstream got: the head, and the body as it was framed.
pub(crate) struct Got {
    head: String,
    body: Vec<u8>,
}

impl Got {
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        let fields = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        fields.filter(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value).collect()
    }

    fn assertion(&self) -> Value {
        let [text] = self.all("x-portcullis-assertion")[..] else { panic!("not one assertion in {}", self.head) };
        read(text)
    }
}

/// The claims of an assertion that the key of these tests has signed.
pub(crate) fn read(text: &str) -> Value {
    let (signed, signature) = text.rsplit_once('.').unwrap();
    let key = PublicKey::of(PUBLIC).unwrap();
    assert!(key.verifies(signed.as_bytes(), signature), "{text}");
    let (header, payload) = signed.split_once('.').unwrap();
    let object = |part: &str| -> Value { serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap() };
    let expected = json!({ "typ": "portcullis-assertion+jwt", "alg": "EdDSA", "kid": key.thumbprint() });
    assert_eq!(object(header), expected);
    object(payload)
}

/// An upstream that keeps what it gets, and answers each request with 200.
pub(crate) async fn keeper() -> (SocketAddr, UnboundedReceiver<Got>) {
    let listener = house::loopback().await;
    let address = listener.local_addr().unwrap();
    let (sender, got) = unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let sender = sender.clone();
            tokio::spawn(async move {
                if let Some(got) = take(stream).await {
                    let _ = sender.send(got);
                }
            });
        }
    });
    (address, got)
}

async fn take(mut stream: TcpStream) -> Option<Got> {
    let mut bytes = Vec::new();
    let head_end = loop {
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        (stream.read_buf(&mut bytes).await.ok()? > 0).then_some(())?;
    };
    let head = String::from_utf8(bytes[..head_end].to_vec()).unwrap();
    let got = Got { head, body: Vec::new() };
    let mut body = bytes.split_off(head_end);
    let length = got.all("content-length").first().map(|length| length.parse::<usize>().unwrap());
    let is_chunked = !got.all("transfer-encoding").is_empty();
    let is_whole = |body: &[u8]| match length {
        Some(length) => body.len() >= length,
        None => !is_chunked || body.ends_with(b"0\r\n\r\n"),
    };
    while !is_whole(&body) {
        (stream.read_buf(&mut body).await.ok()? > 0).then_some(())?;
    }
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}").await.ok()?;
    Some(Got { body: if is_chunked { unchunked(&body) } else { body }, ..got })
}

fn unchunked(mut body: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    loop {
        let line = body.windows(2).position(|window| window == b"\r\n").unwrap();
        let size = usize::from_str_radix(std::str::from_utf8(&body[..line]).unwrap(), 16).unwrap();
        if size == 0 {
            return whole;
        }
        whole.extend_from_slice(&body[line + 2..line + 2 + size]);
        body = &body[line + 2 + size + 2..];
    }
}

async fn gate(settings: &str) -> (House, UnboundedReceiver<Got>) {
    let (address, got) = keeper().await;
    let loaded = House::load(Some(&config(settings)), &keys());
    (House::before(loaded, &format!("http://{address}")).await, got)
}

fn digest(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(sha256(bytes))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_assertion_says_who_was_allowed_what_by_which_decision() {
    let (mut house, mut got) = gate("").await;
    let (answer, record) = house.ask(&wire::request("GET", "/users/user-1/data?a=b", &[bearer()])).await;
    assert_eq!(answer.status, 200);
    let got = got.recv().await.unwrap();
    let (said, record) = (got.assertion(), record.unwrap());
    let expected = json!({
        "policy_revision": *record.policy_revision.unwrap(),
        "iss": "https://gate.example", "aud": "https://users.example", "sub": "user-1", "act": { "sub": "1example23456789" },
        "client_id": "1example23456789", "app": "ExampleChatApplication", "action": "Action::\"readOnly\"",
        "resource": "UserData::\"user-1\"", "jti": record.decision_id, "iat": NOW, "exp": NOW + 30,
    });
    assert_eq!(said, expected);
    assert_eq!(got.all("x-portcullis-user"), ["user-1"]);
    assert!(got.all("authorization").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_on_its_own_is_the_subject_and_nobody_acts_for_it() {
    let (address, mut got) = keeper().await;
    let text = config("").replace("action: readOnly,", "action: readOnly, delegation: forbidden,");
    let schema = "entity User; entity Agent; entity UserData = { owner: User };
        action readOnly appliesTo { principal: [Agent], resource: [UserData], context: {} };";
    let mut files = keys();
    files.push(("policies/schema.cedarschema".into(), schema.into()));
    files.push(("policies/users.cedar".into(), "@id(\"all\") permit (principal, action, resource);".into()));
    let mut house = House::before(House::load(Some(&text), &files), &format!("http://{address}")).await;
    let mut alone = claims();
    alone["onBehalfOf"] = json!({});
    let token = format!("Bearer {}", house::key("agents").sign(&alone).unwrap());
    let (answer, _) = house.ask(&wire::request("GET", "/users/user-1/data", &[("authorization".into(), token)])).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let said = got.recv().await.unwrap().assertion();
    assert_eq!((&said["sub"], said.get("act")), (&json!("1example23456789"), None));
}

#[tokio::test(flavor = "multi_thread")]
async fn it_stands_alone_where_plain_headers_are_not_wanted_and_a_client_can_send_none() {
    let (mut house, mut got) = gate("plain_headers: false").await;
    let mut fields = vec![bearer()];
    for name in [
        "x-portcullis-assertion",
        "X-PORTCULLIS-ASSERTION",
        "x_portcullis_assertion",
        "x-portcullis.assertion",
        "x-portcullis-user",
    ] {
        fields.push((name.into(), "forged".into()));
    }
    let (answer, _) = house.ask(&wire::request("GET", "/users/user-1/data", &fields)).await;
    assert_eq!(answer.status, 200);
    let got = got.recv().await.unwrap();
    assert_eq!(got.assertion()["sub"], "user-1");
    assert!(!got.head.contains("forged"), "{}", got.head);
    assert_eq!(got.head.to_lowercase().matches("portcullis").count(), 1, "{}", got.head);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_of_another_name_is_nobody_elses_either() {
    let (address, mut got) = keeper().await;
    let text = config("").replace("{ assertion: ", "{ assertion_header: x-gate-said, assertion: ");
    let mut house = House::before(House::load(Some(&text), &keys()), &format!("http://{address}")).await;
    let forged = ["x-gate-said", "X_Gate_Said", "x-gate.said"].map(|name| (name.to_owned(), "forged".to_owned()));
    let fields = [&[bearer()][..], &forged].concat();
    let (answer, _) = house.ask(&wire::request("GET", "/users/user-1/data", &fields)).await;
    assert_eq!(answer.status, 200);
    let got = got.recv().await.unwrap();
    assert_eq!(read(got.all("x-gate-said")[0])["sub"], "user-1");
    assert!(!got.head.contains("forged"), "{}", got.head);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_holds_for_the_method_the_target_and_the_body_that_the_upstream_gets() {
    let (mut house, mut got) = gate("binds: [method, target, body]").await;
    let large = vec![b'x'; 65_536];
    let token = bearer().1;
    let head = |more: &str| {
        format!(
            "PUT /users/user-1/data?a=b HTTP/1.1\r\nhost: a\r\nauthorization: {token}\r\nconnection: close\r\n{more}\r\n"
        )
    };
    let chunked = [b"6\r\n{\"a\": \r\n2\r\n1}\r\n".as_slice(), b"0\r\n\r\n"].concat();
    for (request, body) in [
        ([head("content-length: 8\r\n").as_bytes(), b"{\"a\": 1}"].concat(), b"{\"a\": 1}".to_vec()),
        ([head("content-length: 0\r\n").as_bytes(), b""].concat(), Vec::new()),
        (head("").into_bytes(), Vec::new()),
        ([head("transfer-encoding: chunked\r\n").as_bytes(), &chunked].concat(), b"{\"a\": 1}".to_vec()),
        ([head("transfer-encoding: chunked\r\n").as_bytes(), b"0\r\n\r\n"].concat(), Vec::new()),
        ([head("content-length: 65536\r\n").as_bytes(), &large].concat(), large.clone()),
    ] {
        let (answer, record) = house.ask(&request).await;
        assert_eq!((answer.status, record.unwrap().code), (200, "allowed"));
        let got = got.recv().await.unwrap();
        assert_eq!(got.body, body, "{}", got.head);
        let expected = json!({ "method": "PUT", "target_sha256": digest(b"/users/user-1/data?a=b"), "body_sha256": digest(&body) });
        assert_eq!(got.assertion()["request"], expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_target_is_the_upstreams_and_not_the_clients() {
    let (address, mut got) = keeper().await;
    let text = config("binds: [target]")
        .replace("action: readOnly,", "action: readOnly, strip_prefix: /users, add_prefix: /v1,");
    let mut house = House::before(House::load(Some(&text), &keys()), &format!("http://{address}")).await;
    let (answer, _) = house.ask(&wire::request("GET", "/users/user-1/data", &[bearer()])).await;
    assert_eq!(answer.status, 200);
    let got = got.recv().await.unwrap();
    assert!(got.head.starts_with("GET /v1/user-1/data "), "{}", got.head);
    assert_eq!(got.assertion()["request"], json!({ "target_sha256": digest(b"/v1/user-1/data") }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_larger_than_can_be_held_for_goes_nowhere() {
    let (mut house, mut got) = gate("binds: [body]").await;
    let token = bearer().1;
    let head =
        |more: &str| format!("PUT /users/user-1/data HTTP/1.1\r\nhost: a\r\nauthorization: {token}\r\n{more}\r\n");
    let chunks = ["8000\r\n", &"x".repeat(0x8000), "\r\n"].concat().repeat(2) + "1\r\nx\r\n0\r\n\r\n";
    for request in [head("content-length: 65537\r\n"), head("transfer-encoding: chunked\r\n") + &chunks] {
        let (answer, record) = house.ask(request.as_bytes()).await;
        assert_eq!((answer.status, record.unwrap().code), (413, "body_too_large"));
    }
    assert!(got.try_recv().is_err(), "the upstream was asked");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_does_not_come_goes_nowhere() {
    let (address, mut got) = keeper().await;
    let text = config("binds: [body]") + "limits: { client_timeout_ms: 200 }\n";
    let mut house = House::before(House::load(Some(&text), &keys()), &format!("http://{address}")).await;
    let token = bearer().1;
    let half = format!(
        "PUT /users/user-1/data HTTP/1.1\r\nhost: a\r\nauthorization: {token}\r\ncontent-length: 8\r\n\r\n{{\"a\""
    );
    let (answer, record) = house.ask(half.as_bytes()).await;
    assert_eq!((answer.status, record.unwrap().code), (408, "body_timed_out"));
    let mut stream = TcpStream::connect(house.app.address()).await.unwrap();
    stream.write_all(half.as_bytes()).await.unwrap();
    drop(stream);
    assert_eq!(house.record().await.unwrap().code, "client_gone");
    assert!(got.try_recv().is_err(), "the upstream was asked");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_waits_for_100_is_told_to_go_on_once() {
    let (house, mut got) = gate("binds: [body]").await;
    let mut stream = TcpStream::connect(house.app.address()).await.unwrap();
    let token = bearer().1;
    let head = format!(
        "PUT /users/user-1/data HTTP/1.1\r\nhost: a\r\nauthorization: {token}\r\nexpect: 100-continue\r\ncontent-length: 8\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") && stream.read_buf(&mut answer).await.unwrap() > 0 {}
    assert!(answer.starts_with(b"HTTP/1.1 100 "), "{}", String::from_utf8_lossy(&answer));
    stream.write_all(b"{\"a\": 1}").await.unwrap();
    stream.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8(answer).unwrap();
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 2, "{answer}");
    assert!(answer.contains("HTTP/1.1 200 OK"), "{answer}");
    let got = got.recv().await.unwrap();
    assert_eq!(
        (got.assertion()["request"]["body_sha256"].clone(), got.all("expect").len()),
        (json!(digest(b"{\"a\": 1}")), 0)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn it_holds_for_bodies_in_http2_too() {
    let (house, mut got) = gate("binds: [method, body]").await;
    let mut client = Client::to(house.app.address()).await;
    for body in [&b"{\"a\": 1}"[..], b""] {
        let request = h2::request("PUT", "/users/user-1/data", &[bearer()]).unwrap();
        let answer = client.ask_with(request, body).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        let got = got.recv().await.unwrap();
        assert_eq!(got.body, body, "{}", got.head);
        assert_eq!(got.assertion()["request"], json!({ "method": "PUT", "body_sha256": digest(body) }));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_told_to_operators_and_where_it_is_wished_to_everybody() {
    let (mut house, _got) = gate("jwks_path: /.well-known/portcullis-jwks, other_keys: [own.pem, other.pem]").await;
    let all = [PUBLIC, OTHER].map(|pem| PublicKey::of(pem).unwrap().jwk());
    let expected = json!({ "keys": all });
    assert_eq!(house.operators("/jwks").await.json(), expected);
    let (answer, record) = house.ask(&wire::request("GET", "/.well-known/portcullis-jwks", &[])).await;
    assert_eq!((answer.status, record.unwrap().code), (200, "assertion_keys"));
    assert_eq!(answer.json(), expected);
    assert!(!answer.body.contains("\"d\""));
    let (house, _got) = gate("").await;
    assert_eq!(house.operators("/jwks").await.json()["keys"].as_array().unwrap().len(), 1);
    let house = House::build(Some(ROUTES), &[], NOW).await;
    assert_eq!(house.operators("/jwks").await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_assertion_is_no_token_whoever_vouches_for_its_key() {
    // An issuer of another name whose key set holds the gate's own key, as a careless operator might write it.
    let jwks = json!({ "keys": [PublicKey::of(PUBLIC).unwrap().jwk()] });
    for profile in ["oidc_generic", "rfc9068"] {
        let (address, mut got) = keeper().await;
        let issuers = format!(
            "issuers:\n  - {profile}: {{ issuer: 'https://other.example', audiences: ['https://users.example'], algorithms: [EdDSA], jwks: {jwks},\n      agent_id_prefix: a, user_id_prefix: b }}\n"
        );
        let text = config("").replace("issuers:\n", &issuers).replace(
            "scope_prefix: crossDomainService/",
            "scope_prefix: crossDomainService/\n      agent_id_prefix: c\n      user_id_prefix: d",
        );
        let mut loaded = House::load(Some(&text), &keys());
        let settings = loaded.config.issuers.value.iter_mut().map(|issuer| issuer.settings_mut());
        for (index, settings) in settings.enumerate() {
            settings.jwks_file = (index > 0).then(|| house::spanned("keys-0.json".into()));
        }
        let mut house = House::before(loaded, &format!("http://{address}")).await;
        let (answer, _) = house.ask(&wire::request("GET", "/users/user-1/data", &[bearer()])).await;
        assert_eq!(answer.status, 403, "the ids have other prefixes: {}", answer.body);
        let _ = got.try_recv();
        // What the gate would sign, with whatever `iss`.
        let key = SigningKey::of(PRIVATE).unwrap();
        let sign = |typ: &str| {
            let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
            let said = json!({ "iss": "https://other.example", "aud": "https://users.example", "sub": "user-1", "client_id": "c", "iat": NOW,
                "exp": NOW + 30, "jti": "j", "act": { "sub": "c" } });
            let signed = format!(
                "{}.{}",
                part(json!({ "typ": typ, "alg": "EdDSA", "kid": key.public().thumbprint() })),
                part(said)
            );
            format!("Bearer {signed}.{}", key.sign(signed.as_bytes()).unwrap())
        };
        for (typ, code) in [
            ("portcullis-assertion+jwt", "token_type_wrong"),
            ("application/portcullis-assertion+jwt", "token_type_wrong"),
            ("at+jwt", "claim_missing"),
        ] {
            let (_, record) =
                house.ask(&wire::request("GET", "/users/user-1/data", &[("authorization".into(), sign(typ))])).await;
            let record = record.unwrap();
            // By its type alone: with that of a token it would be one, and only then lacks what the schema asks for.
            assert_eq!((record.code, record.agent.is_some()), (code, typ == "at+jwt"), "{profile} {typ}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_has_an_assertion_of_the_same_decision() {
    let first = house::loopback().await;
    let (address, mut got) = keeper().await;
    let gone = first.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = first.accept().await {
            drop(stream);
        }
    });
    let addresses = format!(
        "audience: 'https://users.example', addresses: [{{ address: '{gone}' }}, {{ address: '{address}' }}] }}"
    );
    let text = config("binds: [method, target, body]").replace("audience: 'https://users.example' }", &addresses);
    let mut house = House::before(House::load(Some(&text), &keys()), "http://users.example").await;
    for _ in 0..2 {
        let (answer, record) = house.ask(&wire::request("GET", "/users/user-1/data", &[bearer()])).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        let said = got.recv().await.unwrap().assertion();
        assert_eq!(said["jti"], record.unwrap().decision_id);
        assert_eq!(said["request"]["body_sha256"], digest(b""));
    }
}
