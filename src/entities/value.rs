//! Claims become Cedar values by constructors, directed by the schema. What the schema does not know is dropped;
//! what does not fit is an error; JSON that looks like Cedar's own syntax (`__entity`, `__extn`) is plain data.

use cedar_policy::{EntityId, EntityUid, RestrictedExpression};
use serde_json::{Map, Value};

use super::{
    MappingError,
    schema::{Attribute, Extension, Type},
};
use crate::base::json;

/// The attributes of `record` that `values` supplies. `null` counts as absent.
///
/// # Errors
/// [`MappingError::ClaimMissing`] when a required attribute is absent, or one does not fit its type.
pub fn attributes<'a>(record: impl Attributed<'a>, values: &Map<String, Value>) -> Result<Attributes, MappingError> {
    let lacks = |name: &String| values.get(name).is_none_or(Value::is_null);
    match record.clone().into_iter().find(|(name, attribute)| attribute.required && lacks(name)) {
        Some((name, _)) => Err(MappingError::ClaimMissing(name.clone())),
        None => present(record, values),
    }
}

/// The attributes of `record` that `values` supplies, whichever they are.
///
/// # Errors
/// [`MappingError::ClaimMissing`] when one does not fit its type.
pub fn present<'a>(record: impl Attributed<'a>, values: &Map<String, Value>) -> Result<Attributes, MappingError> {
    let supplied = record.into_iter().filter_map(|(name, attribute)| {
        let value = values.get(name).filter(|value| !value.is_null())?;
        Some((name, expression(&attribute.ty, value)))
    });
    let fitting = supplied.map(|(name, value)| {
        value.map(|value| (name.clone(), value)).ok_or_else(|| MappingError::ClaimMissing(name.clone()))
    });
    fitting.collect()
}

/// Attributes of a type: a [`Record`](super::schema::Record), or some of one.
pub trait Attributed<'a>: IntoIterator<Item = (&'a String, &'a Attribute)> + Clone {}

impl<'a, T: IntoIterator<Item = (&'a String, &'a Attribute)> + Clone> Attributed<'a> for T {}

/// Names and values of attributes.
pub type Attributes = Vec<(String, RestrictedExpression)>;

/// `value` as a Cedar value of type `ty`, or `None` if it does not fit.
pub fn expression(ty: &Type, value: &Value) -> Option<RestrictedExpression> {
    match (ty, value) {
        (Type::String, Value::String(text)) => Some(RestrictedExpression::new_string(text.clone())),
        (Type::Long, Value::Number(number)) => number.as_i64().map(RestrictedExpression::new_long),
        (Type::Bool, Value::Bool(truth)) => Some(RestrictedExpression::new_bool(*truth)),
        (Type::Set(element), Value::Array(items)) => {
            let items: Option<Vec<_>> = items.iter().map(|item| expression(element, item)).collect();
            items.map(RestrictedExpression::new_set)
        }
        (Type::Record(record), Value::Object(values)) => {
            attributes(record, values).ok().and_then(|fields| RestrictedExpression::new_record(fields).ok())
        }
        (Type::Entity(name), Value::String(id)) => {
            let uid = EntityUid::from_type_name_and_id(name.clone(), EntityId::new(id));
            Some(RestrictedExpression::new_entity_uid(uid))
        }
        // Cedar checks the text when it builds the context or entity that holds the value.
        (Type::Extension(kind), Value::String(text)) => Some(match kind {
            Extension::Ip => RestrictedExpression::new_ip(text),
            Extension::Decimal => RestrictedExpression::new_decimal(text),
            Extension::Datetime => RestrictedExpression::new_datetime(text),
            Extension::Duration => RestrictedExpression::new_duration(text),
        }),
        _ => None,
    }
}

/// A text as a Cedar value of type `ty`, or `None` if it does not say one in the one way that Cedar writes it.
pub fn expression_of_text(ty: &Type, text: String) -> Option<RestrictedExpression> {
    match ty {
        Type::Long => {
            text.parse().ok().filter(|number: &i64| number.to_string() == text).map(RestrictedExpression::new_long)
        }
        Type::Bool => match text.as_str() {
            "true" => Some(RestrictedExpression::new_bool(true)),
            "false" => Some(RestrictedExpression::new_bool(false)),
            _ => None,
        },
        // A whole number is a decimal too.
        Type::Extension(Extension::Decimal) if text.parse::<i64>().is_ok() => {
            Some(RestrictedExpression::new_decimal(format!("{text}.0")))
        }
        Type::Set(_) | Type::Record(_) => None,
        Type::String | Type::Entity(_) | Type::Extension(_) => expression(ty, &Value::String(text)),
    }
}

/// The same, of a value that comes with SQL's types: truth may be a number, and a set or a record a text in JSON.
pub fn expression_of_sql(ty: &Type, value: &Value) -> Option<RestrictedExpression> {
    match (ty, value) {
        (Type::Bool, Value::Number(number)) => match number.as_i64() {
            Some(truth @ (0 | 1)) => Some(RestrictedExpression::new_bool(truth == 1)),
            _ => None,
        },
        (Type::Set(_) | Type::Record(_), Value::String(text)) => expression(ty, &json::parse(text.as_bytes()).ok()?),
        _ => expression(ty, value),
    }
}

#[cfg(test)]
mod tests {
    use cedar_policy::Context;
    use serde_json::json;

    use super::*;
    use crate::entities::schema::Record;

    fn fits(ty: Type, value: Value) -> bool {
        let record = Record::from([("x".to_owned(), Attribute { ty, required: true })]);
        let values = Map::from_iter([("x".to_owned(), value), ("unknown".to_owned(), json!(1.5))]);
        attributes(&record, &values).is_ok_and(|fields| Context::from_pairs(fields).is_ok())
    }

    #[test]
    fn a_value_fits_its_type_or_is_refused() {
        let user = || Type::Entity("User".parse().unwrap());
        let strings = || Type::Set(Box::new(Type::String));
        assert!(fits(Type::String, json!("a")));
        assert!(fits(Type::Long, json!(-5)));
        assert!(fits(Type::Bool, json!(true)));
        assert!(fits(strings(), json!(["a", "a"])));
        assert!(fits(user(), json!("a\"b\\c\n::")));
        assert!(fits(Type::Extension(Extension::Ip), json!("10.0.0.0/8")));
        assert!(fits(Type::Extension(Extension::Datetime), json!("2026-01-01")));
        for (ty, value) in [
            (Type::String, json!(null)),
            (Type::String, json!(1)),
            (Type::String, json!({"__entity": {"type": "User", "id": "victim"}})),
            (Type::String, json!({"__extn": {"fn": "ip", "arg": "::1"}})),
            (Type::Long, json!(1.5)),
            (Type::Long, json!(9_223_372_036_854_775_808_u64)),
            (Type::Long, json!("1")),
            (Type::Bool, json!("true")),
            (strings(), json!("a")),
            (strings(), json!(["a", null])),
            (user(), json!({"__entity": {"type": "User", "id": "victim"}})),
            (user(), json!({"type": "User", "id": "victim"})),
            (Type::Extension(Extension::Ip), json!("not an address")),
            (Type::Extension(Extension::Decimal), json!({"__extn": {"fn": "decimal", "arg": "1.0"}})),
            (Type::Record(Record::new()), json!("a")),
        ] {
            assert!(!fits(ty.clone(), value.clone()), "{ty:?} {value}");
        }
    }
}
