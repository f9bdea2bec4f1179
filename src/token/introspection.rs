//! Opaque tokens: the issuer is asked what one means (RFC 7662). Whatever is not a clear answer is none: the token is
//! neither believed nor called false.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde_json::{Map, Value};
use tokio::{sync::Semaphore, time::timeout};
use url::{Url, form_urlencoded};

use super::{
    RawToken, TokenError, VerifiedToken,
    bearer::Fingerprint,
    claims::Claims,
    client_auth::{ClientAuth, Credentials},
    rules::{Rules, Signed},
};
use crate::base::{
    clock::Timestamp,
    fetch::{Ask, Fetch, FetchError},
    json,
    secret::Secret,
};

/// Tokens that are remembered to be of no use.
const INACTIVE_MAX: u64 = 10_000;

/// For how long at most.
const INACTIVE_FOR_MAX: Duration = Duration::from_secs(10);

/// How an issuer is asked; compiled.
#[derive(Clone, Debug)]
pub struct Introspection {
    pub(super) endpoint: Url,
    pub(super) client: Arc<ClientAuth>,
    /// What the tokens that it is asked about begin with.
    pub(super) prefix: Option<String>,
    /// How long an answer serves at most.
    pub(super) cache_max: Duration,
    /// The longest that an answer may take.
    pub(super) patience: Duration,
    /// Questions under way at once.
    pub(super) places: usize,
}

/// How an introspector fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IntrospectionState {
    /// Tokens said to be active.
    pub active: u64,
    /// Tokens said not to be.
    pub inactive: u64,
    /// Questions without a clear answer.
    pub failed: u64,
}

/// Asks one issuer.
pub(super) struct Introspector {
    pub(super) rules: Arc<Rules>,
    how: Introspection,
    fetch: Arc<dyn Fetch>,
    places: Semaphore,
    inactive: moka::sync::Cache<Fingerprint, ()>,
    counts: [AtomicU64; 3],
}

impl std::fmt::Debug for Introspector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Introspector").field("how", &self.how).finish_non_exhaustive()
    }
}

/// Why there is no clear answer.
#[derive(Debug, thiserror::Error)]
enum Unclear {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("the answer is not one JSON object with a boolean `active`")]
    NoAnswer,
    #[error("more questions under way than are allowed")]
    Busy,
    #[error("the assertion cannot be signed")]
    NoAssertion,
}

impl Introspector {
    pub(super) fn new(rules: Arc<Rules>, how: Introspection, fetch: Arc<dyn Fetch>) -> Self {
        let lifetime = how.cache_max.min(INACTIVE_FOR_MAX);
        let inactive = moka::sync::Cache::builder().max_capacity(INACTIVE_MAX).time_to_live(lifetime).build();
        let places = Semaphore::new(how.places);
        Self { rules, how, fetch, places, inactive, counts: Default::default() }
    }

    /// How many bytes of `token` say that it is this issuer's: none, where it takes whatever is not another's.
    pub(super) fn claims_by(&self, token: RawToken<'_>) -> Option<usize> {
        let prefix = self.how.prefix.as_deref().unwrap_or_default();
        token.as_str().starts_with(prefix).then_some(prefix.len())
    }

    pub(super) fn state(&self) -> IntrospectionState {
        let [active, inactive, failed] = self.counts.each_ref().map(|count| count.load(Ordering::Relaxed));
        IntrospectionState { active, inactive, failed }
    }

    /// Asks what `token` means, and checks what is said.
    pub(super) async fn verify(&self, token: RawToken<'_>, now: Timestamp) -> Result<VerifiedToken, TokenError> {
        let fingerprint = token.fingerprint();
        if self.inactive.contains_key(&fingerprint) {
            return Err(TokenError::Inactive);
        }
        let answer = self.ask(token, now).await;
        let [active, inactive, failed] = &self.counts;
        let count = |counter: &AtomicU64| counter.fetch_add(1, Ordering::Relaxed);
        match answer {
            Ok(Some(claims)) => {
                count(active);
                self.check(claims, token, now)
            }
            Ok(None) => {
                count(inactive);
                self.inactive.insert(fingerprint, ());
                Err(TokenError::Inactive)
            }
            Err(unclear) => {
                count(failed);
                tracing::warn!(issuer = %self.rules.issuer, error = %unclear, "introspection failed");
                Err(TokenError::IntrospectionUnavailable)
            }
        }
    }

    /// The claims of an active token; `None` for another.
    async fn ask(&self, token: RawToken<'_>, now: Timestamp) -> Result<Option<Map<String, Value>>, Unclear> {
        let _place = self.places.try_acquire().map_err(|_| Unclear::Busy)?;
        let credentials = self.how.client.credentials(&self.rules.issuer, now).ok_or(Unclear::NoAssertion)?;
        let form = form(token, &credentials);
        let authorization = credentials.authorization.as_ref();
        let ask = Ask { url: &self.how.endpoint, form: Some(&form), authorization };
        let late = FetchError::TimedOut(self.how.patience.as_millis());
        let answer = timeout(self.how.patience, self.fetch.fetch(ask)).await.unwrap_or(Err(late))?;
        let claims = json::parse_object(&answer.body).map_err(|_| Unclear::NoAnswer)?;
        match claims.get("active") {
            Some(Value::Bool(true)) => Ok(Some(claims)),
            Some(Value::Bool(false)) => Ok(None),
            _ => Err(Unclear::NoAnswer),
        }
    }

    fn check(
        &self,
        claims: Map<String, Value>,
        token: RawToken<'_>,
        now: Timestamp,
    ) -> Result<VerifiedToken, TokenError> {
        let read = Claims(&claims);
        if read.text("iss")?.is_some_and(|issuer| issuer != self.rules.issuer) {
            return Err(TokenError::IssuerUnknown);
        }
        // An issuer may be asked about its refresh tokens too, and call them active (RFC 7662 section 4).
        let is_access = |kind: &str| ["bearer", "dpop"].iter().any(|access| kind.eq_ignore_ascii_case(access));
        if !read.text("token_type")?.is_some_and(is_access) {
            return Err(TokenError::UseWrong);
        }
        let until = now.later(self.how.cache_max);
        let signed = Signed { claims, size: token.as_str().len(), generation: 0, until: Some(until) };
        self.rules.check(signed, None, now)
    }
}

fn form(token: RawToken<'_>, credentials: &Credentials) -> Secret {
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.append_pair("token", token.as_str()).append_pair("token_type_hint", "access_token");
    for (name, value) in &credentials.form {
        form.append_pair(name, value.expose());
    }
    Secret::from(form.finish())
}
