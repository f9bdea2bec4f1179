//! What a policy reads and what stands in it, told from its text alone.

use cedar_policy::{Effect, Policy};
use serde_json::Value;

use super::Policies;
use crate::entities::{hiding::Literals, recorded::FUNCTIONS};

/// Where a policy looks: a variable and the attributes from there, as `["context", "token", "scope"]`.
pub type Place = Vec<String>;

/// What a policy says, to be looked at by itself.
#[derive(Clone, Debug)]
pub struct Text {
    /// Its id.
    pub id: String,
    /// What it does where it applies.
    pub effect: Effect,
    /// It, as it is written.
    pub text: String,
    /// Its JSON form (Cedar's EST).
    pub json: Value,
}

impl Policies {
    /// Every policy, in order of id.
    pub fn texts(&self) -> Vec<Text> {
        let mut texts: Vec<_> = self.index.policies().filter_map(Text::of).collect();
        texts.sort_by(|a, b| a.id.cmp(&b.id));
        texts.dedup_by(|a, b| a.id == b.id);
        texts
    }

    /// What stands in the policies: texts, ids and numbers.
    pub fn literals(&self) -> Literals {
        let mut found = Literals::default();
        for text in self.texts() {
            note_literals(&text.json, &mut found);
        }
        found
    }
}

impl Text {
    pub(super) fn of(policy: &Policy) -> Option<Self> {
        let (json, text) = (policy.to_json().ok()?, policy.to_string());
        Some(Self { id: policy.id().to_string(), effect: policy.effect(), text, json })
    }

    /// The bodies of its conditions.
    pub fn bodies(&self) -> impl Iterator<Item = &Value> {
        self.json.get("conditions").and_then(Value::as_array).into_iter().flatten().filter_map(|it| it.get("body"))
    }

    /// Every expression in its conditions, the outer before the inner.
    pub fn expressions(&self) -> Vec<&Value> {
        let mut found = Vec::new();
        for body in self.bodies() {
            expressions(body, &mut found);
        }
        found
    }
}

/// An expression's operator and its operands.
pub fn operator(expression: &Value) -> Option<(&str, &Value)> {
    let (operator, operands) = expression.as_object()?.iter().next()?;
    Some((operator, operands))
}

/// The place that an expression reads, if it is nothing else.
pub fn place(expression: &Value) -> Option<Place> {
    match operator(expression)? {
        ("Var", name) => Some(vec![name.as_str()?.to_owned()]),
        (".", operands) => {
            let mut path = place(operands.get("left")?)?;
            path.push(operands.get("attr")?.as_str()?.to_owned());
            Some(path)
        }
        _ => None,
    }
}

/// A literal text, if the expression is one.
pub fn literal_text(expression: &Value) -> Option<&str> {
    expression.get("Value")?.as_str()
}

/// A literal entity's type and id, if the expression is one.
pub fn literal_entity(expression: &Value) -> Option<(&str, &str)> {
    let uid = expression.get("Value")?.get("__entity")?;
    Some((uid.get("type")?.as_str()?, uid.get("id")?.as_str()?))
}

/// An expression and every one in it, the outer before the inner.
pub(super) fn expressions<'a>(expression: &'a Value, found: &mut Vec<&'a Value>) {
    found.push(expression);
    inner(expression).into_iter().for_each(|it| expressions(it, found));
}

/// The expressions that one is made of.
pub fn inner(expression: &Value) -> Vec<&Value> {
    match operator(expression) {
        Some(("Value" | "Var" | "Slot", _)) | None => Vec::new(),
        Some(("Record", Value::Object(members))) => members.values().collect(),
        Some((_, Value::Array(items))) => items.iter().collect(),
        Some((_, operands)) => {
            let sides = ["left", "right", "arg", "if", "then", "else", "in"].iter();
            sides.filter_map(|name| operands.get(*name)).filter(|it| it.is_object()).collect()
        }
    }
}

fn note_literals(json: &Value, found: &mut Literals) {
    match json {
        Value::String(text) => {
            found.texts.insert(text.clone());
        }
        Value::Number(number) => {
            found.numbers.extend(number.as_i64());
        }
        Value::Array(items) => items.iter().for_each(|it| note_literals(it, found)),
        Value::Object(members) => {
            // A negative number is a number that is negated.
            if let Some(number) = members.get("neg").and_then(|it| it.pointer("/arg/Value")).and_then(Value::as_i64) {
                found.numbers.extend(number.checked_neg());
            }
            for function in FUNCTIONS {
                let argument = members.get(function).and_then(|arguments| literal_text(arguments.get(0)?));
                found.extensions.extend(argument.map(|argument| (function.to_owned(), argument.to_owned())));
            }
            members.values().for_each(|it| note_literals(it, found));
        }
        Value::Bool(_) | Value::Null => {}
    }
}
