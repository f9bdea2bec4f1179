//! Claims (RFC 7519 section 4) read strictly: a claim of the wrong type is never a claim that is absent.

use serde_json::{Map, Value};

use super::TokenError;
use crate::base::clock::Timestamp;

/// A name of an agent, a user or an app: not empty, at most 256 bytes, no control character, no blank at either end.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identifier(String);

/// The longest identifier, in bytes.
const IDENTIFIER_BYTES_MAX: usize = 256;

impl Identifier {
    /// `text`, if it can name somebody.
    pub fn parse(text: &str) -> Option<Self> {
        let sound = !text.is_empty()
            && text.len() <= IDENTIFIER_BYTES_MAX
            && text.trim() == text
            && !text.chars().any(char::is_control);
        sound.then(|| Self(text.to_owned()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Claims nobody has verified, or whose verification the caller answers for.
#[derive(Clone, Copy)]
pub(super) struct Claims<'a>(pub(super) &'a Map<String, Value>);

impl<'a> Claims<'a> {
    /// A string claim; `None` when absent.
    pub(super) fn text(self, name: &str) -> Result<Option<&'a str>, TokenError> {
        match self.0.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(TokenError::Malformed),
        }
    }

    /// An identifier; `None` when absent or empty.
    pub(super) fn identifier(self, name: &str) -> Result<Option<Identifier>, TokenError> {
        match self.text(name)? {
            None | Some("") => Ok(None),
            Some(text) => Identifier::parse(text).map(Some).ok_or(TokenError::Malformed),
        }
    }

    /// A NumericDate: a number, never a string; `None` when absent.
    pub(super) fn date(self, name: &str) -> Result<Option<Timestamp>, TokenError> {
        match self.0.get(name) {
            None => Ok(None),
            Some(value) => value.as_f64().and_then(Timestamp::from_numeric_date).map(Some).ok_or(TokenError::Malformed),
        }
    }

    /// Whether a claim is there and says something.
    pub(super) fn has(self, name: &str) -> bool {
        self.0.get(name).is_some_and(|value| !value.is_null())
    }

    /// Scopes (RFC 8693 section 4.2): words separated by blanks, or an array of words where that is known to happen.
    pub(super) fn words(self, name: &str, or_array: bool) -> Result<Vec<String>, TokenError> {
        match self.0.get(name) {
            None => Ok(Vec::new()),
            Some(Value::String(words)) => {
                Ok(words.split(' ').filter(|word| !word.is_empty()).map(str::to_owned).collect())
            }
            Some(Value::Array(words)) if or_array => {
                words.iter().map(|word| word.as_str().map(str::to_owned).ok_or(TokenError::Malformed)).collect()
            }
            Some(_) => Err(TokenError::Malformed),
        }
    }

    /// `aud` (RFC 7519 section 4.1.3): a string or an array of strings.
    pub(super) fn audience(self) -> Result<Vec<&'a str>, TokenError> {
        match self.0.get("aud") {
            None => Ok(Vec::new()),
            Some(Value::String(one)) => Ok(vec![one]),
            Some(Value::Array(several)) => {
                several.iter().map(|one| one.as_str().ok_or(TokenError::Malformed)).collect()
            }
            Some(_) => Err(TokenError::Malformed),
        }
    }
}

/// Whether `text` is a scope-token (RFC 6749 section 3.3).
pub fn is_scope(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\'))
}

/// Where a claim is: member names, from the outside in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimPath(Vec<String>);

impl ClaimPath {
    /// Parses `claim` or `outer.inner`; `None` for an empty name. A URL is one name, whatever dots are in it: a public claim
    /// (RFC 7519 section 4.2) is often named so.
    pub fn parse(path: &str) -> Option<Self> {
        if path.contains("://") {
            return Some(Self(vec![path.to_owned()]));
        }
        let names: Vec<_> = path.split('.').map(str::to_owned).collect();
        names.iter().all(|name| !name.is_empty()).then_some(Self(names))
    }

    /// The outermost of its names.
    pub fn outermost(&self) -> &str {
        self.0.first().map_or("", String::as_str)
    }

    /// Whether the claim is a member of another.
    pub(super) const fn is_nested(&self) -> bool {
        self.0.len() > 1
    }

    /// The claim, and the members that it is one of.
    pub fn find<'a>(&self, claims: &'a Map<String, Value>) -> Option<(&'a Value, &'a Map<String, Value>)> {
        let (last, outer) = self.0.split_last()?;
        let holder = outer.iter().try_fold(claims, |members, name| members.get(name)?.as_object())?;
        Some((holder.get(last)?, holder))
    }
}

impl std::fmt::Display for ClaimPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.join("."))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_claim_of_the_wrong_type_is_an_error_not_absence() {
        for value in [json!("1"), json!(null), json!([1]), json!(-1), json!(1e300), json!({})] {
            let claims = Map::from_iter([("exp".to_owned(), value.clone())]);
            assert_eq!(Claims(&claims).date("exp"), Err(TokenError::Malformed), "{value}");
        }
        for name in ["scope", "aud", "iss"] {
            for value in [json!(1), json!(null), json!({}), json!([1])] {
                let claims = Map::from_iter([(name.to_owned(), value.clone())]);
                let claims = Claims(&claims);
                let refused = match name {
                    "scope" => claims.words("scope", true).is_err(),
                    "aud" => claims.audience().is_err(),
                    _ => claims.text(name).is_err(),
                };
                assert!(refused, "{name}: {value}");
            }
        }
        assert_eq!(Claims(&Map::new()).date("exp"), Ok(None));
    }

    #[test]
    fn scope_is_split_at_blanks() {
        let claims = Map::from_iter([("scope".to_owned(), json!("a/read  b/read"))]);
        assert_eq!(Claims(&claims).words("scope", false), Ok(vec!["a/read".into(), "b/read".into()]));
        let array = Map::from_iter([("scope".to_owned(), json!(["a/read"]))]);
        assert_eq!(Claims(&array).words("scope", true), Ok(vec!["a/read".into()]));
        assert_eq!(Claims(&array).words("scope", false), Err(TokenError::Malformed));
    }

    #[test]
    fn a_url_is_one_name_and_anything_else_is_divided_at_its_dots() {
        let claims = json!({ "https://app.example/user_id": "u", "outer": { "inner": "i" }, "a.b": "never" });
        let find = |path: &str| {
            let path = ClaimPath::parse(path)?;
            let (found, _) = path.find(claims.as_object().unwrap())?;
            Some((found.as_str().unwrap().to_owned(), path.is_nested(), path.outermost().to_owned()))
        };
        let name = "https://app.example/user_id";
        assert_eq!(find(name), Some(("u".into(), false, name.into())));
        assert_eq!(find("outer.inner"), Some(("i".into(), true, "outer".into())));
        assert_eq!((find("a.b"), find("https://app.example/user")), (None, None));
    }
}
