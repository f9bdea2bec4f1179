//! Strict JSON for everything that comes over the network: one document, no repeated names at any depth
//! (escaped spellings count as the name they spell), bounded nesting.

use std::fmt;

use serde::de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// How deep arrays and objects may nest.
pub const DEPTH_MAX: usize = 32;

/// Parses `text` as one JSON document.
///
/// # Errors
/// Whatever RFC 8259 forbids, a repeated name, nesting over [`DEPTH_MAX`], a number no `f64` can hold.
pub fn parse(text: &[u8]) -> Result<Value, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let value = Node { depth_left: DEPTH_MAX }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(value)
}

/// Parses `text` as one JSON object.
///
/// # Errors
/// As [`parse`], and when the document is not an object.
pub fn parse_object(text: &[u8]) -> Result<Map<String, Value>, serde_json::Error> {
    match parse(text)? {
        Value::Object(object) => Ok(object),
        _ => Err(de::Error::custom("not an object")),
    }
}

/// How much there is of some JSON.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// Values, those that hold others too.
    pub values: usize,
    /// Bytes of text, of names too.
    pub text: usize,
}

impl Extent {
    /// Adds what `members` hold.
    pub fn add(&mut self, members: &Map<String, Value>) {
        for (name, value) in members {
            self.text = self.text.saturating_add(name.len());
            self.add_value(value);
        }
    }

    fn add_value(&mut self, value: &Value) {
        self.values = self.values.saturating_add(1);
        match value {
            Value::String(text) => self.text = self.text.saturating_add(text.len()),
            Value::Array(items) => items.iter().for_each(|item| self.add_value(item)),
            Value::Object(members) => self.add(members),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
}

#[derive(Clone, Copy)]
struct Node {
    depth_left: usize,
}

impl Node {
    fn deeper<E: de::Error>(self) -> Result<Self, E> {
        let depth_left = self.depth_left.checked_sub(1).ok_or_else(|| E::custom("nested too deep"))?;
        Ok(Self { depth_left })
    }
}

impl<'de> DeserializeSeed<'de> for Node {
    type Value = Value;
    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("number out of range"))
    }
    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let node = self.deeper()?;
        let mut array = Vec::new();
        while let Some(item) = items.next_element_seed(node)? {
            array.push(item);
        }
        Ok(array.into())
    }
    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let node = self.deeper()?;
        let mut object = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            let value = members.next_value_seed(node)?;
            if object.insert(name, value).is_some() {
                return Err(de::Error::custom("repeated name"));
            }
        }
        Ok(object.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_there_is_counts() {
        let mut extent = Extent { values: 2, text: 1 };
        extent.add(&parse_object(br#"{"a":"xyz","bc":[1,[null],{"d":true}],"e":{}}"#).unwrap());
        assert_eq!(extent, Extent { values: 2 + 8, text: 1 + 8 });
    }

    #[test]
    fn a_repeated_name_is_refused_at_any_depth_and_in_any_spelling() {
        for text in [r#"{"a":1,"a":1}"#, r#"{"a":{"b":1,"b":2}}"#, r#"[{"scope":1,"sc\u006fpe":2}]"#] {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
        assert!(parse(br#"{"a":{"a":1},"b":{"a":1}}"#).is_ok());
    }

    #[test]
    fn nesting_is_bounded() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert!(parse(nested(DEPTH_MAX).as_bytes()).is_ok());
        assert!(parse(nested(DEPTH_MAX + 1).as_bytes()).is_err());
        assert!(parse(nested(100_000).as_bytes()).is_err());
    }

    #[test]
    fn one_document_and_nothing_after_it() {
        for text in ["", " ", "{} {}", "{},", "\u{feff}{}", "{'a':1}", "{\"a\":01}", "{\"a\":1e999}", "NaN"] {
            assert!(parse(text.as_bytes()).is_err(), "{text:?}");
        }
        assert!(parse_object(b"[]").is_err());
        assert!(parse_object(b" {} \n").is_ok());
    }
}
