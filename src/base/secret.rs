//! Secrets: read from the environment or a file, never written in the configuration, never shown.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, de};

use super::{files::Files, problem::Problem, spanned::Spanned};

/// What is said to whoever writes anything else, and no more: that may be the secret itself.
pub(super) const NO_SOURCE: &str = "a secret is `{ env: … }` or `{ file: … }`";

/// Where a secret is.
#[derive(Clone, Debug, JsonSchema)]
#[schemars(rename_all = "snake_case")]
pub enum SecretSource {
    /// In this environment variable.
    Env(Spanned<String>),
    /// In this file; one line break at its end does not count.
    File(Spanned<PathBuf>),
}

impl<'de> Deserialize<'de> for SecretSource {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "snake_case")]
        enum Written {
            Env(Spanned<String>),
            File(Spanned<PathBuf>),
        }
        match Written::deserialize(deserializer) {
            Ok(Written::Env(name)) => Ok(Self::Env(name)),
            Ok(Written::File(path)) => Ok(Self::File(path)),
            Err(_) => Err(de::Error::custom(NO_SOURCE)),
        }
    }
}

/// A secret, which is in no output.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Secret(String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl SecretSource {
    /// Reads the secret.
    ///
    /// # Errors
    /// A [`Problem`] when it is not there, or empty.
    pub fn read(&self, files: &Files) -> Result<Secret, Problem> {
        self.read_there(files).map(|secret| secret.value)
    }

    /// The same, with the place where it is named.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_there(&self, files: &Files) -> Result<Spanned<Secret>, Problem> {
        let place = match self {
            Self::Env(name) => name.leads_to(()),
            Self::File(path) => path.leads_to(()),
        };
        self.find(files).map(|secret| place.leads_to(secret))
    }

    fn find(&self, files: &Files) -> Result<Secret, Problem> {
        let (found, empty) = match self {
            Self::Env(name) => {
                let missing =
                    || Problem::at(name, format!("the environment has no variable `{}`", name.value)).fix("set it");
                (std::env::var(&name.value).map_err(|_| missing())?, Problem::at(name, "the variable is empty"))
            }
            Self::File(path) => {
                let failed = |error| Problem::unreadable(path, &error);
                (files.read(&path.value).map_err(failed)?, Problem::at(path, "the file is empty"))
            }
        };
        let text = found.strip_suffix('\n').unwrap_or(&found);
        Secret::new(text.strip_suffix('\r').unwrap_or(text)).ok_or(empty)
    }
}

impl From<String> for Secret {
    /// What was made here, and is as secret as what it was made of.
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl Secret {
    /// `text` as a secret; `None` when it is empty.
    fn new(text: &str) -> Option<Self> {
        (!text.is_empty()).then(|| Self(text.to_owned()))
    }

    /// The secret itself, for where it is used.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_there_and_is_not_shown() {
        #[derive(Deserialize)]
        struct Holder {
            secret: SecretSource,
        }
        let files = Files::memory([("good", "s3cret\r\n"), ("empty", "\n")]);
        let read = |text: &str| serde_saphyr::from_str::<Holder>(text).unwrap().secret.read(&files);
        let secret = read("secret: { file: good }").unwrap();
        assert_eq!((secret.expose(), format!("{secret:?}").as_str()), ("s3cret", "Secret(…)"));
        assert_eq!(read("secret: { file: empty }").unwrap_err().message(), "the file is empty");
        assert!(read("secret: { file: nowhere }").unwrap_err().message().starts_with("cannot read `nowhere`"));
        let missing = read("secret: { env: PORTCULLIS_NO_SUCH_VARIABLE }").unwrap_err();
        assert_eq!(missing.message(), "the environment has no variable `PORTCULLIS_NO_SUCH_VARIABLE`");
        for misplaced in ["secret: s3cret", "secret: { s3cret: a }", "secret: { file: [s3cret] }", "secret: 's3cret'"] {
            let error = serde_saphyr::from_str::<Holder>(misplaced).map(|_| ()).unwrap_err();
            let message = error.without_snippet().to_string();
            assert!(message.contains(NO_SOURCE) && !message.contains("s3cret"), "{message}");
        }
    }
}
