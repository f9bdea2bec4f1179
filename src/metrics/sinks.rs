//! What is counted of records, by where they go.

use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry};

use crate::audit::lines::Counts;

/// Each of them.
const SINKS: [&str; 4] = ["stdout", "file", "syslog", "otlp"];

#[derive(Debug)]
pub(super) struct Sinks {
    written: IntCounterVec,
    dropped: IntCounterVec,
    waiting: IntGaugeVec,
}

impl Sinks {
    pub(super) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let counter = |name: &str, help: &str| {
            let counter = IntCounterVec::new(Opts::new(name, help), &["sink"])?;
            registry.register(Box::new(counter.clone()))?;
            prometheus::Result::Ok(counter)
        };
        let written = counter(
            "portcullis_records_written_total",
            "Decision records that were written, as durably as configured.",
        )?;
        let dropped = counter("portcullis_records_dropped_total", "Decision records that could not be written.")?;
        let waiting = Opts::new("portcullis_records_waiting", "Decision records that wait to be written.");
        let waiting = IntGaugeVec::new(waiting, &["sink"])?;
        registry.register(Box::new(waiting.clone()))?;
        let sinks = Self { written, dropped, waiting };
        // What has not happened yet is told as such.
        SINKS.iter().for_each(|sink| drop(sinks.of(sink)));
        Ok(sinks)
    }

    pub(super) fn of(&self, sink: &str) -> Counts {
        let (written, dropped) = (self.written.with_label_values(&[sink]), self.dropped.with_label_values(&[sink]));
        Counts { written, dropped, waiting: self.waiting.with_label_values(&[sink]) }
    }
}
