//! What a route asks of a token before any policy is asked.

use super::{DelegationRule, MappingError, RoutePlan, Subject};
use crate::token::delegation::Delegated;

/// Checks that the subject's token holds it.
///
/// # Errors
/// [`MappingError`]: what it lacks.
pub(super) fn check(plan: &RoutePlan, subject: &Subject) -> Result<(), MappingError> {
    match (plan.delegation(), subject.token().delegated()) {
        (DelegationRule::Required, Delegated::Nobody | Delegated::Unclear) => {
            return Err(MappingError::DelegationMissing);
        }
        (DelegationRule::Forbidden, Delegated::User(_)) => return Err(MappingError::DelegationForbidden),
        (DelegationRule::Forbidden | DelegationRule::Optional, Delegated::Unclear) => {
            return Err(MappingError::DelegationUnclear);
        }
        (DelegationRule::Required | DelegationRule::Optional, Delegated::User(_))
        | (DelegationRule::Forbidden | DelegationRule::Optional, Delegated::Nobody) => {}
    }
    match plan.scope() {
        Some(wanted) if !subject.scopes().iter().any(|held| held == wanted) => {
            Err(MappingError::ScopeMissing(wanted.into()))
        }
        _ => Ok(()),
    }
}
