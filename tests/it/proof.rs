//! DPoP proofs as a client makes them, and as it must not.

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use portcullis::authoring::keys::SigningKey;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::house::{self, NOW};

/// Where the gates of these tests say that clients address them.
pub(crate) const ORIGIN: &str = "https://gate.example";

/// What a proof has beside what it must have.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Proof {
    /// The key that signs it and stands in it. Default `holder`.
    key: Option<String>,
    /// The key that stands in it instead.
    shown: Option<String>,
    /// Claims over the right ones.
    claims: Map<String, Value>,
    /// Claims it lacks.
    without: Vec<String>,
    /// Header parameters over `typ`, `alg` and `jwk`.
    header: Map<String, Value>,
    /// Parameters over those of its `jwk`.
    jwk: Map<String, Value>,
    /// Header parameters it lacks.
    header_without: Vec<String>,
    /// How often it stands in the request. Default once.
    copies: Option<usize>,
    /// The whole field instead.
    text: Option<String>,
}

impl Proof {
    pub(crate) fn fields(&self, method: &str, target: &str, token: &str) -> Vec<(String, String)> {
        let text = self.text.clone().unwrap_or_else(|| self.text(method, target, token));
        vec![("dpop".to_owned(), text); self.copies.unwrap_or(1)]
    }

    fn text(&self, method: &str, target: &str, token: &str) -> String {
        let key = house::key(self.key.as_deref().unwrap_or("holder"));
        let path = target.split('?').next().unwrap();
        let ath = URL_SAFE_NO_PAD.encode(digest(&SHA256, token.as_bytes()));
        let mut claims =
            json!({ "jti": serial(), "htm": method, "htu": format!("{ORIGIN}{path}"), "iat": NOW, "ath": ath });
        let mut jwk = self.shown.as_deref().map_or(key, house::key).jwk();
        jwk.as_object_mut().unwrap().extend(self.jwk.clone());
        let mut header = json!({ "typ": "dpop+jwt", "alg": key.header()["alg"], "jwk": jwk });
        for (object, more, less) in
            [(&mut claims, &self.claims, &self.without), (&mut header, &self.header, &self.header_without)]
        {
            let object = object.as_object_mut().unwrap();
            object.extend(more.clone());
            less.iter().for_each(|name| drop(object.remove(name)));
        }
        key.sign_text(&header.to_string(), &claims.to_string()).unwrap()
    }
}

/// Another one each time.
fn serial() -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("proof-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// `jkt` of a P-256 key (RFC 7638).
pub(crate) fn thumbprint(key: &SigningKey) -> String {
    let jwk = key.jwk();
    let canonical = format!(r#"{{"crv":"P-256","kty":"EC","x":{},"y":{}}}"#, jwk["x"], jwk["y"]);
    URL_SAFE_NO_PAD.encode(digest(&SHA256, canonical.as_bytes()))
}
