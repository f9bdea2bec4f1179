//! What a context may hold: members that somebody in the house supplies, each of the one type it has.

use super::{
    Types,
    circumstances::Circumstances,
    consent::is_consent,
    schema::{Action, Attribute, Record, Type},
    subject::is_delegation,
};

/// The context that actions of one kind take.
#[derive(Debug)]
pub(super) struct ContextPlan {
    pub(super) ty: Record,
    /// What the request adds to what the token says.
    pub(super) circumstances: Option<Circumstances>,
}

/// What a route adds to the context.
#[derive(Clone, Copy)]
pub(super) struct Added {
    pub(super) consent: bool,
    pub(super) input: bool,
}

impl ContextPlan {
    /// Reads the context of `action`.
    ///
    /// # Errors
    /// Each member that nobody supplies.
    pub(super) fn compile(action: &Action, types: &Types, added: Added) -> Result<Self, Vec<String>> {
        let (mut circumstances, mut problems) = (None, Vec::new());
        for (name, attribute) in &action.context {
            match (name.as_str(), &attribute.ty) {
                ("request", Type::Record(fields)) => match Circumstances::compile(fields) {
                    Ok(compiled) => circumstances = Some(compiled),
                    Err(message) => problems.push(message),
                },
                _ => problems.extend(unsupplied(name, attribute, types, added)),
            }
        }
        if problems.is_empty() { Ok(Self { ty: action.context.clone(), circumstances }) } else { Err(problems) }
    }

    /// The type of a member that is a record, if the schema has it.
    pub(super) fn record(&self, name: &str) -> Option<&Record> {
        record(&self.ty, name)
    }
}

/// The type of a member of `context` that is a record.
pub(super) fn record<'a>(context: &'a Record, name: &str) -> Option<&'a Record> {
    match context.get(name).map(|attribute| &attribute.ty) {
        Some(Type::Record(record)) => Some(record),
        _ => None,
    }
}

/// Why nobody supplies a member.
fn unsupplied(name: &str, attribute: &Attribute, types: &Types, added: Added) -> Option<String> {
    let of_that_type = |field: &str| format!("nothing supplies `context.{name}.{field}` of that type");
    let lacks = |needed: &str| format!("the schema requires `context.{name}`, and the route gives no `{needed}`");
    match (name, &attribute.ty) {
        ("token", Type::Record(claims)) => {
            let (claim, _) = claims.iter().find(|(_, it)| types.names_subject(&it.ty))?;
            Some(format!("claim `{claim}` names agents or users, which only the token's subject does"))
        }
        ("onBehalfOf", Type::Entity(user)) if types.user.as_ref() == Some(user) => None,
        ("onBehalfOf", _) => match &types.user {
            Some(user) => Some(format!("the schema's `context.onBehalfOf` is not of type `{user}`")),
            None => Some("`context.onBehalfOf`, but nothing says what users are: name `entities.user`".into()),
        },
        ("delegation", Type::Record(fields)) => {
            fields.iter().find(|(name, it)| !is_delegation(name, &it.ty)).map(|(field, _)| of_that_type(field))
        }
        ("consent", Type::Record(fields)) => {
            match fields.iter().find(|(name, it)| !is_consent(name, &it.ty, it.required)) {
                Some((field, _)) => Some(of_that_type(field)),
                None => (attribute.required && !added.consent).then(|| lacks("purpose")),
            }
        }
        ("input", Type::Record(_)) => (attribute.required && !added.input).then(|| lacks("input")),
        ("token" | "delegation" | "request" | "consent" | "input", _) => {
            Some(format!("the schema's `context.{name}` is not a record"))
        }
        _ => Some(format!("nothing supplies `context.{name}`")),
    }
}
