//! What a policy's author says of it, in annotations: to those whom it refuses, and to those who read records.

use std::collections::BTreeMap;

/// A policy as records and refusals speak of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyNote {
    /// `@id`.
    pub id: String,
    /// `@reason`: what a refused client is to be told.
    pub reason: Option<String>,
    /// `@advice`: what a refused client is to do.
    pub advice: Option<String>,
    /// `@required_scope`: the scopes with which it would not refuse.
    pub required_scope: Option<String>,
    /// `@step_up`: the authentication contexts (`acr`) with which it would not refuse (RFC 9470).
    pub step_up: Option<String>,
    /// Every annotation that says something, for records.
    pub annotations: BTreeMap<String, String>,
}

impl PolicyNote {
    /// With nothing to say.
    pub fn silent(id: String) -> Self {
        Self { id, ..Self::default() }
    }

    /// Reads annotations; an empty one says nothing.
    ///
    /// # Errors
    /// What in them cannot be told, for an author.
    pub(super) fn read<'a>(
        id: String,
        annotations: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, String> {
        let telling = annotations.into_iter().filter(|(_, text)| !text.is_empty());
        let annotations: BTreeMap<_, _> = telling.map(|(name, text)| (name.to_owned(), text.to_owned())).collect();
        let said = |name| annotations.get(name).cloned();
        let words = |name| match said(name) {
            Some(text) if !are_words(&text) => {
                Err(format!("`@{name}` is told in a header: words with one blank between them, without quotes"))
            }
            said => Ok(said),
        };
        Ok(Self {
            reason: said("reason"),
            advice: said("advice"),
            required_scope: words("required_scope")?,
            step_up: words("step_up")?,
            annotations,
            id,
        })
    }

    /// Whether its author says anything to those whom it refuses.
    pub const fn speaks(&self) -> bool {
        self.reason.is_some() || self.advice.is_some() || self.required_scope.is_some() || self.step_up.is_some()
    }
}

/// Words that may stand in a quoted list (RFC 6750 section 3).
fn are_words(text: &str) -> bool {
    let is_word = |word: &str| {
        !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\')
    };
    text.split(' ').all(is_word)
}
