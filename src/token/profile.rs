//! What an issuer may assert, by profile: a table. A profile says where a token names its client and its scopes, which
//! `typ` it has, and what stands in for the audience check.

use super::{
    TokenError,
    algorithm::Algorithm,
    claims::{Claims, Identifier},
};

/// A row of the table.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Profile {
    /// Values of `typ`, lower case, without `application/`.
    types: &'static [&'static str],
    /// Whether `typ` may be left out.
    type_optional: bool,
    /// Values of `token_use`.
    uses: &'static [&'static str],
    /// Whether `token_use` must be there.
    use_required: bool,
    /// Claims that name the client; those that are there must agree.
    clients: &'static [&'static str],
    /// Claims that hold the scopes; those that are there must agree.
    scopes: &'static [&'static str],
    /// Whether the scopes may stand in an array.
    scope_arrays: bool,
    /// Claims that must be there beside `iss` and `exp`.
    required: &'static [&'static str],
    /// Whether its tokens carry `aud`.
    pub(super) audience: Carries,
    /// What it may sign with unless it is told otherwise.
    pub(super) algorithms: &'static [Algorithm],
}

/// Whether tokens carry a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Carries {
    Always,
    Sometimes,
    Never,
}

/// Amazon Cognito access tokens.
pub(super) const COGNITO_ACCESS: Profile = Profile {
    types: &["jwt"],
    type_optional: true,
    uses: &["access"],
    use_required: true,
    clients: &["client_id"],
    scopes: &["scope"],
    scope_arrays: false,
    required: &[],
    audience: Carries::Never,
    algorithms: &[Algorithm::RS256],
};

/// JWT access tokens of RFC 9068, section 2.
pub(super) const RFC9068: Profile = Profile {
    types: &["at+jwt"],
    type_optional: false,
    uses: &["access"],
    use_required: false,
    clients: &["client_id"],
    scopes: &["scope"],
    scope_arrays: false,
    required: &["aud", "sub", "client_id", "iat", "jti"],
    audience: Carries::Always,
    algorithms: &[Algorithm::RS256, Algorithm::ES256],
};

/// Access tokens as Auth0, Entra, Keycloak and Okta write them.
pub(super) const OIDC_GENERIC: Profile = Profile {
    types: &["jwt", "at+jwt"],
    type_optional: true,
    uses: &["access"],
    use_required: false,
    clients: &["client_id", "azp", "cid", "appid"],
    scopes: &["scope", "scp"],
    scope_arrays: true,
    required: &[],
    audience: Carries::Always,
    algorithms: &[Algorithm::RS256, Algorithm::ES256],
};

/// What an issuer says of an opaque token (RFC 7662 section 2.2).
pub(super) const INTROSPECTION: Profile = Profile {
    types: &[],
    type_optional: true,
    uses: &["access", "access_token"],
    use_required: false,
    clients: &["client_id"],
    scopes: &["scope"],
    scope_arrays: false,
    required: &[],
    audience: Carries::Sometimes,
    algorithms: &[],
};

/// Claims that only ID tokens carry (OpenID Connect Core 1.0 sections 2 and 3.1.3.6).
const ID_TOKEN_CLAIMS: [&str; 3] = ["nonce", "at_hash", "c_hash"];

impl Profile {
    /// Whether this is an access token of the profile at all.
    pub(super) fn check_kind(&self, media_type: Option<&str>, claims: Claims<'_>) -> Result<(), TokenError> {
        if !media_type.map_or(self.type_optional, |typ| self.types.contains(&typ)) {
            return Err(TokenError::TypeWrong);
        }
        match claims.text("token_use")? {
            Some(kind) if self.uses.contains(&kind) => {}
            None if !self.use_required => {}
            _ => return Err(TokenError::UseWrong),
        }
        if ID_TOKEN_CLAIMS.iter().any(|name| claims.has(name)) {
            return Err(TokenError::UseWrong);
        }
        if self.required.iter().any(|name| !claims.has(name)) {
            return Err(TokenError::Malformed);
        }
        Ok(())
    }

    /// The client: every claim that names one names the same.
    pub(super) fn client(&self, claims: Claims<'_>) -> Result<Identifier, TokenError> {
        let mut named = None;
        for name in self.clients {
            match (claims.identifier(name)?, &named) {
                (Some(client), Some(before)) if client != *before => return Err(TokenError::ClientRefused),
                (Some(client), None) => named = Some(client),
                _ => {}
            }
        }
        named.ok_or(TokenError::ClientRefused)
    }

    /// The scopes: every claim that holds them holds the same.
    pub(super) fn scopes(&self, claims: Claims<'_>) -> Result<Vec<String>, TokenError> {
        let mut held: Option<Vec<String>> = None;
        for name in self.scopes.iter().filter(|name| claims.0.contains_key(**name)) {
            let scopes = claims.words(name, self.scope_arrays)?;
            match &held {
                Some(before) if *before != scopes => return Err(TokenError::Malformed),
                _ => held = Some(scopes),
            }
        }
        Ok(held.unwrap_or_default())
    }
}
