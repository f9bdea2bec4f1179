//! The JSON Schema of `config.yaml`, made from the types that the file is read into, for editors to complete and check by.

use schemars::{Schema, generate::SchemaSettings, transform::RecursiveTransform};
use serde_json::Value;

use super::Config;

/// The schema, of draft 2020-12. It knows the file's form; what else a configuration must be, `portcullis check` knows.
pub fn schema() -> Value {
    let settings = SchemaSettings::draft2020_12().with_transform(RecursiveTransform(take_null_away));
    settings.into_generator().into_root_schema_for::<Config>().to_value()
}

/// What may be left out may not be `null`, as its type alone would say.
fn take_null_away(schema: &mut Schema) {
    let Some(schema) = schema.as_object_mut() else { return };
    let is_null = |it: &Value| it.is_null() || it == "null" || it.get("type").is_some_and(|it| it == "null");
    for keyword in ["enum", "type", "anyOf"] {
        let Some(Value::Array(all)) = schema.get_mut(keyword) else { continue };
        all.retain(|it| !is_null(it));
        if keyword == "enum" || all.len() > 1 {
            continue;
        }
        match all.pop() {
            Some(Value::Object(only)) => {
                schema.remove(keyword);
                for (name, value) in only {
                    schema.entry(name).or_insert(value);
                }
            }
            Some(only) => {
                schema.insert(keyword.to_owned(), only);
            }
            None => {}
        }
    }
    if schema.get("default").is_some_and(Value::is_null) {
        schema.remove("default");
    }
}
