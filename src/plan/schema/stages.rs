//! A stage as written: a map with one key, its kind.
//!
//! Read by hand: serde's tagged enums lose the place of a fault inside them.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};

use super::{
    AgentSection, DistillSection, DpoSection, EvalSection, ExportSection, GrpoSection, LoraSection,
    MergeSection, PpoSection, ReasonSection, RewardSection, SpoSection, TokenizerSection, TrainSection,
};

/// Kinds this version runs.
pub const KINDS: [&str; 15] = [
    "tokenizer",
    "pretrain",
    "sft",
    "lora",
    "merge",
    "reason",
    "distill",
    "dpo",
    "reward",
    "ppo",
    "grpo",
    "spo",
    "agent",
    "eval",
    "export",
];

/// One stage.
#[derive(Debug, Clone)]
pub struct Stage {
    /// The key.
    pub kind: &'static str,
    /// What it holds.
    pub body: StageBody,
}

/// The value of the one key.
#[derive(Debug, Clone)]
pub enum StageBody {
    /// `tokenizer`.
    Tokenizer(Box<TokenizerSection>),
    /// `pretrain`, `sft`.
    Train(Box<TrainSection>),
    /// `lora`.
    Lora(Box<LoraSection>),
    /// `merge`.
    Merge(Box<MergeSection>),
    /// `reason`.
    Reason(Box<ReasonSection>),
    /// `distill`.
    Distill(Box<DistillSection>),
    /// `dpo`.
    Dpo(Box<DpoSection>),
    /// `reward`.
    Reward(Box<RewardSection>),
    /// `eval`.
    Eval(Box<EvalSection>),
    /// `export`.
    Export(Box<ExportSection>),
    /// `grpo`.
    Grpo(Box<GrpoSection>),
    /// `ppo`.
    Ppo(Box<PpoSection>),
    /// `spo`.
    Spo(Box<SpoSection>),
    /// `agent`.
    Agent(Box<AgentSection>),
}

impl Stage {
    /// The name given, else the kind.
    pub fn name(&self) -> &str {
        match &self.body {
            StageBody::Tokenizer(s) => s.name.as_deref(),
            StageBody::Train(s) => s.name.as_deref(),
            StageBody::Lora(s) => s.name.as_deref(),
            StageBody::Merge(s) => s.name.as_deref(),
            StageBody::Reason(s) => s.name.as_deref(),
            StageBody::Distill(s) => s.name.as_deref(),
            StageBody::Dpo(s) => s.name.as_deref(),
            StageBody::Reward(s) => s.name.as_deref(),
            StageBody::Eval(s) => s.name.as_deref(),
            StageBody::Export(s) => s.name.as_deref(),
            StageBody::Grpo(s) => s.name.as_deref(),
            StageBody::Ppo(s) => s.name.as_deref(),
            StageBody::Spo(s) => s.name.as_deref(),
            StageBody::Agent(s) => s.name.as_deref(),
        }
        .unwrap_or(self.kind)
    }
}

impl<'de> Deserialize<'de> for Stage {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Stage;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map with one key, the stage's kind")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Stage, A::Error> {
                let Some(kind) = map.next_key::<String>()? else {
                    return Err(A::Error::custom("stage is empty"));
                };
                let Some(known) = KINDS.iter().copied().find(|k| *k == kind) else {
                    map.next_value::<IgnoredAny>()?;
                    return Err(A::Error::custom(format!("stage kind `{kind}`")));
                };
                let body = match known {
                    "tokenizer" => StageBody::Tokenizer(map.next_value::<Option<_>>()?.unwrap_or_default()),
                    "lora" => StageBody::Lora(map.next_value::<Option<_>>()?.unwrap_or_default()),
                    "merge" => StageBody::Merge(map.next_value::<Option<_>>()?.unwrap_or_default()),
                    "reason" => StageBody::Reason(map.next_value::<Option<_>>()?.unwrap_or_default()),
                    "distill" => StageBody::Distill(map.next_value::<Option<_>>()?.unwrap_or_default()),
                    "dpo" => StageBody::Dpo(map.next_value::<Option<_>>()?.unwrap_or_default()),
                    "reward" => StageBody::Reward(map.next_value::<Option<_>>()?.unwrap_or_default()),
                    "eval" => StageBody::Eval(map.next_value::<Option<_>>()?.unwrap_or_default()),
                    "export" => StageBody::Export(map.next_value::<Option<_>>()?.unwrap_or_default()),
                    "grpo" => StageBody::Grpo(map.next_value::<Option<_>>()?.unwrap_or_default()),
                    "ppo" => StageBody::Ppo(map.next_value::<Option<_>>()?.unwrap_or_default()),
                    "spo" => StageBody::Spo(map.next_value::<Option<_>>()?.unwrap_or_default()),
                    "agent" => StageBody::Agent(map.next_value::<Option<_>>()?.unwrap_or_default()),
                    _ => StageBody::Train(map.next_value::<Option<_>>()?.unwrap_or_default()),
                };
                if let Some(second) = map.next_key::<String>()? {
                    return Err(A::Error::custom(format!("second key `{second}`")));
                }
                Ok(Stage { kind: known, body })
            }
        }
        deserializer.deserialize_map(Read)
    }
}

impl JsonSchema for Stage {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Stage".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let sections = [
            ("tokenizer", generator.subschema_for::<TokenizerSection>()),
            ("pretrain", generator.subschema_for::<TrainSection>()),
            ("sft", generator.subschema_for::<TrainSection>()),
            ("lora", generator.subschema_for::<LoraSection>()),
            ("merge", generator.subschema_for::<MergeSection>()),
            ("reason", generator.subschema_for::<ReasonSection>()),
            ("distill", generator.subschema_for::<DistillSection>()),
            ("dpo", generator.subschema_for::<DpoSection>()),
            ("reward", generator.subschema_for::<RewardSection>()),
            ("ppo", generator.subschema_for::<PpoSection>()),
            ("grpo", generator.subschema_for::<GrpoSection>()),
            ("spo", generator.subschema_for::<SpoSection>()),
            ("agent", generator.subschema_for::<AgentSection>()),
            ("eval", generator.subschema_for::<EvalSection>()),
            ("export", generator.subschema_for::<ExportSection>()),
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
