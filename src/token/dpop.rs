//! DPoP proofs (RFC 9449 section 4.3): a JWT, made for one request, by which its sender shows to hold the key that the
//! token is bound to.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::HeaderName;
use serde_json::Value;
use url::{Origin, Url};

use super::{
    RawToken, TokenError, VerifiedToken,
    bearer::Fingerprint,
    binding::{Binding, Thumbprint},
    claims::Claims,
    jwks::Key,
    jws::Jws,
    nonce::Nonces,
    replay::{ProofId, Replays, Sighting},
    rules::Rules,
};
use crate::{
    base::{
        clock::Timestamp,
        digest::sha256,
        files::Files,
        problem::{Problem, Problems},
        secret::SecretSource,
        spanned::Spanned,
    },
    request::{Inbound, headers::only},
};

/// Where a proof stands.
pub const DPOP: HeaderName = HeaderName::from_static("dpop");

/// What the configuration says of proofs, whosever tokens they are for; compiled.
#[derive(Clone, Debug)]
pub struct ProofSettings {
    origins: Vec<Origin>,
    nonces: Nonces,
    /// Whether the nonces' secret was made here, and not configured.
    own_secret: bool,
}

impl ProofSettings {
    /// Compiles `origins` (scheme, host and port by which clients address the gate) and the secret of nonces.
    ///
    /// # Errors
    /// Every [`Problem`] they have.
    pub fn compile(
        origins: &[Spanned<String>],
        nonce_secret: Option<&SecretSource>,
        files: &Files,
    ) -> Result<Self, Problems> {
        let mut problems = Problems::default();
        let origins: Vec<_> = origins.iter().filter_map(|origin| problems.keep(compile_origin(origin))).collect();
        let secret = problems.keep(nonce_secret.map(|secret| secret.read(files)).transpose());
        let nonces = secret.and_then(|secret| {
            let nonces = Nonces::new(secret.as_ref().map(|secret| secret.expose().as_bytes()));
            problems.keep(nonces.map_err(|_| Problem::new("the machine gives no randomness")))
        });
        problems.into_result(nonces.map(|nonces| Self { origins, nonces, own_secret: nonce_secret.is_none() }))
    }

    /// No origin, and nonces that no other gate knows.
    ///
    /// # Errors
    /// When the machine gives no randomness.
    pub(super) fn default() -> Result<Self, Problems> {
        Self::compile(&[], None, &Files::memory([]))
    }

    /// Whether there is an origin at all.
    pub const fn has_origins(&self) -> bool {
        !self.origins.is_empty()
    }
}

fn compile_origin(text: &Spanned<String>) -> Result<Origin, Problem> {
    let url = Url::parse(&text.value).ok().filter(|url| {
        matches!(url.scheme(), "http" | "https")
            && url.path() == "/"
            && url.query().is_none()
            && url.fragment().is_none()
    });
    let url = url.filter(|url| url.username().is_empty() && url.password().is_none());
    url.map(|url| url.origin()).ok_or_else(|| {
        Problem::at(text, format!("`{}` is not an origin", text.value))
            .fix("write scheme, host and port as clients do: `https://api.example` or `http://127.0.0.1:8080`")
    })
}

/// What proofs are checked against.
#[derive(Debug)]
pub(super) struct Proofs {
    origins: Vec<Origin>,
    seen: Arc<Replays>,
    nonces: Arc<Nonces>,
    own_secret: bool,
    /// How long proofs are remembered at least.
    horizon: Duration,
    /// How far ahead of us the clock may be that a proof was made by.
    leeway: Duration,
    /// Proofs made before may have been seen and forgotten.
    remembered_from: Option<Timestamp>,
}

impl Proofs {
    /// Remembers proofs for as long as any of `rules` lets one be valid, and those that were seen `before`.
    pub(super) fn new(settings: ProofSettings, rules: &[Rules], before: Option<&Self>, now: Timestamp) -> Self {
        let bound = || rules.iter().map(|rules| rules.binding).filter(|binding| binding.key != Binding::Off);
        let leeway = bound().map(|binding| binding.leeway).max().unwrap_or_default();
        let horizon = bound().map(|binding| binding.proof_age_max.saturating_add(binding.leeway)).max();
        let horizon = horizon.unwrap_or_default();
        let ProofSettings { origins, nonces, own_secret } = settings;
        let Some(before) = before else {
            let seen = Arc::new(Replays::new(horizon));
            return Self {
                origins,
                seen,
                nonces: Arc::new(nonces),
                own_secret,
                horizon,
                leeway,
                remembered_from: None,
            };
        };
        let nonces = if own_secret && before.own_secret { before.nonces.clone() } else { Arc::new(nonces) };
        let mut remembered_from = before.remembered_from;
        if horizon > before.horizon && !before.horizon.is_zero() {
            // What was seen a horizon ago may be forgotten by now; it was made up to a leeway later than seen.
            let from = now.earlier(before.horizon.saturating_sub(before.leeway));
            remembered_from = remembered_from.max(Some(from));
        }
        before.seen.reach(horizon);
        let (horizon, leeway) = (horizon.max(before.horizon), leeway.max(before.leeway));
        Self { origins, seen: before.seen.clone(), nonces, own_secret, horizon, leeway, remembered_from }
    }

    /// Checks that `inbound` holds a proof of `key`, made for it and for the token of this digest, which is `bound` to it.
    ///
    /// # Errors
    /// `ProofMissing`, `ProofInvalid`, `ProofNonceMissing` with a nonce to use, `ProofReplayed` or `ProofsUnchecked`.
    pub(super) fn check(
        &self,
        inbound: &Inbound<'_>,
        token: &Fingerprint,
        key: &Thumbprint,
        bound: &VerifiedToken,
        now: Timestamp,
    ) -> Result<(), TokenError> {
        let rules = &bound.rules.binding;
        let field = only(inbound.headers(), &DPOP).map_err(|_| TokenError::ProofInvalid)?;
        let field = field.ok_or(TokenError::ProofMissing)?;
        let claims = RawToken::parse(field.as_bytes()).and_then(|proof| signed_by(proof, key));
        let claims = claims.ok_or(TokenError::ProofInvalid)?;
        let claims = Claims(&claims);
        let made_for_this = claims.text("htm") == Ok(Some(inbound.method().as_str()))
            && claims.text("ath") == Ok(Some(&URL_SAFE_NO_PAD.encode(token.bytes())))
            && claims.text("htu").is_ok_and(|uri| uri.is_some_and(|uri| self.is_ours(uri, inbound.target().path())));
        let jti = claims.identifier("jti").ok().flatten();
        let made = claims.date("iat").ok().flatten();
        let (Some(jti), Some(made), true) = (jti, made, made_for_this) else { return Err(TokenError::ProofInvalid) };
        let forgotten = self.remembered_from.is_some_and(|from| made < from);
        if made > now.later(rules.leeway) || made.later(rules.proof_age_max) <= now || forgotten {
            return Err(TokenError::ProofInvalid);
        }
        let nonce = claims.text("nonce").map_err(|_| TokenError::ProofInvalid)?;
        if rules.nonce && !nonce.is_some_and(|nonce| self.nonces.holds(nonce, now)) {
            return Err(TokenError::ProofNonceMissing(self.nonces.present(now)));
        }
        // Last, so that only good proofs take room.
        let agent = format!("{} {}", bound.issuer(), bound.client().as_str());
        match self.seen.sight(proof_id(key, jti.as_str()), &agent, Instant::now()) {
            Sighting::First => Ok(()),
            Sighting::Again => Err(TokenError::ProofReplayed),
            Sighting::NoRoom => Err(TokenError::ProofsUnchecked),
        }
    }

    /// Whether `uri` is `path` at one of our origins. Query and fragment do not count; the path does byte for byte.
    fn is_ours(&self, uri: &str, path: &str) -> bool {
        let uri = uri.split(['?', '#']).next().unwrap_or_default();
        let Some((scheme, rest)) = uri.split_once("://") else { return false };
        let (authority, named) = rest.find('/').map_or((rest, ""), |slash| rest.split_at(slash));
        // Neither user information nor what `Url` would take for the start of a path.
        let plain = authority.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte));
        let origin = Url::parse(&format!("{scheme}://{authority}"));
        let ours = origin.is_ok_and(|url| self.origins.contains(&url.origin()));
        plain && ours && (named == path || named.is_empty() && path == "/")
    }
}

/// The claims of a proof that was signed with `key`; `None` when it is no proof, or another's.
fn signed_by(proof: RawToken<'_>, key: &Thumbprint) -> Option<serde_json::Map<String, Value>> {
    let jws = Jws::parse(proof).ok()?;
    let jwk = jws.header.get("jwk")?.as_object()?;
    let shown = Key::parse(jwk).ok()?;
    let is_proof = jws.media_type.as_deref() == Some("dpop+jwt");
    (is_proof && shown.thumbprint() == *key && jws.is_signed_with(&shown)).then(|| jws.claims().ok()).flatten()
}

fn proof_id(key: &Thumbprint, jti: &str) -> ProofId {
    let whole = sha256(&[key, jti.as_bytes()].concat());
    whole.first_chunk().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_forgotten_stays_out_however_often_proofs_may_get_older() {
        let with = |age: u64, leeway: u64, before: Option<&Proofs>, now: u64| {
            let settings = ProofSettings { origins: Vec::new(), nonces: Nonces::new(None).unwrap(), own_secret: true };
            let config = serde_json::json!({ "oidc_generic": { "issuer": "https://a.example", "audiences": ["a"],
                "dpop": "accepted", "dpop_proof_age_max_s": age, "leeway_s": leeway } });
            let rules = Rules::compile(&serde_json::from_value(config).unwrap(), &Files::memory([])).unwrap();
            Proofs::new(settings, &[rules], before, Timestamp::from_seconds(now))
        };
        let first = with(60, 10, None, 0);
        assert_eq!(first.remembered_from, None);
        let second = with(300, 10, Some(&first), 1_000);
        assert_eq!(second.remembered_from, Some(Timestamp::from_seconds(940)), "seen 70 s ago, made up to 10 s later");
        let third = with(600, 10, Some(&second), 1_020);
        assert_eq!(third.remembered_from, second.remembered_from, "what was forgotten is not remembered again");
        let less = with(30, 0, Some(&third), 2_000);
        assert_eq!((less.horizon, less.remembered_from), (third.horizon, third.remembered_from));
        assert_eq!(with(600, 10, Some(&less), 2_000).remembered_from, third.remembered_from);
        let nonce = first.nonces.present(Timestamp::from_seconds(0));
        assert!(less.nonces.holds(nonce.as_str(), Timestamp::from_seconds(0)), "nonces outlive it too");
    }

    #[test]
    fn a_uri_is_ours_by_origin_and_exact_path() {
        let origins = ["https://api.example", "http://127.0.0.1:8080"].map(|it| Url::parse(it).unwrap().origin());
        let settings = ProofSettings { origins: origins.into(), nonces: Nonces::new(None).unwrap(), own_secret: true };
        let proofs = Proofs::new(settings, &[], None, Timestamp::from_seconds(0));
        for uri in [
            "https://api.example/a%20b",
            "HTTPS://API.example:443/a%20b",
            "http://127.0.0.1:8080/a%20b",
            "https://api.example/a%20b?q=1#f",
        ] {
            assert!(proofs.is_ours(uri, "/a%20b"), "{uri}");
        }
        for uri in [
            "",
            "/a%20b",
            "http://api.example/a%20b",
            "https://api.example:444/a%20b",
            "https://api.example/a b",
            "https://api.example/x/../a%20b",
            "https://api.example/a%20b/",
            "https://api.example",
            "https://evil.example/a%20b",
            "https://evil@api.example/a%20b",
            "https://api.example\\@evil/a%20b",
            "https://api.example/?/a%20b",
        ] {
            assert!(!proofs.is_ours(uri, "/a%20b"), "{uri}");
        }
        assert!(proofs.is_ours("https://api.example", "/"));
    }
}
