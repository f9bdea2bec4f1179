//! From `.cedar` files and a schema to policies that passed strict validation, or to every reason why not.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use cedar_policy::{
    Authorizer, Policy, PolicyId, PolicySet, Schema, ValidationMode, Validator, schema_str_to_json_with_resolved_types,
};

use super::{
    Policies, PolicyNote,
    index::Index,
    nesting::{NESTING_MAX, OPERATORS_MAX, too_deep},
};
use crate::{
    base::{
        files::Files,
        problem::{Problem, Problems, Source},
    },
    entities::schema::SchemaTypes,
};

/// The schema's name inside the policy folder.
const SCHEMA: &str = "schema.cedarschema";

/// Stack of the thread that loads policies, in bytes: ample for [`NESTING_MAX`].
const LOAD_STACK_BYTES: usize = 64 * 1024 * 1024;

/// A folder of policies: every `*.cedar` in it and `schema.cedarschema`.
#[derive(Clone, Copy, Debug)]
pub struct PolicyFiles<'a> {
    /// Where it is read from.
    pub files: &'a Files,
    /// The folder.
    pub folder: &'a Path,
}

/// Policies, the types of their schema, and what Cedar finds odd but not wrong.
#[derive(Debug)]
pub struct Loaded {
    /// The policies.
    pub policies: Policies,
    /// The schema's types.
    pub types: SchemaTypes,
    /// What deserves a look.
    pub warnings: Problems,
}

impl PolicyFiles<'_> {
    /// Loads and validates.
    ///
    /// # Errors
    /// Every [`Problem`] found.
    pub fn load(self) -> Result<Loaded, Problems> {
        // Cedar's parser and validator recurse as deep as a text nests: that depth has a limit, and room on this stack.
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("policies".into()).stack_size(LOAD_STACK_BYTES);
            let loading = thread.spawn_scoped(scope, || self.load_here());
            let loading = loading.map_err(|error| Problem::new(format!("no thread to load policies: {error}")))?;
            loading.join().unwrap_or_else(|_| Err(Problem::new("loading the policies failed inside Cedar").into()))
        })
    }

    fn load_here(self) -> Result<Loaded, Problems> {
        let mut problems = Problems::default();
        let schema = problems.keep(self.schema());
        let mut set = CheckedSet::default();
        for source in problems.keep(self.sources()).unwrap_or_default() {
            problems.keep(set.add(&source));
        }
        let warnings = schema.as_ref().map(|(schema, _)| set.validate(schema, &mut problems)).unwrap_or_default();
        let index = Index::build(set.policies.policies()).map_err(|error| Problem::new(error.to_string()));
        let index = problems.keep(index);
        let loaded = schema.zip(index).map(|((_, types), index)| Loaded {
            policies: Policies { index, notes: set.notes, authorizer: Authorizer::new() },
            types,
            warnings,
        });
        problems.into_result(loaded)
    }

    fn schema(self) -> Result<(Schema, SchemaTypes), Problems> {
        let source = self.read(&self.folder.join(SCHEMA))?;
        let cedar = |error: &cedar_policy::CedarSchemaError| Problems::from(Problem::from_cedar(error, &source));
        let (schema, _) = Schema::from_cedarschema_str(&source.text).map_err(|error| cedar(&error))?;
        let (json, _) = schema_str_to_json_with_resolved_types(&source.text).map_err(|error| cedar(&error))?;
        let types = SchemaTypes::from_resolved_json(&json).map_err(|error| Problem::new(error).within(&source))?;
        let actions = schema.action_entities().map_err(|error| Problem::new(error.to_string()).within(&source))?;
        Ok((schema, types.with_action_groups(&actions)))
    }

    fn sources(self) -> Result<Vec<Arc<Source>>, Problems> {
        let listed = self.files.list(self.folder, "cedar").map_err(|error| {
            Problem::new(format!("cannot read folder `{}`: {error}", self.folder.display()))
                .fix("`policies` names the folder with your `.cedar` files, relative to the configuration file")
        })?;
        if listed.is_empty() {
            let message = format!("folder `{}` holds no `.cedar` file", self.folder.display());
            return Err(Problem::new(message).fix("without a policy nothing is allowed: write one").into());
        }
        listed.iter().map(|path| self.read(path)).collect::<Result<_, _>>().map_err(Problems::from)
    }

    /// A text of the folder that is safe to hand to Cedar's parser.
    fn read(self, path: &Path) -> Result<Arc<Source>, Problem> {
        let text = self.files.read(path).map_err(|error| {
            Problem::new(format!("cannot read `{}`: {error}", path.display()))
                .fix("a policy folder holds `.cedar` files and their `schema.cedarschema`")
        })?;
        let source = Arc::new(Source { name: path.display().to_string(), text });
        match too_deep(&source.text, path.ends_with(SCHEMA)) {
            None => Ok(source),
            Some(place) => {
                let message = format!(
                    "more than {NESTING_MAX} brackets or conditionals inside each other, or {OPERATORS_MAX} operators in a statement"
                );
                Err(Problem::in_source(message, place, &source).fix("write it in several policies"))
            }
        }
    }
}

#[derive(Default)]
struct CheckedSet {
    policies: PolicySet,
    notes: HashMap<PolicyId, Arc<PolicyNote>>,
    sources: HashMap<PolicyId, Arc<Source>>,
}

impl CheckedSet {
    /// Adds the policies of one file, each under its `@id`.
    fn add(&mut self, source: &Arc<Source>) -> Result<(), Problems> {
        let parsed: PolicySet = source.text.parse().map_err(|errors: cedar_policy::ParseErrors| {
            Problems(errors.iter().map(|error| Problem::from_cedar(error, source)).collect())
        })?;
        let mut problems = Problems::default();
        for template in parsed.templates() {
            problems.push(
                Problem::new(format!("policy template `{}` is linked to nothing", template.id()))
                    .fix("write a static policy: no `?principal` or `?resource`")
                    .within(source),
            );
        }
        for policy in parsed.policies() {
            problems.keep(self.add_policy(policy, source));
        }
        problems.into_result(Some(()))
    }

    fn add_policy(&mut self, policy: &Policy, source: &Arc<Source>) -> Result<(), Problem> {
        let note = |name: &str| policy.annotation(name).filter(|text| !text.is_empty()).map(str::to_owned);
        let Some(id) = note("id") else {
            let message = format!("{} has no `@id`: records could not say which one decided", position(policy.id()));
            return Err(Problem::new(message).fix("write `@id(\"what-it-says\")` before it").within(source));
        };
        let name = PolicyId::new(&id);
        if let Some(other) = self.sources.get(&name) {
            let message = format!("`@id(\"{id}\")` stands twice, in `{}` too", other.name);
            return Err(Problem::new(message).fix("give each policy an id of its own").within(source));
        }
        self.policies.add(policy.new_id(name.clone())).map_err(|error| Problem::from_cedar(&error, source))?;
        self.sources.insert(name.clone(), source.clone());
        self.notes.insert(name, Arc::new(PolicyNote { id, reason: note("reason"), advice: note("advice") }));
        Ok(())
    }

    fn validate(&self, schema: &Schema, problems: &mut Problems) -> Problems {
        let result = Validator::new(schema.clone()).validate(&self.policies, ValidationMode::Strict);
        let place = |id: &PolicyId, error: &dyn miette::Diagnostic| match self.sources.get(id) {
            Some(source) => Problem::from_cedar(error, source),
            None => Problem::new(error.to_string()),
        };
        for error in result.validation_errors() {
            problems.push(place(error.policy_id(), error));
        }
        Problems(result.validation_warnings().map(|warning| place(warning.policy_id(), warning)).collect())
    }
}

/// Cedar numbers the policies of a text `policy0`, `policy1`, …
fn position(id: &PolicyId) -> String {
    let number = id.to_string().strip_prefix("policy").and_then(|number| number.parse::<usize>().ok());
    number.map_or_else(|| format!("policy `{id}`"), |index| format!("policy number {}", index.saturating_add(1)))
}

impl<'a> PolicyFiles<'a> {
    /// The folder `folder` of `files`.
    pub fn new(files: &'a Files, folder: &'a PathBuf) -> Self {
        Self { files, folder }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEMA_TEXT: &str = "entity User; entity Agent; entity Data = { owner: User, note?: String };
        action read appliesTo { principal: [Agent], resource: [Data], context: {} };";

    fn load(files: &[(&str, &str)]) -> Result<Loaded, Problems> {
        let files = Files::memory(files.iter().copied());
        PolicyFiles::new(&files, &PathBuf::from("p")).load()
    }

    fn problem(policy: &str) -> String {
        let loaded = load(&[("p/schema.cedarschema", SCHEMA_TEXT), ("p/a.cedar", policy)]);
        loaded.map(|_| String::new()).unwrap_or_else(|problems| problems.to_string())
    }

    #[test]
    fn policies_keep_their_ids_and_annotations() {
        let text = "@id(\"a\") @reason(\"because\") permit (principal, action, resource);";
        let loaded = load(&[("p/schema.cedarschema", SCHEMA_TEXT), ("p/a.cedar", text), ("p/no.txt", "?")]).unwrap();
        assert_eq!(loaded.policies.len(), 1);
        let note = &loaded.policies.notes[&PolicyId::new("a")];
        assert_eq!((note.reason.as_deref(), note.advice.as_deref()), (Some("because"), None));
    }

    #[test]
    fn what_is_wrong_is_shown_with_its_place() {
        for (policy, shown) in [
            ("permit (principal, action resource);", "p/a.cedar:1:27"),
            ("permit (principal, action, resource);", "policy number 1 has no `@id`"),
            ("@id(\"a\") permit (principal, action, resource == ?resource);", "linked to nothing"),
            (
                "@id(\"a\") permit (principal, action, resource);\n@id(\"a\") forbid (principal, action, resource);",
                "stands twice",
            ),
            (
                "@id(\"a\") permit (principal, action, resource)\nwhen { resource.onwer == resource.owner };",
                "p/a.cedar:2:8",
            ),
            ("@id(\"a\") permit (principal, action, resource) when { resource.note == \"x\" };", "p/a.cedar:1:"),
            ("@id(\"a\") permit (principal, action == Action::\"raed\", resource);", "Action::\"raed\""),
        ] {
            let problem = problem(policy);
            assert!(problem.contains(shown), "{policy}\n{problem}");
        }
    }

    #[test]
    fn nesting_is_an_error_before_it_ends_the_process_and_what_passes_is_parsed() {
        let condition = |open: &str, close: &str, times: usize| {
            format!(
                "@id(\"a\") permit (principal, action, resource) when {{ {}true{} }};",
                open.repeat(times),
                close.repeat(times)
            )
        };
        for (open, close) in [("(", ")"), ("if true then true else ", ""), ("[", "]"), ("{a: ", "}"), ("!(", ")")] {
            for times in [NESTING_MAX, 100_000] {
                let shown = problem(&condition(open, close, times));
                assert!(shown.contains("inside each other"), "{open} {times}: {shown:.200}");
            }
            let shown = problem(&condition(open, close, NESTING_MAX - 2));
            assert!(!shown.contains("inside each other"), "{open}: {shown:.200}");
        }
        let schema = format!("{SCHEMA_TEXT} type T = {}String{};", "Set<".repeat(20_000), ">".repeat(20_000));
        assert!(load(&[("p/schema.cedarschema", &schema), ("p/a.cedar", "")]).is_err());
    }

    #[test]
    fn all_files_are_reported_at_once() {
        let files = [("p/schema.cedarschema", "entity User"), ("p/a.cedar", "permit"), ("p/b.cedar", "forbid")];
        let problems = load(&files).unwrap_err().to_string();
        for file in ["p/schema.cedarschema", "p/a.cedar", "p/b.cedar"] {
            assert!(problems.contains(file), "{file}\n{problems}");
        }
        assert!(load(&[("p/schema.cedarschema", SCHEMA_TEXT)]).is_err());
        assert!(load(&[("p/a.cedar", "")]).is_err());
    }
}
