//! The section `records`: what decision records hold.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::{
    base::{
        files::Files,
        problem::{Problem, Problems},
        pseudonym::{KEY_BYTES_MIN, Pseudonyms},
        secret::SecretSource,
        spanned::Spanned,
    },
    entities::hiding::Recording,
    snapshot::Records,
};

/// The section `records`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RecordsConfig {
    /// Whether records hold the questions put to the policies, so that `replay` and `explain` can put them again.
    /// Default false.
    pub questions: bool,
    /// Pseudonyms in place of whoever is named. Default none.
    pub pseudonyms: Option<PseudonymsConfig>,
}

/// The section `records.pseudonyms`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PseudonymsConfig {
    /// The key that they are made with.
    pub key: Spanned<SecretSource>,
    /// What questions hold as it is: `context.a.b` or `Type.attribute`, with everything below. Default nothing.
    #[serde(default)]
    pub clear: Vec<Spanned<String>>,
}

impl RecordsConfig {
    pub(super) fn compile(&self, files: &Files) -> Result<Records, Problems> {
        let Some(config) = &self.pseudonyms else {
            return Ok(Records { questions: self.questions, recording: Recording::default() });
        };
        let mut problems = Problems::default();
        let key = problems.keep(config.key.value.read(files));
        let pseudonyms = key.and_then(|key| {
            let made = Pseudonyms::new(&key).ok_or_else(|| {
                Problem::at(&config.key, format!("the key is shorter than {KEY_BYTES_MIN} bytes"))
                    .fix("make one: `openssl rand -hex 32`")
            });
            problems.keep(made)
        });
        let mut clear = Vec::new();
        for text in &config.clear {
            let path: Vec<String> = text.value.split('.').map(str::to_owned).collect();
            if path.len() < 2 || path.iter().any(String::is_empty) {
                problems.push(
                    Problem::at(text, "not the place of a value").fix("write `context.token.email` or `UserData.size`"),
                );
            }
            clear.push(path);
        }
        if !self.questions && !config.clear.is_empty() {
            problems.push(
                Problem::new("`records.pseudonyms.clear` is about questions, and records hold none")
                    .fix("set `questions: true`, or remove `clear`"),
            );
        }
        let recording = pseudonyms.map(|pseudonyms| Recording { pseudonyms: Some(pseudonyms), clear });
        problems.into_result(recording.map(|recording| Records { questions: self.questions, recording }))
    }
}
