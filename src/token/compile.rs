//! From an entry of `issuers` to [`Rules`]. The audience of a token is never optional by omission.

use std::{path::PathBuf, time::Duration};

use serde_saphyr::Spanned;
use url::Url;

use super::{
    algorithm::Algorithm,
    binding::{Binding, BindingRules},
    claims::{Identifier, is_scope},
    delegation::UserClaim,
    issuer::{AudienceWaiver, IssuerConfig, IssuerSettings, NonceDemand, TransportWaiver},
    jwks::KeySet,
    key_source::KeySource,
    keys::Settings,
    profile::Profile,
    rules::Rules,
};
use crate::base::{
    fetch::Transport,
    files::Files,
    problem::{Problem, Problems, bounded},
};

impl Rules {
    /// Compiles an issuer's configuration; a key file is read to see that it holds keys.
    ///
    /// # Errors
    /// Every [`Problem`] it has.
    pub fn compile(config: &IssuerConfig, files: &Files) -> Result<Self, Problems> {
        let mut problems = Problems::default();
        let (profile, settings) = (config.profile(), config.settings());
        let source = problems.keep(key_source(settings, files));
        let audiences = problems.keep(audience(profile, settings));
        let algorithms = problems.keep(algorithms(profile, settings));
        let leeway = problems.keep(bounded(settings.leeway_s.as_ref(), "leeway_s", 10, 0..=300));
        let lifetime_max = problems.keep(age(settings.lifetime_max_s.as_ref(), "lifetime_max_s"));
        let delegation_age_max = problems.keep(age(settings.delegation_age_max_s.as_ref(), "delegation_age_max_s"));
        problems.keep(settings.jwks_copy.as_ref().map_or(Ok(()), |copy| worth_keeping(copy, source.as_ref())));
        let ring = problems.keep(ring(settings));
        let binding = problems.keep(binding(settings));
        problems.keep(settings.client_ids.as_ref().map_or(Ok(()), known_clients));
        problems.keep(settings.scope_prefix.as_ref().map_or(Ok(()), bounded_prefix));
        let user_claim = problems.keep(settings.user_claim.as_ref().map(user_claim).transpose());
        let agent_id_prefix = problems.keep(prefix(settings.agent_id_prefix.as_ref()));
        let user_id_prefix = problems.keep(prefix(settings.user_id_prefix.as_ref()));
        let rules = (|| {
            Some(Self {
                issuer: settings.issuer.value.clone(),
                algorithms: algorithms?,
                profile,
                audiences: audiences?,
                client_ids: settings.client_ids.as_ref().map(|ids| ids.value.clone()),
                scope_prefix: settings.scope_prefix.as_ref().map(|prefix| prefix.value.clone()),
                user_claim: user_claim?,
                binding: BindingRules { leeway: Duration::from_secs(leeway?), ..binding? },
                leeway: Duration::from_secs(leeway?),
                lifetime_max: lifetime_max?,
                delegation_age_max: delegation_age_max?,
                agent_id_prefix: agent_id_prefix?,
                user_id_prefix: user_id_prefix?,
                source: source?,
                ring: ring?,
            })
        })();
        problems.into_result(rules)
    }
}

fn issuer_url(issuer: &Spanned<String>, transport: Transport) -> Result<Url, Problem> {
    let url = Url::parse(&issuer.value).ok().filter(|url| transport.admits(url));
    url.filter(|url| url.query().is_none() && url.fragment().is_none()).ok_or_else(|| {
        Problem::at(issuer, format!("nothing can be discovered at issuer `{}`", issuer.value)).fix(
            "that takes an https URL without query or fragment; else say where its keys are: `jwks_uri`, `jwks_file` or `jwks`",
        )
    })
}

const JWK_SET: &str = "give a JWK set (RFC 7517) of public keys";

const fn transport(settings: &IssuerSettings) -> Transport {
    match settings.transport {
        Some(TransportWaiver::AcceptPlainHttp) => Transport::PlainHttp,
        None => Transport::Trustworthy,
    }
}

fn fetchable(uri: &Spanned<String>, transport: Transport) -> Option<Url> {
    Url::parse(&uri.value).ok().filter(|url| transport.admits(url))
}

fn key_source(settings: &IssuerSettings, files: &Files) -> Result<KeySource, Problem> {
    if Identifier::parse(&settings.issuer.value).is_none() {
        return Err(Problem::at(&settings.issuer, "not an issuer").fix("write `iss` as it stands in the tokens"));
    }
    let transport = transport(settings);
    match (&settings.jwks_uri, &settings.jwks_file, &settings.jwks) {
        (Some(uri), None, None) => fetchable(uri, transport).map(KeySource::Url).ok_or_else(|| {
            Problem::at(uri, format!("keys cannot be fetched from `{}`", uri.value))
                .fix("use an https URL; http is for loopback addresses only, unless you must: `transport: accept_plain_http`")
        }),
        (None, Some(file), None) => {
            let text = files.read(&file.value).map_err(|error| {
                Problem::at(file, format!("cannot read `{}`: {error}", file.value.display()))
                    .fix("the path is relative to the configuration file")
            })?;
            let checked = KeySet::parse(text.as_bytes());
            checked.map_err(|error| Problem::at(file, error.to_string()).fix(JWK_SET))?;
            Ok(KeySource::File(file.value.clone()))
        }
        (None, None, Some(keys)) => {
            let text = keys.value.to_string();
            KeySet::parse(text.as_bytes()).map_err(|error| Problem::at(keys, error.to_string()).fix(JWK_SET))?;
            Ok(KeySource::Inline(text))
        }
        (None, None, None) => {
            let issuer = issuer_url(&settings.issuer, transport)?;
            let metadata = format!("{}/.well-known/openid-configuration", issuer.as_str().trim_end_matches('/'));
            let metadata = Url::parse(&metadata).map_err(|error| Problem::at(&settings.issuer, error.to_string()))?;
            Ok(KeySource::Discovery { issuer: settings.issuer.value.clone(), metadata, transport })
        }
        (uri, file, keys) => {
            let message = "keys from more than one place";
            let first = uri.as_ref().map(|uri| Problem::at(uri, message));
            let first = first.or_else(|| file.as_ref().map(|file| Problem::at(file, message)));
            let first = first.or_else(|| keys.as_ref().map(|keys| Problem::at(keys, message)));
            Err(first.unwrap_or_else(|| Problem::new(message)).fix("keep one of `jwks_uri`, `jwks_file` and `jwks`"))
        }
    }
}

fn worth_keeping(copy: &Spanned<PathBuf>, source: Option<&KeySource>) -> Result<(), Problem> {
    match source {
        Some(KeySource::File(_) | KeySource::Inline(_)) => {
            Err(Problem::at(copy, "a copy of keys that are at hand").fix("remove `jwks_copy`"))
        }
        _ => Ok(()),
    }
}

/// What stands in for the audience check. It is never left out by omission.
fn audience(profile: &Profile, settings: &IssuerSettings) -> Result<Option<Vec<String>>, Problem> {
    let nothing = "nothing says which tokens of this issuer are meant for this service";
    match (&settings.audiences, &settings.audience) {
        (Some(audiences), _) if !profile.audience => Err(Problem::at(audiences, "Cognito access tokens carry no `aud`")
            .fix("remove `audiences`; `client_ids` and `scope_prefix` say whom and what a token is for")),
        (_, Some(waiver)) if !profile.audience => Err(Problem::at(waiver, "Cognito access tokens carry no `aud`")
            .fix("remove `audience`; `client_ids` and `scope_prefix` say whom and what a token is for")),
        (None, None) if !profile.audience => {
            let clients = settings.client_ids.as_ref().is_some_and(|ids| !ids.value.is_empty());
            let prefix = settings.scope_prefix.as_ref().is_some_and(|prefix| !prefix.value.is_empty());
            if clients && prefix {
                return Ok(None);
            }
            Err(Problem::at(&settings.issuer, nothing).fix(
                "give both `client_ids` (the agents let in) and `scope_prefix` (your resource server, as in `orders/`)",
            ))
        }
        (Some(audiences), Some(_)) => {
            Err(Problem::at(audiences, "`audiences` beside a waiver of the audience check").fix("keep one of the two"))
        }
        (Some(audiences), None) if audiences.value.iter().any(String::is_empty) => {
            Err(Problem::at(audiences, "an empty audience").fix("write the values of `aud` that mean this service"))
        }
        (Some(audiences), None) if !audiences.value.is_empty() => Ok(Some(audiences.value.clone())),
        (None, Some(Spanned { value: AudienceWaiver::AcceptAnyAudience, .. })) => Ok(None),
        _ => Err(Problem::at(&settings.issuer, nothing).fix(
            "give `audiences`: the values of `aud` that mean this service; or, if you must, `audience: accept_any_audience`",
        )),
    }
}

fn algorithms(profile: &Profile, settings: &IssuerSettings) -> Result<Vec<Algorithm>, Problem> {
    match &settings.algorithms {
        Some(some) if some.value.is_empty() => {
            Err(Problem::at(some, "no algorithm is allowed").fix("name at least one, or leave the setting out"))
        }
        Some(some) => Ok(some.value.clone()),
        None => Ok(profile.algorithms.to_vec()),
    }
}

/// A bound on an age, up to a year; none where nothing is said.
fn age(value: Option<&Spanned<u64>>, name: &str) -> Result<Option<Duration>, Problem> {
    value.map(|value| bounded(Some(value), name, 0, 1..=31_536_000).map(Duration::from_secs)).transpose()
}

fn user_claim(path: &Spanned<String>) -> Result<UserClaim, Problem> {
    UserClaim::parse(&path.value)
        .ok_or_else(|| Problem::at(path, "not the name of a claim").fix("write `claim`, or `outer.inner`"))
}

fn binding(settings: &IssuerSettings) -> Result<BindingRules, Problem> {
    let age = bounded(settings.dpop_proof_age_max_s.as_ref(), "dpop_proof_age_max_s", 60, 1..=600)?;
    let how = |setting: &Option<Spanned<Binding>>| setting.as_ref().map_or(Binding::Off, |setting| setting.value);
    Ok(BindingRules {
        key: how(&settings.dpop),
        certificate: how(&settings.certificate_binding),
        nonce: settings.dpop_nonce == NonceDemand::Required,
        proof_age_max: Duration::from_secs(age),
        leeway: Duration::ZERO,
    })
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
    let absent = seconds(&settings.unknown_key_s, "unknown_key_s", default.absent, 1..=3_600);
    let stale_max = seconds(&settings.stale_max_s, "stale_max_s", default.stale_max, 1..=604_800);
    let fetch_timeout =
        problems.keep(bounded(settings.fetch_timeout_ms.as_ref(), "fetch_timeout_ms", 3_000, 10..=60_000));
    let ring = (|| {
        Some(Settings {
            refresh_interval: refresh_interval?,
            cooldown: cooldown?,
            fetch_timeout: Duration::from_millis(fetch_timeout?),
            stale_max: stale_max?,
            absent: absent?,
            copy: settings.jwks_copy.as_ref().map(|copy| copy.value.clone()),
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

/// A prefix ends at the first `|`, so it may not hold one.
fn prefix(prefix: Option<&Spanned<String>>) -> Result<Option<String>, Problem> {
    match prefix {
        Some(prefix) if Identifier::parse(&prefix.value).is_none() || prefix.value.contains('|') => {
            Err(Problem::at(prefix, "not a prefix").fix("use a short name without `|`, such as the pool id"))
        }
        prefix => Ok(prefix.map(|prefix| prefix.value.clone())),
    }
}
