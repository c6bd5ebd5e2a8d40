//! The architectures of llama.cpp that are ours too: minimind3 is Qwen3 or Qwen3-MoE, minimind2's dense model is Llama.
//!
//! Names are those of llama.cpp's `llama-arch.cpp`. Next: `metadata` (the keys), `tensor_names` (the weights).

use super::reader::Gguf;
use crate::error::{Error, Result};
use crate::model::rope_scaling::RopeScaling;
use crate::model::{Era, ModelConfig};

/// Number of query heads, and of key and value heads.
#[derive(Debug, Clone, Copy)]
pub struct Heads {
    /// Query heads.
    pub query: i64,
    /// Key and value heads.
    pub kv: i64,
}

/// An architecture of llama.cpp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Arch {
    Llama,
    Qwen2,
    Qwen3,
    Qwen3Moe,
}

impl Arch {
    /// `llama`, `qwen3`, ...; also the prefix of its metadata keys.
    pub fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
            Self::Qwen3Moe => "qwen3moe",
        }
    }

    /// The architecture that a file states.
    ///
    /// # Errors
    /// It is one that is not read here.
    pub fn of(file: &Gguf) -> Result<Self> {
        let stated = file.text("general.architecture").unwrap_or_default();
        let known = [Self::Llama, Self::Qwen2, Self::Qwen3, Self::Qwen3Moe];
        let arch = known.into_iter().find(|arch| arch.name() == stated).ok_or_else(|| {
            Error::failed(format!("this GGUF has the architecture `{}`", stated.escape_debug()))
                .because("llama, qwen2, qwen3 and qwen3moe are read")
        })?;
        if arch == Self::Llama && file.int("llama.expert_count").is_some_and(|n| n > 0) {
            return Err(Error::failed("this GGUF is a Llama with experts, which is not read here"));
        }
        Ok(arch)
    }

    /// The architecture that computes the same as a model.
    ///
    /// # Errors
    /// llama.cpp has none; the reason is named.
    pub fn for_config(config: &ModelConfig) -> Result<Self> {
        let none = |why: &str| {
            Error::failed("llama.cpp has no architecture that computes this model").because(why.to_owned()).hint(
                "minimind export huggingface or safetensors keeps every weight; dense models and minimind3-moe go to GGUF",
            )
        };
        let factors =
            matches!(config.rope_scaling, Some(RopeScaling::Llama3 { .. } | RopeScaling::Factors { .. }));
        if config.rope_scaling.is_some() && !(factors && config.era == Era::MiniMind2) {
            return Err(none("this kind of rope scaling is not written to GGUF yet"));
        }
        match (config.era, &config.moe) {
            (Era::MiniMind2, None) => Ok(Self::Llama),
            (Era::MiniMind3, None) => Ok(Self::Qwen3),
            (Era::MiniMind2, Some(_)) => {
                Err(none("no architecture there has minimind2's routed and shared experts without a gate"))
            }
            (Era::MiniMind3, Some(moe)) if moe.n_shared_experts > 0 => {
                Err(none("Qwen3-MoE has no shared experts"))
            }
            (Era::MiniMind3, Some(moe)) if !moe.norm_topk_prob => {
                Err(none("Qwen3-MoE there always makes the chosen experts' weights sum to one"))
            }
            (Era::MiniMind3, Some(_)) => Ok(Self::Qwen3Moe),
        }
    }
}

/// The fault of a metadata key that has to be there.
pub fn missing(key: &str) -> Error {
    Error::failed(format!("this GGUF does not say `{key}`"))
}

/// The head counts that a file states.
///
/// # Errors
/// There are none.
pub fn heads(file: &Gguf, arch: Arch) -> Result<Heads> {
    let get = |key: &str| file.int(&format!("{}.attention.{key}", arch.name()));
    let query = get("head_count").ok_or_else(|| missing("attention.head_count"))?;
    Ok(Heads { query, kv: get("head_count_kv").unwrap_or(query) })
}
