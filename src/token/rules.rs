//! What one issuer's tokens must say; compiled, and checked once per token.

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use serde_json::{Map, Value};

use super::{
    TokenError, VerifiedToken,
    algorithm::Algorithm,
    binding::{BindingRules, Confirmation},
    claims::{ClaimPath, Claims, Identifier},
    delegation::Delegated,
    evidence::Evidence,
    profile::Profile,
};
use crate::base::clock::Timestamp;

/// An issuer's rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// `iss`.
    pub issuer: String,
    pub(super) profile: &'static Profile,
    /// Values of `aud` that mean us; `None` where the profile has none, or the check is waived.
    pub(super) audiences: Option<Vec<String>>,
    pub(super) client_ids: Option<Vec<String>>,
    pub(super) scope_prefix: Option<String>,
    pub(super) user_claim: Option<ClaimPath>,
    /// Whose users agents act for.
    pub user_issuer: String,
    pub(super) binding: BindingRules,
    pub(super) leeway: Duration,
    pub(super) lifetime_max: Option<Duration>,
    pub(super) delegation_age_max: Option<Duration>,
    pub(super) agent_id_prefix: Option<String>,
    pub(super) user_id_prefix: Option<String>,
    pub(super) evidence: Evidence,
}

/// The claims of a token that the caller has had verified, and vouches for.
pub(super) struct Signed {
    pub(super) claims: Map<String, Value>,
    /// The thumbprint of the key that signed it, if one did.
    pub(super) key: Option<[u8; 32]>,
    /// Of the key ring, when the signature was verified.
    pub(super) generation: u64,
    /// Until when they can be taken for true, whatever they say themselves.
    pub(super) until: Option<Timestamp>,
}

impl Rules {
    /// Whether ids of agents and users carry a prefix of their own.
    pub const fn has_id_prefixes(&self) -> bool {
        self.agent_id_prefix.is_some() && self.user_id_prefix.is_some()
    }

    /// The prefix of users' ids.
    pub fn user_id_prefix(&self) -> Option<&str> {
        self.user_id_prefix.as_deref()
    }

    /// The prefix of agents' ids.
    pub fn agent_id_prefix(&self) -> Option<&str> {
        self.agent_id_prefix.as_deref()
    }

    /// What a token's scopes must begin with, one of them.
    pub fn scope_prefix(&self) -> Option<&str> {
        self.scope_prefix.as_deref()
    }

    /// Whether a client of this name is let in.
    pub fn lets_in(&self, client: &str) -> bool {
        self.client_ids.as_ref().is_none_or(|known| known.iter().any(|it| it == client))
    }

    /// Whether the issuer may sign with `algorithm`.
    pub(super) fn may_sign_with(&self, algorithm: Algorithm) -> bool {
        matches!(&self.evidence, Evidence::Signature { algorithms, .. } if algorithms.contains(&algorithm))
    }

    /// Whether both ask the same of tokens, wherever the keys come from that they are verified by, and however these are kept.
    pub(super) fn checks_like(&self, other: &Self) -> bool {
        let same_evidence = match (&self.evidence, &other.evidence) {
            (Evidence::Signature { algorithms: ours, .. }, Evidence::Signature { algorithms: theirs, .. }) => {
                ours == theirs
            }
            (ours, theirs) => ours == theirs,
        };
        same_evidence && *self == Self { evidence: self.evidence.clone(), ..other.clone() }
    }

    /// What tokens begin with that only this issuer is asked about; empty for whatever is not another's. `None` for an
    /// issuer that signs.
    pub fn asked_about(&self) -> Option<&str> {
        match &self.evidence {
            Evidence::Introspection(how) => Some(how.prefix.as_deref().unwrap_or_default()),
            Evidence::Signature { .. } => None,
        }
    }

    /// An agent's Cedar id.
    pub fn agent_id(&self, client: &Identifier) -> String {
        with_prefix(self.agent_id_prefix.as_deref(), client)
    }

    /// A user's Cedar id.
    pub fn user_id(&self, user: &Identifier) -> String {
        with_prefix(self.user_id_prefix.as_deref(), user)
    }

    /// Checks what a token says.
    ///
    /// # Errors
    /// The first thing that is not as it must be.
    pub(super) fn check(
        self: &Arc<Self>,
        signed: Signed,
        media_type: Option<&str>,
        now: Timestamp,
    ) -> Result<VerifiedToken, TokenError> {
        let Signed { claims, key, generation, until } = signed;
        let read = Claims(&claims);
        let delegated = Delegated::of(&claims, self.user_claim.as_ref(), &self.user_issuer, &self.issuer)?;
        let ends = self.check_time(read, delegated.user().is_some(), until, now)?;
        let expires = until.map_or(ends, |until| until.min(ends));
        self.profile.check_kind(media_type, read)?;
        // Whatever they name, they are text (RFC 7519 sections 4.1.2 and 4.1.7).
        for name in ["sub", "jti"] {
            read.text(name)?;
        }
        let confirmation = Confirmation::of(&claims, &self.binding)?;
        let audience = read.audience()?;
        if self.audiences.as_ref().is_some_and(|ours| !ours.iter().any(|it| audience.contains(&it.as_str()))) {
            return Err(TokenError::AudienceWrong);
        }
        let client = self.profile.client(read)?;
        delegated.check_actor(&claims, &client, &self.issuer)?;
        if self.client_ids.as_ref().is_some_and(|known| !known.iter().any(|id| id == client.as_str())) {
            return Err(TokenError::ClientRefused);
        }
        let scopes = self.profile.scopes(read)?;
        if self.scope_prefix.as_ref().is_some_and(|ours| !scopes.iter().any(|scope| scope.starts_with(ours))) {
            return Err(TokenError::AudienceWrong);
        }
        Ok(VerifiedToken {
            client,
            scopes,
            delegated,
            confirmation,
            // An app that cannot be named is told to nobody; policies read the claim itself, if it fits the schema.
            caller_app: read.identifier("callerApp").ok().flatten(),
            rules: self.clone(),
            expires,
            ends,
            lifetime: expires.since(now),
            generation,
            cleared: AtomicU64::new(0),
            key,
            claims,
        })
    }

    /// When the token, or the delegation in it, ceases to hold; leeway included. One that its issuer says no end of ends with
    /// the answer.
    fn check_time(
        &self,
        claims: Claims<'_>,
        delegated: bool,
        until: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<Timestamp, TokenError> {
        let expires = claims.date("exp")?.or(until).ok_or(TokenError::Malformed)?;
        let issued = claims.date("iat")?;
        let latest = now.later(self.leeway);
        if claims.date("nbf")?.max(issued).is_some_and(|from| from > latest) {
            return Err(TokenError::Early);
        }
        let end = expires.later(self.leeway);
        if end <= now {
            return Err(TokenError::Expired);
        }
        if let Some(lifetime) = self.lifetime_max
            && issued.is_none_or(|issued| expires > issued.later(lifetime))
        {
            return Err(TokenError::LifetimeExceeded);
        }
        match self.delegation_age_max.filter(|_| delegated) {
            None => Ok(end),
            Some(age) => {
                let stale = issued.ok_or(TokenError::DelegationStale)?.later(age).later(self.leeway);
                if stale > now { Ok(end.min(stale)) } else { Err(TokenError::DelegationStale) }
            }
        }
    }
}

fn with_prefix(prefix: Option<&str>, id: &Identifier) -> String {
    prefix.map_or_else(|| id.as_str().to_owned(), |prefix| format!("{prefix}|{}", id.as_str()))
}
