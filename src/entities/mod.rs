//! ROOM 3: from a token and a request to the question put to Cedar (XACML's context handler). Values are made by
//! constructors under the schema's direction, never by parsing claims as Cedar.

pub mod plan;
pub mod schema;
pub mod subject;
pub mod template;
pub mod value;

use cedar_policy::{Entities, EntityTypeName, Request};
use serde::Deserialize;
use serde_saphyr::Spanned;

use self::{
    plan::Requests,
    schema::{Record, SchemaTypes},
};
pub use self::{
    plan::{DelegationRule, RouteConfig, RoutePlan},
    subject::{Names, Subject},
};
use crate::{
    base::problem::{Problem, Problems},
    request::route::Match,
    token::VerifiedToken,
};

/// The section `entities`: the schema's names for those who ask.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EntitiesConfig {
    /// Type of agents. Default `Agent`.
    pub agent: Option<Spanned<String>>,
    /// Type of users. Default `User`.
    pub user: Option<Spanned<String>>,
}

/// Why no question could be put.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MappingError {
    /// The route asks for a scope that the token does not hold.
    #[error("scope `{0}` is missing")]
    ScopeMissing(String),
    /// The route asks for a user, and the agent acts for none.
    #[error("the agent acts for no user")]
    DelegationMissing,
    /// The route is for agents on their own, and this one acts for a user.
    #[error("the agent acts for a user where it must not")]
    DelegationForbidden,
    /// The schema requires a claim that is absent or does not fit its type.
    #[error("claim `{0}` is missing or does not fit the schema")]
    ClaimMissing(String),
}

/// The schema, with the types that stand for agents and users.
#[derive(Clone, Debug)]
pub struct Types {
    schema: SchemaTypes,
    agent: EntityTypeName,
    user: EntityTypeName,
}

impl Types {
    /// Finds the configured types in the schema.
    ///
    /// # Errors
    /// A [`Problem`] for each that is not there.
    pub fn compile(config: &EntitiesConfig, schema: SchemaTypes) -> Result<Self, Problems> {
        let mut problems = Problems::default();
        let agent = problems.keep(known_type(config.agent.as_ref(), "Agent", &schema));
        let user = problems.keep(known_type(config.user.as_ref(), "User", &schema));
        let types = agent.zip(user).map(|(agent, user)| Self { schema, agent, user });
        problems.into_result(types)
    }
}

fn known_type(name: Option<&Spanned<String>>, default: &str, schema: &SchemaTypes) -> Result<EntityTypeName, Problem> {
    let text = name.map_or(default, |name| &name.value);
    let found = text.parse().ok().filter(|name| schema.entity(name).is_some());
    found.ok_or_else(|| {
        let message = format!("the schema has no entity type `{text}`");
        let problem = name.map_or_else(|| Problem::new(&message), |name| Problem::at(name, &message));
        problem.fix(format!("declare it, or name yours: `entities: {{ {}: … }}`", default.to_lowercase()))
    })
}

/// A question for Cedar: may this principal do this to that, under these circumstances?
#[derive(Debug)]
pub struct DecisionRequest {
    /// Principal, action, resource and context.
    pub(crate) request: Request,
    /// The entities that policies may look at.
    pub(crate) entities: Entities,
}

impl DecisionRequest {
    /// The resource, for records.
    pub fn resource(&self) -> Option<String> {
        self.request.resource().map(ToString::to_string)
    }
}

/// How tokens and requests become questions.
#[derive(Debug)]
pub struct Mapping {
    types: Types,
    contexts: Vec<Record>,
}

impl Mapping {
    /// Compiles the mapping of `routes`.
    ///
    /// # Errors
    /// Every [`Problem`] of every route.
    pub fn compile(types: Types, routes: &[RouteConfig]) -> Result<(Self, Vec<(Requests, RoutePlan)>), Problems> {
        let mut problems = Problems::default();
        let mut contexts = Vec::new();
        let plans = routes.iter().filter_map(|route| problems.keep(route.compile(&types, &mut contexts))).collect();
        problems.into_result(Some((Self { types, contexts }, plans)))
    }

    /// What Cedar needs of a token: once per token.
    ///
    /// # Errors
    /// [`MappingError::ClaimMissing`].
    pub fn subject(&self, token: VerifiedToken, names: Names) -> Result<Subject, MappingError> {
        Subject::new(token, names, &self.types, self.contexts.len())
    }

    /// The question that a request puts.
    ///
    /// # Errors
    /// [`MappingError`] when the token does not hold what the route asks for.
    pub fn question(
        &self,
        found: &Match<'_, '_, RoutePlan>,
        subject: &Subject,
    ) -> Result<DecisionRequest, MappingError> {
        let plan = found.route;
        requirements(plan, subject.token())?;
        let missing = |name: &str| MappingError::ClaimMissing(name.to_owned());
        let context = self.contexts.get(plan.context).ok_or_else(|| missing("context"))?;
        let context = subject.context(plan.context, context)?;
        let resource = plan.resource(&found.parameters)?;
        let request = Request::new(subject.agent().uid(), plan.action().clone(), resource.uid(), context, None);
        // A user who owns data may also be the resource; the token's word on a user goes before the route's.
        let user = subject.user().cloned();
        let resource = Some(resource).filter(|resource| user.as_ref().is_none_or(|user| user.uid() != resource.uid()));
        let entities = [Some(subject.agent().clone()), user, resource].into_iter().flatten();
        Ok(DecisionRequest {
            request: request.map_err(|_| missing("request"))?,
            entities: Entities::from_entities(entities, None).map_err(|_| missing("entities"))?,
        })
    }
}

fn requirements(plan: &RoutePlan, token: &VerifiedToken) -> Result<(), MappingError> {
    match (plan.delegation(), token.delegation()) {
        (DelegationRule::Required, None) => return Err(MappingError::DelegationMissing),
        (DelegationRule::Forbidden, Some(_)) => return Err(MappingError::DelegationForbidden),
        _ => {}
    }
    match plan.scope() {
        Some(wanted) if !token.scopes().iter().any(|held| held == wanted) => {
            Err(MappingError::ScopeMissing(wanted.into()))
        }
        _ => Ok(()),
    }
}
