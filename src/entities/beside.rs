//! What stands beside a question: the entities that policies may look at.

use std::{borrow::Cow, collections::HashMap};

use cedar_policy::{Entities, Entity, EntityUid};

use super::{
    Mapping, MappingError, RoutePlan, Side, Subject,
    sources::{Draft, Sources},
};
use crate::base::origin::Origin;

impl Mapping {
    /// What policies may look at: agent and user, the resource where it is neither, and what is written down of whatever these are
    /// in or name, and of what the context names.
    pub(super) fn together(
        &self,
        known: &Entities,
        subjects: [Option<&Cow<'_, Entity>>; 2],
        resource: Option<Entity>,
        named: Vec<EntityUid>,
        plan: &RoutePlan,
    ) -> Result<Entities, MappingError> {
        let subjects = subjects.into_iter().flatten();
        let wrong = |_| MappingError::ClaimMissing("entities".into());
        // What is known of the token was put together with it.
        let known = match subjects.clone().all(|subject| matches!(subject, Cow::Borrowed(_))) {
            true => known.clone(),
            false => {
                Entities::from_entities(subjects.clone().map(|subject| (**subject).clone()), None).map_err(wrong)?
            }
        };
        let mut others = self.types.store.reached_from(subjects.map(|subject| &**subject).chain(&resource), named)?;
        others.extend(plan.action_groups().iter().cloned().chain(resource));
        known.add_entities(others, None).map_err(wrong)
    }

    /// The agent or user, with what sources say of it now.
    pub(super) async fn complete<'s>(
        &self,
        subject: &Subject,
        entity: &'s Entity,
        side: Side,
        sources: &Sources,
        origins: &mut Vec<Origin>,
    ) -> Result<Cow<'s, Entity>, MappingError> {
        if !sources.knows(entity.uid().type_name()) {
            return Ok(Cow::Borrowed(entity));
        }
        let (uid, attributes, parents) = entity.clone().into_inner();
        let tags = if side == Side::Agent { self.types.profile.tags(subject.claims()) } else { HashMap::new() };
        let mut draft = Draft { uid, attributes, parents, tags };
        sources.fill(&mut draft, side.name(), &self.types.schema, origins).await?;
        draft.finish(&self.types.schema).map(Cow::Owned)
    }
}
