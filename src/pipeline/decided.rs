//! Has a request decided: by the policies, or by what they said when the same was asked before.

use std::sync::Arc;

use cedar_policy::EntityUid;

use super::Visit;
use crate::{
    base::clock::Timestamp,
    entities::{DecisionRequest, RoutePlan, Subject},
    memo::{Answer, Asked, Recalled},
    metrics::Cache,
    policy::{Allowed, Denied, DenyReason, Policies, stores::Store},
    refusal::Refusal,
    request::{Inbound, route::Match},
    snapshot::Snapshot,
    token::binding::Possession,
};

impl Visit {
    /// What the policies in `store` say.
    pub(super) async fn decide(
        &mut self,
        snapshot: &Snapshot,
        store: &Store,
        found: &Match<'_, '_, RoutePlan>,
        (subject, possession): (&Subject, &Possession),
        inbound: &Inbound<'_>,
        now: Timestamp,
    ) -> Result<Allowed, Refusal> {
        let asked = Asked::of(subject, possession, found.route, store, inbound);
        let recalled = snapshot.memo.recall(&asked);
        self.gate.metrics.count_lookup(Cache::Decision, matches!(recalled, Recalled::Known(_)));
        let place = match recalled {
            Recalled::Known(answer) => return Ok(self.recalled(answer)?),
            Recalled::Again(place) => Some(place),
            Recalled::Nothing => None,
        };
        let question = snapshot.mapping.question(&snapshot.sources, found, subject, possession, inbound, now);
        let mut question = question.await?;
        self.trace.pass();
        self.record.resource = question.resource(&snapshot.records.recording).map(Arc::from);
        self.record.attributes = std::mem::take(&mut question.origins).into();
        let decision = store.policies.decide(&question);
        self.record.skipped = decision.skipped().iter().map(|note| note.id.clone()).collect();
        let outcome = decision.into_result();
        let outcome = outcome.map_err(|denied| self.told(denied, snapshot, &question, &store.policies));
        if let Some(place) = place {
            let answer = Answer {
                outcome: outcome.clone(),
                skipped: self.record.skipped.clone(),
                about: question.about().cloned(),
                resource: self.record.resource.clone(),
                attributes: self.record.attributes.clone(),
            };
            snapshot.memo.keep(place, &asked, answer);
        }
        self.question = Some(question);
        let allowed = outcome?;
        self.trace.pass();
        Ok(allowed)
    }

    /// What they said before.
    fn recalled(&mut self, answer: Arc<Answer>) -> Result<Allowed, Denied> {
        self.trace.pass();
        self.record.decision_cached = true;
        self.record.resource.clone_from(&answer.resource);
        self.record.attributes.clone_from(&answer.attributes);
        self.record.skipped.clone_from(&answer.skipped);
        let allowed = self.recalled.insert(answer).outcome.clone()?;
        self.trace.pass();
        Ok(allowed)
    }

    /// What they were asked about.
    pub(super) fn about(&self) -> Option<&EntityUid> {
        let recalled = || self.recalled.as_ref()?.about.as_ref();
        self.question.as_ref().and_then(DecisionRequest::about).or_else(recalled)
    }

    /// A denial, with what would have allowed it where the client is to be told that.
    fn told(&self, denied: Denied, snapshot: &Snapshot, question: &DecisionRequest, policies: &Policies) -> Denied {
        let by_default = denied.reason == DenyReason::Policy && denied.determining.is_empty();
        let nearest_miss = match denied.side.filter(|_| snapshot.tells_nearest_miss && by_default) {
            Some(side) => policies.nearest_miss(question, side).map(|miss| miss.to_string()),
            None => None,
        };
        Denied { nearest_miss, ..denied }
    }
}
