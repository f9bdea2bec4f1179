//! What is owed to the upstream of a request that is allowed: who asks, as it is told, and an assertion of it.

use std::sync::Arc;

use http::{HeaderName, HeaderValue, Method};

use super::Visit;
use crate::{
    entities::Subject,
    forward::{Obligations, Pool, identity::Told},
    policy::{Allowed, Policies},
    refusal::Refusal,
    request::rewrite::Outbound,
};

impl Visit {
    /// What is owed for a request of `subject`'s, allowed by `policies`, that goes to `pool`, for `target` there.
    pub(super) fn owed(
        &self,
        pool: &Arc<Pool>,
        target: Outbound,
        allowed: &Allowed,
        subject: &Subject,
        policies: &Policies,
    ) -> Result<Obligations, Refusal> {
        let identity = &self.snapshot.identity;
        // To the upstream nobody is hidden by a pseudonym.
        let resource = match identity.assertions() {
            None => String::new(),
            Some(_) => self.about().ok_or(Refusal::Internal)?.to_string(),
        };
        let names = subject.names();
        let told = Told {
            agent: &names.agent,
            user: names.user.as_deref(),
            app: names.app.as_deref(),
            decision_id: &self.record.decision_id,
            client: subject.token().client().as_str(),
            action: self.record.action.as_deref().unwrap_or_default(),
            resource: &resource,
            policy_revision: policies.revision(),
        };
        Ok(identity.obligations(pool, target, allowed, &told))
    }

    /// The assertion that goes with a request by `method`, with a body of this digest, if one is due.
    ///
    /// # Errors
    /// Where it is due and cannot be made: then nothing may go on.
    pub fn assertion(
        &self,
        obligations: &Obligations,
        method: &Method,
        body: Option<&[u8; 32]>,
    ) -> Result<Option<(HeaderName, HeaderValue)>, Refusal> {
        obligations.assertion(method, body, self.gate.clock.now()).map_err(|error| {
            tracing::error!(%error, decision_id = self.decision_id(), "an assertion could not be made");
            Refusal::Internal
        })
    }
}
