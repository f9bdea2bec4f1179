//! What one issuer may assert, by profile, and what its tokens must say. The audience of a token is never optional
//! by omission.

use std::{path::PathBuf, sync::Arc, time::Duration};

use serde::Deserialize;
use serde_json::{Map, Value};
use serde_saphyr::Spanned;
use url::Url;

use super::{
    TokenError, VerifiedToken,
    algorithm::Algorithm,
    claims::{Claims, Identifier},
    delegation::Delegated,
    jwks::KeySet,
    keys::{KeySource, Settings},
};
use crate::base::{
    clock::Timestamp,
    fetch::is_trustworthy,
    files::Files,
    problem::{Problem, Problems, bounded},
};

/// An entry of `issuers`: the profile is the key.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IssuerConfig {
    /// Amazon Cognito access tokens. They carry no `aud`; `client_ids` and `scope_prefix` stand in for it.
    CognitoAccess(IssuerSettings),
    /// Access tokens of any OAuth issuer that puts `aud` in them.
    OidcGeneric(IssuerSettings),
}

/// The settings of an issuer.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssuerSettings {
    /// `iss` of its tokens, compared as an exact string.
    pub issuer: Spanned<String>,
    /// Where its key set is. Without this and `jwks_file` it is discovered from the issuer's metadata.
    pub jwks_uri: Option<Spanned<String>>,
    /// A file that holds its key set.
    pub jwks_file: Option<Spanned<PathBuf>>,
    /// Signature algorithms it may use. Default: RS256, and ES256 too for `oidc_generic`.
    pub algorithms: Option<Spanned<Vec<Algorithm>>>,
    /// Values of `aud` that mean us.
    pub audiences: Option<Spanned<Vec<String>>>,
    /// The clients (agents) that are let in.
    pub client_ids: Option<Spanned<Vec<String>>>,
    /// A token must hold a scope that starts with this.
    pub scope_prefix: Option<Spanned<String>>,
    /// Seconds by which clocks may differ. Default 10, at most 300.
    pub leeway_s: Option<Spanned<u64>>,
    /// Put before an agent's id: `Agent::"<prefix>|<client id>"`.
    pub agent_id_prefix: Option<Spanned<String>>,
    /// Put before a user's id: `User::"<prefix>|<sub>"`.
    pub user_id_prefix: Option<Spanned<String>>,
    /// Seconds between background refreshes of the keys. Default 300.
    pub refresh_interval_s: Option<Spanned<u64>>,
    /// Least seconds between two fetches of the keys. Default 10.
    pub cooldown_s: Option<Spanned<u64>>,
    /// Milliseconds that a fetch may take. Default 3000.
    pub fetch_timeout_ms: Option<Spanned<u64>>,
    /// Seconds that the last good keys serve while they cannot be fetched. Default 86400.
    pub stale_max_s: Option<Spanned<u64>>,
}

impl IssuerConfig {
    /// The settings, whatever the profile.
    pub const fn settings(&self) -> &IssuerSettings {
        match self {
            Self::CognitoAccess(settings) | Self::OidcGeneric(settings) => settings,
        }
    }

    /// The same, to be changed.
    pub const fn settings_mut(&mut self) -> &mut IssuerSettings {
        match self {
            Self::CognitoAccess(settings) | Self::OidcGeneric(settings) => settings,
        }
    }
}

/// What an issuer's tokens must say; compiled.
#[derive(Clone, Debug)]
pub struct Rules {
    /// `iss`.
    pub issuer: String,
    pub(super) algorithms: Vec<Algorithm>,
    profile: Profile,
    client_ids: Option<Vec<String>>,
    scope_prefix: Option<String>,
    leeway: Duration,
    agent_id_prefix: Option<String>,
    user_id_prefix: Option<String>,
    pub(super) source: KeySource,
    pub(super) ring: Settings,
}

/// Claims that only ID tokens carry (OpenID Connect Core 1.0 sections 2 and 3.1.3.6).
const ID_TOKEN_CLAIMS: [&str; 3] = ["nonce", "at_hash", "c_hash"];

/// The claims of a token whose signature the caller has verified and vouches for.
pub(super) struct Signed {
    pub(super) claims: Map<String, Value>,
    /// Bytes of the token.
    pub(super) size: usize,
    /// Of the key ring, when the signature was verified.
    pub(super) generation: u64,
}

#[derive(Clone, Debug)]
enum Profile {
    CognitoAccess,
    OidcGeneric { audiences: Vec<String> },
}

impl Rules {
    /// Compiles an issuer's configuration; a key file is read to see that it holds keys.
    ///
    /// # Errors
    /// Every [`Problem`] it has.
    pub fn compile(config: &IssuerConfig, files: &Files) -> Result<Self, Problems> {
        let mut problems = Problems::default();
        let settings = config.settings();
        let source = problems.keep(key_source(settings, files));
        let profile = problems.keep(match config {
            IssuerConfig::CognitoAccess(_) => cognito(settings),
            IssuerConfig::OidcGeneric(_) => generic(settings),
        });
        let algorithms = problems.keep(algorithms(config));
        let leeway = problems.keep(bounded(settings.leeway_s.as_ref(), "leeway_s", 10, 0..=300));
        let ring = problems.keep(ring(settings));
        problems.keep(settings.client_ids.as_ref().map_or(Ok(()), known_clients));
        problems.keep(settings.scope_prefix.as_ref().map_or(Ok(()), bounded_prefix));
        let agent_id_prefix = problems.keep(prefix(settings.agent_id_prefix.as_ref()));
        let user_id_prefix = problems.keep(prefix(settings.user_id_prefix.as_ref()));
        let rules = (|| {
            Some(Self {
                issuer: settings.issuer.value.clone(),
                algorithms: algorithms?,
                profile: profile?,
                client_ids: settings.client_ids.as_ref().map(|ids| ids.value.clone()),
                scope_prefix: settings.scope_prefix.as_ref().map(|prefix| prefix.value.clone()),
                leeway: Duration::from_secs(leeway?),
                agent_id_prefix: agent_id_prefix?,
                user_id_prefix: user_id_prefix?,
                source: source?,
                ring: ring?,
            })
        })();
        problems.into_result(rules)
    }

    /// Whether ids of agents and users carry a prefix of their own.
    pub const fn has_id_prefixes(&self) -> bool {
        self.agent_id_prefix.is_some() && self.user_id_prefix.is_some()
    }

    /// The prefix of agents' ids.
    pub fn agent_id_prefix(&self) -> Option<&str> {
        self.agent_id_prefix.as_deref()
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
        if !matches!(media_type, None | Some("jwt" | "at+jwt")) {
            return Err(TokenError::TypeWrong);
        }
        let Signed { claims, size, generation } = signed;
        let read = Claims(&claims);
        let expires = self.check_time(read, now)?;
        let scopes = read.scope()?;
        let client = match &self.profile {
            Profile::CognitoAccess => {
                if read.text("token_use")? != Some("access") {
                    return Err(TokenError::UseWrong);
                }
                read.identifier("client_id")?
            }
            Profile::OidcGeneric { audiences } => {
                let of_another_kind = matches!(read.text("token_use")?, Some(other) if other != "access")
                    || ID_TOKEN_CLAIMS.iter().any(|name| claims.contains_key(*name));
                if of_another_kind {
                    return Err(TokenError::UseWrong);
                }
                let named = read.audience()?;
                if !audiences.iter().any(|ours| named.contains(&ours.as_str())) {
                    return Err(TokenError::AudienceWrong);
                }
                one_of(read.identifier("client_id")?, read.identifier("azp")?)?
            }
        };
        let client = client.ok_or(TokenError::ClientRefused)?;
        if self.client_ids.as_ref().is_some_and(|known| !known.iter().any(|id| id == client.as_str())) {
            return Err(TokenError::ClientRefused);
        }
        if self.scope_prefix.as_ref().is_some_and(|ours| !scopes.iter().any(|scope| scope.starts_with(ours))) {
            return Err(TokenError::AudienceWrong);
        }
        Ok(VerifiedToken {
            client,
            scopes,
            delegated: Delegated::of(&claims),
            // An app that cannot be named is told to nobody; policies read the claim itself, if it fits the schema.
            caller_app: read.identifier("callerApp").ok().flatten(),
            rules: self.clone(),
            expires,
            generation,
            size,
            claims,
        })
    }

    fn check_time(&self, claims: Claims<'_>, now: Timestamp) -> Result<Timestamp, TokenError> {
        let expires = claims.date("exp")?.ok_or(TokenError::Malformed)?.later(self.leeway);
        if expires <= now {
            return Err(TokenError::Expired);
        }
        let latest = now.later(self.leeway);
        if claims.date("nbf")?.max(claims.date("iat")?).is_some_and(|from| from > latest) {
            return Err(TokenError::Early);
        }
        Ok(expires)
    }
}

fn with_prefix(prefix: Option<&str>, id: &Identifier) -> String {
    prefix.map_or_else(|| id.as_str().to_owned(), |prefix| format!("{prefix}|{}", id.as_str()))
}

fn one_of(first: Option<Identifier>, second: Option<Identifier>) -> Result<Option<Identifier>, TokenError> {
    match (first, second) {
        (Some(first), Some(second)) if first != second => Err(TokenError::ClientRefused),
        (first, second) => Ok(first.or(second)),
    }
}

fn issuer_url(issuer: &Spanned<String>) -> Result<Url, Problem> {
    let url = Url::parse(&issuer.value).ok().filter(is_trustworthy);
    url.filter(|url| url.query().is_none() && url.fragment().is_none()).ok_or_else(|| {
        Problem::at(issuer, format!("nothing can be discovered at issuer `{}`", issuer.value)).fix(
            "that takes an https URL without query or fragment; else say where its keys are: `jwks_uri` or `jwks_file`",
        )
    })
}

fn key_source(settings: &IssuerSettings, files: &Files) -> Result<KeySource, Problem> {
    if Identifier::parse(&settings.issuer.value).is_none() {
        return Err(Problem::at(&settings.issuer, "not an issuer").fix("write `iss` as it stands in the tokens"));
    }
    match (&settings.jwks_uri, &settings.jwks_file) {
        (Some(uri), Some(_)) => {
            Err(Problem::at(uri, "both `jwks_uri` and `jwks_file` are given").fix("keep one of the two"))
        }
        (Some(uri), None) => Url::parse(&uri.value).ok().filter(is_trustworthy).map(KeySource::Url).ok_or_else(|| {
            Problem::at(uri, format!("keys cannot be fetched from `{}`", uri.value))
                .fix("use an https URL; http is for loopback addresses only")
        }),
        (None, Some(file)) => {
            let text = files.read(&file.value).map_err(|error| {
                Problem::at(file, format!("cannot read `{}`: {error}", file.value.display()))
                    .fix("the path is relative to the configuration file")
            })?;
            let checked = KeySet::parse(text.as_bytes());
            checked.map_err(|error| {
                Problem::at(file, error.to_string()).fix("give a JWK set (RFC 7517) of public keys")
            })?;
            Ok(KeySource::File(file.value.clone()))
        }
        (None, None) => {
            let issuer = issuer_url(&settings.issuer)?;
            let metadata = format!("{}/.well-known/openid-configuration", issuer.as_str().trim_end_matches('/'));
            let metadata = Url::parse(&metadata).map_err(|error| Problem::at(&settings.issuer, error.to_string()))?;
            Ok(KeySource::Discovery { issuer: settings.issuer.value.clone(), metadata })
        }
    }
}

fn cognito(settings: &IssuerSettings) -> Result<Profile, Problem> {
    if let Some(audiences) = &settings.audiences {
        return Err(Problem::at(audiences, "Cognito access tokens carry no `aud`")
            .fix("remove `audiences`; `client_ids` and `scope_prefix` say whom and what a token is for"));
    }
    let clients = settings.client_ids.as_ref().filter(|ids| !ids.value.is_empty());
    let prefix = settings.scope_prefix.as_ref().filter(|prefix| !prefix.value.is_empty());
    match (clients, prefix) {
        (Some(_), Some(_)) => Ok(Profile::CognitoAccess),
        _ => Err(Problem::at(&settings.issuer, "nothing says which tokens of this issuer are meant for this service")
            .fix(
                "give both `client_ids` (the agents let in) and `scope_prefix` (your resource server, as in `orders/`)",
            )),
    }
}

fn generic(settings: &IssuerSettings) -> Result<Profile, Problem> {
    match settings.audiences.as_ref().filter(|some| !some.value.is_empty()) {
        Some(audiences) if audiences.value.iter().any(String::is_empty) => {
            Err(Problem::at(audiences, "an empty audience").fix("write the values of `aud` that mean this service"))
        }
        Some(audiences) => Ok(Profile::OidcGeneric { audiences: audiences.value.clone() }),
        None => {
            Err(Problem::at(&settings.issuer, "nothing says which tokens of this issuer are meant for this service")
                .fix("give `audiences`: the values of `aud` that mean this service"))
        }
    }
}

fn algorithms(config: &IssuerConfig) -> Result<Vec<Algorithm>, Problem> {
    match &config.settings().algorithms {
        Some(some) if some.value.is_empty() => {
            Err(Problem::at(some, "no algorithm is allowed").fix("name at least one, or leave the setting out"))
        }
        Some(some) => Ok(some.value.clone()),
        None => Ok(match config {
            IssuerConfig::CognitoAccess(_) => vec![Algorithm::RS256],
            IssuerConfig::OidcGeneric(_) => vec![Algorithm::RS256, Algorithm::ES256],
        }),
    }
}

fn ring(settings: &IssuerSettings) -> Result<Settings, Problems> {
    let mut problems = Problems::default();
    let default = Settings::default();
    let mut seconds = |value: &Option<Spanned<u64>>, name, default: Duration, range| {
        problems.keep(bounded(value.as_ref(), name, default.as_secs(), range)).map(Duration::from_secs)
    };
    let refresh_interval =
        seconds(&settings.refresh_interval_s, "refresh_interval_s", default.refresh_interval, 1..=86_400);
    let cooldown = seconds(&settings.cooldown_s, "cooldown_s", default.cooldown, 1..=3_600);
    let stale_max = seconds(&settings.stale_max_s, "stale_max_s", default.stale_max, 1..=604_800);
    let fetch_timeout =
        problems.keep(bounded(settings.fetch_timeout_ms.as_ref(), "fetch_timeout_ms", 3_000, 10..=60_000));
    let ring = (|| {
        Some(Settings {
            refresh_interval: refresh_interval?,
            cooldown: cooldown?,
            fetch_timeout: Duration::from_millis(fetch_timeout?),
            stale_max: stale_max?,
        })
    })();
    problems.into_result(ring)
}

fn known_clients(clients: &Spanned<Vec<String>>) -> Result<(), Problem> {
    match clients.value.iter().all(|id| Identifier::parse(id).is_some()) {
        true => Ok(()),
        false => {
            Err(Problem::at(clients, "a client id that no token can carry").fix("write the ids as the issuer does"))
        }
    }
}

/// Without a mark at its end a prefix would match the scopes of another resource server.
fn bounded_prefix(prefix: &Spanned<String>) -> Result<(), Problem> {
    let text = &prefix.value;
    match is_scope(text) && text.ends_with(|end: char| !end.is_alphanumeric()) {
        true => Ok(()),
        false => {
            Err(Problem::at(prefix, "not a prefix of scopes").fix("end it with the mark that follows, as in `orders/`"))
        }
    }
}

/// Whether `text` is a scope-token (RFC 6749 section 3.3).
pub fn is_scope(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\'))
}

/// A prefix ends at the first `|`, so it may not hold one.
fn prefix(prefix: Option<&Spanned<String>>) -> Result<Option<String>, Problem> {
    match prefix {
        Some(prefix) if Identifier::parse(&prefix.value).is_none() || prefix.value.contains('|') => {
            Err(Problem::at(prefix, "not a prefix").fix("use a short name without `|`, such as the pool id"))
        }
        prefix => Ok(prefix.map(|prefix| prefix.value.clone())),
    }
}
