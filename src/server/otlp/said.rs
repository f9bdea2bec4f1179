//! Values and what they are called, in OTLP's words.

use opentelemetry_proto::tonic::{
    common::v1::{AnyValue, ArrayValue, InstrumentationScope, KeyValue, any_value::Value},
    resource::v1::Resource,
};

use super::client::Receiver;

/// The version of the semantic conventions that names are taken from.
pub(super) const CONVENTIONS: &str = "https://opentelemetry.io/schemas/1.37.0";

/// What is said of whoever sends to `receiver`.
pub(super) fn resource(receiver: &Receiver) -> Resource {
    let version = said("service.version", text(env!("CARGO_PKG_VERSION")));
    let attributes = receiver.resource().map(|(name, value)| said(name, text(value))).chain([version]).collect();
    Resource { attributes, ..Resource::default() }
}

/// What it is sent by.
pub(super) fn scope() -> InstrumentationScope {
    let (name, version) = ("portcullis".to_owned(), env!("CARGO_PKG_VERSION").to_owned());
    InstrumentationScope { name, version, ..InstrumentationScope::default() }
}

pub(super) fn said(name: &str, value: Value) -> KeyValue {
    KeyValue { key: name.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

pub(super) fn text(text: impl Into<String>) -> Value {
    Value::StringValue(text.into())
}

pub(super) fn number(number: impl Into<i64>) -> Value {
    Value::IntValue(number.into())
}

pub(super) fn several<'a>(texts: impl IntoIterator<Item = &'a String>) -> Value {
    Value::ArrayValue(ArrayValue { values: texts.into_iter().map(|it| AnyValue { value: Some(text(it)) }).collect() })
}
