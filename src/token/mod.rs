//! ROOM 2: from a string to a [`VerifiedToken`], or to the reason why not. Knows nothing of Cedar or of routes.

pub mod algorithm;
pub mod bearer;
pub mod binding;
pub mod cache;
pub mod claims;
mod compile;
pub mod delegation;
pub mod denied;
pub mod deny_list;
pub mod dpop;
pub mod issuer;
pub mod jwks;
mod jws;
pub mod key_source;
pub mod keys;
pub mod nonce;
mod profile;
mod replay;
pub mod rules;

use std::{
    collections::HashMap,
    sync::{Arc, atomic::AtomicU64},
};

use serde_json::{Map, Value};

pub use self::bearer::{Presented, RawToken};
use self::{
    binding::{Binding, Confirmation},
    claims::Identifier,
    delegation::{Delegated, Delegation},
    denied::Denied,
    deny_list::{Denials, DenyFile},
    dpop::{ProofSettings, Proofs},
    jwks::KeySet,
    jws::Jws,
    key_source::Sources,
    keys::{KeyError, KeyRing, RingState},
    nonce::Nonce,
    rules::{Rules, Signed},
};
use crate::base::{clock::Timestamp, problem::Problems};

/// Why a token is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// No bearer token in `Authorization`.
    #[error("no bearer token")]
    Missing,
    /// More than one token, or one outside `Authorization`.
    #[error("several tokens, or a token outside `Authorization`")]
    Several,
    /// Not a JWT, or a claim of the wrong type.
    #[error("not a well-formed token")]
    Malformed,
    /// A header parameter that changes how a token is read (`crit`, `b64`, `zip`, `enc`).
    #[error("a header parameter is not supported")]
    HeaderRefused,
    /// `alg` is none that the issuer may use.
    #[error("the signature algorithm is not allowed for this issuer")]
    AlgorithmRefused,
    /// `iss` is none of the configured issuers.
    #[error("the issuer is not known")]
    IssuerUnknown,
    /// The issuer has no key of that name for that algorithm.
    #[error("the issuer has no such key")]
    KeyUnknown,
    /// The issuer's keys cannot be had.
    #[error("the issuer's keys are not available")]
    KeysUnavailable,
    /// The signature is not the issuer's.
    #[error("the signature does not verify")]
    SignatureInvalid,
    /// `typ` names another kind of token.
    #[error("`typ` is not that of an access token")]
    TypeWrong,
    /// `exp` has passed.
    #[error("the token has expired")]
    Expired,
    /// The token is bound (`cnf`, RFC 7800) in a way that nothing here checks, or was presented as if it were not.
    #[error("the token is bound to something and cannot be taken as a plain bearer token")]
    BindingUnchecked,
    /// The token is not bound to anything, and must be.
    #[error("the token is not bound to a key or certificate")]
    BindingMissing,
    /// The client certificate of the connection is not the one that the token is bound to.
    #[error("the token is bound to another client certificate")]
    CertificateMismatch,
    /// `DPoP` is missing beside a token that is bound to a key.
    #[error("the proof of possession is missing")]
    ProofMissing,
    /// The DPoP proof is not one for this request, this token and its key, made just now.
    #[error("the proof of possession is not valid")]
    ProofInvalid,
    /// The DPoP proof holds no nonce of ours that is still good; this one is.
    #[error("the proof of possession needs a nonce")]
    ProofNonceMissing(Nonce),
    /// The DPoP proof was used before.
    #[error("the proof of possession was used before")]
    ProofReplayed,
    /// More DPoP proofs come in than can be remembered.
    #[error("too many proofs of possession to tell whether one was used before")]
    ProofsUnchecked,
    /// The token lives longer than its issuer's tokens may, or does not say how long.
    #[error("the token lives too long")]
    LifetimeExceeded,
    /// The delegation in the token is older than it may be.
    #[error("the delegation is too old")]
    DelegationStale,
    /// Two claims name different users.
    #[error("two claims name different users")]
    DelegationConflict,
    /// `nbf` or `iat` lies ahead.
    #[error("the token is not valid yet")]
    Early,
    /// `token_use` is not `access`.
    #[error("the token is not an access token")]
    UseWrong,
    /// Not meant for this service.
    #[error("the token is meant for another service")]
    AudienceWrong,
    /// On the deny-list.
    #[error("the token is on the deny-list")]
    Revoked,
    /// Not a client that is let in.
    #[error("the client is not let in")]
    ClientRefused,
}

/// A token whose signature, time, audience and client are right. Only [`Issuers::verify`] makes one.
pub struct VerifiedToken {
    rules: Arc<Rules>,
    client: Identifier,
    scopes: Vec<String>,
    caller_app: Option<Identifier>,
    delegated: Delegated,
    confirmation: Confirmation,
    claims: Map<String, Value>,
    size: usize,
    expires: Timestamp,
    generation: u64,
    /// The version of the deny-list that it was last found not to be on.
    cleared: AtomicU64,
}

impl std::fmt::Debug for VerifiedToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VerifiedToken").field("client", &self.client).finish_non_exhaustive()
    }
}

impl VerifiedToken {
    /// The OAuth client: the agent.
    pub const fn client(&self) -> &Identifier {
        &self.client
    }
    /// The agent's Cedar id.
    pub fn agent_id(&self) -> String {
        self.rules.agent_id(&self.client)
    }
    /// The user's Cedar id, if there is a delegation.
    pub fn user_id(&self) -> Option<String> {
        self.delegation().map(|delegation| self.rules.user_id(delegation.user()))
    }
    /// `iss`.
    pub fn issuer(&self) -> &str {
        &self.rules.issuer
    }
    /// The scopes granted.
    pub fn scopes(&self) -> &[String] {
        &self.scopes
    }
    /// The app that the agent was called from.
    pub const fn caller_app(&self) -> Option<&Identifier> {
        self.caller_app.as_ref()
    }
    /// On whose behalf the agent acts.
    pub const fn delegation(&self) -> Option<&Delegation> {
        self.delegated.user()
    }
    /// What it says of a delegation, whole or not.
    pub const fn delegated(&self) -> &Delegated {
        &self.delegated
    }
    /// Every claim, as signed.
    pub const fn claims(&self) -> &Map<String, Value> {
        &self.claims
    }
    /// Bytes of the token as received.
    pub const fn size(&self) -> usize {
        self.size
    }
    /// When it ceases to be valid, leeway included.
    pub const fn expires(&self) -> Timestamp {
        self.expires
    }
}

/// Whom the gate trusts, and how far; compiled.
#[derive(Debug)]
pub struct Trust {
    /// What each issuer's tokens must say.
    pub rules: Vec<Rules>,
    /// How clients show to hold what a token is bound to.
    pub proofs: ProofSettings,
    /// What is refused all the same, and the file that says so.
    pub denied: Option<(Denials, DenyFile)>,
}

impl Trust {
    /// Trust in issuers whose tokens are bound to nothing, with no deny-list.
    ///
    /// # Errors
    /// When the machine gives no randomness.
    pub fn plain(rules: Vec<Rules>) -> Result<Self, Problems> {
        Ok(Self { rules, proofs: ProofSettings::default()?, denied: None })
    }
}

/// The issuers whose tokens are believed, by `iss`.
#[derive(Debug)]
pub struct Issuers {
    by_name: HashMap<String, Issuer>,
    proofs: Proofs,
    denied: Denied,
}

#[derive(Debug)]
struct Issuer {
    rules: Arc<Rules>,
    keys: KeyRing,
}

impl Issuers {
    /// Starts a key ring for each issuer. Must be called on a tokio runtime.
    pub fn start(trust: Trust, sources: &Sources) -> Self {
        let proofs = Proofs::new(trust.proofs, &trust.rules);
        let denied = trust.denied.map_or_else(Denied::nobody, |(list, file)| Denied::start(list, file));
        let start = |rules: Rules| {
            let keys = KeyRing::start(rules.issuer.clone(), rules.source.clone(), sources.clone(), rules.ring.clone());
            (rules.issuer.clone(), Issuer { rules: Arc::new(rules), keys })
        };
        Self { by_name: trust.rules.into_iter().map(start).collect(), proofs, denied }
    }

    /// Verifies a token. An unknown issuer costs no network traffic.
    ///
    /// # Errors
    /// [`TokenError`], the first that applies.
    pub async fn verify(&self, token: RawToken<'_>, now: Timestamp) -> Result<VerifiedToken, TokenError> {
        let jws = Jws::parse(token)?;
        let claims = jws.claims()?;
        let named = claims.get("iss").and_then(Value::as_str).ok_or(TokenError::IssuerUnknown)?;
        let issuer = self.by_name.get(named).ok_or(TokenError::IssuerUnknown)?;
        if !issuer.rules.algorithms.contains(&jws.algorithm) {
            return Err(TokenError::AlgorithmRefused);
        }
        let kid = jws.kid.as_deref();
        let generation = issuer.keys.generation();
        let held = |keys: &KeySet| keys.find(kid, jws.algorithm).next().is_some();
        let keys = issuer.keys.keys_with(kid.unwrap_or_default(), held).await;
        let keys = keys.map_err(|error| match error {
            KeyError::Unknown => TokenError::KeyUnknown,
            KeyError::Unavailable => TokenError::KeysUnavailable,
        })?;
        if !jws.is_signed_by(&keys) {
            return Err(TokenError::SignatureInvalid);
        }
        let media_type = jws.media_type.as_deref();
        let signed = Signed { claims, size: token.as_str().len(), generation };
        let verified = issuer.rules.check(signed, media_type, now)?;
        if self.denied.denies(&verified, now) { Err(TokenError::Revoked) } else { Ok(verified) }
    }

    /// Whether what was verified earlier would still be: not expired, and under the same keys.
    ///
    /// # Errors
    /// `Revoked` when it is on the deny-list now.
    pub fn still_holds(&self, token: &VerifiedToken, now: Timestamp) -> Result<bool, TokenError> {
        let same_keys = |issuer: &Issuer| issuer.keys.generation() == token.generation;
        let holds = token.expires > now && self.by_name.get(token.issuer()).is_some_and(same_keys);
        if holds && self.denied.denies(token, now) { Err(TokenError::Revoked) } else { Ok(holds) }
    }

    /// What is refused although everything about it is right.
    pub const fn denied(&self) -> &Denied {
        &self.denied
    }

    /// Whether some tokens must come with a DPoP proof.
    pub fn asks_for_proofs(&self) -> bool {
        self.by_name.values().any(|issuer| issuer.rules.binding.key != Binding::Off)
    }

    /// The issuers that have no keys to verify with.
    pub fn without_keys(&self) -> Vec<&str> {
        self.rings().filter(|(_, ring)| ring.age.is_none()).map(|(name, _)| name).collect()
    }

    /// How each issuer's key ring fares.
    pub fn rings(&self) -> impl Iterator<Item = (&str, RingState)> {
        self.by_name.iter().map(|(name, issuer)| (name.as_str(), issuer.keys.state()))
    }

    /// Waits until every issuer's keys were fetched once, well or badly.
    pub async fn first_attempts(&self) {
        for issuer in self.by_name.values() {
            issuer.keys.first_attempt().await;
        }
    }
}
