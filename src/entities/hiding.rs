//! Pseudonyms in recorded questions, in place of what is said, where the operator wants that; and how they are read again.

use std::collections::{HashMap, HashSet};

use serde_json::{Value, json};

use super::{extension::normal, recorded::is_action};
use crate::base::pseudonym::{Kind, Pseudonyms, bits, is_pseudonym};

/// How questions are written down.
#[derive(Clone, Debug, Default)]
pub struct Recording {
    /// What stands in place of texts, ids and numbers, if anything does.
    pub pseudonyms: Option<Pseudonyms>,
    /// What stays as it is: `context.a.b` or `Type.attribute`, with everything below.
    pub clear: Vec<Vec<String>>,
}

/// What stands in policies, to be known again by its pseudonym.
#[derive(Debug, Default)]
pub struct Literals {
    /// Texts and ids.
    pub texts: HashSet<String>,
    /// Numbers.
    pub numbers: HashSet<i64>,
    /// Values of extension types: the function that makes them, and of what.
    pub extensions: HashSet<(String, String)>,
}

/// How questions are read again.
#[derive(Debug, Default)]
pub struct Reading {
    key: Option<String>,
    ids: HashMap<String, String>,
    texts: HashMap<String, String>,
    numbers: HashMap<String, i64>,
    extensions: HashMap<String, String>,
}

/// In place of a number.
const NUMBER: &str = "__number";

impl Recording {
    /// Names the key of the pseudonyms.
    pub(super) fn key_id(&self) -> Option<String> {
        self.pseudonyms.as_ref().map(Pseudonyms::key_id)
    }

    pub(super) fn entity(&self, mut entity: Value) -> Value {
        let kind = entity.pointer("/uid/type").and_then(Value::as_str).unwrap_or_default().to_owned();
        if is_action(&kind) {
            return entity;
        }
        if let Some(members) = entity.as_object_mut() {
            for (name, member) in members {
                match name.as_str() {
                    "uid" => *member = self.uid(member),
                    "parents" => {
                        let parents = member.as_array_mut().into_iter().flatten();
                        parents.for_each(|parent| *parent = self.uid(parent));
                    }
                    // The names of tags, as those of attributes, stay as they are.
                    _ => self.hide(member, &mut vec![kind.clone()]),
                }
            }
        }
        entity
    }

    pub(super) fn uid(&self, uid: &Value) -> Value {
        let kind = uid.get("type").and_then(Value::as_str).unwrap_or_default();
        match (&self.pseudonyms, uid.get("id").and_then(Value::as_str)) {
            (Some(pseudonyms), Some(id)) if !is_action(kind) => {
                json!({ "type": kind, "id": pseudonyms.of(Kind::Id, id) })
            }
            _ => uid.clone(),
        }
    }

    /// Puts pseudonyms in place of what is at `path` and below.
    pub(super) fn hide(&self, value: &mut Value, path: &mut Vec<String>) {
        let Some(pseudonyms) = &self.pseudonyms else { return };
        let clear = self.clear.iter().any(|clear| path.starts_with(clear));
        match value {
            // INVARIANT: a text that looks like a pseudonym is never taken for one.
            Value::String(text) if !clear || is_pseudonym(text) => *text = pseudonyms.of(Kind::Text, text),
            Value::Number(number) if !clear => {
                *value = json!({ NUMBER: pseudonyms.of(Kind::Number, &number.to_string()) });
            }
            Value::Array(items) => items.iter_mut().for_each(|item| self.hide(item, path)),
            Value::Object(members) => {
                if let Some(uid) = members.get_mut("__entity") {
                    *uid = self.uid(uid);
                } else if let Some(call) = members.get_mut("__extn") {
                    if !clear {
                        hide_call(call, pseudonyms);
                    }
                } else {
                    for (name, member) in members {
                        path.push(name.clone());
                        self.hide(member, path);
                        path.pop();
                    }
                }
            }
            Value::String(_) | Value::Number(_) | Value::Bool(_) | Value::Null => {}
        }
    }
}

fn hide_call(call: &mut Value, pseudonyms: &Pseudonyms) {
    let function = call.get("fn").and_then(Value::as_str).unwrap_or_default().to_owned();
    if let Some(Value::String(argument)) = call.get_mut("arg") {
        *argument = pseudonyms.of(Kind::Extension(&function), &normal(&function, argument));
    }
}

impl Reading {
    /// Knows `literals` by the pseudonyms that they have here.
    pub fn new(pseudonyms: &Pseudonyms, literals: &Literals) -> Self {
        let texts = |kind| literals.texts.iter().map(move |text| (pseudonyms.of(kind, text), text.clone())).collect();
        let numbers = literals.numbers.iter();
        let extensions = literals.extensions.iter().map(|(function, argument)| {
            (pseudonyms.of(Kind::Extension(function), &normal(function, argument)), argument.clone())
        });
        Self {
            key: Some(pseudonyms.key_id()),
            ids: texts(Kind::Id),
            texts: texts(Kind::Text),
            numbers: numbers.map(|number| (pseudonyms.of(Kind::Number, &number.to_string()), *number)).collect(),
            extensions: extensions.collect(),
        }
    }

    pub(super) fn key_id(&self) -> Option<&str> {
        self.key.as_deref()
    }

    pub(super) fn reveal(&self, value: &mut Value) {
        match value {
            Value::String(text) => {
                if let Some(known) = self.texts.get(text).or_else(|| self.ids.get(text)) {
                    text.clone_from(known);
                }
            }
            Value::Array(items) => items.iter_mut().for_each(|item| self.reveal(item)),
            Value::Object(members) => {
                if let Some(number) = members.get(NUMBER).and_then(Value::as_str) {
                    *value = self.number(number).into();
                } else if let Some(call) = members.get_mut("__extn") {
                    self.reveal_call(call);
                } else {
                    members.values_mut().for_each(|member| self.reveal(member));
                }
            }
            Value::Number(_) | Value::Bool(_) | Value::Null => {}
        }
    }

    fn number(&self, pseudonym: &str) -> i64 {
        let other = || i64::try_from(bits(pseudonym).unwrap_or_default() >> 1).unwrap_or_default();
        self.numbers.get(pseudonym).copied().unwrap_or_else(other)
    }

    /// An extension's value: as it stands in a policy, or one of its own of that type.
    fn reveal_call(&self, call: &mut Value) {
        let function = call.get("fn").and_then(Value::as_str).unwrap_or_default().to_owned();
        let Some(Value::String(argument)) = call.get_mut("arg") else { return };
        if let Some(known) = self.extensions.get(argument) {
            argument.clone_from(known);
        } else if let Some(bits) = Some(&*argument).filter(|text| is_pseudonym(text)).and_then(|text| bits(text)) {
            *argument = match function.as_str() {
                "ip" => std::net::Ipv6Addr::from((0xfd_u128 << 120) | u128::from(bits)).to_string(),
                "datetime" => chrono::DateTime::from_timestamp_millis(i64::try_from(bits >> 18).unwrap_or_default())
                    .map_or_else(String::new, |at| at.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()),
                "duration" => format!("{}ms", bits >> 2),
                _ => format!("{}.0", bits >> 16),
            };
        }
    }
}

/// Whether anything in a value stands there under a pseudonym.
pub(super) fn is_hidden(value: &Value) -> bool {
    match value {
        Value::Object(members) => members.contains_key(NUMBER) || members.values().any(is_hidden),
        Value::Array(items) => items.iter().any(is_hidden),
        Value::String(text) => is_pseudonym(text),
        Value::Number(_) | Value::Bool(_) | Value::Null => false,
    }
}
