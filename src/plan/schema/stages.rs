//! A stage as written: a map with one key, its kind.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

/// One stage of a recipe.
#[derive(Debug)]
pub struct Stage;

impl JsonSchema for Stage {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Stage".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "object",
            "description": "A map with one key, the stage's kind.",
            "x-label": "stage",
            "minProperties": 1,
            "maxProperties": 1,
            "additionalProperties": false,
            "properties": crate::plan::types::kind_schemas(generator)
        })
    }
}
