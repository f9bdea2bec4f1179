//! The end of a visit: it is counted, and its record goes where records go.

use std::sync::atomic::Ordering;

use serde_json::value::RawValue;

use super::{Visit, micros};
use crate::entities::recorded::QUESTION_BYTES_MAX;

impl Drop for Visit {
    fn drop(&mut self) {
        self.record.duration_us = micros(self.arrived.elapsed());
        self.record.traceparent = self.trace.own();
        self.record.stages_us = self.trace.stages();
        self.gate.metrics.count(&self.record);
        let records = &self.snapshot.records;
        if let (true, Some(question)) = (records.questions, &self.question) {
            let recorded = question.recorded(&records.recording);
            let text = recorded.and_then(|recorded| serde_json::to_string(&recorded).ok());
            let text = text.filter(|text| text.len() <= QUESTION_BYTES_MAX);
            self.record.question = text.and_then(|text| RawValue::from_string(text).ok());
        }
        if let Some(pseudonyms) = &records.recording.pseudonyms {
            self.record.hide(pseudonyms);
        }
        if let Some(spans) = self.gate.spans.as_ref().filter(|_| self.trace.is_kept(&self.record)) {
            spans.take(&self.trace, &self.record);
        }
        let candidate = self.snapshot.candidate.as_ref().filter(|candidate| candidate.store == self.record.store);
        match (candidate, self.question.take()) {
            (Some(candidate), Some(question)) => {
                self.gate.shadow.ask(candidate.clone(), question, std::mem::take(&mut self.record));
            }
            _ => self.gate.sink.write(&self.record),
        }
        // Only now: whoever counts on room for its record counts this one too.
        self.gate.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}
