//! What the reader of YAML says, in words for those who write it.

use serde_saphyr::Error;

/// What `error` says, and what to do about it where that can be told.
pub(super) fn said(error: &Error) -> (String, Option<&'static str>) {
    let (message, fix) = match error.without_snippet() {
        // What is wrong stands where the alias leads to.
        Error::AliasError { error, .. } => return said(error),
        Error::InvalidScalar { ty: "boolean", .. } | Error::InvalidBooleanStrict { .. } => {
            ("neither `true` nor `false`", "write one of them, without quotes")
        }
        Error::InvalidScalar { ty: "floating point", .. } | Error::NonFiniteFloat { .. } => {
            ("not a number", "write one without a unit")
        }
        Error::InvalidScalar { ty, .. } if is_whole_number(ty) => {
            let fix = "write digits alone, from 0 up; the unit is the one at the end of the key's name, such as `_s` or `_bytes`";
            ("not a whole number that can stand here", fix)
        }
        Error::DuplicateMappingKey { key, .. } => {
            let message = match key {
                Some(key) => format!("the key `{key}` stands twice"),
                None => "a key stands twice".to_owned(),
            };
            return (message, Some("keep one of them"));
        }
        Error::MultipleDocuments { .. } => {
            ("there are several documents in one file", "keep one, and no line `---` after it")
        }
        Error::ExpectedMappingEndAfterEnumVariantValue { .. } => (
            "a second key stands where there can be one alone",
            "indent what belongs to the first key below it, or begin another entry with `- `",
        ),
        Error::ExternallyTaggedEnumExpectedScalarOrMapping { .. } => (
            "a name, or one key with what belongs to it, is expected here",
            "remove the brackets, or the dash before it",
        ),
        Error::UnexpectedValueForUnitEnumVariant { .. } => {
            ("nothing more can be said of this name", "write the name alone")
        }
        Error::Unexpected { expected: "sequence start", .. } => {
            ("a list is expected here", "put it in brackets, as in `[GET]`, or on lines that begin with `- `")
        }
        Error::Unexpected { expected: "mapping start", .. } => (
            "keys with their values are expected here",
            "write `key: value` on lines of their own, indented, or `{ key: value }`",
        ),
        Error::Unexpected { expected: "string scalar" | "scalar", .. } => {
            ("one value is expected here, neither a list nor keys", "write the value alone")
        }
        Error::NullIntoString { .. } => (
            "nothing is written where a text is expected",
            "write the text, or remove the key; `null` as a text is `\"null\"`",
        ),
        Error::Eof { .. } => ("it ends before it is complete", "see whether something is missing at its end"),
        Error::Budget { .. } => (
            "it holds more than is read: keys and values, text, or levels inside each other",
            "shorten it, or split it where there can be several files",
        ),
        Error::AliasReplayLimitExceeded { .. }
        | Error::AliasExpansionLimitExceeded { .. }
        | Error::AliasReplayStackDepthExceeded { .. } => {
            ("its aliases (`*name`) stand for more than is read", "write out what they stand for")
        }
        other => {
            let full = other.to_string();
            let message = full.rsplit_once(" at line ").map_or(full.as_str(), |(message, _)| message);
            return (message.to_owned(), None);
        }
    };
    (message.to_owned(), Some(fix))
}

/// Whether this is how the reader names a type of whole numbers: `u64`.
fn is_whole_number(ty: &str) -> bool {
    ty.strip_prefix(['u', 'i']).is_some_and(|bits| bits.parse::<u8>().is_ok())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::*;
    use crate::base::spanned::Spanned;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Kind {
        Plain,
        Made(BTreeMap<String, String>),
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Example {
        number: Option<Spanned<u64>>,
        port: Option<u16>,
        is: Option<bool>,
        list: Option<Vec<String>>,
        keys: Option<BTreeMap<String, u64>>,
        text: Option<Spanned<String>>,
        kind: Option<Kind>,
    }

    #[test]
    fn what_is_wrong_is_said_without_the_words_of_a_programmer() {
        for (text, message) in [
            ("number: 5s", "not a whole number"),
            ("number: 100MB", "not a whole number"),
            ("number: -5", "not a whole number"),
            ("number: 1e3", "not a whole number"),
            ("port: 70000", "not a whole number"),
            ("keys: { a: x }", "not a whole number"),
            ("is: maybe", "neither `true` nor `false`"),
            ("list: GET", "a list is expected"),
            ("keys: GET", "keys with their values are expected"),
            ("text: [a]", "one value is expected"),
            ("port: 1\nport: 2", "the key `port` stands twice"),
            ("port: 1\n---\nport: 2", "several documents"),
            ("kind: { made: { a: b }, plain: x }", "a second key stands"),
            ("a: &a [x]\nb: *a\nprot: 1", "unknown field `a`"),
        ] {
            let error = serde_saphyr::from_str::<Example>(text).unwrap_err();
            let (said, fix) = said(&error);
            assert!(said.contains(message), "{text}: {said}");
            assert_eq!(fix.is_none(), said.starts_with("unknown field"), "{text}: {said}");
        }
    }

    #[test]
    fn too_much_is_no_breach_of_anything() {
        let options = serde_saphyr::options! { budget: serde_saphyr::budget! { max_nodes: 5 } };
        let error = serde_saphyr::from_str_with_options::<Example>("list: [a, b, c, d, e, f]", options).unwrap_err();
        assert!(said(&error).0.starts_with("it holds more than is read"), "{}", said(&error).0);
    }
}
