//! A value of the configuration with the place where it stands, for carets.

use std::{
    borrow::Cow,
    hash::{Hash, Hasher},
};

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Deserialize;
use serde_saphyr::Location;

/// A value and where it stands. A type of our own, since the reader's has no schema: this one has that of the value.
#[derive(Clone, Debug, Deserialize)]
#[serde(from = "serde_saphyr::Spanned<T>")]
pub struct Spanned<T> {
    /// What is written.
    pub value: T,
    /// Where, and for an alias where it is used.
    pub referenced: Location,
}

impl<T: PartialEq> PartialEq for Spanned<T> {
    /// The same value is the same wherever it stands.
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl<T: Eq> Eq for Spanned<T> {}

impl<T: Hash> Hash for Spanned<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.value.hash(state);
    }
}

impl<T> Spanned<T> {
    /// A value that stands in no file.
    pub const fn nowhere(value: T) -> Self {
        Self { value, referenced: Location::UNKNOWN }
    }

    /// What this value leads to, which stands in the same place.
    pub const fn leads_to<U>(&self, value: U) -> Spanned<U> {
        Spanned { value, referenced: self.referenced }
    }
}

impl<T> From<serde_saphyr::Spanned<T>> for Spanned<T> {
    fn from(read: serde_saphyr::Spanned<T>) -> Self {
        Self { value: read.value, referenced: read.referenced }
    }
}

impl<T: JsonSchema> JsonSchema for Spanned<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }

    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn schema_id() -> Cow<'static, str> {
        T::schema_id()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}
