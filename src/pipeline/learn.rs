//! Finds out who presents a token that is not known yet.

use std::sync::Arc;

use super::Visit;
use crate::{
    base::clock::Timestamp,
    entities::{MappingError, Names, Subject},
    metrics::{Cache, Metrics},
    refusal::Refusal,
    snapshot::Snapshot,
    token::Presented,
};

impl Visit {
    /// Who asks: remembered from an earlier request with the same token, or verified now.
    pub(super) async fn authenticate(
        &mut self,
        snapshot: &Snapshot,
        presented: &Presented<'_>,
        now: Timestamp,
    ) -> Result<Arc<Subject>, Refusal> {
        let (fingerprint, version) = (presented.fingerprint, snapshot.version);
        let known = snapshot.subjects.get(fingerprint, version).await;
        if let Some(subject) = known {
            if snapshot.issuers.still_holds(subject.token(), now) {
                self.record.token_cached = true;
                self.gate.metrics.count_lookup(Cache::Token, true);
                self.note_names(subject.names());
                return Ok(subject);
            }
            snapshot.subjects.remove(fingerprint, version).await;
        }
        let learnt = {
            let metrics = &self.gate.metrics;
            metrics.count_lookup(Cache::Token, false);
            let learn = learn(snapshot, presented, now, metrics);
            // In a box: each request would carry its state, and few come here.
            Box::pin(snapshot.subjects.get_or_learn(fingerprint, version, learn)).await
        };
        match learnt {
            Ok(subject) => {
                self.note_names(subject.names());
                Ok(subject)
            }
            Err(Unknown { names, refusal }) => {
                if let Some(names) = names {
                    self.note_names(&names);
                }
                Err(refusal)
            }
        }
    }
}

/// Why nothing is to be known of a token; with the names in it, if it is believed at least.
#[derive(Clone)]
struct Unknown {
    names: Option<Names>,
    refusal: Refusal,
}

/// Finds out who presents a token. What the version before had verified, by rules and keys that are still the same, is not
/// verified again.
async fn learn(
    snapshot: &Snapshot,
    presented: &Presented<'_>,
    now: Timestamp,
    metrics: &Metrics,
) -> Result<Arc<Subject>, Unknown> {
    let earlier = match snapshot.version.checked_sub(1) {
        Some(version) => snapshot.subjects.get(presented.fingerprint, version).await,
        None => None,
    };
    let earlier = earlier.filter(|earlier| snapshot.issuers.still_holds(earlier.token(), now));
    let verified = match earlier {
        Some(earlier) => {
            snapshot.subjects.remove(presented.fingerprint, snapshot.version.saturating_sub(1)).await;
            Ok(earlier.token().clone())
        }
        None => snapshot.issuers.verify(presented.token, now).await.map(Arc::new),
    };
    let verified = verified.map_err(|error| Unknown { names: None, refusal: error.into() })?;
    metrics.count_dropped_claims(verified.issuer(), snapshot.mapping.unread(&verified));
    let unnamed = |error: MappingError| Unknown { names: None, refusal: error.into() };
    let names = snapshot.mapping.names(&verified).map_err(unnamed)?;
    let subject = snapshot.mapping.subject(verified, names.clone());
    subject.map(Arc::new).map_err(|error| Unknown { names: Some(names), refusal: error.into() })
}
