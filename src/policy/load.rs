//! From `.cedar` files and a schema to policies that passed strict validation, or to every reason why not.

use std::{
    collections::{HashMap, HashSet},
    io::ErrorKind,
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use cedar_policy::{Authorizer, PolicyId, Schema, schema_str_to_json_with_resolved_types};

use super::{
    Policies,
    checked::CheckedSet,
    index::Index,
    links::LINKS,
    nesting::{NESTING_MAX, OPERATORS_MAX, too_deep},
    shadow::{Candidate, ShadowConfig},
    stores::{DEFAULT, OnError, Store, StoreConfig, Stores},
};
use crate::{
    base::{
        files::Files,
        problem::{Problem, Problems, Source},
        revision,
    },
    entities::schema::SchemaTypes,
};

/// The schema's name inside the policy folder.
pub(super) const SCHEMA: &str = "schema.cedarschema";

/// Stack of the thread that loads policies, in bytes: ample for [`NESTING_MAX`].
const LOAD_STACK_BYTES: usize = 64 * 1024 * 1024;

/// A folder of policies: every `*.cedar` in it and `schema.cedarschema`.
#[derive(Clone, Copy, Debug)]
pub struct PolicyFiles<'a> {
    /// Where it is read from.
    pub files: &'a Files,
    /// The folder.
    pub folder: &'a Path,
    /// What policies without `@id` are called.
    pub ids: Ids,
}

/// What policies without `@id` are called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ids {
    /// They are refused: records could not say which one decided.
    #[default]
    Required,
    /// By their file, as where policies are kept under names of their own: `orders/read`, `orders/all#2`.
    ByFile,
}

/// Policies, the types of their schema, and what Cedar finds odd but not wrong.
#[derive(Debug)]
pub struct Loaded {
    /// The policies.
    pub stores: Stores,
    /// The policies that may take the place of those of a store.
    pub candidate: Option<Candidate>,
    /// Why those are not asked, where they cannot be: they have no part in what is in force.
    pub candidate_problems: Problems,
    /// Names the version of the schema.
    pub schema_revision: Arc<str>,
    /// The schema's types.
    pub types: SchemaTypes,
    /// What deserves a look.
    pub warnings: Vec<Warning>,
    /// Where policies stand, by their ids, for each store in turn.
    pub sources: Vec<HashMap<PolicyId, Arc<Source>>>,
}

/// What Cedar finds odd but not wrong.
#[derive(Clone, Debug)]
pub struct Warning {
    /// The policy or template that it is of.
    pub of: String,
    /// What it is.
    pub what: Oddness,
    /// How it is shown.
    pub problem: Problem,
}

/// Kinds of what is odd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Oddness {
    /// A template that is linked to nothing.
    UnlinkedTemplate,
    /// A policy that is always false.
    ImpossiblePolicy,
    /// Anything else.
    Other,
}

/// What comes up on the way.
#[derive(Debug, Default)]
pub(super) struct Seen {
    warnings: Vec<Warning>,
    sources: Vec<HashMap<PolicyId, Arc<Source>>>,
}

/// What is special about a store.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Settings {
    pub(super) on_error: OnError,
    pub(super) level_max: Option<u32>,
}

impl PolicyFiles<'_> {
    /// Loads and validates the folder, which is the default store, the stores beside it, and what may take the place of
    /// one.
    ///
    /// # Errors
    /// Every [`Problem`] found.
    pub fn load(self, stores: &[StoreConfig], shadow: Option<&ShadowConfig>) -> Result<Loaded, Problems> {
        // Cedar's parser and validator recurse as deep as a text nests: that depth has a limit, and room on this stack.
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("policies".into()).stack_size(LOAD_STACK_BYTES);
            let loading = thread.spawn_scoped(scope, || self.load_here(stores, shadow));
            let loading = loading.map_err(|error| Problem::new(format!("no thread to load policies: {error}")))?;
            loading.join().unwrap_or_else(|_| Err(Problem::new("loading the policies failed inside Cedar").into()))
        })
    }

    fn load_here(self, configs: &[StoreConfig], shadow: Option<&ShadowConfig>) -> Result<Loaded, Problems> {
        let mut problems = Problems::default();
        let schema = problems.keep(self.schema());
        let (mut stores, mut seen) = (Vec::new(), Seen::default());
        let known = schema.as_ref().map(|(schema, ..)| schema);
        let default = configs.iter().find(|config| config.name.value == DEFAULT);
        let settings = default.map_or_else(|| Ok(Settings::default()), StoreConfig::settings);
        if let Some(settings) = problems.keep(settings) {
            let policies = problems.keep(self.set(known, settings, &mut seen));
            stores.extend(policies.map(|policies| Store { number: 0, name: None, policies }));
        }
        let mut folders = vec![self.real(self.folder)];
        let mut names = HashSet::new();
        for config in configs {
            let name = &config.name;
            if !names.insert(name.value.as_str()) || name.value.is_empty() {
                problems
                    .push(Problem::at(name, "two stores have one name, or none").fix("give each a name of its own"));
            }
            let Some(folder) = &config.folder else {
                if name.value != DEFAULT {
                    problems.push(Problem::at(name, "a store without policies").fix("say where they are: `folder`"));
                }
                continue;
            };
            if name.value == DEFAULT {
                problems
                    .push(Problem::at(folder, "`default` is the store that `policies` names").fix("remove `folder`"));
                continue;
            }
            let real = self.real(&folder.value);
            if folders.iter().any(|other| other.starts_with(&real) || real.starts_with(other)) {
                problems.push(
                    Problem::at(
                        folder,
                        "a folder inside that of another store, or the same: its policies would be in both",
                    )
                    .fix("keep the folders of stores beside each other"),
                );
            }
            folders.push(real);
            let Some(settings) = problems.keep(config.settings()) else { continue };
            let files = PolicyFiles { folder: &folder.value, ..self };
            let policies = problems.keep(files.set(known, settings, &mut seen));
            stores.extend(policies.map(|policies| Store {
                number: 0,
                name: Some(name.value.as_str().into()),
                policies,
            }));
        }
        let stores = problems.keep(Stores::new(stores, configs));
        let (mut candidate, mut candidate_problems) = (None, Problems::default());
        if let Some(shadow) = shadow {
            let real = self.real(&shadow.policies.value);
            if folders.iter().any(|folder| real != *folder && real.starts_with(folder)) {
                let problem =
                    Problem::at(&shadow.policies, "a folder inside that of a store: its policies are in force");
                problems.push(problem.fix("keep candidates beside the policies in force"));
            }
            candidate = self.candidate(shadow, configs, known, &mut problems, &mut candidate_problems);
        }
        let loaded = (|| {
            let (_, types, schema_revision) = schema?;
            Some(Loaded {
                stores: stores?,
                candidate,
                candidate_problems,
                types,
                schema_revision,
                warnings: seen.warnings,
                sources: seen.sources,
            })
        })();
        problems.into_result(loaded)
    }

    /// Where a folder really is, as far as that can be told.
    fn real(self, folder: &Path) -> PathBuf {
        self.files
            .real(folder)
            .unwrap_or_else(|_| folder.components().filter(|part| *part != Component::CurDir).collect())
    }

    /// The policies of a folder, which `schema` must know.
    pub(super) fn set(
        self,
        schema: Option<&Schema>,
        settings: Settings,
        seen: &mut Seen,
    ) -> Result<Policies, Problems> {
        let mut problems = Problems::default();
        let mut set = CheckedSet::new(self.ids, self.folder);
        let mut read = problems.keep(self.sources()).unwrap_or_default();
        for source in &read {
            problems.keep(set.add(source));
        }
        if let Some(source) = problems.keep(self.links()).flatten() {
            problems.keep(set.link(&source));
            read.push(source);
        }
        if let Some(schema) = schema {
            seen.warnings.extend(set.validate(schema, settings.level_max, &mut problems));
        }
        seen.sources.push(set.sources);
        let index = Index::build(set.policies.policies()).map_err(|error| Problem::new(error.to_string()));
        let index = problems.keep(index);
        let (known, authorizer, on_error) = (set.known, Authorizer::new(), settings.on_error);
        let revision = revision::of_files(read.iter().map(|source| (self.inside(&source.name), source.text.as_str())));
        problems.into_result(index.map(|index| Policies { index, known, authorizer, on_error, revision }))
    }

    /// A path as it is inside the folder.
    fn inside(self, name: &str) -> &Path {
        let path = Path::new(name);
        path.strip_prefix(self.folder).unwrap_or(path)
    }

    fn schema(self) -> Result<(Schema, SchemaTypes, Arc<str>), Problems> {
        let source = self.read(&self.folder.join(SCHEMA))?;
        let cedar = |error: &cedar_policy::CedarSchemaError| Problems::from(Problem::from_cedar(error, &source));
        let (schema, _) = Schema::from_cedarschema_str(&source.text).map_err(|error| cedar(&error))?;
        let (json, _) = schema_str_to_json_with_resolved_types(&source.text).map_err(|error| cedar(&error))?;
        let types = SchemaTypes::from_resolved_json(&json).map_err(|error| Problem::new(error).within(&source))?;
        let actions = schema.action_entities().map_err(|error| Problem::new(error.to_string()).within(&source))?;
        Ok((schema, types.with_action_groups(&actions), revision::of_text(&source.text)))
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

    /// The file of template links, if there is one.
    fn links(self) -> Result<Option<Arc<Source>>, Problem> {
        let path = self.folder.join(LINKS);
        match self.files.read(&path) {
            Ok(text) => Ok(Some(Arc::new(Source { name: path.display().to_string(), text }))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Problem::new(format!("cannot read `{}`: {error}", path.display()))),
        }
    }

    /// A text of the folder that is safe to hand to Cedar's parser.
    pub(super) fn read(self, path: &Path) -> Result<Arc<Source>, Problem> {
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

impl<'a> PolicyFiles<'a> {
    /// The folder `folder` of `files`.
    pub fn new(files: &'a Files, folder: &'a PathBuf) -> Self {
        Self { files, folder, ids: Ids::Required }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEMA_TEXT: &str = "entity User; entity Agent; entity Data = { owner: User, note?: String };
        action read appliesTo { principal: [Agent], resource: [Data], context: {} };";

    fn load(files: &[(&str, &str)]) -> Result<Loaded, Problems> {
        let files = Files::memory(files.iter().copied());
        PolicyFiles::new(&files, &PathBuf::from("p")).load(&[], None)
    }

    fn problem(policy: &str) -> String {
        let loaded = load(&[("p/schema.cedarschema", SCHEMA_TEXT), ("p/a.cedar", policy)]);
        loaded.map(|_| String::new()).unwrap_or_else(|problems| problems.to_string())
    }

    #[test]
    fn policies_keep_their_ids_and_annotations() {
        let text = "@id(\"a\") @reason(\"because\") permit (principal, action, resource);";
        let loaded = load(&[("p/schema.cedarschema", SCHEMA_TEXT), ("p/a.cedar", text), ("p/no.txt", "?")]).unwrap();
        assert_eq!(loaded.stores.len(), 1);
        let note = &loaded.stores.choose(None, || None).unwrap().policies.known[&PolicyId::new("a")].note;
        assert_eq!((note.reason.as_deref(), note.advice.as_deref()), (Some("because"), None));
    }

    #[test]
    fn what_is_wrong_is_shown_with_its_place() {
        for (policy, shown) in [
            ("permit (principal, action resource);", "p/a.cedar:1:27"),
            ("permit (principal, action, resource);", "policy number 1 has no `@id`"),
            ("permit (principal == ?principal, action, resource);", "has no `@id`"),
            (
                "@id(\"a\") permit (principal == ?principal, action, resource) when { resource.onwer == principal };",
                "onwer",
            ),
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

    const TEMPLATE: &str =
        "@id(\"share\") @reason(\"shared\") permit (principal == ?principal, action, resource in ?resource);";

    fn linked(links: &str) -> Result<Loaded, Problems> {
        load(&[("p/schema.cedarschema", SCHEMA_TEXT), ("p/a.cedar", TEMPLATE), ("p/links.json", links)])
    }

    #[test]
    fn a_link_is_a_policy_of_its_own_with_the_words_of_its_template() {
        let link = |id: &str, who: &str| {
            format!(
                r#"{{ "templateId": "share", "newId": "{id}", "values": {{ "?principal": {{ "type": "Agent", "id": "{who}" }},
                "?resource": {{ "type": "Data", "id": "d" }} }} }}"#
            )
        };
        let loaded = linked(&format!("[{}, {}]", link("l1", "a"), link("l2", "b\\\"c"))).unwrap();
        assert_eq!((loaded.stores.len(), loaded.warnings.len()), (2, 0));
        assert_eq!(
            loaded.stores.choose(None, || None).unwrap().policies.known[&PolicyId::new("l2")].note.reason.as_deref(),
            Some("shared")
        );
        let store = loaded.stores.named(None).unwrap();
        let tests: Vec<_> = store.policies.dissected().iter().flat_map(|it| it.anatomy.scope_tests()).collect();
        assert!(tests.iter().any(|test| &**test == "principal == Agent::\"a\""), "{tests:?}");
        let unused = load(&[("p/schema.cedarschema", SCHEMA_TEXT), ("p/a.cedar", TEMPLATE)]).unwrap();
        let [warning] = &unused.warnings[..] else { panic!("{:?}", unused.warnings) };
        assert_eq!((warning.what, &*warning.of), (Oddness::UnlinkedTemplate, "share"));
        assert!(warning.problem.message().contains("template `share` is linked to nothing"));
        assert_eq!(unused.stores.len(), 0);
        let principal = r#""?principal": { "type": "Agent", "id": "a" }"#;
        for (links, shown) in [
            (format!("[{}, {}]", link("l", "a"), link("l", "b")), "stands twice"),
            (format!("[{}]", link("share", "a")), "link `share`: unable to link template"),
            (format!("[{}]", link("", "a")), "it has no id"),
            (format!("[{}]", link("l", "a").replace("\"share\"", "\"other\"")), "there is no template `other`"),
            (
                format!(r#"[{{ "templateId": "share", "newId": "l", "values": {{ {principal} }} }}]"#),
                "slots were not provided",
            ),
            (format!("[{}]", link("l", "a").replace("Agent", "Ag ent")), "is not a type name"),
            (format!("[{}]", link("l", "a").replace("Agent", "Unknown")), "Unknown"),
            ("{}".into(), "not a list of template links"),
            (r#"[{ "templateId": "share", "templateId": "share", "newId": "l", "values": {} }]"#.into(), "not a list"),
            (r#"[{ "templateId": "share", "newId": "l", "values": { "?action": {} } }]"#.into(), "?action"),
        ] {
            let shown_now = linked(&links).map(|_| String::new()).unwrap_or_else(|problems| problems.to_string());
            assert!(shown_now.contains(shown), "{links}\n{shown_now}");
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
