//! Lists of one-key maps below a stage: `rewards` and `tools`, written like stages: `- length: {min: 20}`.
//!
//! The resolved type declares both halves: its field `kind` is an enum with a variant for each key, its other fields
//! are settings that every kind has.

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};

use crate::rollout::rewards::RewardConfig;
use crate::rollout::tools::ToolConfig;

/// The schema of `T` with nothing referred to elsewhere.
fn inlined<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|s| s.inline_subschemas = true);
    settings.into_generator().into_root_schema_for::<T>().into()
}

/// The keys of a struct, as a recipe spells them.
pub(in crate::plan) fn keys_of<T: JsonSchema>() -> Vec<String> {
    inlined::<T>()["properties"].as_object().map(|own| own.keys().cloned().collect()).unwrap_or_default()
}

/// The kinds of a list's elements.
pub(in crate::plan) fn kinds_of<T: JsonSchema>() -> Vec<String> {
    let schema: Value = one_key_schema::<T>("element").into();
    schema["properties"].as_object().map(|kinds| kinds.keys().cloned().collect()).unwrap_or_default()
}

/// The schema of an element of a list: a map with one key, the kind, that holds its settings and those of every kind.
/// `label` is what an element is called.
pub(in crate::plan) fn one_key_schema<T: JsonSchema>(label: &str) -> Schema {
    let whole = inlined::<T>();
    let mut common = whole["properties"].as_object().cloned().unwrap_or_default();
    let kind = common.remove("kind").unwrap_or_default();
    let mut kinds = Map::new();
    for variant in kind["oneOf"].as_array().into_iter().flatten() {
        let (name, body) = match (variant["properties"].as_object(), variant["const"].as_str()) {
            (Some(own), _) => {
                own.iter().next().map(|(name, body)| (name.clone(), body.clone())).unwrap_or_default()
            }
            (None, Some(word)) => (word.to_owned(), Value::Null),
            (None, None) => continue,
        };
        let mut properties = common.clone();
        properties.extend(body["properties"].as_object().cloned().unwrap_or_default());
        let description = variant["description"].clone();
        kinds.insert(
            name,
            json!({"type": "object", "description": description, "additionalProperties": false, "properties": properties}),
        );
    }
    json_schema!({
        "type": "object",
        "description": format!("A map with one key, the {label}'s kind."),
        "x-label": label,
        "minProperties": 1,
        "maxProperties": 1,
        "additionalProperties": false,
        "properties": kinds
    })
}

/// An element of such a list, read from its flat settings with its kind under `kind`.
pub(in crate::plan) struct Element<T>(pub T);

impl<'de, T: DeserializeOwned + JsonSchema> Deserialize<'de> for Element<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut own = Map::deserialize(deserializer)?;
        let kind = match own.remove("kind") {
            Some(Value::String(kind)) => kind,
            _ => return Err(D::Error::missing_field("kind")),
        };
        let mut whole = own.clone();
        whole.insert("kind".to_owned(), Value::String(kind.clone()));
        if let Ok(plain) = T::deserialize(Value::Object(whole.clone())) {
            return Ok(Self(plain)); // a kind without settings of its own
        }
        let common = keys_of::<T>();
        own.retain(|key, _| !common.contains(key));
        whole.insert("kind".to_owned(), json!({kind: own}));
        T::deserialize(Value::Object(whole)).map(Self).map_err(D::Error::custom)
    }
}

/// An element of `rewards`, as a recipe writes it.
#[derive(Debug)]
pub struct RewardItem;

impl JsonSchema for RewardItem {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Reward".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        one_key_schema::<RewardConfig>("reward")
    }
}

/// An element of `tools`, as a recipe writes it.
#[derive(Debug)]
pub struct ToolItem;

impl JsonSchema for ToolItem {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Tool".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        one_key_schema::<ToolConfig>("tool")
    }
}
