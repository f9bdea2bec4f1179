//! An entry of `issuers`, as it is written.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

pub use super::rules::Rules;
use super::{
    algorithm::Algorithm,
    binding::Binding,
    profile::{self, Profile},
};
use crate::base::{secret::SecretSource, spanned::Spanned};

/// An entry of `issuers`: the profile is the key.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum IssuerConfig {
    /// Amazon Cognito access tokens. They carry no `aud`; `client_ids` and `scope_prefix` stand in for it.
    CognitoAccess(IssuerSettings),
    /// JWT access tokens of RFC 9068.
    Rfc9068(IssuerSettings),
    /// Access tokens of other issuers that put `aud` in them: Auth0, Entra, Keycloak, Okta.
    OidcGeneric(IssuerSettings),
    /// Opaque tokens: the issuer is asked what each one means (RFC 7662).
    Introspection(IssuerSettings),
}

/// The audience check, waived: long to type on purpose.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AudienceWaiver {
    /// A token for any other service of the issuer will do.
    AcceptAnyAudience,
}

/// The demand for https, waived: long to type on purpose.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TransportWaiver {
    /// What is fetched from the issuer may come in the clear, where anybody between can forge it.
    AcceptPlainHttp,
}

/// Whether a proof must hold a nonce.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NonceDemand {
    /// It need not.
    #[default]
    Off,
    /// It must hold one that the gate gave out.
    Required,
}

/// The settings of an issuer.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IssuerSettings {
    /// `iss` of its tokens, compared as an exact string.
    pub issuer: Spanned<String>,
    /// Where its key set is. Without this and `jwks_file` it is discovered from the issuer's metadata.
    pub jwks_uri: Option<Spanned<String>>,
    /// A file that holds its key set.
    pub jwks_file: Option<Spanned<PathBuf>>,
    /// Its key set itself.
    pub jwks: Option<Spanned<serde_json::Value>>,
    /// A file that keeps the last good key set, for a start while the issuer fails. Default none.
    pub jwks_copy: Option<Spanned<PathBuf>>,
    /// A waiver of https.
    pub transport: Option<TransportWaiver>,
    /// Where it is asked about tokens; for `introspection` alone, as is all that follows up to `cache_max_s`.
    pub introspection_uri: Option<Spanned<String>>,
    /// Who the gate is to it.
    pub client_id: Option<Spanned<String>>,
    /// The secret by which the gate shows that.
    pub client_secret: Option<SecretSource>,
    /// The private key (PEM) by which the gate shows that.
    pub private_key: Option<SecretSource>,
    /// `kid` of that key.
    pub private_key_id: Option<String>,
    /// What the tokens that it is asked about begin with. Default: it is asked about all that is no JWT.
    pub token_prefix: Option<Spanned<String>>,
    /// Questions to it under way at once. Default 64.
    pub questions_max: Option<Spanned<usize>>,
    /// Seconds that an answer serves at most. Default 60.
    pub cache_max_s: Option<Spanned<u64>>,
    /// Signature algorithms it may use. Default: RS256, and ES256 too but for `cognito_access`.
    pub algorithms: Option<Spanned<Vec<Algorithm>>>,
    /// Values of `aud` that mean us.
    pub audiences: Option<Spanned<Vec<String>>>,
    /// A waiver of the audience check.
    pub audience: Option<Spanned<AudienceWaiver>>,
    /// The clients (agents) that are let in.
    pub client_ids: Option<Spanned<Vec<String>>>,
    /// A token must hold a scope that starts with this.
    pub scope_prefix: Option<Spanned<String>>,
    /// Seconds by which clocks may differ. Default 10, at most 300.
    pub leeway_s: Option<Spanned<u64>>,
    /// Seconds from `iat` to `exp` that a token may live at most. Default: no limit.
    pub lifetime_max_s: Option<Spanned<u64>>,
    /// Seconds since `iat` for which a delegation holds. Default: as long as the token.
    pub delegation_age_max_s: Option<Spanned<u64>>,
    /// The claim that names the user acted for, in place of `onBehalfOf.sub`: `claim`, or `outer.inner`.
    pub user_claim: Option<Spanned<String>>,
    /// `iss` of the users that agents act for, where it is another than `issuer`.
    pub user_issuer: Option<Spanned<String>>,
    /// Put before an agent's id: `Agent::"<prefix>|<client id>"`.
    pub agent_id_prefix: Option<Spanned<String>>,
    /// Put before a user's id: `User::"<prefix>|<sub>"`.
    pub user_id_prefix: Option<Spanned<String>>,
    /// Whether its tokens are bound to a key that a DPoP proof must show. Default off.
    pub dpop: Option<Spanned<Binding>>,
    /// Whether a DPoP proof must hold a nonce of ours. Default off.
    pub dpop_nonce: Option<Spanned<NonceDemand>>,
    /// Seconds for which a DPoP proof holds after it was made. Default 60.
    pub dpop_proof_age_max_s: Option<Spanned<u64>>,
    /// Whether its tokens are bound to a client certificate. Default off.
    pub certificate_binding: Option<Spanned<Binding>>,
    /// Seconds between background refreshes of the keys. Default 300.
    pub refresh_interval_s: Option<Spanned<u64>>,
    /// Least seconds between two fetches of the keys. Default 10.
    pub cooldown_s: Option<Spanned<u64>>,
    /// Milliseconds that a fetch may take. Default 3000.
    pub fetch_timeout_ms: Option<Spanned<u64>>,
    /// Seconds for which a key that the issuer does not have is not asked for again. Default 30.
    pub unknown_key_s: Option<Spanned<u64>>,
    /// Seconds that the last good keys serve while they cannot be fetched. Default 86400.
    pub stale_max_s: Option<Spanned<u64>>,
}

impl IssuerConfig {
    pub(super) const fn profile(&self) -> &'static Profile {
        match self {
            Self::CognitoAccess(_) => &profile::COGNITO_ACCESS,
            Self::Rfc9068(_) => &profile::RFC9068,
            Self::OidcGeneric(_) => &profile::OIDC_GENERIC,
            Self::Introspection(_) => &profile::INTROSPECTION,
        }
    }

    /// The settings, whatever the profile.
    pub const fn settings(&self) -> &IssuerSettings {
        match self {
            Self::CognitoAccess(settings)
            | Self::Rfc9068(settings)
            | Self::OidcGeneric(settings)
            | Self::Introspection(settings) => settings,
        }
    }

    /// The same, to be changed.
    pub const fn settings_mut(&mut self) -> &mut IssuerSettings {
        match self {
            Self::CognitoAccess(settings)
            | Self::Rfc9068(settings)
            | Self::OidcGeneric(settings)
            | Self::Introspection(settings) => settings,
        }
    }
}
