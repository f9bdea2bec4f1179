//! How often somebody may ask: token buckets by peer, agent, user or route, kept here or shared with other gates. Knows
//! nothing of why somebody asks.

mod buckets;
mod config;

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use self::buckets::Buckets;
pub use self::config::{CountersConfig, Part, RateConfig, RatePlan, WhenUnreachable, compile};
use crate::base::{address::network, outside::Outside};

/// Why somebody may not ask now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    /// Too much comes from one address.
    #[error("`{0}` is used up for this address")]
    PeerLimited(Arc<str>, Duration),
    /// Too much comes from one agent, for one user, or both.
    #[error("`{0}` is used up for this client")]
    ClientLimited(Arc<str>, Duration),
    /// Whoever counts for several gates does not answer, and nobody may ask uncounted.
    #[error("`{0}` cannot be counted")]
    Unavailable(Arc<str>),
}

/// Who asks, as far as that is known.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asker<'a> {
    /// The address that it comes from.
    pub peer: Option<IpAddr>,
    /// The agent.
    pub agent: Option<&'a Arc<str>>,
    /// The user acted for.
    pub user: Option<&'a Arc<str>>,
    /// The route.
    pub route: Option<&'a Arc<str>>,
}

/// Whose bucket it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    peer: Option<IpAddr>,
    agent: Option<Arc<str>>,
    user: Option<Arc<str>>,
    route: Option<Arc<str>>,
}

/// Every limit, at work.
#[derive(Clone, Debug, Default)]
pub struct Rates(Vec<Arc<Rate>>);

/// A limit at work.
#[derive(Debug)]
pub struct Rate {
    plan: RatePlan,
    buckets: Buckets,
    /// How often whoever counts did not answer.
    unanswered: AtomicU64,
}

impl LimitError {
    /// The limit.
    pub const fn limit(&self) -> &Arc<str> {
        match self {
            Self::PeerLimited(name, _) | Self::ClientLimited(name, _) | Self::Unavailable(name) => name,
        }
    }

    /// When to ask again, where that is known.
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::PeerLimited(_, after) | Self::ClientLimited(_, after) => Some(*after),
            Self::Unavailable(_) => None,
        }
    }
}

impl Rates {
    /// Puts `plans` to work; what stands the same in those `before` goes on counting.
    pub fn start(plans: Vec<RatePlan>, outside: &Outside, before: Option<&Self>) -> Self {
        let rate = |plan: RatePlan| {
            let known = before.and_then(|before| before.0.iter().find(|rate| rate.plan == plan)).cloned();
            known.unwrap_or_else(|| {
                let buckets = Buckets::of(&plan, outside);
                Arc::new(Rate { plan, buckets, unanswered: AtomicU64::new(0) })
            })
        };
        Self(plans.into_iter().map(rate).collect())
    }

    /// Takes one of each bucket that is told by address and route alone.
    ///
    /// # Errors
    /// [`LimitError`].
    pub async fn admit_peer(&self, asker: &Asker<'_>) -> Result<(), LimitError> {
        self.admit(asker, false).await
    }

    /// Takes one of each bucket of the agent, the user or both.
    ///
    /// # Errors
    /// [`LimitError`].
    pub async fn admit_client(&self, asker: &Asker<'_>) -> Result<(), LimitError> {
        self.admit(asker, true).await
    }

    async fn admit(&self, asker: &Asker<'_>, of_client: bool) -> Result<(), LimitError> {
        for rate in self.0.iter().filter(|rate| rate.plan.names_client() == of_client) {
            rate.take(asker).await?;
        }
        Ok(())
    }

    /// For each shared limit: its name, and how often nobody answered.
    pub fn unanswered(&self) -> impl Iterator<Item = (&str, u64)> {
        let shared = self.0.iter().filter(|rate| rate.plan.shared.is_some());
        shared.map(|rate| (&*rate.plan.name, rate.unanswered.load(Ordering::Relaxed)))
    }
}

impl Rate {
    async fn take(&self, asker: &Asker<'_>) -> Result<(), LimitError> {
        let Some(key) = self.plan.key(asker) else { return Ok(()) };
        let name = || self.plan.name.clone();
        match (self.buckets.take(key, &self.plan).await, &self.plan.shared) {
            (Ok(None), _) => Ok(()),
            (Ok(Some(after)), _) if self.plan.names_client() => Err(LimitError::ClientLimited(name(), after)),
            (Ok(Some(after)), _) => Err(LimitError::PeerLimited(name(), after)),
            (Err(error), shared) => {
                self.unanswered.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(%error, limit = %self.plan.name, "a limit is not counted");
                match shared {
                    Some(WhenUnreachable::AcceptUncounted) => Ok(()),
                    Some(WhenUnreachable::Refuse) | None => Err(LimitError::Unavailable(name())),
                }
            }
        }
    }
}

impl RatePlan {
    /// Whose bucket `asker` takes from; none for whom the limit does not speak of.
    fn key(&self, asker: &Asker<'_>) -> Option<Key> {
        let has = |part| self.by.contains(&part);
        let key = Key {
            peer: asker.peer.map(network).filter(|_| has(Part::Peer)),
            agent: asker.agent.filter(|_| has(Part::Agent)).cloned(),
            user: asker.user.filter(|_| has(Part::User)).cloned(),
            route: asker.route.filter(|_| has(Part::Route)).cloned(),
        };
        // Who acts for no user has no bucket of a user's, but one of the agent's for none.
        let speaks = !has(Part::User) || has(Part::Agent) || key.user.is_some();
        speaks.then_some(key)
    }
}
