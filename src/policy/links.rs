//! Template links: a template says what may be done, a link for whom or on what. Each becomes a policy of its own, so that
//! everything else – ids, validation, index – need not know of them.
//!
//! `links.json` is an array in Cedar's own JSON form of template links:
//! `{ "templateId": "…", "newId": "…", "values": { "?principal": { "type": "…", "id": "…" } } }`.

use std::collections::HashMap;

use cedar_policy::{EntityId, EntityTypeName, EntityUid, Policy, PolicyId, PolicySet, SlotId, Template};
use serde::Deserialize;

use crate::base::{
    json,
    problem::{Problem, Problems, causes},
};

/// The name of the file of template links.
pub(super) const LINKS: &str = "links.json";

/// Links that are taken.
const LINKS_MAX: usize = 1_000_000;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Link {
    template_id: String,
    new_id: String,
    values: Values,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Values {
    #[serde(rename = "?principal")]
    principal: Option<Named>,
    #[serde(rename = "?resource")]
    resource: Option<Named>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    r#type: String,
    id: String,
}

/// A policy made of a template, and the id of that.
#[derive(Debug)]
pub(super) struct Linked {
    pub(super) policy: Policy,
    pub(super) template: String,
}

/// Makes the policies that `text` links from `templates`, which go by their `@id`.
///
/// # Errors
/// Every [`Problem`] of the text.
pub(super) fn link(text: &str, templates: &HashMap<String, Template>) -> Result<Vec<Linked>, Problems> {
    let parsed = json::parse(text.as_bytes()).and_then(serde_json::from_value::<Vec<Link>>);
    let links = parsed.map_err(|error| {
        Problem::new(format!("not a list of template links: {error}")).fix(
            "write `[{ \"templateId\": …, \"newId\": …, \"values\": { \"?principal\": { \"type\": …, \"id\": … } } }]`",
        )
    })?;
    if links.len() > LINKS_MAX {
        return Err(Problem::new(format!("more than {LINKS_MAX} template links")).into());
    }
    let mut problems = Problems::default();
    let linked = links.into_iter().filter_map(|link| problems.keep(link.apply(templates))).collect();
    problems.into_result(Some(linked))
}

impl Link {
    fn apply(self, templates: &HashMap<String, Template>) -> Result<Linked, Problem> {
        let failed = |why: String| Problem::new(format!("link `{}`: {why}", self.new_id));
        if self.new_id.is_empty() {
            return Err(failed("it has no id".into()).fix("give each link a `newId` of its own"));
        }
        let template = templates.get(&self.template_id).ok_or_else(|| {
            failed(format!("there is no template `{}`", self.template_id))
                .fix("`templateId` is the `@id` of a template")
        })?;
        let mut values = HashMap::new();
        for (slot, named) in
            [(SlotId::principal(), &self.values.principal), (SlotId::resource(), &self.values.resource)]
        {
            if let Some(named) = named {
                values.insert(slot, named.uid().map_err(&failed)?);
            }
        }
        let mut set = PolicySet::new();
        let (template_id, id) = (PolicyId::new(&self.template_id), PolicyId::new(&self.new_id));
        set.add_template(template.new_id(template_id.clone())).map_err(|error| failed(causes(&error)))?;
        set.link(template_id, id.clone(), values).map_err(|error| failed(causes(&error)))?;
        let linked = set.policy(&id).and_then(|policy| policy.to_json().ok());
        let policy = linked.and_then(|linked| Policy::from_json(Some(id), linked).ok());
        let policy = policy.ok_or_else(|| failed("it makes no policy".into()))?;
        Ok(Linked { policy, template: self.template_id })
    }
}

impl Named {
    fn uid(&self) -> Result<EntityUid, String> {
        let kind: EntityTypeName = self.r#type.parse().map_err(|_| format!("`{}` is not a type name", self.r#type))?;
        Ok(EntityUid::from_type_name_and_id(kind, EntityId::new(&self.id)))
    }
}
