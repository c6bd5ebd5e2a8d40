//! A stage as written: a map with one key, its kind.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::plan::kinds::*;

/// One stage of a recipe.
#[derive(Debug)]
pub struct Stage;

impl JsonSchema for Stage {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Stage".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let sections = [
            ("tokenizer", generator.subschema_for::<TokenizerConfig>()),
            ("pretrain", generator.subschema_for::<TrainConfig>()),
            ("sft", generator.subschema_for::<TrainConfig>()),
            ("lora", generator.subschema_for::<LoraConfig>()),
            ("merge", generator.subschema_for::<MergeConfig>()),
            ("reason", generator.subschema_for::<ReasonConfig>()),
            ("distill", generator.subschema_for::<DistillStage>()),
            ("dpo", generator.subschema_for::<DpoStage>()),
            ("reward", generator.subschema_for::<RewardConfig>()),
            ("ppo", generator.subschema_for::<PpoKeys>()),
            ("grpo", generator.subschema_for::<GrpoKeys>()),
            ("spo", generator.subschema_for::<SpoKeys>()),
            ("agent", generator.subschema_for::<AgentKeys>()),
            ("eval", generator.subschema_for::<EvalConfig>()),
            ("export", generator.subschema_for::<ExportConfig>()),
        ];
        let properties: serde_json::Map<String, serde_json::Value> =
            sections.into_iter().map(|(kind, section)| (kind.to_owned(), section.into())).collect();
        json_schema!({
            "type": "object",
            "description": "A map with one key, the stage's kind.",
            "x-label": "stage",
            "minProperties": 1,
            "maxProperties": 1,
            "additionalProperties": false,
            "properties": properties
        })
    }
}
