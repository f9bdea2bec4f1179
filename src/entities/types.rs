//! The schema's types, with those that stand for agents and users, and with everybody who says something of entities.

use std::sync::Arc;

use cedar_policy::EntityTypeName;

use super::{
    EntitiesConfig, Side,
    consent::{ConsentPlan, ConsentsConfig},
    profile::Profile,
    schema::{SchemaTypes, Type},
    sources::SourcePlan,
    store::Store,
};
use crate::base::{
    files::Files,
    problem::{Problem, Problems},
    spanned::Spanned,
};

/// The schema, with the types that stand for agents and users.
#[derive(Clone, Debug)]
pub struct Types {
    pub(super) schema: SchemaTypes,
    pub(super) agent: EntityTypeName,
    pub(super) user: Option<EntityTypeName>,
    pub(super) profile: Profile,
    /// For whom a question is put, where a route does not say.
    pub(super) principals: Option<Spanned<Vec<Side>>>,
    pub(super) store: Arc<Store>,
    pub(super) sources: Vec<SourcePlan>,
    pub(super) consents: ConsentPlan,
}

impl Types {
    /// Finds the configured types in the schema, and reads the files of entities.
    ///
    /// # Errors
    /// A [`Problem`] for each that is not there.
    pub fn compile(
        config: &EntitiesConfig,
        consents: &ConsentsConfig,
        schema: SchemaTypes,
        files: &Files,
    ) -> Result<Self, Problems> {
        let mut problems = Problems::default();
        let agent = problems.keep(known_type(config.agent.as_ref(), "Agent", &schema));
        // Where policies do not speak of users by convention, there are none unless a type is named for them.
        let user = match (&config.user, config.profile.speaks_of_users()) {
            (None, false) => Some(None),
            (named, _) => problems.keep(known_type(named.as_ref(), "User", &schema)).map(Some),
        };
        if agent.is_some() && Some(&agent) == user.as_ref() {
            let message = "agents and users are of one type: a client id and a user's id could name one entity";
            let named = config.agent.as_ref().or(config.user.as_ref());
            let problem = named.map_or_else(|| Problem::new(message), |named| Problem::at(named, message));
            problems.push(problem.fix("declare two entity types"));
        }
        let principals = config.principals.clone();
        let store = problems.keep(Store::compile(&config.files, files, &schema, agent.as_ref())).map(Arc::new);
        let sources = config.sources.iter().filter_map(|it| problems.keep(it.compile(&schema, files))).collect();
        let consents = problems.keep(consents.compile(files));
        let profile = agent.as_ref().and_then(|agent| {
            problems.keep(Profile::compile(config, agent, user.as_ref().and_then(Option::as_ref), &schema))
        });
        let types = (|| {
            let (agent, user, profile, store, consents) = (agent?, user?, profile?, store?, consents?);
            Some(Self { schema, agent, user, profile, principals, store, sources, consents })
        })();
        problems.keep(types.as_ref().map_or(Ok(()), Self::check_subjects));
        problems.into_result(types)
    }

    /// Whether sources are asked about entities of this type.
    pub(super) fn has_source(&self, kind: &EntityTypeName) -> bool {
        self.sources.iter().any(|source| source.of() == kind)
    }

    /// Whether anybody says what entities of this type are in.
    fn has_parents(&self, kind: &EntityTypeName) -> bool {
        let by_profile = *kind == self.agent && self.profile.gives_parents();
        by_profile
            || !self.store.is_empty()
            || self.sources.iter().any(|source| source.of() == kind && source.gives_parents())
    }

    /// What entities of this type have that nobody supplies, so that policies about it never apply.
    pub(super) fn unsupplied(&self, kind: &EntityTypeName) -> Option<&'static str> {
        if self.schema.has_parents(kind) && !self.has_parents(kind) {
            return Some("parents");
        }
        let tagged = *kind == self.agent && self.profile.gives_tags();
        (self.schema.tags(kind).is_some() && !tagged).then_some("tags")
    }

    /// The types of agents and, where there is one, of users.
    pub(super) fn subjects(&self) -> impl Iterator<Item = &EntityTypeName> {
        std::iter::once(&self.agent).chain(self.user.as_ref())
    }

    /// What is said of agents and users comes from claims, which cannot name other agents or users.
    fn check_subjects(&self) -> Result<(), Problems> {
        let mut problems = Problems::default();
        for of in self.subjects() {
            let naming =
                self.schema.entity(of).and_then(|shape| shape.iter().find(|(_, it)| self.names_subject(&it.ty)));
            if let Some((claim, _)) = naming {
                let message =
                    format!("attribute `{claim}` of `{of}` names agents or users, which only the token's subject does");
                problems.push(Problem::new(message).fix("make it text"));
            }
        }
        problems.into_result(Some(()))
    }

    /// Whether a claim of this type would name an agent or a user: an issuer could name those of another.
    pub(super) fn names_subject(&self, ty: &Type) -> bool {
        ty.names(&|kind: &EntityTypeName| self.subjects().any(|subject| subject == kind))
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
