//! What a context may hold: members that somebody in the house supplies, each of the one type it has.

use cedar_policy::{Context, EntityTypeName, EntityUid};

use super::{
    Types,
    circumstances::Circumstances,
    consent::is_consent,
    schema::{Action, Attribute, Record, Type},
    store,
    subject::is_delegation,
};

/// The members that may name other entities than the token's subject.
const NAMING: [&str; 2] = ["token", "input"];

/// The context that actions of one kind take.
#[derive(Debug)]
pub(super) struct ContextPlan {
    pub(super) ty: Record,
    /// What the request adds to what the token says.
    pub(super) circumstances: Option<Circumstances>,
    /// Those of its members that name entities, where something is written down of any.
    naming: Vec<&'static str>,
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
        let names = |members: &Record| members.values().any(|it| it.ty.names(&|_: &EntityTypeName| true));
        let is_naming = |name: &&str| !types.store.is_empty() && record(&action.context, name).is_some_and(names);
        let naming = NAMING.into_iter().filter(is_naming).collect();
        if problems.is_empty() { Ok(Self { ty: action.context.clone(), circumstances, naming }) } else { Err(problems) }
    }

    /// The entities that a context of this kind names, beside the token's subject.
    pub(super) fn named_in(&self, context: &Context) -> Vec<EntityUid> {
        let mut named = Vec::new();
        for value in self.naming.iter().filter_map(|name| context.get(name)) {
            store::collect(&value, &mut named);
        }
        named
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
        ("token", Type::Record(claims)) => match claims.iter().find(|(_, it)| types.names_subject(&it.ty)) {
            Some((claim, _)) => {
                Some(format!("claim `{claim}` names agents or users, which only the token's subject does"))
            }
            None => unasked(name, claims, types),
        },
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
        ("input", Type::Record(members)) => match added.input {
            true => unasked(name, members, types),
            false => attribute.required.then(|| lacks("input")),
        },
        ("token" | "delegation" | "request" | "consent" | "input", _) => {
            Some(format!("the schema's `context.{name}` is not a record"))
        }
        _ => Some(format!("nothing supplies `context.{name}`")),
    }
}

/// Why policies would see less of what `context.<name>` names than is known: no source is asked about it.
fn unasked(name: &str, members: &Record, types: &Types) -> Option<String> {
    let (member, _) = members.iter().find(|(_, it)| it.ty.names(&|kind: &EntityTypeName| types.has_source(kind)))?;
    Some(format!(
        "`context.{name}.{member}` names entities that have a source, which is asked about agents, users and resources alone"
    ))
}
