//! The trace of a visit, for doors: what goes on to the upstream of it, and what came back.

use std::{sync::Arc, time::Instant};

use http::{HeaderName, HeaderValue};

use super::{Gate, Visit, micros};
use crate::{
    request::trace_context::{BAGGAGE, TRACEPARENT, TRACESTATE},
    trace::Spans,
};

impl Gate {
    /// The same, whose visits that are kept go to `spans`.
    #[must_use]
    pub fn traced(self, spans: Arc<dyn Spans>) -> Self {
        Self { spans: Some(spans), ..self }
    }
}

impl Visit {
    /// The fields that tell the upstream of which trace its request is.
    pub fn trace_fields(&self) -> Vec<(HeaderName, HeaderValue)> {
        let state = self.trace.caller().map(|caller| caller.state.clone()).filter(|state| !state.is_empty());
        let fields = [Some((TRACEPARENT, self.trace.handed_on())), state.map(|state| (TRACESTATE, state))];
        // INVARIANT: both are visible ASCII.
        fields.into_iter().flatten().filter_map(|(name, value)| Some((name, value.parse().ok()?))).collect()
    }

    /// Whether a field of this name that the client sent is of a trace that is not gone on with.
    pub fn leaves(&self, name: &HeaderName) -> bool {
        *name == BAGGAGE && self.trace.caller().is_none()
    }

    /// Notes to which server the request goes, and after how many that it was sent to before.
    pub fn goes_to(&mut self, server: &Arc<str>, retries: u32) {
        self.sent = Some(Instant::now());
        (self.record.upstream_status, self.record.upstream_us) = (None, None);
        self.trace.goes_to(server);
        self.record.server = Some(server.clone());
        self.record.retries = retries;
    }

    /// Notes the status that the upstream answered with.
    pub fn answered_by_upstream(&mut self, status: u16) {
        self.trace.is_answered(status);
        self.record.upstream_status = Some(status);
        self.record.upstream_us = self.sent.map(|sent| micros(sent.elapsed()));
    }
}
