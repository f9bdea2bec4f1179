//! The JSON Schema of `config.yaml`, made from the types that the file is read into, for editors to complete and check by.

use schemars::generate::SchemaSettings;
use serde_json::Value;

use super::Config;

/// The schema, of draft 2020-12. It knows the file's form; what else a configuration must be, `portcullis check` knows.
pub fn schema() -> Value {
    SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<Config>().to_value()
}
