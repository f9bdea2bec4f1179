//! From `.cedar` files and a schema to policies that passed strict validation, or to every reason why not.

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    io::ErrorKind,
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use cedar_policy::{
    Authorizer, Policy, PolicyId, PolicySet, Schema, Template, ValidationMode, Validator,
    schema_str_to_json_with_resolved_types,
};

use super::{
    Policies, PolicyNote,
    index::Index,
    links::{self, Linked},
    nesting::{NESTING_MAX, OPERATORS_MAX, too_deep},
    stores::{DEFAULT, OnError, Store, StoreConfig, Stores},
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

/// The name of the file of template links.
const LINKS: &str = "links.json";

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
    /// The schema's types.
    pub types: SchemaTypes,
    /// What deserves a look.
    pub warnings: Problems,
}

/// What is special about a store.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Settings {
    pub(super) on_error: OnError,
    pub(super) level_max: Option<u32>,
}

impl PolicyFiles<'_> {
    /// Loads and validates the folder, which is the default store, and the stores beside it.
    ///
    /// # Errors
    /// Every [`Problem`] found.
    pub fn load(self, stores: &[StoreConfig]) -> Result<Loaded, Problems> {
        // Cedar's parser and validator recurse as deep as a text nests: that depth has a limit, and room on this stack.
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("policies".into()).stack_size(LOAD_STACK_BYTES);
            let loading = thread.spawn_scoped(scope, || self.load_here(stores));
            let loading = loading.map_err(|error| Problem::new(format!("no thread to load policies: {error}")))?;
            loading.join().unwrap_or_else(|_| Err(Problem::new("loading the policies failed inside Cedar").into()))
        })
    }

    fn load_here(self, configs: &[StoreConfig]) -> Result<Loaded, Problems> {
        let mut problems = Problems::default();
        let schema = problems.keep(self.schema());
        let (mut stores, mut warnings) = (Vec::new(), Problems::default());
        let known = schema.as_ref().map(|(schema, _)| schema);
        let default = configs.iter().find(|config| config.name.value == DEFAULT);
        let settings = default.map_or_else(|| Ok(Settings::default()), StoreConfig::settings);
        if let Some(settings) = problems.keep(settings) {
            let policies = problems.keep(self.set(known, settings, &mut warnings));
            stores.extend(policies.map(|policies| Store { name: None, policies }));
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
            let policies = problems.keep(files.set(known, settings, &mut warnings));
            stores.extend(policies.map(|policies| Store { name: Some(name.value.as_str().into()), policies }));
        }
        let stores = problems.keep(Stores::new(stores, configs));
        let loaded = schema.zip(stores).map(|((_, types), stores)| Loaded { stores, types, warnings });
        problems.into_result(loaded)
    }

    /// Where a folder really is, as far as that can be told.
    fn real(self, folder: &Path) -> PathBuf {
        self.files
            .real(folder)
            .unwrap_or_else(|_| folder.components().filter(|part| *part != Component::CurDir).collect())
    }

    /// The policies of a folder, which `schema` must know.
    fn set(self, schema: Option<&Schema>, settings: Settings, warnings: &mut Problems) -> Result<Policies, Problems> {
        let mut problems = Problems::default();
        let mut set = CheckedSet { ids: self.ids, folder: self.folder.to_owned(), ..CheckedSet::default() };
        for source in problems.keep(self.sources()).unwrap_or_default() {
            problems.keep(set.add(&source));
        }
        if let Some(source) = problems.keep(self.links()).flatten() {
            problems.keep(set.link(&source));
        }
        if let Some(schema) = schema {
            warnings.0.extend(set.validate(schema, settings.level_max, &mut problems).0);
        }
        let index = Index::build(set.policies.policies()).map_err(|error| Problem::new(error.to_string()));
        let index = problems.keep(index);
        let (notes, authorizer, on_error) = (set.notes, Authorizer::new(), settings.on_error);
        problems.into_result(index.map(|index| Policies { index, notes, authorizer, on_error }))
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
    ids: Ids,
    folder: PathBuf,
    policies: PolicySet,
    notes: HashMap<PolicyId, Arc<PolicyNote>>,
    sources: HashMap<PolicyId, Arc<Source>>,
    /// By `@id`.
    templates: HashMap<String, Template>,
    /// Templates that something is linked from.
    used: HashSet<String>,
}

impl CheckedSet {
    /// Adds the policies of one file, each under its `@id`.
    fn add(&mut self, source: &Arc<Source>) -> Result<(), Problems> {
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
        let note = PolicyNote::read(id, |name| policy.annotation(name));
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
    fn link(&mut self, source: &Arc<Source>) -> Result<(), Problems> {
        let within = |problems: Problems| Problems(problems.0.into_iter().map(|it| it.within(source)).collect());
        let mut problems = Problems::default();
        for Linked { policy, template } in links::link(&source.text, &self.templates).map_err(within)? {
            let said = self.templates.get(&template);
            let note = PolicyNote::read(policy.id().to_string(), |name| said?.annotation(name));
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
        self.notes.insert(name, Arc::new(note));
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

    fn validate(&self, schema: &Schema, level_max: Option<u32>, problems: &mut Problems) -> Problems {
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
            source.map_or_else(|| problem.clone(), |source| problem.clone().within(source))
        });
        Problems(
            result.validation_warnings().map(|warning| place(warning.policy_id(), warning)).chain(unused).collect(),
        )
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
        PolicyFiles::new(&files, &PathBuf::from("p")).load(&[])
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
        let note = &loaded.stores.choose(None, || Ok::<_, ()>(None)).unwrap().policies.notes[&PolicyId::new("a")];
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
        assert_eq!((loaded.stores.len(), loaded.warnings.0.len()), (2, 0));
        assert_eq!(
            loaded.stores.choose(None, || Ok::<_, ()>(None)).unwrap().policies.notes[&PolicyId::new("l2")]
                .reason
                .as_deref(),
            Some("shared")
        );
        let unused = load(&[("p/schema.cedarschema", SCHEMA_TEXT), ("p/a.cedar", TEMPLATE)]).unwrap();
        assert!(unused.warnings.to_string().contains("template `share` is linked to nothing"));
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
