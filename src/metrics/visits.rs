//! What is counted of visits that have ended: how they ended, and how long they, their stages and the upstream took.

use std::time::Duration;

use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry};

use crate::audit::{Outcome, Record, StageTimes};

/// Upper bounds of the latency buckets, in seconds.
const BUCKETS: [f64; 14] =
    [0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.05, 0.25, 1.0, 10.0];

/// The label of a request that no route describes.
const NO_ROUTE: &str = "none";

/// The label of the upstream that has no name.
const USUAL: &str = "upstream";

#[derive(Debug)]
pub(super) struct Visits {
    requests: IntCounterVec,
    decisions: HistogramVec,
    /// In the order of [`StageTimes::NAMES`].
    stages: [Histogram; StageTimes::NAMES.len()],
    upstreams: HistogramVec,
}

impl Visits {
    pub(super) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let requests = IntCounterVec::new(
            Opts::new("portcullis_requests_total", "Requests by route and outcome code."),
            &["route", "code"],
        )?;
        registry.register(Box::new(requests.clone()))?;
        let histogram = |name: &str, help: &str, label: &str| {
            let histogram = HistogramVec::new(HistogramOpts::new(name, help).buckets(BUCKETS.into()), &[label])?;
            registry.register(Box::new(histogram.clone()))?;
            prometheus::Result::Ok(histogram)
        };
        let decisions = histogram("portcullis_decision_seconds", "Time from arrival to decision.", "route")?;
        let stages =
            histogram("portcullis_stage_seconds", "How long a stage of decisions took that was passed.", "stage")?;
        let upstreams = histogram(
            "portcullis_upstream_seconds",
            "From sending a request on to the head of the answer.",
            "upstream",
        )?;
        let stages = StageTimes::NAMES.map(|stage| stages.with_label_values(&[stage]));
        Ok(Self { requests, decisions, stages, upstreams })
    }

    pub(super) fn count(&self, visit: &Record) {
        let route = visit.route.as_deref().unwrap_or(NO_ROUTE);
        self.requests.with_label_values(&[route, visit.code]).inc();
        if visit.decision != Outcome::Abandoned {
            self.decisions.with_label_values(&[route]).observe(seconds(visit.decision_us));
        }
        for (stage, took) in self.stages.iter().zip(visit.stages_us.each()) {
            if let Some(took) = took {
                stage.observe(seconds(took));
            }
        }
        if let Some(took) = visit.upstream_us {
            self.of_upstream(visit.upstream.as_deref().unwrap_or(USUAL)).observe(seconds(took));
        }
    }

    /// How long an upstream takes, which is told before it has been asked too.
    pub(super) fn of_upstream(&self, upstream: &str) -> Histogram {
        self.upstreams.with_label_values(&[upstream])
    }
}

const fn seconds(micros: u64) -> f64 {
    Duration::from_micros(micros).as_secs_f64()
}
