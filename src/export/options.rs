//! What to export, and how: the format, the precision and the rest of the options.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Kind;

/// An export format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum, Deserialize, JsonSchema)]
#[schemars(rename = "ExportFormat")]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lowercase")]
pub enum Format {
    /// A TorchScript module: torch.jit.load reads it, in Python and C++
    Torchscript,
    /// A folder for Hugging Face's AutoModelForCausalLM and AutoTokenizer
    Huggingface,
    /// One .safetensors file with upstream's names
    Safetensors,
    /// A plain state_dict: torch.load(weights_only=True) reads it
    Pth,
    /// One .gguf file for llama.cpp and Ollama
    Gguf,
}

impl Format {
    /// The name in commands and recipes.
    pub fn name(self) -> &'static str {
        match self {
            Format::Torchscript => "torchscript",
            Format::Huggingface => "huggingface",
            Format::Safetensors => "safetensors",
            Format::Pth => "pth",
            Format::Gguf => "gguf",
        }
    }

    /// The file's name for a stem; the folder of `huggingface` has a fixed name.
    pub fn file_name(self, stem: &str) -> String {
        match self {
            Format::Torchscript => format!("{stem}.pt"),
            Format::Huggingface => "huggingface".to_owned(),
            Format::Safetensors => format!("{stem}.safetensors"),
            Format::Pth => format!("{stem}.pth"),
            Format::Gguf => format!("{stem}.gguf"),
        }
    }
}

/// Element type of the exported weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum, Deserialize, JsonSchema)]
#[schemars(rename = "ExportPrecision")]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32-bit.
    #[value(alias = "f32")]
    Fp32,
    /// Half precision.
    #[value(alias = "f16")]
    Fp16,
    /// bfloat16.
    Bf16,
    /// GGUF: 8 bits in blocks of 32.
    #[serde(rename = "q8_0")]
    #[value(name = "q8_0")]
    Q8_0,
    /// GGUF: 4 bits in blocks of 32.
    #[serde(rename = "q4_0")]
    #[value(name = "q4_0")]
    Q4_0,
}

impl Precision {
    /// The type that the export is compared in; quantised weights are computed in fp32.
    pub fn kind(self) -> Kind {
        match self {
            Precision::Fp32 | Precision::Q8_0 | Precision::Q4_0 => Kind::Float,
            Precision::Fp16 => Kind::Half,
            Precision::Bf16 => Kind::BFloat16,
        }
    }

    /// The precision for a file whose numbers are of this type.
    pub fn of(kind: Kind) -> Self {
        match kind {
            Kind::Half => Precision::Fp16,
            Kind::BFloat16 => Precision::Bf16,
            _ => Precision::Fp32,
        }
    }
}

/// Options of an export.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Options {
    /// Type of the numbers (as the source is stored; fp32 for torchscript, which every machine computes in).
    pub precision: Option<Precision>,
    /// Whether TorchScript's weights become constants of the program.
    pub freeze: bool,
    /// Whether to read back and compare.
    #[serde(skip_deserializing)]
    pub verify: bool,
    /// Hugging Face: a weight file of more bytes is split into shards.
    #[serde(skip_deserializing)]
    pub max_shard_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { precision: None, freeze: false, verify: true, max_shard_bytes: 5_000_000_000 }
    }
}
