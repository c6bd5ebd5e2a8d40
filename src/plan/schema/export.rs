//! The keys of an `export` stage.

use schemars::JsonSchema;
use serde::Deserialize;

/// A format that a model leaves in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ExportFormatName {
    /// A module for torch.jit.load.
    Torchscript,
    /// A folder for transformers.
    Huggingface,
    /// One .safetensors file.
    Safetensors,
    /// A plain state_dict.
    Pth,
    /// One .gguf file.
    Gguf,
}

/// The type of the numbers in an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ExportPrecisionName {
    /// 32-bit.
    Fp32,
    /// Half precision.
    Fp16,
    /// bfloat16.
    Bf16,
    /// GGUF: 8 bits in blocks of 32.
    #[serde(rename = "q8_0")]
    Q8_0,
    /// GGUF: 4 bits in blocks of 32.
    #[serde(rename = "q4_0")]
    Q4_0,
}

/// Writes a model in formats that other tools read.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExportSection {
    /// The stage's name (its kind).
    pub name: Option<String>,
    /// Which weights: a stage above or a path (the training stage above).
    pub from: Option<String>,
    /// torchscript, huggingface, safetensors, pth, gguf; one or several.
    pub formats: Option<Vec<Option<ExportFormatName>>>,
    /// Type of the numbers (as they are stored; fp32 for torchscript).
    pub precision: Option<ExportPrecisionName>,
    /// Whether TorchScript's weights become constants of the program (false).
    pub freeze: Option<bool>,
    /// A tokenizer stage above or a folder (the model's stage's, else the recipe's).
    pub tokenizer: Option<String>,
}
