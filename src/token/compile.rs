//! From an entry of `issuers` to [`Rules`]. The audience of a token is never optional by omission.

use std::time::Duration;

use super::{
    binding::{Binding, BindingRules},
    claims::{ClaimPath, Identifier, is_scope},
    evidence::Evidence,
    issuer::{AudienceWaiver, IssuerConfig, IssuerSettings, NonceDemand},
    profile::{Carries, Profile},
    rules::Rules,
};
use crate::base::{
    files::Files,
    problem::{Problem, Problems, bounded},
    spanned::Spanned,
};

impl Rules {
    /// Compiles an issuer's configuration; a key file is read to see that it holds keys.
    ///
    /// # Errors
    /// Every [`Problem`] it has.
    pub fn compile(config: &IssuerConfig, files: &Files) -> Result<Self, Problems> {
        let mut problems = Problems::default();
        let (profile, settings) = (config.profile(), config.settings());
        let issuer = Identifier::parse(&settings.issuer.value).map(|_| ()).ok_or_else(|| {
            Problem::at(&settings.issuer, "not an issuer").fix("write `iss` as it stands in the tokens")
        });
        let evidence = problems.keep(issuer).and_then(|()| problems.keep(Evidence::compile(config, files)));
        let audiences = problems.keep(audience(profile, settings));
        let leeway = problems.keep(bounded(settings.leeway_s.as_ref(), "leeway_s", 10, 0..=300));
        let lifetime_max = problems.keep(age(settings.lifetime_max_s.as_ref(), "lifetime_max_s"));
        let delegation_age_max = problems.keep(age(settings.delegation_age_max_s.as_ref(), "delegation_age_max_s"));
        let binding = problems.keep(binding(settings, leeway));
        problems.keep(settings.client_ids.as_ref().map_or(Ok(()), known_clients));
        problems.keep(settings.scope_prefix.as_ref().map_or(Ok(()), bounded_prefix));
        let user_issuer = problems.keep(user_issuer(settings));
        let user_claim = problems.keep(settings.user_claim.as_ref().map(user_claim).transpose());
        let agent_id_prefix = problems.keep(prefix(settings.agent_id_prefix.as_ref()));
        let user_id_prefix = problems.keep(prefix(settings.user_id_prefix.as_ref()));
        let rules = (|| {
            Some(Self {
                issuer: settings.issuer.value.clone(),
                profile,
                audiences: audiences?,
                client_ids: settings.client_ids.as_ref().map(|ids| ids.value.clone()),
                scope_prefix: settings.scope_prefix.as_ref().map(|prefix| prefix.value.clone()),
                user_claim: user_claim?,
                user_issuer: user_issuer?,
                binding: binding?,
                leeway: Duration::from_secs(leeway?),
                lifetime_max: lifetime_max?,
                delegation_age_max: delegation_age_max?,
                agent_id_prefix: agent_id_prefix?,
                user_id_prefix: user_id_prefix?,
                evidence: evidence?,
            })
        })();
        problems.into_result(rules)
    }
}

/// What stands in for the audience check. It is never left out by omission.
fn audience(profile: &Profile, settings: &IssuerSettings) -> Result<Option<Vec<String>>, Problem> {
    let never = profile.audience == Carries::Never;
    let no_audience =
        |problem: Problem| problem.fix("remove it; `client_ids` and `scope_prefix` say whom and what a token is for");
    match (&settings.audiences, &settings.audience) {
        (Some(audiences), _) if never => {
            Err(no_audience(Problem::at(audiences, "`audiences`, but Cognito access tokens carry no `aud`")))
        }
        (_, Some(waiver)) if never => {
            Err(no_audience(Problem::at(waiver, "`audience`, but Cognito access tokens carry no `aud`")))
        }
        (Some(audiences), Some(_)) => {
            Err(Problem::at(audiences, "`audiences` beside a waiver of the audience check").fix("keep one of the two"))
        }
        (Some(audiences), None) if audiences.value.iter().any(String::is_empty) => {
            Err(Problem::at(audiences, "an empty audience").fix("write the values of `aud` that mean this service"))
        }
        (Some(audiences), None) if !audiences.value.is_empty() => Ok(Some(audiences.value.clone())),
        (None, Some(Spanned { value: AudienceWaiver::AcceptAnyAudience, .. })) => Ok(None),
        (None, None) if profile.audience != Carries::Always && names_clients_and_scopes(settings) => Ok(None),
        _ => {
            let by_client =
                "both `client_ids` (the agents let in) and `scope_prefix` (your resource server, as in `orders/`)";
            let by_audience = "`audiences`: the values of `aud` that mean this service";
            let fix = match profile.audience {
                Carries::Never => format!("give {by_client}"),
                Carries::Sometimes => format!("give {by_audience}; or {by_client}"),
                Carries::Always => format!("give {by_audience}; or, if you must, `audience: accept_any_audience`"),
            };
            let message = "nothing says which tokens of this issuer are meant for this service";
            Err(Problem::at(&settings.issuer, message).fix(fix))
        }
    }
}

fn names_clients_and_scopes(settings: &IssuerSettings) -> bool {
    let clients = settings.client_ids.as_ref().is_some_and(|ids| !ids.value.is_empty());
    clients && settings.scope_prefix.as_ref().is_some_and(|prefix| !prefix.value.is_empty())
}

/// A bound on an age, up to a year; none where nothing is said.
fn age(value: Option<&Spanned<u64>>, name: &str) -> Result<Option<Duration>, Problem> {
    value.map(|value| bounded(Some(value), name, 0, 1..=31_536_000).map(Duration::from_secs)).transpose()
}

fn user_issuer(settings: &IssuerSettings) -> Result<String, Problem> {
    let named = settings.user_issuer.as_ref().unwrap_or(&settings.issuer);
    let known = Identifier::parse(&named.value).map(|_| named.value.clone());
    known.ok_or_else(|| Problem::at(named, "not an issuer").fix("write `iss` as it stands in the users' tokens"))
}

fn user_claim(path: &Spanned<String>) -> Result<ClaimPath, Problem> {
    ClaimPath::parse(&path.value)
        .ok_or_else(|| Problem::at(path, "not the name of a claim").fix("write `claim`, or `outer.inner`"))
}

fn binding(settings: &IssuerSettings, leeway: Option<u64>) -> Result<BindingRules, Problem> {
    if settings.dpop.as_ref().is_none_or(|dpop| dpop.value == Binding::Off) {
        let idle =
            settings.dpop_proof_age_max_s.as_ref().map(|age| Problem::at(age, "`dpop_proof_age_max_s` without `dpop`"));
        let idle = idle
            .or_else(|| settings.dpop_nonce.as_ref().map(|nonce| Problem::at(nonce, "`dpop_nonce` without `dpop`")));
        if let Some(idle) = idle {
            return Err(idle.fix("no proof is asked for: add `dpop: accepted` or `required`, or remove this"));
        }
    }
    let age = bounded(settings.dpop_proof_age_max_s.as_ref(), "dpop_proof_age_max_s", 60, 1..=600)?;
    let how = |setting: &Option<Spanned<Binding>>| setting.as_ref().map_or(Binding::Off, |setting| setting.value);
    Ok(BindingRules {
        key: how(&settings.dpop),
        certificate: how(&settings.certificate_binding),
        nonce: settings.dpop_nonce.as_ref().is_some_and(|nonce| nonce.value == NonceDemand::Required),
        proof_age_max: Duration::from_secs(age),
        leeway: Duration::from_secs(leeway.unwrap_or_default()),
    })
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
