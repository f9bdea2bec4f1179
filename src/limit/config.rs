//! The sections `rates` and `counters`.

use std::{net::IpAddr, num::NonZeroU32, sync::Arc, time::Duration};

use schemars::JsonSchema;
use serde::Deserialize;
use url::Url;

use crate::base::{
    counters::{Place, Quota},
    files::Files,
    problem::{Problem, Problems, bounded},
    secret::SecretSource,
    spanned::Spanned,
};

/// How long a bucket may take to be full again.
const FULL_AFTER_MAX: Duration = Duration::from_secs(366 * 86_400);

/// An entry of `rates`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RateConfig {
    /// Its name, for records and metrics: letters, digits, `-` and `_`.
    pub name: Spanned<String>,
    /// Whose requests are counted together: those of one `peer`, `agent`, `user` or `route`, or of one of several of these.
    pub by: Spanned<Vec<Part>>,
    /// How many may come.
    pub requests: Spanned<u32>,
    /// In how many seconds. Default 1.
    pub per_s: Option<Spanned<u32>>,
    /// How many may come at once. Default: `requests`.
    pub burst: Option<Spanned<u32>>,
    /// Whether it is counted with other gates (`counters`), and what to do while that cannot be. Default: here alone.
    pub shared: Option<Spanned<WhenUnreachable>>,
}

/// What a limit may count by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// The address that connects; of IPv6 its /64.
    Peer,
    /// The agent's Cedar id.
    Agent,
    /// The Cedar id of the user acted for.
    User,
    /// The route.
    Route,
}

/// What to do with requests while whoever counts them cannot be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WhenUnreachable {
    /// Refuse them.
    Refuse,
    /// Let them in without counting.
    AcceptUncounted,
}

/// The section `counters`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CountersConfig {
    /// `redis://host:port/database`; `rediss://` for TLS, which a server elsewhere needs.
    pub redis: Spanned<String>,
    /// Who the gate is there, which `password` proves.
    pub user: Option<Spanned<String>>,
    /// The password that proves it.
    pub password: Option<SecretSource>,
    /// Milliseconds for an answer. Default 100.
    pub timeout_ms: Option<Spanned<u64>>,
}

/// A limit, compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RatePlan {
    /// Its name.
    pub name: Arc<str>,
    pub(super) by: Vec<Part>,
    pub(super) quota: Quota,
    pub(super) bucket: governor::Quota,
    pub(super) shared: Option<WhenUnreachable>,
    pub(super) place: Option<Place>,
}

/// Compiles `rates`, of which some are kept at `counters`.
///
/// # Errors
/// Every [`Problem`] they have.
pub fn compile(
    rates: &[RateConfig],
    counters: Option<&CountersConfig>,
    files: &Files,
) -> Result<Vec<RatePlan>, Problems> {
    let mut problems = Problems::default();
    let place = problems.keep(counters.map(|counters| counters.compile(files)).transpose()).flatten();
    let mut plans: Vec<RatePlan> = Vec::with_capacity(rates.len());
    for rate in rates {
        if plans.iter().any(|plan| *plan.name == *rate.name.value) {
            problems.push(Problem::at(&rate.name, "two limits have one name").fix("give each a name of its own"));
        }
        if let (Some(shared), None) = (&rate.shared, counters) {
            problems
                .push(Problem::at(shared, "a shared limit, and nothing says where it is kept").fix("write `counters`"));
        }
        plans.extend(problems.keep(rate.compile(place.as_ref())));
    }
    if let Some(counters) = counters.filter(|_| rates.iter().all(|rate| rate.shared.is_none())) {
        problems.push(Problem::at(&counters.redis, "no limit is shared").fix("write `shared`, or remove `counters`"));
    }
    problems.into_result(Some(plans))
}

impl RateConfig {
    fn compile(&self, place: Option<&Place>) -> Result<RatePlan, Problems> {
        let mut problems = Problems::default();
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        if self.name.value.is_empty() || self.name.value.len() > 64 || !self.name.value.chars().all(is_name) {
            problems.push(Problem::at(&self.name, "not a name").fix("1 to 64 letters, digits, `-` and `_`"));
        }
        let twice = self
            .by
            .value
            .iter()
            .enumerate()
            .any(|(at, part)| self.by.value.iter().skip(at).skip(1).any(|it| it == part));
        if self.by.value.is_empty() || twice {
            let problem = Problem::at(&self.by, "nothing to count by, or something twice");
            problems.push(problem.fix("name some of `peer`, `agent`, `user` and `route`, each once"));
        }
        let mut number = |value: Option<&Spanned<u32>>, name, default, most| {
            problems.keep(bounded(value, name, default, 1..=most)).and_then(NonZeroU32::new)
        };
        let requests = number(Some(&self.requests), "requests", 1, 1_000_000);
        let per_s = number(self.per_s.as_ref(), "per_s", 1, 86_400);
        let burst = number(self.burst.as_ref(), "burst", self.requests.value, 1_000_000);
        let plan = (|| {
            let (requests, per_s, burst) = (requests?, per_s?, burst?);
            let period = Duration::from_secs(per_s.get().into()).checked_div(requests.get())?;
            if period.saturating_mul(burst.get()) > FULL_AFTER_MAX {
                let stated = self.burst.as_ref().unwrap_or(&self.requests);
                let problem = Problem::at(stated, "a bucket that is empty would not be full again in a year");
                problems.push(problem.fix("choose a lower `burst`, or a higher rate"));
                return None;
            }
            Some(RatePlan {
                name: self.name.value.as_str().into(),
                by: self.by.value.clone(),
                quota: Quota { period, burst: burst.get() },
                bucket: governor::Quota::with_period(period)?.allow_burst(burst),
                shared: self.shared.as_ref().map(|shared| shared.value),
                place: self.shared.as_ref().and(place).cloned(),
            })
        })();
        problems.into_result(plan)
    }
}

impl RatePlan {
    /// Whether it counts by whom a token names.
    pub(super) fn names_client(&self) -> bool {
        self.by.iter().any(|part| matches!(part, Part::Agent | Part::User))
    }
}

impl CountersConfig {
    fn compile(&self, files: &Files) -> Result<Place, Problems> {
        let mut problems = Problems::default();
        let url = Url::parse(&self.redis.value).ok().filter(|url| {
            let bare = url.username().is_empty() && url.password().is_none() && url.query().is_none();
            // A fragment could say that certificates need not be verified; and nobody is at every address.
            let bare = bare && url.fragment().is_none();
            let has_host = url.host_str().is_some_and(|host| !matches!(host, "" | "0.0.0.0" | "[::]"));
            matches!(url.scheme(), "redis" | "rediss") && has_host && bare
        });
        if url.is_none() {
            // It may hold a password.
            let problem = Problem::at(&self.redis, "this is not the address of a Redis server").covered();
            problems
                .push(problem.fix("write `redis://127.0.0.1:6379/0`; who the gate is stands in `user` and `password`"));
        }
        let host = url.as_ref().and_then(Url::host_str).map(|host| host.trim_matches(['[', ']']));
        let is_near = host.is_none_or(|host| {
            host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
        });
        if !is_near && url.as_ref().is_some_and(|url| url.scheme() == "redis") {
            let problem = Problem::at(&self.redis, "a server elsewhere, and nothing proves that it is the one");
            problems.push(problem.fix("write `rediss://`"));
        }
        let is_number = |path: &str| path.bytes().all(|byte| byte.is_ascii_digit()) && path.parse::<u16>().is_ok();
        let is_database = |path: &str| path.is_empty() || path == "/" || path.strip_prefix('/').is_some_and(is_number);
        if url.as_ref().is_some_and(|url| !is_database(url.path())) {
            let problem = Problem::at(&self.redis, "the path is not the number of a database");
            problems.push(problem.fix("write `redis://127.0.0.1:6379/0`"));
        }
        if let (Some(user), None) = (&self.user, &self.password) {
            problems.push(
                Problem::at(user, "nothing proves who the gate is there").fix("add `password`, or remove `user`"),
            );
        }
        let password = problems.keep(self.password.as_ref().map(|password| password.read(files)).transpose());
        let timeout = problems.keep(bounded(self.timeout_ms.as_ref(), "timeout_ms", 100, 1..=10_000));
        let place = password.zip(timeout).map(|(password, timeout)| Place {
            url: self.redis.value.clone(),
            user: self.user.as_ref().map(|user| user.value.clone()),
            password,
            timeout: Duration::from_millis(timeout),
        });
        problems.into_result(place)
    }
}
