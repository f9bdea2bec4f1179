//! Finds out who presents a token that is not known yet.

use std::sync::Arc;

use crate::{
    base::clock::Timestamp,
    entities::{MappingError, Names, Subject},
    metrics::Metrics,
    refusal::Refusal,
    snapshot::Snapshot,
    token::Presented,
};

/// Why nothing is to be known of a token; with the names in it, if it is believed at least.
#[derive(Clone)]
pub(super) struct Unknown {
    pub(super) names: Option<Names>,
    pub(super) refusal: Refusal,
}

/// Finds out who presents a token. What the version before had verified, by rules and keys that are still the same, is not
/// verified again.
pub(super) async fn learn(
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
