//! Opaque tokens: the issuer is asked what one means (RFC 7662). Whatever is not a clear answer is none: the token is
//! neither believed nor called false.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use moka::sync::Cache;
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
const USELESS_MAX: u64 = 10_000;

/// For how long at most.
const USELESS_FOR_MAX: Duration = Duration::from_secs(10);

/// Tokens that are remembered to have been good, so that a flood of strange ones does not hold up questions about them.
const GOOD_MAX: u64 = 100_000;

/// For how long.
const GOOD_FOR: Duration = Duration::from_secs(60 * 60);

/// The largest answer that is taken, in bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// How an issuer is asked; compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IntrospectionState {
    /// Tokens said to be active.
    pub active: u64,
    /// Tokens said not to be.
    pub inactive: u64,
    /// Questions without a clear answer.
    pub failed: u64,
}

impl IntrospectionState {
    pub(super) const fn plus(self, other: Self) -> Self {
        Self {
            active: self.active.saturating_add(other.active),
            inactive: self.inactive.saturating_add(other.inactive),
            failed: self.failed.saturating_add(other.failed),
        }
    }
}

/// Asks one issuer.
pub(super) struct Introspector {
    pub(super) rules: Arc<Rules>,
    how: Introspection,
    fetch: Arc<dyn Fetch>,
    /// Places for questions about strange tokens, and about those that were good before.
    places: [Semaphore; 2],
    good: Cache<Fingerprint, ()>,
    useless: Cache<Fingerprint, TokenError>,
    counts: [AtomicU64; 3],
    failing: AtomicBool,
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
    #[error("the answer is larger than {ANSWER_BYTES_MAX} bytes")]
    TooLarge,
    #[error("more questions under way than are allowed")]
    Busy,
    #[error("the assertion cannot be signed")]
    NoAssertion,
}

impl Introspector {
    pub(super) fn new(rules: Arc<Rules>, how: Introspection, fetch: Arc<dyn Fetch>) -> Self {
        let places = [Semaphore::new(how.places), Semaphore::new(how.places)];
        Self {
            good: Cache::builder().max_capacity(GOOD_MAX).time_to_live(GOOD_FOR).build(),
            useless: Cache::builder()
                .max_capacity(USELESS_MAX)
                .time_to_live(how.cache_max.min(USELESS_FOR_MAX))
                .build(),
            rules,
            how,
            fetch,
            places,
            counts: Default::default(),
            failing: AtomicBool::new(false),
        }
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

    /// Asks what `token` means, and checks what is said. What is said clearly is remembered for a while, if it is no.
    pub(super) async fn verify(&self, token: RawToken<'_>, now: Timestamp) -> Result<VerifiedToken, TokenError> {
        let fingerprint = token.fingerprint();
        if let Some(refused) = self.useless.get(&fingerprint) {
            return Err(refused);
        }
        let [active, inactive, failed] = &self.counts;
        let outcome = match self.ask(token, &fingerprint, now).await {
            Err(unclear) => {
                failed.fetch_add(1, Ordering::Relaxed);
                self.note_failure(&unclear);
                return Err(TokenError::IntrospectionUnavailable);
            }
            Ok(None) => {
                inactive.fetch_add(1, Ordering::Relaxed);
                Err(TokenError::Inactive)
            }
            Ok(Some(claims)) => {
                active.fetch_add(1, Ordering::Relaxed);
                self.check(claims, now)
            }
        };
        if self.failing.swap(false, Ordering::Relaxed) {
            tracing::info!(issuer = %self.rules.issuer, "introspection works again");
        }
        match &outcome {
            Ok(_) => self.good.insert(fingerprint, ()),
            Err(refused) => self.useless.insert(fingerprint, *refused),
        }
        outcome
    }

    /// One line when it begins: how often it happens is counted.
    fn note_failure(&self, unclear: &Unclear) {
        if !matches!(unclear, Unclear::Busy) && !self.failing.swap(true, Ordering::Relaxed) {
            tracing::warn!(issuer = %self.rules.issuer, error = %unclear, "introspection fails");
        }
    }

    /// The claims of an active token; `None` for another.
    async fn ask(
        &self,
        token: RawToken<'_>,
        fingerprint: &Fingerprint,
        now: Timestamp,
    ) -> Result<Option<Map<String, Value>>, Unclear> {
        let [strange, familiar] = &self.places;
        let places = if self.good.contains_key(fingerprint) { familiar } else { strange };
        let place = timeout(self.how.patience, places.acquire()).await;
        let _place = place.ok().and_then(Result::ok).ok_or(Unclear::Busy)?;
        let credentials = self.how.client.credentials(&self.rules.issuer, now).ok_or(Unclear::NoAssertion)?;
        let form = form(token, &credentials);
        let authorization = credentials.authorization.as_ref();
        let ask = Ask { url: &self.how.endpoint, form: Some(&form), authorization };
        let late = FetchError::TimedOut(self.how.patience.as_millis());
        let answer = timeout(self.how.patience, self.fetch.fetch(ask)).await.unwrap_or(Err(late))?;
        if answer.body.len() > ANSWER_BYTES_MAX {
            return Err(Unclear::TooLarge);
        }
        let claims = json::parse_object(&answer.body).map_err(|_| Unclear::NoAnswer)?;
        match claims.get("active") {
            Some(Value::Bool(true)) => Ok(Some(claims)),
            Some(Value::Bool(false)) => Ok(None),
            _ => Err(Unclear::NoAnswer),
        }
    }

    fn check(&self, claims: Map<String, Value>, now: Timestamp) -> Result<VerifiedToken, TokenError> {
        let read = Claims(&claims);
        if read.text("iss")?.is_some_and(|issuer| issuer != self.rules.issuer) {
            return Err(TokenError::IssuerUnknown);
        }
        // An issuer may be asked about its refresh tokens too, and call them active (RFC 7662 section 4).
        let kind = read.text("token_type")?.map(str::to_ascii_lowercase);
        if !matches!(kind.as_deref(), Some("bearer" | "dpop")) {
            return Err(TokenError::UseWrong);
        }
        let until = Some(now.later(self.how.cache_max));
        let verified = self.rules.check(Signed { claims, key: None, generation: 0, until }, None, now)?;
        // An issuer may say that a token is bound and leave out to what.
        let is_bound = verified.confirmation.key.is_some();
        if kind.as_deref() == Some("dpop") && !is_bound { Err(TokenError::BindingUnchecked) } else { Ok(verified) }
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
