//! Reads a Hugging Face `config.json`: MiniMind's keys, and those of the Llama, Mistral and Qwen families.
//!
//! A family decides the arithmetic (Llama, Mistral and Qwen2 compute as minimind2 does, Qwen3 as
//! minimind3) and what a missing key means there. What the code would compute otherwise than the model's
//! authors is refused, never ignored. Next: `config`, whose `resolve` fills the rest.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::config::{
    Era, ModelOverrides, YARN_BETA_FAST, YARN_BETA_SLOW, YARN_FACTOR, YARN_ORIGINAL_POSITIONS,
};
use super::rope_scaling::RopeScaling;
use crate::error::{Error, Result};

/// Values of `model_type` that we compute.
pub const FAMILIES: [&str; 6] = ["minimind", "llama", "mistral", "qwen2", "qwen3", "qwen3_moe"];

/// Typed access to the keys of a config; null counts as absent.
pub(super) struct Keys<'a>(&'a Map<String, Value>);

/// A value as a config states it.
pub(super) trait ConfigValue: Sized {
    /// What it must be, in words.
    const EXPECTED: &'static str;
    /// The value, where it is that.
    fn read(value: &Value) -> Option<Self>;
}

impl ConfigValue for i64 {
    const EXPECTED: &'static str = "a whole number";
    fn read(value: &Value) -> Option<Self> {
        value.as_i64()
    }
}

impl ConfigValue for f64 {
    const EXPECTED: &'static str = "a number";
    fn read(value: &Value) -> Option<Self> {
        value.as_f64()
    }
}

impl ConfigValue for bool {
    const EXPECTED: &'static str = "true or false";
    fn read(value: &Value) -> Option<Self> {
        value.as_bool()
    }
}

impl ConfigValue for Era {
    const EXPECTED: &'static str = "minimind2 or minimind3";
    fn read(value: &Value) -> Option<Self> {
        Self::deserialize(value).ok()
    }
}

impl<'a> Keys<'a> {
    fn find(&self, names: &[&str]) -> Option<(String, &'a Value)> {
        names
            .iter()
            .find_map(|name| self.0.get(*name).filter(|v| !v.is_null()).map(|v| ((*name).to_owned(), v)))
    }

    /// The value under the first of `names` that is there.
    pub(super) fn read<T: ConfigValue>(&self, names: &[&str]) -> Result<Option<T>> {
        let read =
            |(name, value): (String, &Value)| T::read(value).ok_or_else(|| wrong(&name, value, T::EXPECTED));
        self.find(names).map(read).transpose()
    }

    fn text(&self, name: &str) -> Option<&'a str> {
        self.0.get(name).and_then(Value::as_str)
    }
}

fn wrong(name: &str, value: &Value, want: &str) -> Error {
    Error::failed(format!("`{name}` in the model config is {value}, expected {want}"))
}

impl ModelOverrides {
    /// Reads the keys of a `config.json`; keys that change nothing here (Hugging Face writes many) are
    /// passed over.
    ///
    /// # Errors
    /// A value of the wrong type, a family we do not compute, or a feature of one.
    pub fn from_json(value: &Value) -> Result<Self> {
        let object =
            value.as_object().ok_or_else(|| Error::failed("the model config is not a JSON object"))?;
        let keys = Keys(object);
        let family = keys.text("model_type").unwrap_or("minimind");
        refuse(&keys, family)?;
        let mut stated = Self::from_keys(&keys)?;
        let both = keys.read(&["attention_bias"])?;
        (stated.qkv_bias, stated.o_bias) = (stated.qkv_bias.or(both), stated.o_bias.or(both));
        // Upstream's own files name no era, but only those of 2025 have these keys.
        if keys.find(&["n_routed_experts", "aux_loss_alpha", "seq_aux"]).is_some() {
            stated.era = stated.era.or(Some(Era::MiniMind2));
        }
        rope(&keys, family, &mut stated)?;
        family_defaults(&keys, family, &mut stated)?;
        Ok(stated)
    }
}

/// `rope_theta` and `rope_scaling`, or `rope_parameters`, which holds both in newer files.
fn rope(keys: &Keys<'_>, family: &str, stated: &mut ModelOverrides) -> Result<()> {
    for name in ["rope_scaling", "rope_parameters"] {
        let Some((_, value)) = keys.find(&[name]) else { continue };
        if !value.is_object() {
            return Err(wrong(name, value, "an object or null"));
        }
        if let Some(theta) = value.get("rope_theta").and_then(Value::as_f64) {
            stated.rope_theta = Some(theta);
        }
        let partial = value.get("partial_rotary_factor").and_then(Value::as_f64);
        if partial.is_some_and(|share| share != 1.0) {
            return Err(unsupported("turns only a part of each head (partial_rotary_factor)"));
        }
        let scaling = RopeScaling::from_json(value, stated.max_position_embeddings)?;
        if stated.inference_rope_scaling == Some(false) && scaling == Some(RopeScaling::minimind_yarn()) {
            continue; // MiniMind writes the numbers and, beside them, whether they are used.
        }
        if scaling == Some(RopeScaling::minimind_yarn()) && (family == "minimind" || same_yarn(stated)) {
            stated.inference_rope_scaling = Some(true);
        } else if scaling.is_some() {
            stated.rope_scaling = scaling;
        }
    }
    if let Some(theta) = stated.rope_theta.filter(|t| !(*t > 1.0 && t.is_finite())) {
        return Err(Error::failed(format!(
            "`rope_theta` in the model config is {theta}, expected more than 1"
        )));
    }
    Ok(())
}

/// Whether MiniMind's YaRN, which ends its ramp at half the head, is here what its numbers mean elsewhere.
fn same_yarn(stated: &ModelOverrides) -> bool {
    let positions = stated.max_position_embeddings.is_none_or(|p| p > YARN_ORIGINAL_POSITIONS);
    let head = stated.head_dim.or_else(|| {
        stated.hidden_size.zip(stated.num_attention_heads).filter(|(_, h)| *h > 0).map(|(d, h)| d / h)
    });
    positions && head.is_some_and(|e| yarn_is_shared(e, stated.rope_theta.unwrap_or(1e6)))
}

/// Whether a head of `head_dim` with `theta` gets the same frequencies from MiniMind's YaRN as from the
/// transformers library's, given the same numbers.
pub fn yarn_is_shared(head_dim: i64, theta: f64) -> bool {
    let turns = |beta: f64| {
        head_dim as f64 * (YARN_ORIGINAL_POSITIONS as f64 / (beta * 2.0 * std::f64::consts::PI)).ln()
            / (2.0 * theta.ln())
    };
    let (low, high) = (turns(YARN_BETA_FAST).floor().max(0.0), turns(YARN_BETA_SLOW).ceil());
    YARN_FACTOR == 1.0 || (high > low && high <= (head_dim / 2 - 1) as f64)
}

/// What a family computes that we do not.
fn refuse(keys: &Keys<'_>, family: &str) -> Result<()> {
    if !FAMILIES.contains(&family) {
        return Err(Error::failed(format!("`model_type` is {family}"))
            .hint(format!("these are supported: {}", FAMILIES.join(", "))));
    }
    if let Some(act) = keys.text("hidden_act").filter(|act| !["silu", "swish"].contains(act)) {
        return Err(unsupported(&format!("has the activation {act} instead of silu")));
    }
    if keys.find(&["quantization_config"]).is_some() {
        return Err(unsupported("is quantised").hint("take the folder of the unquantised weights"));
    }
    if keys.read(&["partial_rotary_factor"])?.is_some_and(|share: f64| share != 1.0) {
        return Err(unsupported("turns only a part of each head (partial_rotary_factor)"));
    }
    if family == "qwen3_moe" {
        let dense = keys.find(&["mlp_only_layers"]).and_then(|(_, v)| v.as_array());
        if dense.is_some_and(|layers| !layers.is_empty())
            || keys.read(&["decoder_sparse_step"])?.is_some_and(|step: i64| step != 1)
        {
            return Err(unsupported(
                "has experts in some layers only (mlp_only_layers, decoder_sparse_step)",
            ));
        }
    }
    Ok(())
}

fn unsupported(what: &str) -> Error {
    Error::failed(format!("this model {what}, which is not supported"))
}

/// What a missing key means in each family (its configuration class in transformers), and the window
/// within which its attention is ours.
fn family_defaults(keys: &Keys<'_>, family: &str, stated: &mut ModelOverrides) -> Result<()> {
    let (era, positions) = match family {
        "llama" => (Era::MiniMind2, 2048),
        "mistral" => (Era::MiniMind2, 131_072),
        "qwen2" => (Era::MiniMind2, 32_768),
        "qwen3" | "qwen3_moe" => (Era::MiniMind3, 32_768),
        _ => return Ok(()),
    };
    stated.era = stated.era.or(Some(era));
    stated.rope_theta = stated.rope_theta.or(Some(1e4));
    stated.rms_norm_eps = stated.rms_norm_eps.or(Some(1e-6));
    stated.max_position_embeddings = stated.max_position_embeddings.or(Some(positions));
    if family == "qwen2" {
        (stated.qkv_bias, stated.o_bias) = (Some(true), Some(false));
    }
    if family == "qwen3_moe" {
        stated.use_moe = Some(true);
        stated.num_experts_per_tok = stated.num_experts_per_tok.or(Some(8));
        stated.norm_topk_prob = stated.norm_topk_prob.or(Some(false));
        stated.aux_loss_coef = stated.aux_loss_coef.or(Some(1e-3));
    }
    // Within the window every token sees all before it; beyond, the model would look at fewer than we do.
    let windowed = match family {
        "mistral" => true,
        "qwen2" | "qwen3" | "qwen3_moe" => keys.read(&["use_sliding_window"])?.unwrap_or(false),
        _ => false,
    };
    if let Some(window) = keys.read(&["sliding_window"])?.filter(|_| windowed) {
        stated.max_position_embeddings = stated.max_position_embeddings.map(|p| p.min(window));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(value: Value) -> ModelOverrides {
        ModelOverrides::from_json(&value).unwrap()
    }

    #[test]
    fn families_mean_what_their_libraries_mean() {
        let config = read(json!({"model_type": "llama", "hidden_act": "silu", "rope_scaling": null}));
        assert_eq!((config.era, config.rope_theta), (Some(Era::MiniMind2), Some(1e4)));
        let config = read(json!({"model_type": "qwen3_moe",
            "rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}));
        assert_eq!(
            (config.era, config.rope_theta, config.use_moe),
            (Some(Era::MiniMind3), Some(5e5), Some(true))
        );
        assert_eq!((config.num_experts_per_tok, config.norm_topk_prob), (Some(8), Some(false)));
        let config = read(json!({"model_type": "qwen2", "sliding_window": 64, "use_sliding_window": false}));
        assert_eq!((config.qkv_bias, config.o_bias), (Some(true), Some(false)));
        assert_eq!(config.max_position_embeddings, Some(32_768));
        let config = read(json!({"model_type": "mistral", "sliding_window": 4096}));
        assert_eq!(config.max_position_embeddings, Some(4096));
        let config = read(json!({"model_type": "llama", "attention_bias": true, "mlp_bias": true}));
        assert_eq!((config.qkv_bias, config.o_bias, config.mlp_bias), (Some(true), Some(true), Some(true)));
    }

    #[test]
    fn what_would_be_computed_otherwise_is_refused() {
        for wrong in [
            json!({"model_type": "gemma2"}),
            json!({"hidden_act": "gelu"}),
            json!({"model_type": "llama", "quantization_config": {"bits": 4}}),
            json!({"model_type": "llama", "rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}),
            json!({"model_type": "qwen3_moe", "mlp_only_layers": [0]}),
            json!({"model_type": "qwen3_moe", "decoder_sparse_step": 2}),
            json!({"model_type": "llama", "partial_rotary_factor": 0.5}),
            json!({"rope_theta": -1.0}),
            json!({"hidden_size": "many"}),
            json!([1]),
        ] {
            assert!(ModelOverrides::from_json(&wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_config_of_ours_comes_back_whole() {
        let yarn = RopeScaling::minimind_yarn().to_json();
        let base = json!({"hidden_size": 64, "num_attention_heads": 4, "head_dim": 16, "vocab_size": 99,
            "num_hidden_layers": 2, "num_key_value_heads": 2, "qkv_bias": true, "tie_word_embeddings": false});
        for (key, value) in [
            ("rope_scaling", yarn.clone()),
            ("rope_scaling", json!({"rope_type": "linear", "factor": 3.0})),
            ("mlp_bias", json!(true)),
            ("era", json!("minimind2")),
        ] {
            let mut all = base.clone();
            all[key] = value;
            let config = read(all).resolve().unwrap();
            assert_eq!(read(config.to_json()).resolve().unwrap(), config, "{key}");
        }
        let mut both = base.clone();
        (both["rope_scaling"], both["inference_rope_scaling"]) = (yarn, json!(false));
        let config = read(both).resolve().unwrap();
        assert!(config.rope_scaling.is_none() && !config.inference_rope_scaling);
    }
}
