//! The small types of recipe values: closed sets of words, and the two values that may be of two types.
//!
//! A tagged or untagged serde enum would lose the fault's place, so the two-typed values are read by hand.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde_json::json;

use crate::data::{DataFormat, SyntheticSplit, SyntheticTask, TextSplit};

/// Shape of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FormatName {
    /// By the file's ending and the stage's kind.
    Auto,
    /// A format by name.
    #[serde(untagged)]
    Stated(DataFormat),
}

impl FormatName {
    /// The format, where it is not left to the stage.
    pub fn stated(self) -> Option<DataFormat> {
        match self {
            Self::Auto => None,
            Self::Stated(format) => Some(format),
        }
    }
}

impl JsonSchema for FormatName {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Format".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let auto = json!({"type": "string", "const": "auto", "description": "By the file's ending and the stage's kind."});
        let mut schema = DataFormat::json_schema(generator);
        if let Some(words) = schema.get_mut("oneOf").and_then(|words| words.as_array_mut()) {
            words.insert(0, auto);
        }
        schema
    }
}

/// A number or a word.
#[derive(Debug, Clone, PartialEq)]
pub enum NumberOrText {
    /// A number.
    Number(f64),
    /// A word or a path.
    Text(String),
}

impl<'de> Deserialize<'de> for NumberOrText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl Visitor<'_> for Read {
            type Value = NumberOrText;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number or a text")
            }
            fn visit_i64<E: de::Error>(self, v: i64) -> Result<Self::Value, E> {
                Ok(NumberOrText::Number(v as f64))
            }
            fn visit_u64<E: de::Error>(self, v: u64) -> Result<Self::Value, E> {
                Ok(NumberOrText::Number(v as f64))
            }
            fn visit_f64<E: de::Error>(self, v: f64) -> Result<Self::Value, E> {
                Ok(NumberOrText::Number(v))
            }
            fn visit_str<E: de::Error>(self, v: &str) -> Result<Self::Value, E> {
                Ok(NumberOrText::Text(v.to_owned()))
            }
        }
        deserializer.deserialize_any(Read)
    }
}

impl JsonSchema for NumberOrText {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "NumberOrText".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": ["number", "string"]})
    }
}

/// Which rows of the built-in world.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SyntheticSection {
    /// Rows to make (the task's own number).
    #[schemars(range(min = 1))]
    pub rows: Option<usize>,
    /// Seed of the world (the recipe's).
    pub seed: Option<u64>,
    /// train or heldout; no question is in both (train; eval: heldout).
    pub split: Option<SyntheticSplit>,
    /// world or tools: facts and sums, or errands for tools with the whole exchange (world; agent: tools).
    pub task: Option<SyntheticTask>,
}

/// `true`, or a map; `false` is as if it were not there.
#[derive(Debug, Clone, PartialEq)]
pub struct Synthetic(pub Option<SyntheticSection>);

impl<'de> Deserialize<'de> for Synthetic {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Synthetic;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("true or a map with rows, seed, split, task")
            }
            fn visit_bool<E: de::Error>(self, v: bool) -> Result<Self::Value, E> {
                Ok(Synthetic(v.then(SyntheticSection::default)))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                SyntheticSection::deserialize(de::value::MapAccessDeserializer::new(map))
                    .map(|section| Synthetic(Some(section)))
            }
        }
        deserializer.deserialize_any(Read)
    }
}

impl JsonSchema for Synthetic {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Synthetic".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let section = generator.subschema_for::<SyntheticSection>();
        json_schema!({"anyOf": [{"type": "boolean"}, section]})
    }
}

/// A word, or a list of words.
#[derive(Debug, Clone, PartialEq)]
pub struct Words(pub Vec<String>);

impl<'de> Deserialize<'de> for Words {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Words;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a word or a list of words")
            }
            fn visit_str<E: de::Error>(self, v: &str) -> Result<Self::Value, E> {
                Ok(Words(vec![v.to_owned()]))
            }
            fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut words = Vec::new();
                while let Some(word) = seq.next_element::<Option<String>>()? {
                    words.extend(word);
                }
                Ok(Words(words))
            }
        }
        deserializer.deserialize_any(Read)
    }
}

impl JsonSchema for Words {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Words".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]})
    }
}

/// A word, or a map with a marker.
#[derive(Debug, Clone, PartialEq)]
pub enum SplitSection {
    /// A way by its name.
    Word(String),
    /// The text between documents.
    Marker(String),
}

impl SplitSection {
    /// The name of a data set's split: a word that divides no texts.
    pub fn of_data_set(&self) -> Option<&str> {
        match self {
            Self::Word(name) if TextSplit::by_word(name).is_none() => Some(name),
            _ => None,
        }
    }
}

/// The map of [`SplitSection`].
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct MarkerSection {
    /// The text between documents.
    marker: String,
}

impl<'de> Deserialize<'de> for SplitSection {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = SplitSection;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("line, paragraph, marker, or a map with a marker")
            }
            fn visit_str<E: de::Error>(self, v: &str) -> Result<Self::Value, E> {
                Ok(SplitSection::Word(v.to_owned()))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                MarkerSection::deserialize(de::value::MapAccessDeserializer::new(map))
                    .map(|section| SplitSection::Marker(section.marker))
            }
        }
        deserializer.deserialize_any(Read)
    }
}

impl JsonSchema for SplitSection {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Split".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let section = generator.subschema_for::<MarkerSection>();
        json_schema!({"anyOf": [{"type": "string"}, section]})
    }
}
