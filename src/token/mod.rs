//! ROOM 2: from a string to a [`VerifiedToken`], or to the reason why not. Knows nothing of Cedar or of routes.

pub mod algorithm;
pub mod bearer;
pub mod binding;
pub mod cache;
pub mod claims;
mod client_auth;
mod compile;
pub mod delegation;
pub mod denied;
pub mod deny_list;
pub mod dpop;
mod evidence;
pub mod introspection;
pub mod issuer;
mod issuers;
pub mod jwks;
mod jws;
mod key_copy;
pub mod key_source;
pub mod keys;
pub mod nonce;
mod profile;
mod replay;
pub mod rules;
mod turns;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde_json::{Map, Value};

pub use self::{
    bearer::{Presented, RawToken},
    issuers::{Issuers, Trust},
};
use self::{
    binding::Confirmation,
    claims::Identifier,
    delegation::{Delegated, Delegation},
    nonce::Nonce,
    rules::Rules,
};
use crate::base::clock::Timestamp;

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
    /// The issuer says that the token is not active.
    #[error("the issuer says that the token is not active")]
    Inactive,
    /// The issuer does not say clearly whether the token is active.
    #[error("the issuer does not say whether the token is active")]
    IntrospectionUnavailable,
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
    /// The thumbprint of the key that signed it, if one did.
    key: Option<[u8; 32]>,
    expires: Timestamp,
    /// When it ceases to be valid by what it says itself, leeway included: an answer about it may serve for less long.
    ends: Timestamp,
    /// From its verification to then.
    lifetime: Duration,
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
    /// The Cedar id of an agent, or of a group of agents, that this token names.
    pub fn agents_id(&self, named: &Identifier) -> String {
        self.rules.agent_id(named)
    }
    /// Whether this claim names the user acted for, by the issuer's configuration.
    pub fn names_user_by(&self, claim: &str) -> bool {
        self.rules.user_claim.as_ref().is_some_and(|named| named.outermost() == claim)
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
    /// Whose user it is that the agent acts for, if any.
    pub fn user_issuer(&self) -> Option<&str> {
        self.delegation().map(|_| self.rules.user_issuer.as_str())
    }
    /// Who acts for the user, the latest first: the actors that the token names, or else the agent alone.
    pub fn actors(&self) -> &[Identifier] {
        match self.delegation() {
            Some(delegation) if !delegation.actors().is_empty() => delegation.actors(),
            Some(_) => std::slice::from_ref(&self.client),
            None => &[],
        }
    }
    /// What it says of a delegation, whole or not.
    pub const fn delegated(&self) -> &Delegated {
        &self.delegated
    }
    /// Every claim, as signed.
    pub const fn claims(&self) -> &Map<String, Value> {
        &self.claims
    }
    /// The thumbprint (RFC 7638) of the key that signed it; none where its issuer was asked.
    pub const fn key(&self) -> Option<[u8; 32]> {
        self.key
    }
    /// How long it may be remembered, from its verification on.
    pub const fn lifetime(&self) -> Duration {
        self.lifetime
    }
    /// The version of the deny-list that it was last found not to be on.
    pub fn cleared(&self) -> u64 {
        self.cleared.load(Ordering::Acquire)
    }
    /// When it ceases to be valid, leeway included.
    pub const fn expires(&self) -> Timestamp {
        self.expires
    }
}
