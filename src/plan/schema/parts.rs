//! The small types of recipe values: closed sets of words, and the two values that may be of two types.
//!
//! A tagged or untagged serde enum would lose the fault's place, so the two-typed values are read by hand.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, Visitor};

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
        #[serde(rename_all = "snake_case")]
        pub enum $name { $($(#[$vdoc])* $variant),* }
    };
}

words!(
    /// What adds up over processes.
    DdpBackendName {
        /// nccl where each process has a GPU of its own.
        Auto,
        /// From GPU to GPU.
        Nccl,
        /// Through the host.
        Gloo,
    }
);
words!(
    /// Arithmetic.
    PrecisionName {
        /// Chosen by the device.
        Auto,
        /// 32-bit.
        Fp32,
        /// bf16 autocast.
        Bf16,
        /// fp16 autocast with loss scaling.
        Fp16,
    }
);
words!(
    /// Shape of rows.
    FormatName {
        /// By the file's ending and the stage's kind.
        Auto,
        /// One text a line.
        Text,
        /// One conversation a line.
        Chat,
        /// Two conversations a line that part at the last turn, `chosen` and `rejected`.
        Preference,
        /// Questions for reinforcement learning, one a line.
        Prompts,
        /// Questions to be answered with tools, one a line.
        Agent,
        /// Ready token ids in a .safetensors file.
        Tokens,
    }
);
words!(
    /// How rows become batches.
    BatchingName {
        /// Rows of like length together.
        Bucket,
        /// Every row padded to max_seq_len.
        Pad,
        /// Rows side by side in lines of max_seq_len, none seeing another: pretrain, sft, lora, reason, distill.
        Pack,
    }
);
words!(
    /// What to do with a bad row.
    OnBadRowName {
        /// Stop.
        Error,
        /// Leave it out and count it.
        Skip,
    }
);
words!(
    /// The learning rate's curve.
    ScheduleName {
        /// Cosine from the peak to a tenth.
        Upstream,
        /// Cosine to zero.
        Cosine,
        /// Line to zero.
        Linear,
        /// The peak throughout.
        Constant,
    }
);
words!(
    /// Type of saved numbers.
    SaveDtypeName {
        /// Half precision.
        Fp16,
        /// bfloat16.
        Bf16,
        /// Full precision.
        Fp32,
    }
);
words!(
    /// What to do about a bad loss.
    OnAnomalyName {
        /// End the run with an error.
        Stop,
        /// Leave the update out.
        Skip,
        /// Go back to the last checkpoint.
        Rollback,
    }
);
words!(
    /// What an evaluation measures.
    TaskName {
        /// Cross-entropy, perplexity, bits per byte.
        Loss,
        /// Greedy answers against the verifiable answer.
        ExactMatch,
        /// The likeliest of several answers.
        MultipleChoice,
        /// The same, by C-Eval's name.
        Ceval,
        /// The same, by CMMLU's name.
        Cmmlu,
        /// The same, by ARC's name.
        Arc,
        /// The same, by PIQA's name.
        Piqa,
        /// The same, by OpenBookQA's name.
        Openbookqa,
        /// The same, by HellaSwag's name.
        Hellaswag,
        /// Greedy answers whose final number is compared.
        Math,
        /// The same, by GSM8K's name.
        Gsm8k,
    }
);
words!(
    /// What rows of the built-in world are about.
    SyntheticTaskName {
        /// Facts, sums, comparisons, small talk.
        World,
        /// Errands that tools answer.
        Tools,
    }
);
words!(
    /// Which preference loss.
    PairLossName {
        /// DPO's own.
        Sigmoid,
        /// A square around the margin.
        Ipo,
    }
);
words!(
    /// How log-probabilities of a row become one number.
    ReductionName {
        /// Their sum.
        Sum,
        /// Their mean.
        Mean,
    }
);
words!(
    /// Part of the built-in world.
    SplitName {
        /// For training.
        Train,
        /// For measuring.
        Heldout,
    }
);

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
    pub rows: Option<i64>,
    /// Seed of the world (the recipe's).
    pub seed: Option<i64>,
    /// train or heldout; no question is in both (train; eval: heldout).
    pub split: Option<SplitName>,
    /// world or tools: facts and sums, or errands for tools with the whole exchange (world; agent: tools).
    pub task: Option<SyntheticTaskName>,
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
