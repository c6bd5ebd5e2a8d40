//! How a model's weights are held while it generates: the recipe's choices, and 8 bits.

use tch::Device;

use crate::engine::Compute;
use crate::native::Storage;
use crate::plan::Precision;

/// What `--precision` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum ModelPrecision {
    /// fp32 on the CPU, bf16 on a GPU.
    Auto,
    /// 32-bit.
    Fp32,
    /// bfloat16; on the CPU computed in fp32.
    Bf16,
    /// Half precision; on the CPU computed in fp32.
    Fp16,
    /// 8-bit weights with a scale for every 128, for generating on the CPU.
    Int8,
}

impl ModelPrecision {
    /// The arithmetic of everything but decoding.
    pub fn compute(self, device: Device) -> Compute {
        match self {
            ModelPrecision::Auto => Precision::Auto.compute(device),
            ModelPrecision::Fp32 | ModelPrecision::Int8 => Precision::Fp32.compute(device),
            ModelPrecision::Bf16 => Precision::Bf16.compute(device),
            ModelPrecision::Fp16 => Precision::Fp16.compute(device),
        }
    }

    /// How a decoder stores weights, where it is not as they are loaded.
    pub fn storage(self) -> Option<Storage> {
        match self {
            ModelPrecision::Auto | ModelPrecision::Fp32 => None,
            ModelPrecision::Bf16 => Some(Storage::Bf16),
            ModelPrecision::Fp16 => Some(Storage::F16),
            ModelPrecision::Int8 => Some(Storage::Int8),
        }
    }

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            ModelPrecision::Auto => "auto",
            ModelPrecision::Fp32 => "fp32",
            ModelPrecision::Bf16 => "bf16",
            ModelPrecision::Fp16 => "fp16",
            ModelPrecision::Int8 => "int8",
        }
    }
}
