//! What is counted of what the gate remembers: how often it knew, and how often it had to find out.

use std::sync::atomic::{AtomicU64, Ordering};

use prometheus::{IntCounterVec, Opts, Registry};

/// The cache of tokens.
const TOKEN: &str = "token";

#[derive(Debug)]
pub(super) struct Caches {
    answers: IntCounterVec,
    known_tokens: AtomicU64,
    new_tokens: AtomicU64,
}

impl Caches {
    pub(super) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let answers = IntCounterVec::new(
            Opts::new("portcullis_cache_answers_total", "What was asked of a cache, and whether it knew."),
            &["cache", "source", "outcome"],
        )?;
        registry.register(Box::new(answers.clone()))?;
        Ok(Self { answers, known_tokens: AtomicU64::new(0), new_tokens: AtomicU64::new(0) })
    }

    pub(super) fn count_token(&self, is_known: bool) {
        let count = if is_known { &self.known_tokens } else { &self.new_tokens };
        count.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn note(&self, cache: &'static str, source: &str, hits: u64, misses: u64) {
        for (outcome, total) in [("hit", hits), ("miss", misses)] {
            self.answers.with_label_values(&[cache, source, outcome]).inc_by(total);
        }
    }

    /// Begins anew with what is counted here.
    pub(super) fn reset(&self) {
        self.answers.reset();
        let [hits, misses] = [&self.known_tokens, &self.new_tokens].map(|count| count.load(Ordering::Relaxed));
        self.note(TOKEN, "", hits, misses);
    }
}
