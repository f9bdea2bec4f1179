//! What is taken from an answer: values by JSON pointer (RFC 6901), as they are or inside a text.

use serde_json::{Map, Value};

/// Where in an answer a value is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pick {
    pointer: String,
    /// What stands around it, where it is not taken as it is.
    around: Option<(String, String)>,
}

impl Pick {
    /// The member of this name.
    pub(crate) fn member(name: &str) -> Self {
        Self { pointer: format!("/{}", name.replace('~', "~0").replace('/', "~1")), around: None }
    }

    /// Parses a pointer, `/owner/id`, or a text around one, `pool|{/owner/id}`.
    ///
    /// # Errors
    /// What is wrong, for an operator.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text.starts_with('/') {
            return pointer(text).map(|pointer| Self { pointer, around: None });
        }
        let one = "neither a JSON pointer, as in `/owner/id`, nor a text with one in it, as in `pool|{/owner/id}`";
        let (before, rest) = text.split_once('{').ok_or(one)?;
        let (inside, after) = rest.split_once('}').ok_or(one)?;
        if after.contains(['{', '}']) || before.contains('}') {
            return Err(one.into());
        }
        Ok(Self { pointer: pointer(inside)?, around: Some((before.into(), after.into())) })
    }

    /// The value, where `answer` has one; `null` is none.
    ///
    /// # Errors
    /// Where a text is to be made of what is no text.
    pub(crate) fn take(&self, answer: &Value) -> Result<Option<Value>, String> {
        let Some(value) = answer.pointer(&self.pointer).filter(|value| !value.is_null()) else { return Ok(None) };
        let Some((before, after)) = &self.around else { return Ok(Some(value.clone())) };
        match value {
            Value::String(text) => Ok(Some(format!("{before}{text}{after}").into())),
            Value::Number(number) if number.is_i64() => Ok(Some(format!("{before}{number}{after}").into())),
            _ => Err(format!("`{}` is no text", self.pointer)),
        }
    }
}

fn pointer(text: &str) -> Result<String, String> {
    let escapes = text.split('~').skip(1).all(|after| after.starts_with(['0', '1']));
    let good = text.starts_with('/') && escapes;
    if good { Ok(text.to_owned()) } else { Err(format!("`{text}` is not a JSON pointer, as in `/owner/id`")) }
}

/// What is kept of one answer, or one row.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Found {
    /// By attribute.
    pub(crate) attributes: Map<String, Value>,
    /// By the type of the parents.
    pub(crate) parents: Map<String, Value>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_are_taken_as_they_are_or_inside_a_text() {
        let answer = json!({ "owner": { "id": "u1", "n": 7 }, "tags": ["a"], "a/b": 1, "none": null, "f": 1.5 });
        for (text, wanted) in [
            ("/owner/id", Ok(Some(json!("u1")))),
            ("/tags", Ok(Some(json!(["a"])))),
            ("/tags/0", Ok(Some(json!("a")))),
            ("/a~1b", Ok(Some(json!(1)))),
            ("/none", Ok(None)),
            ("/nowhere/id", Ok(None)),
            ("p|{/owner/id}", Ok(Some(json!("p|u1")))),
            ("{/owner/n}!", Ok(Some(json!("7!")))),
            ("p|{/tags}", Err("`/tags` is no text".to_owned())),
            ("p|{/f}", Err("`/f` is no text".to_owned())),
        ] {
            assert_eq!(Pick::parse(text).unwrap().take(&answer), wanted, "{text}");
        }
        assert_eq!(Pick::member("a/b").take(&answer), Ok(Some(json!(1))));
        for text in ["", "owner", "{owner}", "{/a}{/b}", "{/a", "p}{/a}", "/a~2", "/a~"] {
            assert!(Pick::parse(text).is_err(), "{text}");
        }
    }
}
