//! The answers of commands as JSON: objects whose schema is docs/output.schema.json.

use serde_json::{Value, json};

use crate::control::api::SCHEMA_VERSION;

/// A response as the text of one JSON object. A list has processes.
pub(super) fn to_text(answer: Value) -> String {
    let mut object = match answer {
        Value::Array(processes) => json!({ "processes": processes }),
        other => other,
    };
    if let Some(fields) = object.as_object_mut() {
        fields.insert("schema_version".to_owned(), SCHEMA_VERSION.into());
    }
    format!("{object:#}\n")
}
