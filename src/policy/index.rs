//! Which policies can apply to a question, found without a pass over all of them.
//!
//! A policy's scope (the head: principal, action, resource) says what it can match. Policies with the same scope share a
//! set; a question is put to the few sets whose scope holds it, and Cedar's authorizer still decides about each policy in
//! them. Leaving the others out changes nothing: their scope is false, so they would neither apply nor err.

use std::collections::HashMap;

use cedar_policy::{
    ActionConstraint, Entities, EntityTypeName, EntityUid, Policy, PolicySet, PolicySetError, PrincipalConstraint,
    Request, ResourceConstraint,
};

/// What a scope says of a principal or a resource.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    /// Anything.
    Any,
    /// Anything of this type.
    Type(EntityTypeName),
    /// This entity, or one that is in it.
    Entity(EntityUid),
}

/// Policies by action (`None` for any), then principal, then resource.
#[derive(Debug, Default)]
pub(super) struct Index {
    by_action: HashMap<Option<EntityUid>, ByPrincipal>,
}

type ByPrincipal = HashMap<Key, ByResource>;
type ByResource = HashMap<Key, PolicySet>;

impl Index {
    /// Indexes static policies.
    ///
    /// # Errors
    /// When two have one id.
    pub(super) fn build<'a>(policies: impl Iterator<Item = &'a Policy>) -> Result<Self, Box<PolicySetError>> {
        let mut index = Self::default();
        for policy in policies {
            let (principal, resource) = (principal_key(policy), resource_key(policy));
            for action in actions(policy) {
                let by_resource = index.by_action.entry(action).or_default().entry(principal.clone()).or_default();
                by_resource.entry(resource.clone()).or_default().add(policy.clone()).map_err(Box::new)?;
            }
        }
        Ok(index)
    }

    /// Every policy. One that names several actions stands in it several times.
    pub(super) fn policies(&self) -> impl Iterator<Item = &Policy> {
        let sets = self.by_action.values().flat_map(HashMap::values).flat_map(HashMap::values);
        sets.flat_map(PolicySet::policies)
    }

    /// The policies that name each action; `None` for those that name none.
    pub(super) fn by_action(&self) -> impl Iterator<Item = (&Option<EntityUid>, impl Iterator<Item = &Policy>)> {
        self.by_action.iter().map(|(action, by_principal)| {
            (action, by_principal.values().flat_map(HashMap::values).flat_map(PolicySet::policies))
        })
    }

    /// The policies whose scope can hold the action of `request`.
    pub(super) fn of_action<'a>(
        &'a self,
        request: &'a Request,
        entities: &'a Entities,
    ) -> impl Iterator<Item = &'a Policy> {
        let sets = actions_of(request, entities).filter_map(|action| self.by_action.get(&action));
        sets.flat_map(HashMap::values).flat_map(HashMap::values).flat_map(PolicySet::policies)
    }

    /// The sets whose scope can hold `request`. A policy may stand in several of them.
    pub(super) fn matching<'a>(
        &'a self,
        request: &'a Request,
        entities: &'a Entities,
    ) -> impl Iterator<Item = &'a PolicySet> {
        let principals = keys(request.principal(), entities);
        let resources = keys(request.resource(), entities);
        actions_of(request, entities)
            .filter_map(|action| self.by_action.get(&action))
            .flat_map(move |by_principal| principals.clone().into_iter().filter_map(|key| by_principal.get(&key)))
            .flat_map(move |by_resource| resources.clone().into_iter().filter_map(|key| by_resource.get(&key)))
    }
}

/// Every action that policies about `request` may name; `None` for any.
fn actions_of<'a>(request: &'a Request, entities: &'a Entities) -> impl Iterator<Item = Option<EntityUid>> + 'a {
    std::iter::once(None).chain(request.action().into_iter().flat_map(|action| {
        let groups = entities.ancestors(action).into_iter().flatten();
        std::iter::once(action).chain(groups).cloned().map(Some)
    }))
}

/// Every key that `entity` may be found under.
fn keys(entity: Option<&EntityUid>, entities: &Entities) -> Vec<Key> {
    let Some(entity) = entity else { return vec![Key::Any] };
    let within = entities.ancestors(entity).into_iter().flatten();
    let all = [Key::Any, Key::Type(entity.type_name().clone()), Key::Entity(entity.clone())];
    all.into_iter().chain(within.cloned().map(Key::Entity)).collect()
}

fn actions(policy: &Policy) -> Vec<Option<EntityUid>> {
    match policy.action_constraint() {
        ActionConstraint::Any => vec![None],
        ActionConstraint::Eq(action) => vec![Some(action)],
        ActionConstraint::In(mut groups) => {
            groups.sort_by_cached_key(ToString::to_string);
            groups.dedup();
            groups.into_iter().map(Some).collect()
        }
    }
}

fn principal_key(policy: &Policy) -> Key {
    match policy.principal_constraint() {
        PrincipalConstraint::Any => Key::Any,
        PrincipalConstraint::Is(kind) => Key::Type(kind),
        PrincipalConstraint::Eq(entity) | PrincipalConstraint::In(entity) | PrincipalConstraint::IsIn(_, entity) => {
            Key::Entity(entity)
        }
    }
}

fn resource_key(policy: &Policy) -> Key {
    match policy.resource_constraint() {
        ResourceConstraint::Any => Key::Any,
        ResourceConstraint::Is(kind) => Key::Type(kind),
        ResourceConstraint::Eq(entity) | ResourceConstraint::In(entity) | ResourceConstraint::IsIn(_, entity) => {
            Key::Entity(entity)
        }
    }
}
