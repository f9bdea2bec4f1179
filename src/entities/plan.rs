//! What the house does with a route's requests: the Cedar action and resource they stand for, and what their token
//! must hold.

use std::{collections::HashMap, sync::Arc};

use cedar_policy::{Entity, EntityTypeName, EntityUid, RestrictedExpression};
use http::{HeaderName, Method};

use super::{
    MappingError, Side,
    attribute::AttributeTemplate,
    consent::Purpose,
    route::DelegationRule,
    sources::Draft,
    template::{EntityTemplate, Filling, TextTemplate},
};
use crate::{
    base::origin::Origin,
    request::{cors::Cors, rewrite::Rewrite, route::PathTemplate},
};

/// Members of `context.input`, each with where it comes from, and whether the schema requires it.
pub(super) type Input = Vec<(Origin, AttributeTemplate, bool)>;

/// A route, compiled.
#[derive(Clone, Debug)]
pub struct RoutePlan {
    /// Its place among the routes.
    pub(super) number: usize,
    pub(super) name: Arc<str>,
    pub(super) action: EntityUid,
    pub(super) action_name: Arc<str>,
    /// The action with the groups it is in, if any.
    pub(super) action_groups: Vec<Entity>,
    pub(super) resource: EntityTemplate,
    /// Each with where it comes from.
    pub(super) attributes: Vec<(String, AttributeTemplate, Origin)>,
    pub(super) input: Option<Input>,
    pub(super) scope: Option<String>,
    pub(super) delegation: DelegationRule,
    pub(super) principals: Vec<Side>,
    pub(super) purpose: Option<Purpose>,
    pub(super) store: Option<String>,
    pub(super) upstream: Option<Arc<str>>,
    pub(super) body_bytes_max: Option<u64>,
    pub(super) rewrite: Option<Rewrite>,
    pub(super) cors: Option<Cors>,
    /// Which of the mapping's contexts its action takes.
    pub(super) context: usize,
}

/// A route's requests: methods and paths.
#[derive(Clone, Debug)]
pub struct Requests {
    /// The hosts; any where there are none.
    pub hosts: Vec<String>,
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
    /// Its place among the routes.
    pub const fn number(&self) -> usize {
        self.number
    }
    /// The scope a token must hold.
    pub fn scope(&self) -> Option<&str> {
        self.scope.as_deref()
    }
    /// Bytes of a request body, where it bounds them.
    pub const fn body_bytes_max(&self) -> Option<u64> {
        self.body_bytes_max
    }

    /// The upstream that its requests go to, where that is not the usual one.
    pub const fn upstream(&self) -> Option<&Arc<str>> {
        self.upstream.as_ref()
    }
    /// What becomes of its paths on their way to the upstream, where that is not nothing.
    pub const fn rewrite(&self) -> Option<&Rewrite> {
        self.rewrite.as_ref()
    }
    /// What web pages may do with it, where that is for the gate to say.
    pub const fn cors(&self) -> Option<&Cors> {
        self.cors.as_ref()
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

    /// The type of what its requests are about.
    pub(super) const fn resource_type(&self) -> &EntityTypeName {
        &self.resource.type_name
    }

    /// All that is made of requests and tokens.
    fn templates(&self) -> impl Iterator<Item = &TextTemplate> {
        let attributes = self.attributes.iter().map(|(_, attribute, _)| attribute.text());
        let input = self.input.iter().flatten().map(|(_, member, _)| member.text());
        std::iter::once(&self.resource.id).chain(attributes).chain(input)
    }

    /// Whether what it is made of is the same for requests of one token, method and path.
    pub(super) fn is_settled(&self) -> bool {
        self.purpose.is_none() && self.templates().all(TextTemplate::is_settled)
    }

    /// The header fields that decide.
    pub fn headers(&self) -> impl Iterator<Item = &HeaderName> {
        self.templates().flat_map(TextTemplate::headers)
    }

    /// Whether the host that the client addresses decides.
    pub fn names_host(&self) -> bool {
        self.templates().any(TextTemplate::names_host)
    }

    /// The claims that decide, by their outermost names, beside those that policies read.
    pub(super) fn claims(&self) -> impl Iterator<Item = &str> {
        let purpose = self.purpose.as_ref().and_then(Purpose::claim);
        self.templates().flat_map(TextTemplate::claims).chain(purpose)
    }

    /// `context.input`, if there is one. What the schema does not require may be missing.
    pub(super) fn input(
        &self,
        from: Filling<'_>,
        origins: &mut Vec<Origin>,
    ) -> Result<Option<RestrictedExpression>, MappingError> {
        let Some(members) = &self.input else { return Ok(None) };
        let mut fields = Vec::with_capacity(members.len());
        for (origin, member, required) in members {
            match member.fill(|| format!("input.{}", origin.name), from)? {
                Some(value) => {
                    fields.push((origin.name.to_string(), value));
                    origins.push(origin.clone());
                }
                None if !required => {}
                None => return Err(MappingError::ClaimMissing(member.text().name_of_open(from))),
            }
        }
        let missing = |_| MappingError::ClaimMissing("input".into());
        RestrictedExpression::new_record(fields).map(Some).map_err(missing)
    }

    /// The resource that a request names, with the attributes that the route gives it. Those that nothing is there for are
    /// left open.
    pub(super) fn resource(&self, from: Filling<'_>, origins: &mut Vec<Origin>) -> Result<Draft, MappingError> {
        let uid = self.resource.fill(from)?;
        let uid = uid.ok_or_else(|| MappingError::ClaimMissing(self.resource.id.name_of_open(from)))?;
        let mut attributes = HashMap::with_capacity(self.attributes.len());
        for (name, template, origin) in &self.attributes {
            if let Some(value) = template.fill(|| name.clone(), from)? {
                attributes.insert(name.clone(), value);
                origins.push(origin.clone());
            }
        }
        Ok(Draft { attributes, ..Draft::of(uid) })
    }
}
