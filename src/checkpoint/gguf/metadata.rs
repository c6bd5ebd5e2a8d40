//! The architecture, as llama.cpp names it.
//!
//! minimind3 is Qwen3, or Qwen3-MoE, weight for weight; minimind2's dense model is Llama. Keys are those of
//! ggml's `docs/gguf.md` and llama.cpp's `llama-arch.cpp`.

use serde_json::{Value as Json, json};

use super::names::{self, Heads};
use super::reader::{Gguf, Meta};
use super::writer::Head;
use super::{Contents, Precision, rope};
use crate::error::{Error, Result};
use crate::model::config::{YARN_BETA_FAST, YARN_BETA_SLOW, YARN_FACTOR, YARN_ORIGINAL_POSITIONS};
use crate::model::rope_scaling::RopeScaling;
use crate::model::{Era, ModelConfig};

/// The architectures that are ours too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Arch {
    Llama,
    Qwen2,
    Qwen3,
    Qwen3Moe,
}

impl Arch {
    fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
            Self::Qwen3Moe => "qwen3moe",
        }
    }

    /// What a file says it is.
    pub fn of(file: &Gguf) -> Result<Self> {
        let said = file.text("general.architecture").unwrap_or_default();
        let known = [Self::Llama, Self::Qwen2, Self::Qwen3, Self::Qwen3Moe];
        let arch = known.into_iter().find(|arch| arch.name() == said).ok_or_else(|| {
            Error::failed(format!("this GGUF has the architecture `{}`", said.escape_debug()))
                .because("llama, qwen2, qwen3 and qwen3moe are read")
        })?;
        if arch == Self::Llama && file.int("llama.expert_count").is_some_and(|n| n > 0) {
            return Err(Error::failed("this GGUF is a Llama with experts, which is not read here"));
        }
        Ok(arch)
    }

    /// The twin of a model.
    pub fn for_config(config: &ModelConfig) -> Result<Self> {
        let none = |why: &str| {
            Error::failed("this model has no twin in llama.cpp").because(why.to_owned()).hint(
                "minimind export huggingface or safetensors keeps every weight; dense models and minimind3-moe go to GGUF",
            )
        };
        let factors =
            matches!(config.rope_scaling, Some(RopeScaling::Llama3 { .. } | RopeScaling::Factors { .. }));
        if config.rope_scaling.is_some() && !(factors && config.era == Era::MiniMind2) {
            return Err(none("positions are stretched in a way that is not written here yet"));
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

fn missing(key: &str) -> Error {
    Error::failed(format!("this GGUF does not say `{key}`"))
}

/// Heads of a file.
pub fn heads(file: &Gguf, arch: Arch) -> Result<Heads> {
    let get = |key: &str| file.int(&format!("{}.attention.{key}", arch.name()));
    let query = get("head_count").ok_or_else(|| missing("attention.head_count"))?;
    Ok(Heads { query, kv: get("head_count_kv").unwrap_or(query) })
}

/// The architecture of a file as a `config.json`.
pub fn config_json(file: &Gguf) -> Result<Json> {
    let arch = Arch::of(file)?;
    let key = |key: &str| format!("{}.{key}", arch.name());
    let int = |name: &str| file.int(&key(name)).ok_or_else(|| missing(&key(name)));
    let heads = heads(file, arch)?;
    let hidden = int("embedding_length")?;
    let rows = file.entries().iter().find(|e| e.name == "token_embd.weight").map(|e| e.shape[0]);
    let even = hidden.checked_div(heads.query).unwrap_or(0);
    let mut config = json!({
        "model_type": match arch { Arch::Llama => "llama", Arch::Qwen2 => "qwen2", Arch::Qwen3 => "qwen3", Arch::Qwen3Moe => "qwen3_moe" },
        "era": if matches!(arch, Arch::Llama | Arch::Qwen2) { Era::MiniMind2.name() } else { Era::MiniMind3.name() },
        "hidden_size": hidden,
        "num_hidden_layers": int("block_count")?,
        "num_attention_heads": heads.query,
        "num_key_value_heads": heads.kv,
        "head_dim": file.int(&key("attention.key_length")).unwrap_or(even),
        "vocab_size": rows.ok_or_else(|| missing("token_embd.weight"))?,
        "intermediate_size": int("feed_forward_length")?,
        "max_position_embeddings": int("context_length")?,
        "rms_norm_eps": file.float(&key("attention.layer_norm_rms_epsilon")).ok_or_else(|| missing("layer_norm_rms_epsilon"))?,
        "rope_theta": file.float(&key("rope.freq_base")).unwrap_or(1e4),
        "tie_word_embeddings": file.entries().iter().all(|e| e.name != "output.weight"),
        "hidden_act": "silu",
        "use_moe": arch == Arch::Qwen3Moe,
    });
    if arch == Arch::Qwen3Moe {
        config["num_experts"] = int("expert_count")?.into();
        config["num_experts_per_tok"] = int("expert_used_count")?.into();
        config["moe_intermediate_size"] = int("expert_feed_forward_length")?.into();
        config["norm_topk_prob"] = true.into();
        config["n_shared_experts"] = 0.into();
    }
    if arch == Arch::Llama {
        // Some Llamas and Mistrals have biases, which the tensors tell alone.
        let has = |part: &str| file.entries().iter().any(|e| e.name == format!("blk.0.{part}.bias"));
        config["qkv_bias"] = has("attn_q").into();
        config["o_bias"] = has("attn_output").into();
        config["mlp_bias"] = has("ffn_up").into();
    }
    scaling(file, &key, &mut config)?;
    factors(file, arch, &mut config)?;
    Ok(config)
}

/// A stretch that a tensor of factors states.
fn factors(file: &Gguf, arch: Arch, config: &mut Json) -> Result<()> {
    let Some(entry) = file.entries().iter().find(|e| e.name == rope::FACTORS) else { return Ok(()) };
    let wrong = |why: &str| {
        Err(Error::failed("this model stretches its positions in a way that is not read here")
            .because(format!("it has a tensor `{}`{why}", rope::FACTORS)))
    };
    if arch != Arch::Llama {
        return wrong(", which llama.cpp passes over in this architecture");
    }
    if !config["rope_scaling"].is_null() {
        return wrong(" and `rope.scaling.type`");
    }
    let list = names::numbers(file, entry)?;
    let pairs = config["head_dim"].as_i64().unwrap_or(0) / 2;
    if list.len() as i64 != pairs || list.iter().any(|x| !(*x > 0.0 && x.is_finite())) {
        return wrong(&format!(" of {} numbers, expected {pairs} above 0", list.len()));
    }
    if let Some(scaling) = rope::scaling(list, config["rope_theta"].as_f64().unwrap_or(1e4)) {
        config["rope_scaling"] = scaling.to_json();
    }
    Ok(())
}

/// Only the stretch that upstream knows is read: another would give wrong answers without a word.
fn scaling(file: &Gguf, key: &impl Fn(&str) -> String, config: &mut Json) -> Result<()> {
    let number = |name: &str| file.float(&key(&format!("rope.scaling.{name}")));
    match file.get(&key("rope.scaling.type")) {
        None => Ok(()),
        Some(Meta::Text(kind)) if kind == "none" => Ok(()),
        Some(Meta::Text(kind))
            if kind == "yarn"
                && number("factor") == Some(YARN_FACTOR)
                && number("original_context_length") == Some(YARN_ORIGINAL_POSITIONS as f64) =>
        {
            config["rope_scaling"] = json!({
                "type": "yarn", "factor": YARN_FACTOR, "original_max_position_embeddings": YARN_ORIGINAL_POSITIONS,
                "beta_fast": YARN_BETA_FAST, "beta_slow": YARN_BETA_SLOW, "attention_factor": 1.0,
            });
            Ok(())
        }
        Some(other) => {
            Err(Error::failed("this model stretches its positions in a way that is not read here")
                .because(format!("rope.scaling.type is {other:?}, its factor {:?}", number("factor"))))
        }
    }
}

/// Puts the architecture into a file's head.
pub fn put(head: &mut Head, contents: &Contents<'_>, arch: Arch) -> Result<()> {
    let config = contents.config;
    let key = |key: &str| format!("{}.{key}", arch.name());
    head.text("general.architecture", arch.name());
    head.text("general.type", "model");
    head.text("general.name", contents.name);
    // llama.cpp's `llama_ftype`, for people and file listings.
    head.int(
        "general.file_type",
        match contents.precision {
            Precision::F32 => 0,
            Precision::F16 => 1,
            Precision::Bf16 => 32,
            Precision::Q4_0 => 2,
            Precision::Q8_0 => 7,
        },
    )?;
    head.int("general.quantization_version", 2)?;
    head.int(&key("block_count"), config.num_hidden_layers)?;
    head.int(&key("context_length"), config.max_position_embeddings)?;
    head.int(&key("embedding_length"), config.hidden_size)?;
    head.int(&key("feed_forward_length"), config.intermediate_size)?;
    head.int(&key("vocab_size"), config.vocab_size)?;
    head.int(&key("attention.head_count"), config.num_attention_heads)?;
    head.int(&key("attention.head_count_kv"), config.num_key_value_heads)?;
    head.int(&key("attention.key_length"), config.head_dim)?;
    head.int(&key("attention.value_length"), config.head_dim)?;
    head.float(&key("attention.layer_norm_rms_epsilon"), config.rms_norm_eps);
    head.int(&key("rope.dimension_count"), config.head_dim)?;
    head.float(&key("rope.freq_base"), config.rope_theta);
    if let Some(moe) = &config.moe {
        head.int(&key("expert_count"), moe.num_experts)?;
        head.int(&key("expert_used_count"), moe.num_experts_per_tok)?;
        head.int(&key("expert_feed_forward_length"), moe.moe_intermediate_size)?;
    }
    if config.inference_rope_scaling && config.max_position_embeddings > YARN_ORIGINAL_POSITIONS {
        let factor = YARN_FACTOR;
        head.text(&key("rope.scaling.type"), "yarn");
        head.float(&key("rope.scaling.factor"), factor);
        head.int(&key("rope.scaling.original_context_length"), YARN_ORIGINAL_POSITIONS)?;
        head.float(&key("rope.scaling.yarn_beta_fast"), YARN_BETA_FAST);
        head.float(&key("rope.scaling.yarn_beta_slow"), YARN_BETA_SLOW);
        // llama.cpp multiplies q and k by 1 + 0.1 ln(factor), as the paper does; upstream does not.
        head.float(&key("rope.scaling.attn_factor"), 1.0 / (1.0 + 0.1 * factor.ln()));
    }
    Ok(())
}
