//! A signed assertion for the upstream: a JWT that says who was allowed to do what, by which decision, and if wished for
//! which request alone, so that a service need not take the network's word that a request came through the gate.

use std::{path::PathBuf, sync::Arc, time::Duration};

use aws_lc_rs::error::Unspecified;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderValue, Method};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::identity::Told;
use crate::{
    base::{
        clock::Timestamp,
        digest::sha256,
        files::Files,
        problem::{Problem, Problems, bounded},
        secret::SecretSource,
        signing::{PublicKey, SigningKey},
        spanned::Spanned,
    },
    request::rewrite::Outbound,
};

/// The section `identity.assertion`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AssertionConfig {
    /// `iss`: who the gate is to services.
    pub issuer: Spanned<String>,
    /// The private key that signs, in PEM (PKCS#8): Ed25519 or P-256.
    pub signing_key: Spanned<SecretSource>,
    /// Files of public keys, in PEM, that stand in the key set too: earlier and later ones. Default none.
    #[serde(default)]
    pub other_keys: Vec<Spanned<PathBuf>>,
    /// Seconds for which an assertion holds. Default 30.
    pub lifetime_s: Option<Spanned<u64>>,
    /// What of the request it holds for alone. Default nothing.
    #[serde(default)]
    pub binds: Vec<Spanned<Bind>>,
    /// Whether the upstream gets the plain headers too. Default true.
    pub plain_headers: Option<bool>,
    /// Where the key set is on the data port: a path. Default nowhere.
    pub jwks_path: Option<Spanned<String>>,
}

/// A part of a request that an assertion holds for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Bind {
    /// The method.
    Method,
    /// Path and query, as the upstream gets them.
    Target,
    /// The body, which is read whole before anything goes on.
    Body,
}

/// `typ` of assertions (RFC 8725 section 3.11): no token of another kind has it, and no profile of tokens takes it.
pub const TYPE: &str = "portcullis-assertion+jwt";

/// Bytes of a body that an assertion holds for: what pingora keeps of one. At the same time it keeps as many for each request
/// under way.
pub const BODY_BYTES_MAX: u64 = 64 * 1024;

/// Bytes of `iss` and `aud`.
pub const NAME_BYTES_MAX: usize = 256;

/// Keys in the set.
const KEYS_MAX: usize = 16;

/// How assertions are made, compiled.
#[derive(Debug)]
pub struct Assertions {
    key: SigningKey,
    /// The first part of each, with its dot.
    header: String,
    issuer: String,
    lifetime: Duration,
    binds: Vec<Bind>,
    pub(super) plain_headers: bool,
    jwks: Value,
}

/// An assertion that is to be made when its request is sent. Made of what was allowed, by [`super::Identity::obligations`] alone.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    by: Arc<Assertions>,
    claims: Arc<Claims>,
}

/// What it says.
#[derive(Clone, Debug, Serialize)]
struct Claims {
    iss: String,
    aud: String,
    sub: String,
    /// Who acts for `sub`, where that is another (RFC 8693 section 4.1).
    #[serde(skip_serializing_if = "Option::is_none")]
    act: Option<Actor>,
    client_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    app: Option<String>,
    action: String,
    resource: String,
    policy_revision: Arc<str>,
    jti: String,
}

#[derive(Clone, Debug, Serialize)]
struct Actor {
    sub: String,
}

/// What is known only when it is sent.
#[derive(Serialize)]
struct Sent<'a> {
    #[serde(flatten)]
    claims: &'a Claims,
    iat: u64,
    exp: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    request: Option<Bound<'a>>,
}

/// The request that it holds for alone.
#[derive(Serialize)]
struct Bound<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target_sha256: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body_sha256: Option<String>,
}

/// Why no assertion is made. Without it nothing goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsigned {
    /// It is to hold for a body that was not read.
    #[error("the body was not read")]
    Unread,
    /// The machine gives no randomness.
    #[error("nothing could be signed")]
    Failed,
}

impl From<Unspecified> for Unsigned {
    fn from(_: Unspecified) -> Self {
        Self::Failed
    }
}

impl AssertionConfig {
    /// Compiles the section.
    ///
    /// # Errors
    /// Every [`Problem`] it has.
    pub fn compile(&self, files: &Files) -> Result<Assertions, Problems> {
        let mut problems = Problems::default();
        problems.keep(name(&self.issuer));
        let lifetime = problems.keep(bounded(self.lifetime_s.as_ref(), "lifetime_s", 30, 1..=300));
        let key = problems.keep(self.signing_key.value.read(files)).and_then(|pem| {
            let none = || Problem::at(&self.signing_key, "not a private key of Ed25519 or P-256 in PEM (PKCS#8)");
            let key = SigningKey::of(pem.expose());
            problems.keep(key.ok_or_else(|| none().fix("make one: `openssl genpkey -algorithm ed25519`")))
        });
        let mut keys: Vec<PublicKey> = key.iter().map(|key| key.public().clone()).collect();
        for path in &self.other_keys {
            // The one that signs may stand among them: then only `signing_key` need change.
            match problems.keep(public_key(path, files)) {
                Some(key) if !keys.contains(&key) => keys.push(key),
                _ => {}
            }
        }
        if let Some(beyond) = self.other_keys.get(KEYS_MAX) {
            problems
                .push(Problem::at(beyond, format!("more than {KEYS_MAX} keys")).fix("remove those of old assertions"));
        }
        for (index, bind) in self.binds.iter().enumerate() {
            if self.binds.iter().take(index).any(|earlier| earlier.value == bind.value) {
                problems.push(Problem::at(bind, "this stands twice").fix("remove one"));
            }
        }
        let made = key.zip(lifetime).map(|(key, lifetime)| {
            let header = json!({ "typ": TYPE, "alg": key.public().algorithm(), "kid": key.public().thumbprint() });
            Assertions {
                header: format!("{}.", URL_SAFE_NO_PAD.encode(header.to_string())),
                key,
                issuer: self.issuer.value.clone(),
                lifetime: Duration::from_secs(lifetime),
                binds: self.binds.iter().map(|bind| bind.value).collect(),
                plain_headers: self.plain_headers.unwrap_or(true),
                jwks: json!({ "keys": keys.iter().map(PublicKey::jwk).collect::<Vec<_>>() }),
            }
        });
        problems.into_result(made)
    }
}

/// What `iss` or `aud` may be.
///
/// # Errors
/// A [`Problem`] with one that is empty, long or no text.
pub fn name(name: &Spanned<String>) -> Result<(), Problem> {
    let text = &name.value;
    let is_name = !text.is_empty() && text.len() <= NAME_BYTES_MAX && text.bytes().all(|byte| byte.is_ascii_graphic());
    if is_name {
        Ok(())
    } else {
        Err(Problem::at(name, "not a name").fix("write 1 to 256 visible characters of ASCII"))
    }
}

fn public_key(path: &Spanned<PathBuf>, files: &Files) -> Result<PublicKey, Problem> {
    let pem = files.read(&path.value).map_err(|error| Problem::unreadable(path, &error))?;
    PublicKey::of(&pem).ok_or_else(|| {
        Problem::at(path, "not a public key of Ed25519 or P-256 in PEM")
            .fix("write one: `openssl pkey -in signing.pem -pubout`")
    })
}

impl Assertions {
    /// The public keys (RFC 7517): the one that signs, and others.
    pub const fn jwks(&self) -> &Value {
        &self.jwks
    }

    /// Whether they hold for one body alone.
    pub fn binds_body(&self) -> bool {
        self.binds.contains(&Bind::Body)
    }

    /// The one for what an upstream of the name `audience` is told.
    pub(super) fn draft(self: &Arc<Self>, audience: &str, told: &Told<'_>) -> Draft {
        let claims = Claims {
            iss: self.issuer.clone(),
            aud: audience.to_owned(),
            sub: told.user.unwrap_or(told.agent).to_owned(),
            act: told.user.map(|_| Actor { sub: told.agent.to_owned() }),
            client_id: told.client.to_owned(),
            app: told.app.map(str::to_owned),
            action: told.action.to_owned(),
            resource: told.resource.to_owned(),
            policy_revision: told.policy_revision.clone(),
            jti: told.decision_id.to_owned(),
        };
        Draft { by: self.clone(), claims: Arc::new(claims) }
    }
}

impl Draft {
    /// Whether it is to hold for one body alone.
    pub(super) fn binds_body(&self) -> bool {
        self.by.binds_body()
    }

    /// Signs it for a request that is sent `now`.
    pub(super) fn sign(
        &self,
        method: &Method,
        target: &Outbound,
        body: Option<&[u8; 32]>,
        now: Timestamp,
    ) -> Result<HeaderValue, Unsigned> {
        let Self { by, claims } = self;
        let binds = |part| by.binds.contains(&part);
        let body = match (binds(Bind::Body), body) {
            (true, None) => return Err(Unsigned::Unread),
            (true, Some(digest)) => Some(URL_SAFE_NO_PAD.encode(digest)),
            (false, _) => None,
        };
        let request = Bound {
            method: binds(Bind::Method).then(|| method.as_str()),
            target_sha256: binds(Bind::Target).then(|| URL_SAFE_NO_PAD.encode(sha256(target.as_str().as_bytes()))),
            body_sha256: body,
        };
        let request = (!by.binds.is_empty()).then_some(request);
        let sent = Sent { claims, iat: now.seconds(), exp: now.later(by.lifetime).seconds(), request };
        let payload = serde_json::to_vec(&sent).map_err(|_| Unsigned::Failed)?;
        let mut signed = by.header.clone();
        URL_SAFE_NO_PAD.encode_string(payload, &mut signed);
        let signature = by.key.sign(signed.as_bytes())?;
        HeaderValue::try_from(format!("{signed}.{signature}")).map_err(|_| Unsigned::Failed)
    }
}
