//! A set of policies on its way from texts to what decides: each under its `@id`, linked from its template, and validated.

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    path::{Path, PathBuf},
    sync::Arc,
};

use cedar_policy::{Policy, PolicyId, PolicySet, Schema, Template, ValidationMode, ValidationWarning, Validator};

use super::{
    Ids, Known, PolicyNote,
    links::{self, LINKS, Linked},
    load::{Oddness, Warning},
};
use crate::base::problem::{Problem, Problems, Source};

/// Policies on their way.
#[derive(Default)]
pub(super) struct CheckedSet {
    ids: Ids,
    folder: PathBuf,
    pub(super) policies: PolicySet,
    pub(super) known: HashMap<PolicyId, Known>,
    pub(super) sources: HashMap<PolicyId, Arc<Source>>,
    /// By `@id`.
    templates: HashMap<String, Template>,
    /// Templates that something is linked from.
    used: HashSet<String>,
}

impl CheckedSet {
    /// An empty one, of policies that are called so, of a folder.
    pub(super) fn new(ids: Ids, folder: &Path) -> Self {
        Self { ids, folder: folder.to_owned(), ..Self::default() }
    }

    /// Adds the policies of one file, each under its `@id`.
    pub(super) fn add(&mut self, source: &Arc<Source>) -> Result<(), Problems> {
        let parsed: PolicySet = source.text.parse().map_err(|errors: cedar_policy::ParseErrors| {
            Problems(errors.iter().map(|error| Problem::from_cedar(error, source)).collect())
        })?;
        let mut problems = Problems::default();
        let alone = parsed.policies().count().saturating_add(parsed.templates().count()) == 1;
        for template in parsed.templates() {
            problems.keep(self.add_template(template, source, alone));
        }
        for policy in parsed.policies() {
            problems.keep(self.add_policy(policy, source, alone));
        }
        problems.into_result(Some(()))
    }

    fn add_policy(&mut self, policy: &Policy, source: &Arc<Source>, alone: bool) -> Result<(), Problem> {
        let id = policy.annotation("id").filter(|id| !id.is_empty()).map(str::to_owned);
        let id = self.name(id, policy.id(), source, alone)?;
        let note = PolicyNote::read(id, policy.annotations());
        let note = note.map_err(|message| Problem::new(message).within(source))?;
        self.insert(policy.new_id(PolicyId::new(&note.id)), note, source)
    }

    /// What a policy or template is called: as it says itself, or else by its file where that is enough.
    fn name(&self, said: Option<String>, id: &PolicyId, source: &Arc<Source>, alone: bool) -> Result<String, Problem> {
        match (said, self.ids) {
            (Some(said), _) => Ok(said),
            (None, Ids::ByFile) => Ok(self.by_file(id, source, alone)),
            (None, Ids::Required) => Err(nameless(id, source)),
        }
    }

    /// What a policy is called by its file.
    fn by_file(&self, id: &PolicyId, source: &Source, alone: bool) -> String {
        let path = Path::new(&source.name).with_extension("");
        let file = path.strip_prefix(&self.folder).unwrap_or(&path).display().to_string();
        match number(id) {
            Some(number) if !alone => format!("{file}#{number}"),
            _ => file,
        }
    }

    fn add_template(&mut self, template: &Template, source: &Arc<Source>, alone: bool) -> Result<(), Problem> {
        let id = template.annotation("id").filter(|id| !id.is_empty()).map(str::to_owned);
        let id = self.name(id, template.id(), source, alone)?;
        self.claim(&PolicyId::new(&id), source)?;
        self.templates.insert(id, template.clone());
        Ok(())
    }

    /// Adds the policies that a file of links makes of the templates.
    pub(super) fn link(&mut self, source: &Arc<Source>) -> Result<(), Problems> {
        let within = |problems: Problems| Problems(problems.0.into_iter().map(|it| it.within(source)).collect());
        let mut problems = Problems::default();
        for Linked { policy, template } in links::link(&source.text, &self.templates).map_err(within)? {
            let said = self.templates.get(&template).into_iter().flat_map(Template::annotations);
            let note = PolicyNote::read(policy.id().to_string(), said);
            self.used.insert(template);
            if let Some(note) = problems.keep(note.map_err(|message| Problem::new(message).within(source))) {
                problems.keep(self.insert(policy, note, source));
            }
        }
        problems.into_result(Some(()))
    }

    fn insert(&mut self, policy: Policy, note: PolicyNote, source: &Arc<Source>) -> Result<(), Problem> {
        let name = PolicyId::new(&note.id);
        self.claim(&name, source)?;
        self.policies.add(policy).map_err(|error| Problem::from_cedar(&error, source))?;
        self.known.insert(name, note.into());
        Ok(())
    }

    /// Notes where an id stands, which nothing else may have.
    fn claim(&mut self, name: &PolicyId, source: &Arc<Source>) -> Result<(), Problem> {
        match self.sources.entry(name.clone()) {
            Entry::Occupied(other) => {
                let message = format!("`@id(\"{name}\")` stands twice, in `{}` too", other.get().name);
                Err(Problem::new(message).fix("give each policy an id of its own").within(source))
            }
            Entry::Vacant(free) => {
                free.insert(source.clone());
                Ok(())
            }
        }
    }

    pub(super) fn validate(&self, schema: &Schema, level_max: Option<u32>, problems: &mut Problems) -> Vec<Warning> {
        let mut whole = self.policies.clone();
        for (id, template) in &self.templates {
            // INVARIANT: no policy has a template's id.
            let _ = whole.add_template(template.new_id(PolicyId::new(id)));
        }
        let validator = Validator::new(schema.clone());
        let result = match level_max {
            None => validator.validate(&whole, ValidationMode::Strict),
            Some(level) => validator.validate_with_level(&whole, ValidationMode::Strict, level),
        };
        let place = |id: &PolicyId, error: &dyn miette::Diagnostic| match self.sources.get(id) {
            Some(source) => Problem::from_cedar(error, source),
            None => Problem::new(error.to_string()),
        };
        for error in result.validation_errors() {
            problems.push(place(error.policy_id(), error));
        }
        let unused = self.templates.keys().filter(|id| !self.used.contains(*id)).map(|id| {
            let source = self.sources.get(&PolicyId::new(id));
            let problem = Problem::new(format!("template `{id}` is linked to nothing, so it says nothing"));
            let problem = problem.fix(format!("link it in `{LINKS}`"));
            let problem = source.map_or_else(|| problem.clone(), |source| problem.clone().within(source));
            Warning { of: id.clone(), what: Oddness::UnlinkedTemplate, problem }
        });
        let warned = result.validation_warnings().map(|warning| Warning {
            of: warning.policy_id().to_string(),
            what: match warning {
                ValidationWarning::ImpossiblePolicy(_) => Oddness::ImpossiblePolicy,
                _ => Oddness::Other,
            },
            problem: place(warning.policy_id(), warning),
        });
        warned.chain(unused).collect()
    }
}

fn nameless(id: &PolicyId, source: &Arc<Source>) -> Problem {
    Problem::new(format!("{} has no `@id`: records could not say which one decided", position(id)))
        .fix("write `@id(\"what-it-says\")` before it")
        .within(source)
}

/// Which of the policies of a text it is, from 1. Cedar numbers them `policy0`, `policy1`, …
fn number(id: &PolicyId) -> Option<usize> {
    let number = id.to_string().strip_prefix("policy").and_then(|number| number.parse::<usize>().ok());
    number.map(|index| index.saturating_add(1))
}

fn position(id: &PolicyId) -> String {
    number(id).map_or_else(|| format!("policy `{id}`"), |number| format!("policy number {number}"))
}
