//! What is counted of what the gate remembers: how often it knew, and how often it had to find out.

use std::sync::atomic::{AtomicU64, Ordering};

use prometheus::{IntCounterVec, Opts, Registry};

/// What each request is looked for in.
#[derive(Clone, Copy, Debug)]
pub enum Cache {
    /// Who presents a token.
    Token,
    /// What the policies say.
    Decision,
}

impl Cache {
    const ALL: [Self; 2] = [Self::Token, Self::Decision];

    const fn name(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Decision => "decision",
        }
    }
}

/// How often a cache knew, and how often it did not.
#[derive(Debug, Default)]
struct Known {
    hits: AtomicU64,
    misses: AtomicU64,
}

#[derive(Debug)]
pub(super) struct Caches {
    answers: IntCounterVec,
    tokens: Known,
    decisions: Known,
}

impl Caches {
    pub(super) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let answers = IntCounterVec::new(
            Opts::new("portcullis_cache_answers_total", "What was asked of a cache, and whether it knew."),
            &["cache", "source", "outcome"],
        )?;
        registry.register(Box::new(answers.clone()))?;
        Ok(Self { answers, tokens: Known::default(), decisions: Known::default() })
    }

    pub(super) fn count(&self, cache: Cache, is_known: bool) {
        let Known { hits, misses } = self.of(cache);
        let count = if is_known { hits } else { misses };
        count.fetch_add(1, Ordering::Relaxed);
    }

    const fn of(&self, cache: Cache) -> &Known {
        match cache {
            Cache::Token => &self.tokens,
            Cache::Decision => &self.decisions,
        }
    }

    pub(super) fn note(&self, cache: &'static str, source: &str, hits: u64, misses: u64) {
        for (outcome, total) in [("hit", hits), ("miss", misses)] {
            self.answers.with_label_values(&[cache, source, outcome]).inc_by(total);
        }
    }

    /// Begins anew with what is counted here.
    pub(super) fn reset(&self) {
        self.answers.reset();
        for cache in Cache::ALL {
            let Known { hits, misses } = self.of(cache);
            self.note(cache.name(), "", hits.load(Ordering::Relaxed), misses.load(Ordering::Relaxed));
        }
    }
}
