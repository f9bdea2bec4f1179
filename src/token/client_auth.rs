//! How we show an issuer who we are: by a secret in Basic (RFC 6749 section 2.3.1), or by an assertion that we sign
//! (`private_key_jwt`, RFC 7523 section 2.2).

use base64::{Engine, engine::general_purpose::STANDARD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::json;
use ulid::Ulid;
use url::form_urlencoded::byte_serialize;

use crate::base::{clock::Timestamp, digest::sha256, secret::Secret};

/// Seconds that an assertion is good for.
const ASSERTION_LIFETIME_S: u64 = 60;

/// Who we are to an issuer.
pub(super) struct ClientAuth {
    method: Method,
    /// Of everything that it is made of.
    digest: [u8; 32],
}

enum Method {
    Basic(Secret),
    Assertion(Box<Assertion>),
}

struct Assertion {
    client_id: String,
    header: Header,
    key: EncodingKey,
}

impl std::fmt::Debug for ClientAuth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClientAuth(…)")
    }
}

impl PartialEq for ClientAuth {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl Eq for ClientAuth {}

/// What one request carries to show it.
#[derive(Default)]
pub(super) struct Credentials {
    /// `Authorization`.
    pub(super) authorization: Option<Secret>,
    /// Members of the form.
    pub(super) form: Vec<(&'static str, Secret)>,
}

impl ClientAuth {
    /// By a secret.
    pub(super) fn secret(client_id: &str, secret: &Secret) -> Self {
        let encoded = |text: &str| byte_serialize(text.as_bytes()).collect::<String>();
        let pair = STANDARD.encode(format!("{}:{}", encoded(client_id), encoded(secret.expose())));
        let value = format!("Basic {pair}");
        Self { digest: sha256(value.as_bytes()), method: Method::Basic(Secret::from(value)) }
    }

    /// By assertions signed with a private key in PEM: P-256, P-384, RSA or Ed25519. `None` for anything else.
    pub(super) fn private_key(client_id: &str, pem: &Secret, key_id: Option<&str>) -> Option<Self> {
        let pem = pem.expose().as_bytes();
        let digest = sha256(format!("{:?}", (client_id, key_id, sha256(pem))).as_bytes());
        let known = [
            (Algorithm::ES256, EncodingKey::from_ec_pem(pem)),
            (Algorithm::ES384, EncodingKey::from_ec_pem(pem)),
            (Algorithm::RS256, EncodingKey::from_rsa_pem(pem)),
            (Algorithm::EdDSA, EncodingKey::from_ed_pem(pem)),
        ];
        known.into_iter().find_map(|(algorithm, key)| {
            let key = key.ok()?;
            let header = Header { kid: key_id.map(str::to_owned), ..Header::new(algorithm) };
            // What cannot sign now cannot sign later.
            jsonwebtoken::encode(&header, &json!({}), &key).ok()?;
            let assertion = Assertion { client_id: client_id.to_owned(), header, key };
            Some(Self { method: Method::Assertion(Box::new(assertion)), digest })
        })
    }

    /// What a request to `issuer` carries; `None` when nothing can be signed.
    pub(super) fn credentials(&self, issuer: &str, now: Timestamp) -> Option<Credentials> {
        match &self.method {
            Method::Basic(value) => Some(Credentials { authorization: Some(value.clone()), form: Vec::new() }),
            Method::Assertion(assertion) => {
                let Assertion { client_id, header, key } = &**assertion;
                let claims = json!({
                    "iss": client_id, "sub": client_id, "aud": issuer, "jti": Ulid::generate().to_string(),
                    "iat": now.seconds(), "exp": now.seconds().saturating_add(ASSERTION_LIFETIME_S),
                });
                let assertion = jsonwebtoken::encode(header, &claims, key).ok()?;
                let kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
                let form = vec![
                    ("client_assertion_type", Secret::from(kind.to_owned())),
                    ("client_assertion", Secret::from(assertion)),
                    ("client_id", Secret::from(client_id.clone())),
                ];
                Some(Credentials { authorization: None, form })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn id_and_secret_are_encoded_before_they_are_joined() {
        let auth = ClientAuth::secret("a:b", &Secret::from("s %/+é".to_owned()));
        let value = auth.credentials("", Timestamp::from_seconds(0)).unwrap().authorization.unwrap();
        let pair = STANDARD.decode(value.expose().strip_prefix("Basic ").unwrap()).unwrap();
        assert_eq!(String::from_utf8(pair).unwrap(), "a%3Ab:s+%25%2F%2B%C3%A9");
        assert_eq!(format!("{auth:?}"), "ClientAuth(…)");
    }

    #[test]
    fn what_is_no_private_key_is_refused() {
        for text in ["secret", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----"] {
            assert!(ClientAuth::private_key("a", &Secret::from(text.to_owned()), None).is_none());
        }
    }

    #[test]
    fn every_assertion_is_another_and_says_who_to_whom_until_when() {
        let pem = std::process::Command::new("openssl")
            .args(["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"])
            .output()
            .unwrap();
        let pem = Secret::from(String::from_utf8(pem.stdout).unwrap());
        let auth = ClientAuth::private_key("gate", &pem, Some("k1")).unwrap();
        let assertion =
            || auth.credentials("https://issuer.example", Timestamp::from_seconds(5)).unwrap().form[1].1.clone();
        let (first, second) = (assertion(), assertion());
        assert_ne!(first, second);
        let part = |index: usize| {
            let text = first.expose().split('.').nth(index).unwrap();
            let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(text).unwrap();
            serde_json::from_slice::<serde_json::Value>(&bytes).unwrap()
        };
        assert_eq!(part(0), json!({ "alg": "ES256", "typ": "JWT", "kid": "k1" }));
        let mut claims = part(1);
        claims.as_object_mut().unwrap().remove("jti").unwrap();
        assert_eq!(
            claims,
            json!({ "iss": "gate", "sub": "gate", "aud": "https://issuer.example", "iat": 5, "exp": 65 })
        );
    }
}
