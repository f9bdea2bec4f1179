//! The decision. Cedar skips a policy that errs, a `forbid` too; here it turns the decision into a denial.

use std::sync::Arc;

use cedar_policy::{AuthorizationError, Decision as Effect, PolicyId};

use super::{Policies, PolicyNote};
use crate::entities::DecisionRequest;

/// What the policies say to a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision(Result<Allowed, Denied>);

/// A question that the policies answered with yes. Only [`Policies::decide`] makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowed {
    determining: Vec<Arc<PolicyNote>>,
}

/// A question that the policies answered with no.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied {
    /// How it came to be denied.
    pub reason: DenyReason,
    /// The policies that made it so: the forbids that applied, or those that erred; none for the default denial.
    pub determining: Vec<Arc<PolicyNote>>,
}

/// How a question came to be denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DenyReason {
    /// No permit applied, or a forbid did.
    Policy,
    /// A policy in scope erred.
    Failure,
}

impl Decision {
    /// Yes or no.
    ///
    /// # Errors
    /// [`Denied`].
    pub fn into_result(self) -> Result<Allowed, Denied> {
        self.0
    }
}

impl Allowed {
    /// The permits that applied.
    pub fn determining(&self) -> &[Arc<PolicyNote>] {
        &self.determining
    }
}

impl Policies {
    /// Decides `question`.
    pub fn decide(&self, question: &DecisionRequest) -> Decision {
        let response = self.authorizer.is_authorized(&question.request, &self.set, &question.entities);
        let erred = self.notes_of(response.diagnostics().errors().map(|error| match error {
            AuthorizationError::PolicyEvaluationError(error) => error.policy_id(),
        }));
        if !erred.is_empty() {
            return Decision(Err(Denied { reason: DenyReason::Failure, determining: erred }));
        }
        let determining = self.notes_of(response.diagnostics().reason());
        Decision(match response.decision() {
            Effect::Allow => Ok(Allowed { determining }),
            Effect::Deny => Err(Denied { reason: DenyReason::Policy, determining }),
        })
    }

    /// In order of id, so that records compare.
    fn notes_of<'a>(&self, ids: impl Iterator<Item = &'a PolicyId>) -> Vec<Arc<PolicyNote>> {
        let mut notes: Vec<_> = ids
            .map(|id| {
                let unknown = || Arc::new(PolicyNote { id: id.to_string(), reason: None, advice: None });
                self.notes.get(id).cloned().unwrap_or_else(unknown)
            })
            .collect();
        notes.sort_by(|a, b| a.id.cmp(&b.id));
        notes
    }
}
