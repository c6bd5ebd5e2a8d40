//! A Hugging Face folder: `AutoModelForCausalLM` and `AutoTokenizer` load it without remote code.
//!
//! A model is written as the library's class that computes the same: minimind3 as Qwen3 or Qwen3-MoE,
//! minimind2's dense model as Llama (Qwen2 where only queries, keys and values have biases). minimind2's MoE
//! has no such class (softmax before top-k, shared experts, no gate on them), so its folder keeps
//! MiniMind's own layout: this program reads it, and MiniMind's own code. Next: `huggingface_tokenizer`.

use std::collections::HashMap;
use std::path::Path;

use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

use super::huggingface_tokenizer::{self, write_json};
use super::options::Precision;
use super::source::Source;
use crate::checkpoint::{DType, HostTensor, METADATA, convert, eos, safetensors};
use crate::error::{Error, Result};
use crate::model::config::YARN_ORIGINAL_POSITIONS;
use crate::model::hf_config::yarn_is_shared;
use crate::model::rope_scaling::RopeScaling;
use crate::model::{CausalLm, Era, ModelConfig};

pub use super::huggingface_tokenizer::SpecialIds;

/// The class of the transformers library that computes the same model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HfClass {
    /// minimind2, dense.
    Llama,
    /// The same with biases on queries, keys and values alone.
    Qwen2,
    /// minimind3, dense.
    Qwen3,
    /// minimind3's MoE.
    Qwen3Moe,
    /// None: MiniMind's own layout.
    MiniMind,
}

impl HfClass {
    /// The class for an architecture.
    pub fn of(config: &ModelConfig) -> Self {
        let (qkv, o, mlp) = (config.qkv_bias, config.o_bias, config.mlp_bias);
        let own_width = config.head_dim * config.num_attention_heads != config.hidden_size;
        match (config.era, &config.moe) {
            (Era::MiniMind2, None) if qkv == o => Self::Llama,
            (Era::MiniMind2, None) if qkv && !mlp && !own_width => Self::Qwen2,
            (Era::MiniMind3, None) if qkv == o && !mlp => Self::Qwen3,
            (Era::MiniMind3, Some(moe)) if qkv == o && !mlp && moe.n_shared_experts == 0 => Self::Qwen3Moe,
            _ => Self::MiniMind,
        }
    }

    /// `model_type` and the name of the class.
    pub fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Llama => ("llama", "LlamaForCausalLM"),
            Self::Qwen2 => ("qwen2", "Qwen2ForCausalLM"),
            Self::Qwen3 => ("qwen3", "Qwen3ForCausalLM"),
            Self::Qwen3Moe => ("qwen3_moe", "Qwen3MoeForCausalLM"),
            Self::MiniMind => ("minimind", "MiniMindForCausalLM"),
        }
    }

    /// What the user should know of the choice.
    pub fn note(self) -> Option<&'static str> {
        (self == Self::MiniMind).then_some(
            "the transformers library has no class that computes this model; the folder keeps MiniMind's layout, \
             which this program and MiniMind's own code read",
        )
    }
}

/// `config.json` of a model whose weights are stored as `kind`.
///
/// # Errors
/// YaRN is on and the library would compute it differently for these heads; a type that is not exported.
pub fn config_json(config: &ModelConfig, kind: Kind, ids: &SpecialIds) -> Result<Value> {
    let class = HfClass::of(config);
    let (family, class_name) = class.names();
    let dtype = dtype_name(kind)?;
    let mut value =
        if class == HfClass::MiniMind { config.to_json() } else { library_config(config, class)? };
    let common = json!({
        "architectures": [class_name],
        "model_type": family,
        "bos_token_id": ids.bos,
        "eos_token_id": eos::to_json(&ids.ends),
        "pad_token_id": ids.pad,
        "torch_dtype": dtype,
    });
    for (key, entry) in common.as_object().into_iter().flatten() {
        value[key] = entry.clone();
    }
    Ok(value)
}

/// The keys that the library's classes share, and those of each.
fn library_config(config: &ModelConfig, class: HfClass) -> Result<Value> {
    let (scaling, positions) = rope(config)?;
    let mut value = json!({
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": positions,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_theta,
        "rope_scaling": scaling.map(|s| s.to_json()),
        "tie_word_embeddings": config.tie_word_embeddings,
        "hidden_act": "silu",
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "use_cache": true,
    });
    if class != HfClass::Qwen2 {
        value["attention_bias"] = config.qkv_bias.into();
    }
    match class {
        HfClass::Llama => value["mlp_bias"] = config.mlp_bias.into(),
        _ => {
            value["use_sliding_window"] = false.into();
            value["sliding_window"] = Value::Null;
            value["max_window_layers"] = config.num_hidden_layers.into();
        }
    }
    if let Some(moe) = &config.moe {
        value["num_experts"] = moe.num_experts.into();
        value["num_experts_per_tok"] = moe.num_experts_per_tok.into();
        value["moe_intermediate_size"] = moe.moe_intermediate_size.into();
        value["norm_topk_prob"] = moe.norm_topk_prob.into();
        value["router_aux_loss_coef"] = moe.aux_loss_coef.into();
        value["decoder_sparse_step"] = 1.into();
        value["mlp_only_layers"] = json!([]);
        value["output_router_logits"] = false.into();
    }
    Ok(value)
}

/// The rope scaling to state, and the largest position.
fn rope(config: &ModelConfig) -> Result<(Option<RopeScaling>, i64)> {
    let positions = config.max_position_embeddings;
    if let Some(scaling) = config.rope_scaling.clone() {
        return Ok((Some(scaling), positions));
    }
    if !(config.inference_rope_scaling && positions > YARN_ORIGINAL_POSITIONS) {
        return Ok((None, positions));
    }
    if !yarn_is_shared(config.head_dim, config.rope_theta) {
        return Err(Error::failed(format!(
            "MiniMind's YaRN differs from the transformers library's for heads of {} with rope_theta {}",
            config.head_dim, config.rope_theta
        ))
        .hint("export without --yarn"));
    }
    let yarn = RopeScaling::minimind_yarn();
    // Some versions of the library take the factor from the ratio of the two lengths instead.
    let RopeScaling::Yarn { factor, original, .. } = yarn else { return Ok((Some(yarn), positions)) };
    Ok((Some(yarn), (factor * original) as i64))
}

fn dtype_name(kind: Kind) -> Result<&'static str> {
    match kind {
        Kind::Float => Ok("float32"),
        Kind::Half => Ok("float16"),
        Kind::BFloat16 => Ok("bfloat16"),
        other => Err(Error::failed(format!("weights of type {other:?} cannot be exported"))),
    }
}

/// `generation_config.json` with upstream's sampling parameters.
pub fn generation_json(ids: &SpecialIds) -> Value {
    json!({
        "bos_token_id": ids.bos,
        "eos_token_id": eos::to_json(&ids.ends),
        "pad_token_id": ids.pad,
        "do_sample": true,
        "temperature": 0.85,
        "top_p": 0.85,
    })
}

/// Writes the folder of `source`: weights, configs, and the tokenizer where there is one.
///
/// # Errors
/// The library would compute this model's YaRN differently, the tokenizer cannot be read, or the disk fails.
pub fn write(source: &Source, precision: Precision, max_shard_bytes: u64, folder: &Path) -> Result<()> {
    let config = source.model.config();
    if let Some(note) = HfClass::of(config).note() {
        tracing::warn!("{note}");
    }
    let ids = match &source.tokenizer {
        Some(from) => huggingface_tokenizer::write(from, folder, config.max_position_embeddings)?,
        None => SpecialIds::default(),
    };
    let ids = SpecialIds { ends: source.ends.clone(), ..ids };
    let mut about = source.describe(folder);
    if let Some(about) = about.as_object_mut() {
        // The folder's config.json and tokenizer count, also after the user changed them.
        about.remove("config");
        about.remove(eos::KEY);
        about.remove("tokenizer");
    }
    let kind = precision.kind();
    let contents = FolderContents { kind, ids: &ids, max_shard_bytes, metadata: &about };
    write_model(&source.model, &contents, folder)
}

/// What a folder holds beside the weights.
#[derive(Debug)]
pub struct FolderContents<'a> {
    /// Element type of the weights, which are rounded to it.
    pub kind: Kind,
    /// Special token ids.
    pub ids: &'a SpecialIds,
    /// A weight file of more bytes is split into shards.
    pub max_shard_bytes: u64,
    /// Our metadata for the weight files.
    pub metadata: &'a Value,
}

/// Writes weights, `config.json` and `generation_config.json` into `folder`.
///
/// # Errors
/// The library would compute this model's YaRN differently, or the disk fails.
pub fn write_model(model: &CausalLm, contents: &FolderContents<'_>, folder: &Path) -> Result<()> {
    let &FolderContents { kind, ids, max_shard_bytes, metadata: about } = contents;
    let config = config_json(model.config(), kind, ids)?;
    std::fs::create_dir_all(folder).map_err(|e| Error::io("create the folder", folder, e))?;
    let dtype =
        DType::from_kind(kind).ok_or_else(|| Error::failed("weights of this type cannot be written"))?;
    let shards = shards(model, dtype, max_shard_bytes);
    let mut map = serde_json::Map::new();
    let mut total = 0u64;
    for (i, shard) in shards.iter().enumerate() {
        let name = match shards.len() {
            1 => "model.safetensors".to_owned(),
            n => format!("model-{:05}-of-{n:05}.safetensors", i + 1),
        };
        let mut tensors = Vec::with_capacity(shard.len());
        for (key, tensor) in shard {
            let host = converted(tensor, kind)?;
            total += (host.numel() * dtype.size()) as u64;
            map.insert((*key).to_owned(), name.clone().into());
            tensors.push(((*key).to_owned(), host));
        }
        // The library requires the framework in the metadata.
        let metadata = [("format".to_owned(), "pt".to_owned()), (METADATA.to_owned(), about.to_string())];
        safetensors::write(&folder.join(&name), &tensors, HashMap::from(metadata))?;
    }
    if shards.len() > 1 {
        let index = json!({"metadata": {"total_size": total}, "weight_map": map});
        write_json(&folder.join("model.safetensors.index.json"), &index)?;
    }
    write_json(&folder.join("config.json"), &config)?;
    write_json(&folder.join("generation_config.json"), &generation_json(ids))
}

fn converted(tensor: &Tensor, kind: Kind) -> Result<HostTensor> {
    convert::to_host(&tensor.detach().f_to_device(Device::Cpu)?.f_to_kind(kind)?.f_contiguous()?)
}

/// The table of parameters in runs of at most `most` bytes; a tensor is never cut.
fn shards(model: &CausalLm, dtype: DType, most: u64) -> Vec<Vec<(&str, &Tensor)>> {
    let mut shards = vec![Vec::new()];
    let mut held = 0u64;
    for (name, tensor) in model.params().names().iter().zip(model.params().tensors()) {
        let bytes = (tensor.numel() * dtype.size()) as u64;
        if held > 0 && held.saturating_add(bytes) > most {
            shards.push(Vec::new());
            held = 0;
        }
        held += bytes;
        if let Some(last) = shards.last_mut() {
            last.push((name.as_str(), tensor));
        }
    }
    shards
}
