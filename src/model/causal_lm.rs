//! The language model: embedding, blocks, final norm, output layer.
//!
//! B batch, T tokens, S tokens seen, D hidden, V vocab.

use tch::{Device, Kind, Tensor};

use super::block::Block;
use super::config::ModelConfig;
use super::kv_cache::KvCache;
use super::lora::Adapter;
use super::mask::Mask;
use super::norm::RmsNorm;
use super::ops::{self, NormDtype, Residual};
use super::params::Params;
use super::rope::Rope;

/// Name of a reward model's head, as sequence classifiers of Hugging Face call it.
pub const SCORE: &str = "score.weight";

/// A model with its parameters.
#[derive(Debug)]
pub struct CausalLm {
    config: ModelConfig,
    params: Params,
    embed_tokens: Tensor,
    lm_head: Tensor,
    layers: Vec<Block>,
    norm: RmsNorm,
    rope: Rope,
}

impl CausalLm {
    /// Puts parameters to work.
    pub fn new(config: &ModelConfig, params: Params) -> Self {
        let embed_tokens = params.get("model.embed_tokens.weight");
        let lm_head = if config.tie_word_embeddings {
            embed_tokens.shallow_clone()
        } else {
            params.get("lm_head.weight")
        };
        let layers = (0..config.num_hidden_layers)
            .map(|i| Block::new(&params, &format!("model.layers.{i}"), config))
            .collect();
        Self {
            norm: RmsNorm::new(params.get("model.norm.weight"), config.rms_norm_eps, config.era),
            rope: Rope::new(config, embed_tokens.device()),
            config: config.clone(),
            embed_tokens,
            lm_head,
            layers,
            params,
        }
    }

    /// The same parameters with dropout while training.
    pub fn with_dropout(self, dropout: f64) -> Self {
        let mut config = self.config;
        config.dropout = dropout;
        Self::new(&config, self.params)
    }

    /// The same parameters with YaRN's rotary positions.
    pub fn with_yarn(self) -> Self {
        let mut config = self.config;
        config.inference_rope_scaling = true;
        Self::new(&config, self.params)
    }

    /// The same parameters with an adapter beside them, which is what trains from now on.
    pub fn with_adapter(self, adapter: Adapter) -> Self {
        let config = self.config;
        Self::new(&config, self.params.adapted(Some(adapter)))
    }

    /// The same parameters alone.
    pub fn without_adapter(self) -> Self {
        let config = self.config;
        Self::new(&config, self.params.adapted(None))
    }

    /// The same parameters and a head for scores `[1, D]` beside them; it trains and is saved with them.
    pub fn with_score(self, weight: Tensor) -> Self {
        let (config, mut params) = (self.config, self.params);
        params.push(SCORE, weight);
        Self::new(&config, params)
    }

    /// The head for scores, `[1, D]`, if there is one.
    pub fn score(&self) -> Option<Tensor> {
        self.params.find(SCORE)
    }

    /// The architecture that the model was built from.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The table of its parameters, by upstream's names.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// Where the parameters lie.
    pub fn device(&self) -> Device {
        self.embed_tokens.device()
    }

    /// The parameters' type.
    pub fn kind(&self) -> Kind {
        self.embed_tokens.kind()
    }

    /// The cosines and sines by which queries and keys are rotated.
    pub fn rope(&self) -> &Rope {
        &self.rope
    }

    /// The output layer's weight, `[V, D]`.
    pub fn lm_head(&self) -> &Tensor {
        &self.lm_head
    }

    /// `[B, T] -> ([B, T, D], balance loss)`: everything but the output layer. The loss is summed over the layers.
    pub fn hidden(&self, input_ids: &Tensor, mask: Mask<'_>, train: bool) -> (Tensor, Option<Tensor>) {
        self.run(input_ids, mask, None, train)
    }

    /// `[B, T] -> [B, T, D]` after the tokens that `cache` holds; adds the new ones to it.
    pub fn hidden_cached(&self, input_ids: &Tensor, cache: &mut KvCache) -> Tensor {
        let (_, t) = input_ids.size2().expect("input ids are [B, T]");
        let (hidden, _) = self.run(input_ids, Mask::Causal, Some(cache), false);
        cache.advance(t);
        hidden
    }

    /// The final norm once more over what [`Self::hidden`] gave, as upstream's critic takes it.
    pub fn normed(&self, hidden: &Tensor) -> Tensor {
        ops::rms_norm(hidden, &self.norm)
    }

    /// `[..., D] -> [..., V]`.
    pub fn logits(&self, hidden: &Tensor) -> Tensor {
        hidden.linear(&self.lm_head, None::<&Tensor>)
    }

    fn run(
        &self,
        input_ids: &Tensor,
        mask: Mask<'_>,
        mut cache: Option<&mut KvCache>,
        train: bool,
    ) -> (Tensor, Option<Tensor>) {
        let mut x = Tensor::embedding(&self.embed_tokens, input_ids, -1, false, false); // [B, T, D]
        if train && self.config.dropout > 0.0 {
            x = x.dropout(self.config.dropout, true);
        }
        let packed = match mask {
            Mask::Documents(packing) => Some(self.rope.at(packing.positions())),
            _ => None,
        };
        let rope = packed.as_ref().unwrap_or(&self.rope);
        let mut residual = Residual::new(x);
        let mut total: Option<Tensor> = None;
        for (i, layer) in self.layers.iter().enumerate() {
            let (next, aux) =
                layer.forward(residual, rope, mask, cache.as_deref_mut().map(|c| (c, i)), train);
            residual = next;
            total = match (total, aux) {
                (Some(sum), Some(aux)) => Some(sum + aux),
                (sum, aux) => sum.or(aux),
            };
        }
        (ops::residual_rms_norm(residual, &self.norm, NormDtype::Input).1, total)
    }
}
