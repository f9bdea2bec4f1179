//! What a policy's author says of it, in annotations: to those whom it refuses, and to those who read records.

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
    pub(super) fn read<'a>(id: String, annotation: impl Fn(&str) -> Option<&'a str>) -> Result<Self, String> {
        let said = |name| annotation(name).filter(|text| !text.is_empty()).map(str::to_owned);
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
