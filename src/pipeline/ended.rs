//! The end of a visit: it is counted, and its record goes where records go.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
};

use serde_json::{Value, value::RawValue};

use super::{Visit, cut, micros};
use crate::{entities::recorded::QUESTION_BYTES_MAX, policy::PolicyNote};

/// An annotation or a claim is recorded up to this length, in bytes.
const SAID_BYTES_MAX: usize = 1024;

impl Drop for Visit {
    fn drop(&mut self) {
        self.record.duration_us = micros(self.arrived.elapsed());
        self.record.traceparent = self.trace.own();
        self.record.stages_us = self.trace.stages();
        self.gate.metrics.count(&self.record);
        self.note_claims();
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

impl Visit {
    /// Notes what the policies that decided say of themselves, as far as that is to be recorded.
    pub(super) fn note_annotations(&mut self, determining: &[Arc<PolicyNote>]) {
        let wanted = &self.snapshot.records.annotations;
        if wanted.is_empty() {
            return;
        }
        let said = determining.iter().filter_map(|note| {
            let told = wanted.iter().filter_map(|name| Some((name.clone(), note.annotations.get(name)?)));
            let told: BTreeMap<_, _> = told.map(|(name, text)| (name, cut(text.as_bytes(), SAID_BYTES_MAX))).collect();
            (!told.is_empty()).then(|| (note.id.clone(), told))
        });
        self.record.annotations = said.collect();
    }

    /// Notes what the token claims, as far as that is to be recorded.
    fn note_claims(&mut self) {
        let Some(subject) = &self.subject else { return };
        for (name, path) in &self.snapshot.records.claims {
            if let Some((value, _)) = path.find(subject.token().claims()) {
                let is_short = value.to_string().len() <= SAID_BYTES_MAX;
                self.record.claims.insert(name.clone(), if is_short { value.clone() } else { Value::Null });
            }
        }
    }
}
