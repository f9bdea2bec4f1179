//! What routes can supply at all, told from the configuration alone: for those who check policies before anybody asks.

use cedar_policy::{EntityTypeName, EntityUid};

use super::{
    Mapping, RoutePlan, Side,
    route::DelegationRule,
    schema::{Attribute, Record, Type},
    template::EntityTemplate,
};

/// Whether something is there when a policy looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Supply {
    /// It never is.
    Never,
    /// It may be.
    Maybe,
    /// It always is.
    Always,
}

impl RoutePlan {
    /// For whom its questions are put.
    pub fn sides(&self) -> &[Side] {
        &self.principals
    }

    /// What its requests are about.
    pub const fn resource_template(&self) -> &EntityTemplate {
        &self.resource
    }

    /// The action and the groups that it is in.
    pub fn actions(&self) -> impl Iterator<Item = EntityUid> {
        std::iter::once(self.action.clone()).chain(self.action_groups.iter().map(cedar_policy::Entity::uid))
    }
}

impl Mapping {
    /// The type of a principal.
    pub const fn principal_type(&self, side: Side) -> Option<&EntityTypeName> {
        match side {
            Side::Agent => Some(&self.types.agent),
            Side::User => self.types.user.as_ref(),
        }
    }

    /// Whether agents are named by their client ids.
    pub const fn names_agents_by_client(&self) -> bool {
        self.types.profile.names_by_client()
    }

    /// Whether entities of type `kind` can be in one of type `parent`, however far up.
    pub fn can_be_in(&self, kind: &EntityTypeName, parent: &EntityTypeName) -> bool {
        let (mut open, mut seen) = (vec![kind.clone()], Vec::new());
        while let Some(kind) = open.pop() {
            if self.types.schema.may_be_in(&kind, parent) {
                return true;
            }
            if !seen.contains(&kind) {
                open.extend(self.types.schema.parents(&kind).iter().cloned());
                seen.push(kind);
            }
        }
        false
    }

    /// Whether `place`, a variable and attributes, is there in a question of `plan`.
    pub fn supply(&self, plan: &RoutePlan, place: &[String]) -> Supply {
        let Some((variable, path)) = place.split_first() else { return Supply::Maybe };
        match (variable.as_str(), path.split_first()) {
            (_, None) => Supply::Always,
            ("context", Some((member, inner))) => self.supply_of_context(plan, member, inner),
            ("resource", Some((name, inner))) => {
                let of = plan.resource_type();
                // Of agents and users the token says more.
                if [Side::Agent, Side::User].into_iter().any(|side| self.principal_type(side) == Some(of)) {
                    return Supply::Maybe;
                }
                self.supply_of_resource(plan, of, name, inner)
            }
            _ => Supply::Maybe,
        }
    }

    fn supply_of_resource(&self, plan: &RoutePlan, of: &EntityTypeName, name: &String, inner: &[String]) -> Supply {
        let attribute = self.types.schema.entity(of).and_then(|shape| shape.get(name));
        let stated = plan.attributes.iter().any(|(known, ..)| known == name)
            || self.types.store.has_files()
            || self.types.sources.iter().any(|source| source.of() == of && source.gives(name));
        match attribute {
            None => Supply::Never,
            Some(_) if !stated => Supply::Never,
            Some(Attribute { required: true, .. }) if inner.is_empty() => Supply::Always,
            Some(_) => Supply::Maybe,
        }
    }

    fn supply_of_context(&self, plan: &RoutePlan, member: &str, inner: &[String]) -> Supply {
        let always = |required| if required { Supply::Always } else { Supply::Maybe };
        let ty = self.contexts.get(plan.context).map(|context| &context.ty);
        let Some(attribute) = ty.and_then(|ty| ty.get(member)) else { return Supply::Never };
        match member {
            "onBehalfOf" | "delegation" if plan.delegation == DelegationRule::Forbidden => Supply::Never,
            "onBehalfOf" if plan.delegation == DelegationRule::Required => always(inner.is_empty()),
            "consent" if plan.purpose.is_none() => Supply::Never,
            "consent" => always(inner.is_empty()),
            "input" => match (&plan.input, inner.split_first(), &attribute.ty) {
                (None, ..) => Supply::Never,
                (Some(_), None, _) => Supply::Always,
                // A route that has any has all that the schema knows; what is inside of one may be missing all the same.
                (Some(_), Some((name, inner)), Type::Record(fields)) => {
                    fields.get(name).map_or(Supply::Never, |field| always(is_required(field, inner)))
                }
                (Some(_), Some(_), _) => Supply::Never,
            },
            _ => always(is_required(attribute, inner)),
        }
    }

    /// How much of `place` names an entity that is read from there on and may not stand beside the question.
    pub fn entity_at(&self, plan: &RoutePlan, side: Side, place: &[String]) -> Option<usize> {
        let (variable, path) = place.split_first()?;
        let shape = match variable.as_str() {
            "principal" => self.principal_type(side).and_then(|kind| self.types.schema.entity(kind)),
            "resource" => self.types.schema.entity(plan.resource_type()),
            "context" => self.contexts.get(plan.context).map(|context| &context.ty),
            _ => None,
        };
        let mut shape: Option<&Record> = shape;
        let mut rest = path;
        while let (Some(record), Some((name, inner))) = (shape, rest.split_first()) {
            match record.get(name).map(|attribute| &attribute.ty) {
                // The user acted for always stands beside the question.
                Some(Type::Entity(_)) if variable == "context" && name == "onBehalfOf" && inner.len() == 1 => {
                    return None;
                }
                Some(Type::Entity(_)) if inner.is_empty() => return None,
                Some(Type::Entity(_)) => return place.len().checked_sub(inner.len()),
                Some(Type::Record(fields)) => (shape, rest) = (Some(fields), inner),
                _ => return None,
            }
        }
        None
    }

    /// The type of the groups that principals are in by their tokens.
    pub const fn group_type(&self) -> Option<&EntityTypeName> {
        self.types.profile.group_type()
    }

    /// Every action that applies to anything.
    pub fn actions(&self) -> Vec<String> {
        self.types.schema.action_names()
    }

    /// The scopes that clients may use, where each of them is limited.
    pub fn scopes_of_clients(&self) -> Option<Vec<&str>> {
        self.clients.scopes()
    }

    /// The type of `context.token.scope` and its like, for what is told of it.
    pub fn scope_is_text(&self, plan: &RoutePlan) -> bool {
        let token = self.contexts.get(plan.context).and_then(|context| context.record("token"));
        token.and_then(|token| token.get("scope")).is_some_and(|scope| scope.ty == Type::String)
    }
}

/// Whether all of a path is required.
fn is_required(attribute: &Attribute, inner: &[String]) -> bool {
    match (inner.split_first(), &attribute.ty) {
        (None, _) => attribute.required,
        (Some((name, inner)), Type::Record(fields)) => {
            attribute.required && fields.get(name).is_some_and(|field| is_required(field, inner))
        }
        _ => false,
    }
}
