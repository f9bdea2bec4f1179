//! Tokens for a rehearsal: signed on the spot by a key that stands in for that of each issuer, and bound to another that
//! stands in for the sender's.

use aws_lc_rs::error::Unspecified;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value, json};
use ulid::Ulid;

use super::{call::Call, keys::SigningKey};
use crate::{
    base::{clock::Timestamp, digest::sha256, files::Files, spanned::Spanned},
    config::Config,
    request::certificate::{Certificate, Said},
    token::{algorithm::Algorithm, binding::Binding, issuer::IssuerConfig},
};

fn stand_in_thumbprint() -> [u8; 32] {
    sha256(b"a certificate that stands in")
}

impl Bearer {
    /// The certificate that the connection is made with, where one is needed, or is to say something.
    pub(super) fn shown(&self, said: Option<&Said>) -> Option<Certificate> {
        let is_shown = self.is_bound_to_certificate || said.is_some();
        is_shown.then(|| Certificate { thumbprint: stand_in_thumbprint(), vouched: said.cloned() })
    }
}

/// Seconds that a token lives where a scenario does not say.
const LIFETIME_S: u64 = 300;

/// The keys that stand in.
#[derive(Debug)]
pub(super) struct StandIns {
    ec: SigningKey,
    rsa: SigningKey,
    holder: SigningKey,
}

/// A token, and what it takes to use it.
#[derive(Clone, Debug, Default)]
pub(super) struct Bearer {
    /// The token; none for a request without one.
    pub(super) token: Option<String>,
    /// What its issuer says of it, where it is opaque.
    pub(super) said: Option<Value>,
    /// Whether a proof must come with it, and where clients address the gate.
    proof_for: Option<String>,
    /// Whether that takes a certificate.
    is_bound_to_certificate: bool,
}

/// Whether the configuration itself holds the keys of `issuer`; of one that is asked about its tokens there are none.
pub(super) fn holds_keys(issuer: &IssuerConfig, files: &Files) -> bool {
    let settings = issuer.settings();
    matches!(issuer, IssuerConfig::Introspection(_))
        || settings.jwks.is_some()
        || settings.jwks_file.as_ref().is_some_and(|file| files.read(&file.value).is_ok())
}

/// Who is said to have issued the token in `authorization`.
pub(super) fn issuer_of(authorization: &str) -> Option<String> {
    let payload = URL_SAFE_NO_PAD.decode(authorization.split('.').nth(1)?).ok()?;
    let claims: Map<String, Value> = serde_json::from_slice(&payload).ok()?;
    claims.get("iss")?.as_str().map(str::to_owned)
}

/// The issuer that `claims` name.
fn named_in<'c>(claims: &Map<String, Value>, config: &'c Config) -> Option<&'c IssuerConfig> {
    let issuer = claims.get("iss").and_then(Value::as_str).unwrap_or_default();
    config.issuers.value.iter().find(|known| known.settings().issuer.value == issuer)
}

/// `header` with the `typ` that tokens of the issuer of `claims` must have, where it says none.
pub(super) fn typed(config: &Config, claims: &Map<String, Value>, header: &Map<String, Value>) -> Map<String, Value> {
    let mut header = header.clone();
    if matches!(named_in(claims, config), Some(IssuerConfig::Rfc9068(_))) {
        header.entry("typ").or_insert("at+jwt".into());
    }
    header
}

impl StandIns {
    pub(super) fn new() -> Result<Self, Unspecified> {
        Ok(Self {
            ec: SigningKey::es256("stand-in-ec")?,
            rsa: SigningKey::rs256("stand-in-rsa")?,
            holder: SigningKey::es256("stand-in-holder")?,
        })
    }

    /// Puts these keys in the place of those of every issuer of `config` that signs its tokens and that `is_meant`.
    pub(super) fn stand_in(&self, config: &mut Config, is_meant: impl Fn(&IssuerConfig) -> bool) {
        let keys = json!({ "keys": [self.ec.jwk(), self.rsa.jwk()] });
        for issuer in &mut config.issuers.value {
            if matches!(issuer, IssuerConfig::Introspection(_)) || !is_meant(issuer) {
                continue;
            }
            let settings = issuer.settings_mut();
            (settings.jwks_uri, settings.jwks_file, settings.jwks_copy) = (None, None, None);
            settings.jwks = Some(Spanned::nowhere(keys.clone()));
            if let Some(algorithms) = &mut settings.algorithms
                && !algorithms.value.iter().any(|it| matches!(it, Algorithm::ES256 | Algorithm::RS256))
            {
                algorithms.value.push(Algorithm::ES256);
            }
        }
    }

    /// A token of `claims`, with `iat`, `exp` and what a binding needs where they say none, but nothing of what it is to be
    /// `without`.
    pub(super) fn token(
        &self,
        config: &Config,
        claims: &Map<String, Value>,
        header: &Map<String, Value>,
        without: &[String],
        now: Timestamp,
    ) -> Result<Bearer, String> {
        let mut claims = claims.clone();
        let put_in = |claims: &mut Map<String, Value>, name: &str, value: Value| {
            if !without.iter().any(|it| it == name) {
                claims.entry(name).or_insert(value);
            }
        };
        let Some(known) = named_in(&claims, config) else {
            // It is refused, as it should be.
            return Ok(Bearer { token: Some(self.signed(&self.ec, header, &claims)?), ..Bearer::default() });
        };
        let settings = known.settings();
        put_in(&mut claims, "iat", now.seconds().into());
        put_in(&mut claims, "exp", now.seconds().saturating_add(LIFETIME_S).into());
        let mut bearer = Bearer::default();
        let demands = |binding: &Option<Spanned<Binding>>| {
            binding.as_ref().is_some_and(|binding| binding.value == Binding::Required)
        };
        if demands(&settings.dpop) {
            put_in(&mut claims, "cnf", json!({ "jkt": self.thumbprint() }));
            bearer.proof_for = config.origins.first().map(|origin| origin.value.clone());
        }
        if demands(&settings.certificate_binding) {
            let thumbprint = stand_in_thumbprint();
            put_in(&mut claims, "cnf", json!({ "x5t#S256": URL_SAFE_NO_PAD.encode(thumbprint) }));
            bearer.is_bound_to_certificate = true;
        }
        if matches!(known, IssuerConfig::Introspection(_)) {
            let prefix = settings.token_prefix.as_ref().map_or("", |prefix| &prefix.value);
            bearer.token = Some(format!("{prefix}{}", Ulid::generate()));
            put_in(&mut claims, "active", true.into());
            bearer.said = Some(claims.into());
            return Ok(bearer);
        }
        let by_default = !matches!(known, IssuerConfig::CognitoAccess(_));
        let signs_ec = settings.algorithms.as_ref().map_or(by_default, |named| named.value.contains(&Algorithm::ES256));
        bearer.token = Some(self.signed(if signs_ec { &self.ec } else { &self.rsa }, header, &claims)?);
        Ok(bearer)
    }

    fn signed(
        &self,
        key: &SigningKey,
        more: &Map<String, Value>,
        claims: &Map<String, Value>,
    ) -> Result<String, String> {
        let mut header = key.header();
        if let Some(header) = header.as_object_mut() {
            header.extend(more.clone());
        }
        let payload = Value::from(claims.clone()).to_string();
        key.sign_text(&header.to_string(), &payload).map_err(|_| "the machine gives no randomness".into())
    }

    /// The fields that present `bearer` with a request.
    pub(super) fn fields(
        &self,
        bearer: &Bearer,
        call: &Call,
        nonce: Option<&str>,
        now: Timestamp,
    ) -> Result<Vec<(String, String)>, String> {
        let Some(token) = &bearer.token else { return Ok(Vec::new()) };
        let Some(origin) = &bearer.proof_for else {
            return Ok(vec![("authorization".into(), format!("Bearer {token}"))]);
        };
        let mut claims = json!({
            "jti": Ulid::generate().to_string(), "htm": call.method().as_str(), "htu": format!("{origin}{}", call.path()),
            "iat": now.seconds(), "ath": URL_SAFE_NO_PAD.encode(sha256(token.as_bytes())),
        });
        if let (Some(nonce), Some(claims)) = (nonce, claims.as_object_mut()) {
            claims.insert("nonce".into(), nonce.into());
        }
        let header = json!({ "typ": "dpop+jwt", "alg": "ES256", "jwk": self.holder.jwk() });
        let proof = self.holder.sign_text(&header.to_string(), &claims.to_string());
        let proof = proof.map_err(|_| "the machine gives no randomness")?;
        Ok(vec![("authorization".into(), format!("DPoP {token}")), ("dpop".into(), proof)])
    }

    /// `jkt` of the holder's key (RFC 7638).
    fn thumbprint(&self) -> String {
        let jwk = self.holder.jwk();
        let member = |name: &str| jwk.get(name).cloned().unwrap_or_default();
        let canonical = format!(r#"{{"crv":"P-256","kty":"EC","x":{},"y":{}}}"#, member("x"), member("y"));
        URL_SAFE_NO_PAD.encode(sha256(canonical.as_bytes()))
    }
}
