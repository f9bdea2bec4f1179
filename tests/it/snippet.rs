//! The snippet in Rust of docs/upstream-identity.md, as it stands there, put to the test.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header, jwk::JwkSet};
use portcullis::base::{
    clock::{Clock, SystemClock},
    digest::sha256,
    signing::SigningKey,
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    assertion::{PRIVATE, config, keeper, keys, read},
    docs::blocks,
    house::{self, House, claims},
    wire,
};

const ISSUER: &str = "https://gate.example";
const AUDIENCE: &str = "https://users.example";

#[derive(Deserialize)]
struct Claims {
    sub: String,
    request: Request,
}

#[derive(Deserialize)]
struct Request {
    method: String,
    target_sha256: String,
    body_sha256: String,
}

type Change<'a> = &'a dyn Fn(&mut Value, &mut Value);

struct Sha256;

impl Sha256 {
    fn digest(data: &[u8]) -> [u8; 32] {
        sha256(data)
    }
}

fn allowed(assertion: &str, keys: &JwkSet, method: &str, target: &str, body: &[u8]) -> Option<Claims> {
    let header = decode_header(assertion).ok()?;
    let algorithm = match header.alg {
        alg @ (Algorithm::EdDSA | Algorithm::ES256) if header.typ.as_deref() == Some("portcullis-assertion+jwt") => alg,
        _ => return None,
    };
    let key = DecodingKey::from_jwk(keys.find(header.kid.as_deref()?)?).ok()?;
    let mut rules = Validation::new(algorithm);
    rules.set_issuer(&[ISSUER]);
    rules.set_audience(&[AUDIENCE]);
    rules.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
    rules.leeway = 5;
    let claims = decode::<Claims>(assertion, &key, &rules).ok()?.claims;
    let digest = |data: &[u8]| URL_SAFE_NO_PAD.encode(Sha256::digest(data));
    let request = &claims.request;
    let is_this = request.method == method
        && request.target_sha256 == digest(target.as_bytes())
        && request.body_sha256 == digest(body);
    // Remember its jti until exp where a request must not be made twice.
    is_this.then_some(claims)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_snippet_in_rust_takes_what_the_gate_has_allowed_and_nothing_else() {
    let page = house::repository("docs/upstream-identity.md");
    let shown = &blocks(&page, "rust")[0];
    let shown: String = shown.lines().skip(1).map(|line| format!("{line}\n")).collect();
    assert!(include_str!("snippet.rs").contains(&shown), "the snippet is not the one that is tested");

    let (address, mut got) = keeper().await;
    let loaded = House::load(Some(&config("binds: [method, target, body]")), &keys());
    let mut house = House::before(loaded, &format!("http://{address}")).await;
    // Libraries look at the time themselves.
    let now = SystemClock.now().seconds();
    house.at(now);
    let mut of_now = claims();
    (of_now["iat"], of_now["exp"]) = (now.into(), (now + 60).into());
    let token = format!("Bearer {}", house::key("agents").sign(&of_now).unwrap());
    let fields = [("authorization".to_owned(), token)];
    let (answer, _) = house.ask(&wire::request("GET", "/users/user-1/data?a", &fields)).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let keys: JwkSet = serde_json::from_value(house.operators("/jwks").await.json()).unwrap();
    let got = got.recv().await.unwrap();
    let good = got.all("x-portcullis-assertion")[0];
    let asks = |assertion: &str, method, target, body| {
        allowed(assertion, &keys, method, target, body).map(|claims| claims.sub)
    };
    assert_eq!(asks(good, "GET", "/users/user-1/data?a", b"").as_deref(), Some("user-1"));
    assert_eq!(asks(good, "POST", "/users/user-1/data?a", b""), None);
    assert_eq!(asks(good, "GET", "/users/user-1/data", b""), None);
    assert_eq!(asks(good, "GET", "/users/user-1/data?a", b"a"), None);
    // Signed by the gate's own key, and not the same in one member.
    let key = SigningKey::of(PRIVATE).unwrap();
    let signed = |change: Change<'_>| {
        let mut said = read(good);
        let mut header = json!({ "typ": "portcullis-assertion+jwt", "alg": "EdDSA", "kid": key.public().thumbprint() });
        change(&mut header, &mut said);
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&header), part(&said));
        let text = format!("{signed}.{}", key.sign(signed.as_bytes()).unwrap());
        asks(&text, "GET", "/users/user-1/data?a", b"")
    };
    assert_eq!(signed(&|_, _| ()).as_deref(), Some("user-1"));
    let wrong: [Change<'_>; 7] = [
        &|header, _| header["typ"] = "at+jwt".into(),
        &|header, _| header["alg"] = "none".into(),
        &|header, _| header["kid"] = "other".into(),
        &|_, said| said["aud"] = "https://other.example".into(),
        &|_, said| said["iss"] = "https://other.example".into(),
        &|_, said| said["exp"] = (now - 10).into(),
        &|_, said| drop(said.as_object_mut().unwrap().remove("exp")),
    ];
    for (index, change) in wrong.into_iter().enumerate() {
        assert_eq!(signed(change), None, "change {index}");
    }
}
