//! A candidate set of policies, which is asked beside the one in force and decides nothing.

use std::{io::ErrorKind, path::PathBuf, sync::Arc};

use cedar_policy::Schema;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    Policies, PolicyFiles,
    load::{SCHEMA, Seen, Settings},
    stores::{DEFAULT, StoreConfig},
};
use crate::base::{
    problem::{Problem, Problems, Source, bounded},
    spanned::Spanned,
};

/// The section `shadow`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ShadowConfig {
    /// The folder with the candidate's `*.cedar`; the schema is that of `policies`.
    pub policies: Spanned<PathBuf>,
    /// The store that it would take the place of. Default: `default`.
    pub store: Option<Spanned<String>>,
    /// Decisions a second that it is asked about; others are counted as skipped. Default 1000.
    pub decisions_per_second_max: Option<Spanned<u32>>,
}

/// A candidate set of policies.
#[derive(Debug)]
pub struct Candidate {
    /// The store that it would take the place of, where that is not the default one.
    pub store: Option<Arc<str>>,
    /// What is in it.
    pub policies: Policies,
    /// Decisions a second that it is asked about.
    pub per_second_max: u32,
}

impl ShadowConfig {
    fn per_second_max(&self) -> Result<u32, Problem> {
        bounded(self.decisions_per_second_max.as_ref(), "decisions_per_second_max", 1_000, 1..=100_000)
    }
}

impl PolicyFiles<'_> {
    /// What `shadow` names, under the settings of the store whose place it would take. What is wrong with how it is
    /// configured goes to `problems`; what is wrong with its policies, which have no part in what is in force, to
    /// `of_policies`.
    pub(super) fn candidate(
        self,
        shadow: &ShadowConfig,
        configs: &[StoreConfig],
        schema: Option<&Schema>,
        problems: &mut Problems,
        of_policies: &mut Problems,
    ) -> Option<Candidate> {
        let name = shadow.store.as_ref().map_or(DEFAULT, |store| &store.value);
        let settings = match (configs.iter().find(|config| config.name.value == name), &shadow.store) {
            (Some(config), _) => config.settings(),
            (None, Some(named)) if name != DEFAULT => {
                let problem = Problem::at(named, format!("there is no store `{name}`"));
                Err(problem.fix("name one of `stores`, or `default`"))
            }
            (None, _) => Ok(Settings::default()),
        };
        let per_second_max = problems.keep(shadow.per_second_max());
        let settings = problems.keep(settings)?;
        let files = PolicyFiles { folder: &shadow.policies.value, ..self };
        if let Some(own) = of_policies.keep(files.own_schema()).flatten()
            && of_policies.keep(self.read(&self.folder.join(SCHEMA))).is_some_and(|live| live.text != own.text)
        {
            let problem = Problem::at(&shadow.policies, "it has a schema of its own, which is not the one in force");
            of_policies.push(
                problem.fix("what is asked is made by the schema in force: change that first, or remove this one"),
            );
        }
        // What is odd about a candidate is told once it is in force.
        let policies = of_policies.keep(files.set(schema, settings, &mut Seen::default()));
        let policies = policies.filter(|_| of_policies.0.is_empty())?;
        Some(Candidate { store: (name != DEFAULT).then(|| name.into()), policies, per_second_max: per_second_max? })
    }

    /// The schema that lies in the folder, if one does.
    fn own_schema(self) -> Result<Option<Arc<Source>>, Problem> {
        match self.files.read(&self.folder.join(SCHEMA)) {
            Ok(text) => Ok(Some(Arc::new(Source { name: self.folder.join(SCHEMA).display().to_string(), text }))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Problem::new(format!("cannot read `{}`: {error}", self.folder.join(SCHEMA).display()))),
        }
    }
}
