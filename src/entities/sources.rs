//! Sources of entities (XACML's PIP): what paths, tokens and files leave open of an entity is asked of each source of its
//! type, in order, until nothing is open any more.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use cedar_policy::{Entity, EntityId, EntityTypeName, EntityUid, RestrictedExpression};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::{
    MappingError,
    consent::{ConsentPlan, Consents},
    lookup::{
        Keeps, Lookup, LookupState,
        pick::{Found, Pick},
        plan::{LookupConfig, LookupPlan},
        size_of,
    },
    schema::{Record, SchemaTypes, Type},
    value::{expression, expression_of_sql},
};
use crate::base::{
    files::Files,
    origin::Origin,
    outside::Outside,
    problem::{Problem, Problems},
    spanned::Spanned,
};

/// What a source knows an entity by.
const KEYS: [&str; 1] = ["id"];

/// An entry of `entities.sources`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SourceConfig {
    /// The type of the entities that it knows.
    pub r#type: Spanned<String>,
    /// Whom to ask.
    pub lookup: LookupConfig,
    /// Where each attribute is in the answer: a JSON pointer, or a text or `Type::"…"` with `{/pointer}` in it. Default: those
    /// that the schema gives the type, under their own names.
    pub attributes: Option<HashMap<String, Spanned<String>>>,
    /// Where the ids of parents are, by their type: a JSON pointer to a text or to an array of texts. Default: none.
    #[serde(default)]
    pub parents: HashMap<String, Spanned<String>>,
}

/// A source, compiled.
#[derive(Clone, Debug)]
pub(super) struct SourcePlan {
    of: EntityTypeName,
    /// As the configuration names it.
    named: Spanned<String>,
    lookup: LookupPlan,
    picks: Picks,
}

/// What is kept of an answer.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Picks {
    attributes: Vec<(Arc<str>, Pick)>,
    parents: Vec<(EntityTypeName, Pick)>,
}

impl Keeps for Picks {
    type Kept = Option<Found>;

    fn keep(&self, mut rows: Vec<Value>) -> Result<(Self::Kept, usize), String> {
        let Some(row) = rows.pop() else { return Ok((None, 0)) };
        if !rows.is_empty() {
            return Err("more than one entity for one id".into());
        }
        let mut found = Found::default();
        for (name, pick) in &self.attributes {
            found.attributes.extend(pick.take(&row)?.map(|value| (name.to_string(), value)));
        }
        for (kind, pick) in &self.parents {
            found.parents.extend(pick.take(&row)?.map(|value| (kind.to_string(), value)));
        }
        let size = size_of(&found.attributes).saturating_add(size_of(&found.parents));
        Ok((Some(found), size))
    }

    fn is_absent(kept: &Self::Kept) -> bool {
        kept.is_none()
    }
}

impl SourceConfig {
    pub(super) fn compile(&self, types: &SchemaTypes, files: &Files) -> Result<SourcePlan, Problems> {
        let mut problems = Problems::default();
        let of: Option<EntityTypeName> = self.r#type.value.parse().ok();
        let known = of.and_then(|of| types.entity(&of).map(|shape| (of, shape))).ok_or_else(|| {
            Problem::at(&self.r#type, format!("the schema has no entity type `{}`", self.r#type.value))
                .fix("name a type as the schema does")
        });
        let lookup = problems.keep(self.lookup.compile(&KEYS, files));
        let Some((of, shape)) = problems.keep(known) else { return Err(problems) };
        let attributes = match &self.attributes {
            None => shape.keys().map(|name| (name.as_str().into(), Pick::member(name))).collect(),
            Some(named) => {
                let mut attributes = Vec::new();
                for (name, text) in named {
                    let pick = shape.get(name).map_or_else(
                        || Err(format!("the schema gives `{of}` no attribute `{name}`")),
                        |attribute| pick(&text.value, &attribute.ty),
                    );
                    let pick = problems.keep(pick.map_err(|message| Problem::at(text, message)));
                    attributes.extend(pick.map(|pick| (name.as_str().into(), pick)));
                }
                attributes.sort_by(|(one, _): &(Arc<str>, _), (other, _)| one.cmp(other));
                attributes
            }
        };
        let mut parents = Vec::new();
        for (kind, text) in &self.parents {
            let kind = kind.parse().ok().filter(|kind| types.may_be_in(&of, kind));
            let kind = kind.ok_or_else(|| Problem::at(text, format!("the schema lets no `{of}` be in one of these")));
            let pick = Pick::parse(&text.value).map_err(|message| Problem::at(text, message));
            parents.extend(problems.keep(kind).zip(problems.keep(pick)));
        }
        parents.sort_by_key(|(kind, _)| kind.to_string());
        let picks = Picks { attributes, parents };
        let named = self.r#type.clone();
        problems.into_result(lookup.map(|lookup| SourcePlan { of, named, lookup, picks }))
    }
}

/// An attribute's place: `/pointer`, or for text and entities also something around it.
fn pick(text: &str, ty: &Type) -> Result<Pick, String> {
    match (ty, text.strip_suffix('"').and_then(|text| text.split_once("::\""))) {
        (Type::Entity(wanted), Some((kind, id))) if kind.parse().is_ok_and(|kind: EntityTypeName| kind == *wanted) => {
            Pick::parse(id)
        }
        (Type::Entity(wanted), Some(_)) => Err(format!("it is of type `{wanted}` in the schema")),
        (Type::Entity(_) | Type::String, None) => Pick::parse(text),
        _ if text.starts_with('/') => Pick::parse(text),
        _ => Err("only text and entities can be made of a text with a pointer in it".into()),
    }
}

impl SourcePlan {
    pub(super) const fn of(&self) -> &EntityTypeName {
        &self.of
    }

    /// Refuses a source that nobody would ask: what it says would be there for no policy.
    ///
    /// # Errors
    /// Where entities of its type are none of `asked`.
    pub(super) fn check(&self, asked: &HashSet<&EntityTypeName>) -> Result<(), Problem> {
        match asked.contains(&self.of) {
            true => Ok(()),
            false => Err(Problem::at(&self.named, format!("nobody is asked about entities of type `{}`", self.of))
                .fix("sources are asked about agents, users and the resources of routes")),
        }
    }

    /// Whether it may say this attribute.
    pub(super) fn gives(&self, name: &str) -> bool {
        self.picks.attributes.iter().any(|(known, _)| **known == *name)
    }

    pub(super) const fn gives_parents(&self) -> bool {
        !self.picks.parents.is_empty()
    }
}

/// What is known of an entity so far.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) uid: EntityUid,
    pub(super) attributes: HashMap<String, RestrictedExpression>,
    pub(super) parents: HashSet<EntityUid>,
    pub(super) tags: HashMap<String, RestrictedExpression>,
}

impl Draft {
    /// Of which nothing is known.
    pub(super) fn of(uid: EntityUid) -> Self {
        Self { uid, attributes: HashMap::new(), parents: HashSet::new(), tags: HashMap::new() }
    }

    /// The entity, if all is known that the schema requires.
    ///
    /// # Errors
    /// `ClaimMissing`.
    pub(super) fn finish(self, types: &SchemaTypes) -> Result<Entity, MappingError> {
        let shape = types.entity(self.uid.type_name()).into_iter().flatten();
        let open = shape.into_iter().find(|(name, it)| it.required && !self.attributes.contains_key(*name));
        match open {
            Some((name, _)) => Err(MappingError::ClaimMissing(name.clone())),
            None => self.seal(),
        }
    }

    /// The entity as far as it is known.
    ///
    /// # Errors
    /// `ClaimMissing`, for a value that Cedar does not take.
    pub(super) fn seal(self) -> Result<Entity, MappingError> {
        let kind = self.uid.type_name().to_string();
        let whole = Entity::new_with_tags(self.uid, self.attributes, self.parents, self.tags);
        whole.map_err(|_| MappingError::ClaimMissing(kind))
    }
}

type Source = Arc<Lookup<Picks>>;

/// The sources at work.
#[derive(Debug, Default)]
pub struct Sources {
    /// By the type of what they know.
    entities: HashMap<EntityTypeName, Vec<Source>>,
    pub(super) consents: Consents,
}

impl Sources {
    /// Starts what `plans` say; what the sources `before` have heard is taken over where they are the same.
    pub(super) fn start(
        plans: &[SourcePlan],
        consents: &ConsentPlan,
        outside: &Outside,
        before: Option<&Self>,
    ) -> Self {
        let mut all: HashMap<EntityTypeName, Vec<Source>> = HashMap::new();
        for plan in plans {
            let known = before.and_then(|before| before.entities.get(&plan.of)).into_iter().flatten();
            let source = Lookup::resume(&plan.lookup, &plan.picks, outside, known);
            all.entry(plan.of.clone()).or_default().push(source);
        }
        Self { entities: all, consents: Consents::start(consents, outside, before.map(|before| &before.consents)) }
    }

    /// Whether entities of this type have sources.
    pub(super) fn knows(&self, kind: &EntityTypeName) -> bool {
        self.entities.contains_key(kind)
    }

    /// How each source fares, by what it is a source of, and its name.
    pub fn states(&self) -> impl Iterator<Item = (&'static str, &str, LookupState)> {
        let entities = self.entities.values().flatten().map(|source| (&*source.plan().name, source.state()));
        let entities = entities.map(|(name, state)| ("source", name, state));
        entities.chain(self.consents.state().map(|(name, state)| ("consent", name, state)))
    }

    /// Asks the sources of the entity's type, in order, for what is open of it.
    ///
    /// # Errors
    /// `SourceUnavailable` and `SourceTimedOut`; `ClaimMissing` where an answer does not fit the schema.
    pub(super) async fn fill(
        &self,
        draft: &mut Draft,
        of: &'static str,
        types: &SchemaTypes,
        origins: &mut Vec<Origin>,
    ) -> Result<(), MappingError> {
        let kind = draft.uid.type_name().clone();
        let Some(shape) = types.entity(&kind) else { return Ok(()) };
        for source in self.entities.get(&kind).into_iter().flatten() {
            let picks = source.keeps();
            let is_open = |name: &Arc<str>| !draft.attributes.contains_key(&**name);
            if picks.parents.is_empty() && !picks.attributes.iter().any(|(name, _)| is_open(name)) {
                continue;
            }
            let name = &source.plan().name;
            let id: &str = draft.uid.id().unescaped();
            let answer = source.ask(&[id]).await.map_err(|error| error.of(name))?;
            let Some(found) = &*answer.kept else { continue };
            let age_s = Some(answer.age.as_secs());
            let origin = |name: Arc<str>| Origin { of, name, source: source.plan().name.clone(), age_s };
            take_attributes(draft, found, picks, shape, source.plan().is_sql(), |name| origins.push(origin(name)))?;
            for (kind, _) in &picks.parents {
                let Some(ids) = found.parents.get(&kind.to_string()) else { continue };
                draft.parents.extend(parents(kind, ids)?);
                origins.push(origin(format!("in {kind}").into()));
            }
        }
        Ok(())
    }
}

fn take_attributes(
    draft: &mut Draft,
    found: &Found,
    picks: &Picks,
    shape: &Record,
    is_sql: bool,
    mut note: impl FnMut(Arc<str>),
) -> Result<(), MappingError> {
    for (name, _) in &picks.attributes {
        let known = draft.attributes.contains_key(&**name);
        let (Some(value), Some(attribute), false) = (found.attributes.get(&**name), shape.get(&**name), known) else {
            continue;
        };
        let value = if is_sql { expression_of_sql(&attribute.ty, value) } else { expression(&attribute.ty, value) };
        let value = value.ok_or_else(|| MappingError::ClaimMissing(name.to_string()))?;
        draft.attributes.insert(name.to_string(), value);
        note(name.clone());
    }
    Ok(())
}

fn parents(kind: &EntityTypeName, ids: &Value) -> Result<Vec<EntityUid>, MappingError> {
    let one = std::slice::from_ref(ids);
    let ids = ids.as_array().map_or(one, Vec::as_slice).iter().map(|id| {
        let id = id.as_str().ok_or_else(|| MappingError::ClaimMissing(format!("in {kind}")))?;
        Ok(EntityUid::from_type_name_and_id(kind.clone(), EntityId::new(id)))
    });
    ids.collect()
}
