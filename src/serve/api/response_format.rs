//! `response_format`: answers that must be JSON, of any kind or of a schema.

use serde_json::{Value, json};

use super::fields::Fields;
use crate::rollout::Constraint;
use crate::serve::engine::handle::ModelHandle;
use crate::serve::error::ApiError;

/// What an answer must look like.
#[derive(Debug, Clone, PartialEq)]
pub enum ResponseFormat {
    /// Anything.
    Text,
    /// JSON of this schema.
    Json(Value),
}

impl ResponseFormat {
    /// Reads `{"type": "text" | "json_object"}` or `{"type": "json_schema", "json_schema": {"schema": ...}}`.
    ///
    /// # Errors
    /// 400 for any other form.
    pub fn read(fields: &Fields) -> Result<Self, ApiError> {
        let Some(map) = fields.object("response_format")? else { return Ok(ResponseFormat::Text) };
        match map.get("type").and_then(Value::as_str) {
            Some("text") => Ok(ResponseFormat::Text),
            Some("json_object") => Ok(ResponseFormat::Json(json!({"type": "object"}))),
            Some("json_schema") => {
                let schema = map.get("json_schema").and_then(|j| j.get("schema"));
                schema.filter(|s| s.is_object()).cloned().map(ResponseFormat::Json).ok_or_else(|| {
                    ApiError::param(
                        "response_format",
                        "`response_format.json_schema.schema` must be an object",
                    )
                })
            }
            _ => Err(ApiError::param(
                "response_format",
                "`response_format.type` must be text, json_object or json_schema",
            )),
        }
    }

    /// The constraint of one answer; `None` for text.
    ///
    /// # Errors
    /// 400 for a schema that cannot be made a grammar.
    pub fn constraint(&self, model: &ModelHandle) -> Result<Option<Box<dyn Constraint + Send>>, ApiError> {
        let ResponseFormat::Json(schema) = self else { return Ok(None) };
        let made = model.grammars()?.json(schema);
        made.map(Some).map_err(|error| ApiError::param("response_format", error.what()))
    }
}
