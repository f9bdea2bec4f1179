//! Metrics, in a registry of their own. Labels come from closed sets: routes and issuers of the configuration and codes of
//! [`crate::refusal`]; nothing a client sends becomes a label.

mod caches;
mod sinks;
mod visits;

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use prometheus::{Encoder, GaugeVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder};

pub use self::caches::Cache;
use self::{caches::Caches, sinks::Sinks, visits::Visits};
use crate::{
    audit::{Record, ShadowOutcome, lines::Counts},
    base::revision,
};

/// Every metric.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    visits: Visits,
    connections: IntGauge,
    connections_refused: IntCounterVec,
    sinks: Sinks,
    caches: Caches,
    spans_exported: IntCounter,
    spans_dropped: IntCounter,
    keys_age: GaugeVec,
    key_fetches: IntCounterVec,
    introspections: IntCounterVec,
    denied: IntGauge,
    denied_failing: IntGauge,
    claims_dropped: IntCounterVec,
    lookups: IntCounterVec,
    lookups_paused: IntGaugeVec,
    reloads: IntCounterVec,
    reload_failing: IntGauge,
    revisions: IntGaugeVec,
    shadow: IntCounterVec,
    shadow_failing: IntGauge,
    uncounted: IntCounterVec,
    servers: IntGaugeVec,
    forwarding: IntGaugeVec,
    ejections: IntCounterVec,
    retries: IntCounterVec,
    telling: Mutex<()>,
}

impl Metrics {
    /// Registers every metric.
    ///
    /// # Errors
    /// When two have one name.
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let visits = Visits::register(&registry)?;
        let connections = IntGauge::new("portcullis_connections", "Open downstream connections.")?;
        let connections_refused = IntCounterVec::new(
            Opts::new("portcullis_connections_refused_total", "Connections of which nothing was read, by code."),
            &["code"],
        )?;
        let (sinks, caches) = (Sinks::register(&registry)?, Caches::register(&registry)?);
        let spans_exported = IntCounter::new("portcullis_spans_exported_total", "Spans that a receiver has taken.")?;
        let spans_dropped =
            IntCounter::new("portcullis_spans_dropped_total", "Spans for which there was no room, or no receiver.")?;
        let keys_age = GaugeVec::new(
            Opts::new(
                "portcullis_keys_age_seconds",
                "Since an issuer's keys were last fetched well; absent without keys.",
            ),
            &["issuer"],
        )?;
        let key_fetches = IntCounterVec::new(
            Opts::new("portcullis_key_fetches_total", "Fetches of an issuer's keys, by outcome."),
            &["issuer", "outcome"],
        )?;
        let introspections = IntCounterVec::new(
            Opts::new("portcullis_introspections_total", "Questions to an issuer about a token, by outcome."),
            &["issuer", "outcome"],
        )?;
        let denied = IntGauge::new("portcullis_deny_list_entries", "Entries of the deny-list in force.")?;
        let denied_failing = IntGauge::new(
            "portcullis_deny_list_failing",
            "1 while the deny-list cannot be read and an older one is in force.",
        )?;
        let claims_dropped = IntCounterVec::new(
            Opts::new("portcullis_claims_dropped_total", "Claims of verified tokens that the schema does not know."),
            &["issuer"],
        )?;
        let lookups = IntCounterVec::new(
            Opts::new("portcullis_lookups_total", "Questions to a source of attributes, by outcome."),
            &["source", "outcome"],
        )?;
        let lookups_paused = IntGaugeVec::new(
            Opts::new("portcullis_lookups_paused", "1 while a source that failed again and again is left alone."),
            &["source"],
        )?;
        let reloads = IntCounterVec::new(
            Opts::new("portcullis_reloads_total", "Reloads of the configuration, by outcome."),
            &["outcome"],
        )?;
        let reload_failing = IntGauge::new(
            "portcullis_reload_failing",
            "1 while a newer configuration was refused and an older one is in force.",
        )?;
        let revisions = IntGaugeVec::new(
            Opts::new(
                "portcullis_revision",
                "A number made of the digest of what is in force; the same at every gate that runs the same.",
            ),
            &["of"],
        )?;
        let shadow = IntCounterVec::new(
            Opts::new(
                "portcullis_shadow_decisions_total",
                "Decisions that candidate policies were asked about, by outcome.",
            ),
            &["outcome"],
        )?;
        let shadow_failing = IntGauge::new(
            "portcullis_shadow_failing",
            "1 while the candidate policies cannot be used, and are not asked.",
        )?;
        let uncounted = IntCounterVec::new(
            Opts::new("portcullis_limits_unanswered_total", "Requests for which a shared limit could not be counted."),
            &["limit"],
        )?;
        let servers = IntGaugeVec::new(
            Opts::new("portcullis_upstream_servers", "Servers of an upstream, by how they do."),
            &["upstream", "state"],
        )?;
        let forwarding = IntGaugeVec::new(
            Opts::new("portcullis_upstream_requests", "Requests under way to an upstream."),
            &["upstream"],
        )?;
        let ejections = IntCounterVec::new(
            Opts::new("portcullis_upstream_ejections_total", "Servers left alone for a while for how they answered."),
            &["upstream"],
        )?;
        let retries = IntCounterVec::new(
            Opts::new(
                "portcullis_upstream_retries_total",
                "Requests that were sent to another server after one failed.",
            ),
            &["upstream"],
        )?;
        for outcome in ShadowOutcome::ALL {
            shadow.with_label_values(&[outcome.name()]).inc_by(0);
        }
        let build = IntGauge::with_opts(
            Opts::new("portcullis_build_info", "Always 1; the version is a label.")
                .const_label("version", env!("CARGO_PKG_VERSION")),
        )?;
        build.set(1);
        registry.register(Box::new(connections.clone()))?;
        registry.register(Box::new(connections_refused.clone()))?;
        registry.register(Box::new(spans_exported.clone()))?;
        registry.register(Box::new(spans_dropped.clone()))?;
        registry.register(Box::new(keys_age.clone()))?;
        registry.register(Box::new(key_fetches.clone()))?;
        registry.register(Box::new(introspections.clone()))?;
        registry.register(Box::new(denied.clone()))?;
        registry.register(Box::new(denied_failing.clone()))?;
        registry.register(Box::new(claims_dropped.clone()))?;
        registry.register(Box::new(lookups.clone()))?;
        registry.register(Box::new(lookups_paused.clone()))?;
        registry.register(Box::new(reloads.clone()))?;
        registry.register(Box::new(reload_failing.clone()))?;
        registry.register(Box::new(revisions.clone()))?;
        registry.register(Box::new(shadow.clone()))?;
        registry.register(Box::new(shadow_failing.clone()))?;
        registry.register(Box::new(uncounted.clone()))?;
        registry.register(Box::new(servers.clone()))?;
        registry.register(Box::new(forwarding.clone()))?;
        registry.register(Box::new(ejections.clone()))?;
        registry.register(Box::new(retries.clone()))?;
        registry.register(Box::new(build))?;
        #[cfg(target_os = "linux")]
        registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        Ok(Self {
            registry,
            visits,
            connections,
            connections_refused,
            sinks,
            caches,
            spans_exported,
            spans_dropped,
            keys_age,
            key_fetches,
            introspections,
            denied,
            denied_failing,
            claims_dropped,
            lookups,
            lookups_paused,
            reloads,
            reload_failing,
            revisions,
            shadow,
            shadow_failing,
            uncounted,
            servers,
            forwarding,
            ejections,
            retries,
            telling: Mutex::new(()),
        })
    }

    /// Counts a visit that has ended.
    pub fn count(&self, visit: &Record) {
        self.visits.count(visit);
    }

    /// Counts claims of a token that nobody reads.
    pub fn count_dropped_claims(&self, issuer: &str, claims: usize) {
        let claims = u64::try_from(claims).unwrap_or(u64::MAX);
        self.claims_dropped.with_label_values(&[issuer]).inc_by(claims);
    }

    /// Notes whether there should be candidate policies, and cannot.
    pub fn note_candidate(&self, failing: bool) {
        self.shadow_failing.set(failing.into());
    }

    /// Notes how often a shared limit could not be counted.
    pub fn note_rates(&self, limit: &str, unanswered: u64) {
        raise(&self.uncounted.with_label_values(&[limit]), unanswered);
    }

    /// Notes how an upstream stands: how many of its servers are in each state, how many requests are under way to it, and how
    /// often a server was left alone and a request sent to another one so far.
    pub fn note_upstream<'a>(
        &self,
        upstream: &str,
        servers: impl Iterator<Item = (&'a str, usize)>,
        under_way: usize,
        (ejections, retries): (u64, u64),
    ) {
        let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        for (state, servers) in servers {
            self.servers.with_label_values(&[upstream, state]).set(count(servers));
        }
        self.forwarding.with_label_values(&[upstream]).set(count(under_way));
        // What has not happened yet is told as such.
        let _ = self.visits.of_upstream(upstream);
        self.ejections.with_label_values(&[upstream]).inc_by(ejections);
        self.retries.with_label_values(&[upstream]).inc_by(retries);
    }

    /// Counts a decision that candidate policies were to be asked about.
    pub fn count_shadow(&self, outcome: ShadowOutcome) {
        self.shadow.with_label_values(&[outcome.name()]).inc();
    }

    /// Notes how an issuer's keys stand: their age, and how many fetches went well and badly so far.
    pub fn note_keys(&self, issuer: &str, age: Option<Duration>, fetched: u64, failed: u64) {
        // What has not happened yet is told as such.
        self.claims_dropped.with_label_values(&[issuer]).inc_by(0);
        // Without keys there is no series.
        if let Some(age) = age {
            self.keys_age.with_label_values(&[issuer]).set(age.as_secs_f64());
        }
        for (outcome, total) in [("good", fetched), ("failed", failed)] {
            raise(&self.key_fetches.with_label_values(&[issuer, outcome]), total);
        }
    }

    /// Notes how often an issuer said of a token that it is active, that it is not, and nothing clear.
    pub fn note_introspections(&self, issuer: &str, active: u64, inactive: u64, failed: u64) {
        for (outcome, total) in [("active", active), ("inactive", inactive), ("failed", failed)] {
            raise(&self.introspections.with_label_values(&[issuer, outcome]), total);
        }
    }

    /// Notes how often a source of attributes was asked and answered, and failed, and whether it is left alone for now.
    pub fn note_lookups(&self, source: &str, answered: u64, failed: u64, paused: bool) {
        for (outcome, total) in [("answered", answered), ("failed", failed)] {
            self.lookups.with_label_values(&[source, outcome]).inc_by(total);
        }
        let paused = i64::from(paused);
        let known = self.lookups_paused.with_label_values(&[source]);
        known.set(known.get().max(paused));
    }

    /// Counts what was looked for in a cache.
    pub fn count_lookup(&self, cache: Cache, is_known: bool) {
        self.caches.count(cache, is_known);
    }

    /// Notes how often what a source said was still known, and how often not; `cache` is what kind of source it is.
    pub fn note_cache(&self, cache: &'static str, source: &str, hits: u64, misses: u64) {
        self.caches.note(cache, source, hits, misses);
    }

    /// Notes how the deny-list stands.
    pub fn note_deny_list(&self, entries: usize, failing: bool) {
        self.denied.set(i64::try_from(entries).unwrap_or(i64::MAX));
        self.denied_failing.set(failing.into());
    }

    /// What is counted of the records for this sink.
    pub fn records(&self, sink: &str) -> Counts {
        self.sinks.of(sink)
    }

    /// Spans that a receiver has taken, and that were dropped.
    pub fn spans(&self) -> (IntCounter, IntCounter) {
        (self.spans_exported.clone(), self.spans_dropped.clone())
    }

    /// Open downstream connections.
    pub const fn connections(&self) -> &IntGauge {
        &self.connections
    }

    /// Connections of which nothing was read, for this reason.
    pub fn connections_refused(&self, code: &'static str) -> IntCounter {
        self.connections_refused.with_label_values(&[code])
    }

    /// Notes how many reloads put a configuration in force and how many refused one, and whether the last one did.
    pub fn note_reloads(&self, good: u64, refused: u64, failing: bool) {
        for (outcome, total) in [("good", good), ("refused", refused)] {
            raise(&self.reloads.with_label_values(&[outcome]), total);
        }
        self.reload_failing.set(failing.into());
    }

    /// Notes which version of something is in force.
    pub fn note_revision(&self, of: &'static str, revision: &str) {
        self.revisions.with_label_values(&[of]).set(revision::number(revision));
    }

    /// Everything in Prometheus' text format, once `note` has noted what is counted elsewhere. Of what is gone from the
    /// configuration nothing is told any more.
    pub fn text(&self, note: impl FnOnce(&Self)) -> Vec<u8> {
        let _one_at_a_time = self.telling.lock().unwrap_or_else(PoisonError::into_inner);
        self.keys_age.reset();
        self.key_fetches.reset();
        self.introspections.reset();
        self.caches.reset();
        self.lookups.reset();
        self.lookups_paused.reset();
        self.uncounted.reset();
        self.servers.reset();
        self.forwarding.reset();
        self.ejections.reset();
        self.retries.reset();
        note(self);
        let mut text = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            tracing::error!(%error, "metrics cannot be written");
        }
        text
    }
}

/// Brings a counter to a total that is counted elsewhere.
fn raise(counter: &IntCounter, total: u64) {
    counter.inc_by(total.saturating_sub(counter.get()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_that_is_another_is_counted_anew_and_of_one_that_is_gone_nothing_is_told() {
        let metrics = Metrics::new().unwrap();
        let told = |limits: &[(&str, u64)]| {
            let note = |metrics: &Metrics| limits.iter().for_each(|(limit, count)| metrics.note_rates(limit, *count));
            let text = String::from_utf8(metrics.text(note)).unwrap();
            let lines = text.lines().filter_map(|line| line.strip_prefix("portcullis_limits_unanswered_total"));
            lines.map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(told(&[("a", 7), ("b", 1)]), [r#"{limit="a"} 7"#, r#"{limit="b"} 1"#]);
        assert_eq!(told(&[("a", 2)]), [r#"{limit="a"} 2"#]);
        assert_eq!(told(&[("a", 3)]), [r#"{limit="a"} 3"#]);
    }
}
