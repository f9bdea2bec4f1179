//! What the house does with a route's requests: the Cedar action and resource they stand for, and what their token
//! must hold.

use std::{collections::HashMap, sync::Arc};

use cedar_policy::{Entity, EntityUid, RestrictedExpression};
use http::{HeaderName, Method};

use super::{
    MappingError, Side,
    attribute::AttributeTemplate,
    consent::Purpose,
    route::DelegationRule,
    sources::Draft,
    template::{EntityTemplate, Filling, TextTemplate},
};
use crate::{base::origin::Origin, request::route::PathTemplate};

/// Members of `context.input`, and whether the schema requires them.
pub(super) type Input = Vec<(String, AttributeTemplate, bool)>;

/// A route, compiled.
#[derive(Clone, Debug)]
pub struct RoutePlan {
    pub(super) name: Arc<str>,
    pub(super) action: EntityUid,
    pub(super) action_name: Arc<str>,
    /// The action with the groups it is in, if any.
    pub(super) action_groups: Vec<Entity>,
    pub(super) resource: EntityTemplate,
    pub(super) attributes: Vec<(String, AttributeTemplate)>,
    pub(super) input: Option<Input>,
    /// Where those attributes come from.
    pub(super) origins: Vec<Origin>,
    pub(super) scope: Option<String>,
    pub(super) delegation: DelegationRule,
    pub(super) principals: Vec<Side>,
    pub(super) purpose: Option<Purpose>,
    pub(super) store: Option<String>,
    /// Which of the mapping's contexts its action takes.
    pub(super) context: usize,
}

/// A route's requests: methods and paths.
#[derive(Clone, Debug)]
pub struct Requests {
    /// The methods.
    pub methods: Vec<Method>,
    /// The paths.
    pub template: PathTemplate,
}

impl RoutePlan {
    /// Methods and path as configured, for records and metrics.
    pub const fn name(&self) -> &Arc<str> {
        &self.name
    }
    /// The scope a token must hold.
    pub fn scope(&self) -> Option<&str> {
        self.scope.as_deref()
    }
    /// Whether the agent must act for a user.
    pub const fn delegation(&self) -> DelegationRule {
        self.delegation
    }
    /// For whom the question is put; one at least.
    pub(super) fn principals(&self) -> &[Side] {
        &self.principals
    }
    /// What its requests are for, where that needs consent.
    pub(super) const fn purpose(&self) -> Option<&Purpose> {
        self.purpose.as_ref()
    }
    /// The store whose policies decide, if it says.
    pub fn store(&self) -> Option<&str> {
        self.store.as_deref()
    }
    /// The Cedar action.
    pub const fn action(&self) -> &EntityUid {
        &self.action
    }
    /// The Cedar action as text.
    pub const fn action_name(&self) -> &Arc<str> {
        &self.action_name
    }

    /// The action with the groups it is in.
    pub(super) fn action_groups(&self) -> &[Entity] {
        &self.action_groups
    }

    /// Where the attributes come from that the route gives the resource.
    pub(super) fn origins(&self) -> &[Origin] {
        &self.origins
    }

    /// The header fields that the resource and its attributes are made of.
    pub fn headers(&self) -> impl Iterator<Item = &HeaderName> {
        let attributes = self.attributes.iter().map(|(_, attribute)| attribute.text());
        std::iter::once(&self.resource.id).chain(attributes).flat_map(TextTemplate::headers)
    }

    /// Whether the host that the client addresses is in the resource or its attributes.
    pub fn names_host(&self) -> bool {
        self.resource.id.names_host() || self.attributes.iter().any(|(_, attribute)| attribute.text().names_host())
    }

    /// `context.input`, if there is one. What the schema does not require may be missing.
    pub(super) fn input(&self, from: Filling<'_>) -> Result<Option<RestrictedExpression>, MappingError> {
        let Some(members) = &self.input else { return Ok(None) };
        let mut fields = Vec::with_capacity(members.len());
        for (name, template, required) in members {
            let missing = || MappingError::ClaimMissing(format!("input.{name}"));
            match template.fill(from) {
                Ok(Some(value)) => fields.push((name.clone(), value)),
                Ok(None) => return Err(missing()),
                Err(MappingError::ClaimMissing(_)) if !required && !template.text().is_there(from) => {}
                Err(error) => return Err(error),
            }
        }
        let missing = |_| MappingError::ClaimMissing("input".into());
        RestrictedExpression::new_record(fields).map(Some).map_err(missing)
    }

    /// The resource that a request names, with the attributes that the route gives it.
    pub(super) fn resource(&self, from: Filling<'_>) -> Result<Draft, MappingError> {
        let uid = self.resource.fill(from)?;
        let mut attributes = HashMap::with_capacity(self.attributes.len());
        for (name, template) in &self.attributes {
            let value = template.fill(from)?.ok_or_else(|| MappingError::ClaimMissing(name.clone()))?;
            attributes.insert(name.clone(), value);
        }
        Ok(Draft { attributes, ..Draft::of(uid) })
    }
}
