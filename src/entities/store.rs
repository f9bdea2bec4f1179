//! Entities that operators write down, in Cedar's own JSON: groups, parents, and attributes that neither tokens nor paths
//! supply. Read once; what a question can reach of them is put beside it.

use std::{
    collections::{HashMap, HashSet, VecDeque, hash_map::Entry},
    path::PathBuf,
    sync::Arc,
};

use cedar_policy::{Entities, Entity, EntityTypeName, EntityUid, EvalResult};
use serde_json::Value;

use super::{
    MappingError,
    schema::{Extension, SchemaTypes, Type},
    sources::Draft,
};
use crate::base::{
    files::Files,
    json,
    origin::Origin,
    problem::{Problem, Problems, causes},
    spanned::Spanned,
};

/// Entities that may stand beside one question.
const REACHED_MAX: usize = 1_000;

/// What is written down.
#[derive(Debug)]
pub(super) struct Store {
    entities: Entities,
    /// The entities that another's attributes and tags name.
    named: HashMap<EntityUid, Vec<EntityUid>>,
    /// What records call it.
    name: Arc<str>,
    has_files: bool,
}

impl Store {
    /// Reads files of entities; `agent` is the type of agents.
    ///
    /// # Errors
    /// Every [`Problem`] they have.
    pub(super) fn compile(
        paths: &[Spanned<PathBuf>],
        files: &Files,
        types: &SchemaTypes,
        agent: Option<&EntityTypeName>,
    ) -> Result<Self, Problems> {
        let mut problems = Problems::default();
        let (mut all, mut seen) = (Vec::new(), HashSet::new());
        for path in paths {
            for entity in problems.keep(read(path, files, types, agent)).unwrap_or_default() {
                if seen.insert(entity.uid()) {
                    all.push(entity);
                } else {
                    problems.push(Problem::at(path, format!("`{}` stands twice", entity.uid())).fix("merge the two"));
                }
            }
        }
        let named = all.iter().map(|entity| (entity.uid(), named_by(entity.attrs().chain(entity.tags())))).collect();
        let entities = Entities::from_entities(all, None).map_err(|error| Problem::new(causes(&error)));
        let entities = problems.keep(entities);
        problems.into_result(entities.map(|entities| Self {
            entities,
            named,
            name: "file".into(),
            has_files: !paths.is_empty(),
        }))
    }

    /// Whether nothing is written down.
    pub(super) fn is_empty(&self) -> bool {
        self.named.is_empty()
    }

    /// Whether anything may be written down: files that are empty now may not be tomorrow.
    pub(super) const fn has_files(&self) -> bool {
        self.has_files
    }

    /// Adds what is written down of an entity: attributes that are open, and its parents.
    pub(super) fn fill(&self, draft: &mut Draft, of: &'static str, origins: &mut Vec<Origin>) {
        let Some(known) = self.entities.get(&draft.uid) else { return };
        let (_, further, parents) = known.clone().into_inner();
        let mut note = |name: Arc<str>| origins.push(Origin { of, name, source: self.name.clone(), age_s: None });
        for (name, value) in further {
            if let Entry::Vacant(open) = draft.attributes.entry(name) {
                note(open.key().as_str().into());
                open.insert(value);
            }
        }
        for kind in parents.iter().map(EntityUid::type_name).collect::<HashSet<_>>() {
            note(format!("in {kind}").into());
        }
        draft.parents.extend(parents);
    }

    /// What is written down of everything that is `named`, or that `entities` are in or name, and so on, without themselves.
    ///
    /// # Errors
    /// `EntitiesTooMany`.
    pub(super) fn reached_from<'e>(
        &self,
        entities: impl Iterator<Item = &'e Entity> + Clone,
        named: Vec<EntityUid>,
    ) -> Result<Vec<Entity>, MappingError> {
        if self.is_empty() {
            return Ok(Vec::new());
        }
        let mut seen: HashSet<_> = entities.clone().map(Entity::uid).collect();
        let within = |uid: &EntityUid| self.entities.ancestors(uid).into_iter().flatten().cloned().collect::<Vec<_>>();
        let mut next = VecDeque::from(named);
        // Of these the agent alone may have tags, and they are text.
        let direct = |entity: &Entity| [named_by(entity.attrs()), parents(entity), within(&entity.uid())].concat();
        next.extend(entities.flat_map(direct));
        let mut reached = Vec::new();
        while let Some(uid) = next.pop_front() {
            if !seen.insert(uid.clone()) {
                continue;
            }
            let Some(entity) = self.entities.get(&uid) else { continue };
            if reached.len() >= REACHED_MAX {
                return Err(MappingError::EntitiesTooMany);
            }
            reached.push(entity.clone());
            next.extend(within(&uid));
            next.extend(self.named.get(&uid).into_iter().flatten().cloned());
        }
        Ok(reached)
    }
}

fn read(
    path: &Spanned<PathBuf>,
    files: &Files,
    types: &SchemaTypes,
    agent: Option<&EntityTypeName>,
) -> Result<Vec<Entity>, Problems> {
    let shown = path.value.display();
    let text = files.read(&path.value).map_err(|error| Problem::unreadable(path, &error))?;
    let Ok(Value::Array(items)) = json::parse(text.as_bytes()) else {
        let problem = Problem::at(path, format!("`{shown}` is not a JSON array of entities"));
        return Err(problem.fix("write `[{ \"uid\": { \"type\", \"id\" }, \"attrs\": {}, \"parents\": [] }]`").into());
    };
    let mut problems = Problems::default();
    let mut entities = Vec::with_capacity(items.len());
    for (index, item) in items.into_iter().enumerate() {
        let parsed = Entity::from_json_value(item, None).map_err(|error| causes(&error));
        match parsed.and_then(|entity| check(&entity, types, agent).map(|()| entity)) {
            Ok(entity) => entities.push(entity),
            Err(reason) => problems.push(Problem::at(path, format!("entity {index} of `{shown}`: {reason}"))),
        }
    }
    problems.into_result(Some(entities))
}

/// What the schema does not know, or has otherwise, would be there for no policy or make it err.
fn check(entity: &Entity, types: &SchemaTypes, agent: Option<&EntityTypeName>) -> Result<(), String> {
    let uid = entity.uid();
    let shape =
        types.entity(uid.type_name()).ok_or_else(|| format!("the schema has no entity type `{}`", uid.type_name()))?;
    for (name, value) in entity.attrs() {
        let known =
            shape.get(name).ok_or_else(|| format!("the schema gives `{}` no attribute `{name}`", uid.type_name()))?;
        if !value.is_ok_and(|value| fits(&value, &known.ty)) {
            return Err(format!("`{name}` of `{uid}` is of another type in the schema"));
        }
    }
    for (name, value) in entity.tags() {
        let kind = uid.type_name();
        let known = types.tags(kind).ok_or_else(|| format!("the schema gives `{kind}` no tags"))?;
        // INVARIANT: what the token claims is for nobody else to add to.
        if agent == Some(kind) {
            return Err(format!("tags of a `{kind}` are its token's claims"));
        }
        if !value.is_ok_and(|value| fits(&value, known)) {
            return Err(format!("tag `{name}` of `{uid}` is of another type in the schema"));
        }
    }
    let (_, _, parents) = entity.clone().into_inner();
    match parents.iter().find(|parent| !types.may_be_in(uid.type_name(), parent.type_name())) {
        None => Ok(()),
        Some(parent) => Err(format!("the schema lets no `{}` be in a `{}`", uid.type_name(), parent.type_name())),
    }
}

fn fits(value: &EvalResult, ty: &Type) -> bool {
    match (value, ty) {
        (EvalResult::Bool(_), Type::Bool)
        | (EvalResult::Long(_), Type::Long)
        | (EvalResult::String(_), Type::String) => true,
        (EvalResult::Set(items), Type::Set(element)) => items.iter().all(|item| fits(item, element)),
        (EvalResult::EntityUid(uid), Type::Entity(kind)) => uid.type_name() == kind,
        (EvalResult::Record(fields), Type::Record(record)) => {
            record.iter().all(|(name, it)| fields.get(name).map_or(!it.required, |value| fits(value, &it.ty)))
                && fields.iter().all(|(name, _)| record.contains_key(name))
        }
        (EvalResult::ExtensionValue(text), Type::Extension(kind)) => text.starts_with(match kind {
            Extension::Ip => "ip(",
            Extension::Decimal => "decimal(",
            Extension::Datetime => "datetime(",
            Extension::Duration => "duration(",
        }),
        _ => false,
    }
}

/// The entities that an entity is in, at first hand.
fn parents(entity: &Entity) -> Vec<EntityUid> {
    entity.clone().into_inner().2.into_iter().collect()
}

/// The entities that attributes or tags name.
fn named_by<'e, E>(values: impl Iterator<Item = (&'e str, Result<EvalResult, E>)>) -> Vec<EntityUid> {
    let mut named = Vec::new();
    for (_, value) in values {
        if let Ok(value) = value {
            collect(&value, &mut named);
        }
    }
    named
}

/// Adds the entities that a value names to those that are `named`.
pub(super) fn collect(value: &EvalResult, named: &mut Vec<EntityUid>) {
    match value {
        EvalResult::EntityUid(uid) => named.push(uid.clone()),
        EvalResult::Set(items) => items.iter().for_each(|item| collect(item, named)),
        EvalResult::Record(fields) => fields.iter().for_each(|(_, field)| collect(field, named)),
        _ => {}
    }
}
