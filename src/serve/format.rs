//! `response_format`: answers that must be JSON, of any kind or of a schema.

use serde_json::{Value, json};

use super::fault::Fault;
use super::fields::Fields;
use super::worker::Live;
use crate::rollout::Constraint;

/// What an answer must look like.
#[derive(Debug, Clone, PartialEq)]
pub enum Format {
    /// Anything.
    Text,
    /// JSON of this schema.
    Json(Value),
}

impl Format {
    /// Reads `{"type": "text" | "json_object"}` or `{"type": "json_schema", "json_schema": {"schema": ...}}`.
    pub fn read(fields: &Fields) -> Result<Self, Fault> {
        let Some(map) = fields.object("response_format")? else { return Ok(Format::Text) };
        match map.get("type").and_then(Value::as_str) {
            Some("text") => Ok(Format::Text),
            Some("json_object") => Ok(Format::Json(json!({"type": "object"}))),
            Some("json_schema") => {
                let schema = map.get("json_schema").and_then(|j| j.get("schema"));
                schema.filter(|s| s.is_object()).cloned().map(Format::Json).ok_or_else(|| {
                    Fault::param("response_format", "`response_format.json_schema.schema` must be an object")
                })
            }
            _ => Err(Fault::param(
                "response_format",
                "`response_format.type` must be text, json_object or json_schema",
            )),
        }
    }

    /// A constraint for one answer of a model.
    pub fn constraint(&self, live: &Live) -> Result<Option<Box<dyn Constraint + Send>>, Fault> {
        let Format::Json(schema) = self else { return Ok(None) };
        let made = live.grammars()?.json(schema);
        made.map(Some).map_err(|error| Fault::param("response_format", error.what()))
    }
}
