//! The architecture as metadata keys, read into a `config.json` and written from a config.
//!
//! Keys are those of ggml's `docs/gguf.md` and llama.cpp's `llama-arch.cpp`. Next: `rope_freqs`.

use serde_json::{Value as Json, json};

use super::arch::{Arch, heads, missing};
use super::ggml_type::FileType;
use super::reader::{Gguf, MetaValue};
use super::writer::MetadataWriter;
use super::{rope_freqs, tensor_names};
use crate::error::{Error, Result};
use crate::model::config::{YARN_BETA_FAST, YARN_BETA_SLOW, YARN_FACTOR, YARN_ORIGINAL_POSITIONS};
use crate::model::{Era, ModelConfig};

/// The architecture of a file as a Hugging Face `config.json` would state it.
///
/// # Errors
/// An architecture or rope scaling that is not read here; a key that is missing.
pub fn config_json(file: &Gguf) -> Result<Json> {
    let arch = Arch::of(file)?;
    let key = |key: &str| format!("{}.{key}", arch.name());
    let int = |name: &str| file.int(&key(name)).ok_or_else(|| missing(&key(name)));
    let heads = heads(file, arch)?;
    let hidden = int("embedding_length")?;
    let rows = file.tensors().iter().find(|e| e.name == "token_embd.weight").map(|e| e.shape[0]);
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
        "tie_word_embeddings": file.tensors().iter().all(|e| e.name != "output.weight"),
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
        let has = |part: &str| file.tensors().iter().any(|e| e.name == format!("blk.0.{part}.bias"));
        config["qkv_bias"] = has("attn_q").into();
        config["o_bias"] = has("attn_output").into();
        config["mlp_bias"] = has("ffn_up").into();
    }
    add_scaling(file, &key, &mut config)?;
    add_factors(file, arch, &mut config)?;
    Ok(config)
}

/// Adds the rope scaling that a tensor of factors states.
fn add_factors(file: &Gguf, arch: Arch, config: &mut Json) -> Result<()> {
    let Some(entry) = file.tensors().iter().find(|e| e.name == rope_freqs::FACTORS) else { return Ok(()) };
    let wrong = |why: &str| {
        Err(Error::failed("this kind of rope scaling is not read here")
            .because(format!("it has a tensor `{}`{why}", rope_freqs::FACTORS)))
    };
    if arch != Arch::Llama {
        return wrong(", which llama.cpp passes over in this architecture");
    }
    if !config["rope_scaling"].is_null() {
        return wrong(" and `rope.scaling.type`");
    }
    let list = tensor_names::to_floats(file, entry)?;
    let pairs = config["head_dim"].as_i64().unwrap_or(0) / 2;
    if list.len() as i64 != pairs || list.iter().any(|x| !(*x > 0.0 && x.is_finite())) {
        return wrong(&format!(" of {} numbers, expected {pairs} above 0", list.len()));
    }
    if let Some(scaling) = rope_freqs::scaling(list, config["rope_theta"].as_f64().unwrap_or(1e4)) {
        config["rope_scaling"] = scaling.to_json();
    }
    Ok(())
}

/// Adds the rope scaling of the metadata. Only upstream's YaRN is read: another would silently give wrong answers.
fn add_scaling(file: &Gguf, key: &impl Fn(&str) -> String, config: &mut Json) -> Result<()> {
    let number = |name: &str| file.float(&key(&format!("rope.scaling.{name}")));
    match file.get(&key("rope.scaling.type")) {
        None => Ok(()),
        Some(MetaValue::Text(kind)) if kind == "none" => Ok(()),
        Some(MetaValue::Text(kind))
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
        Some(other) => Err(Error::failed("this kind of rope scaling is not read here")
            .because(format!("rope.scaling.type is {other:?}, its factor {:?}", number("factor")))),
    }
}

/// Writes the architecture, a name for people and the file type as metadata.
///
/// # Errors
/// A number that does not fit 32 bits.
pub fn put(
    head: &mut MetadataWriter,
    config: &ModelConfig,
    arch: Arch,
    name: &str,
    file_type: FileType,
) -> Result<()> {
    let key = |key: &str| format!("{}.{key}", arch.name());
    head.text("general.architecture", arch.name());
    head.text("general.type", "model");
    head.text("general.name", name);
    // llama.cpp's `llama_ftype`, for people and file listings.
    head.int(
        "general.file_type",
        match file_type {
            FileType::F32 => 0,
            FileType::F16 => 1,
            FileType::Bf16 => 32,
            FileType::Q4_0 => 2,
            FileType::Q8_0 => 7,
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
