//! A model made ready for decoding on the CPU: its weights packed for `native`'s kernels, in the storage asked for.
//!
//! The decoder is a copy: training the model afterwards does not change it. Its results for a row do not depend on
//! the other rows of a step, nor on how a prompt was cut into chunks, to the bit.
//!
//! D hidden, H query heads, K kv heads, E head dim, V vocab.

use tch::{Device, Kind, Tensor};

use crate::error::Result;
use crate::model::rope::{attention_factor, frequencies};
use crate::model::{CausalLm, Era, ModelConfig, Params};
use crate::native::{LayerWeights, Network, Packed, Pool, Sizes, Storage, Weights};

/// The storage that keeps a model's own precision.
pub fn natural_storage(kind: Kind) -> Storage {
    match kind {
        Kind::BFloat16 => Storage::Bf16,
        Kind::Half => Storage::F16,
        _ => Storage::F32,
    }
}

/// Packs a model's weights, for sequences of up to `positions` tokens.
///
/// # Errors
/// No memory for the copy.
pub fn network(model: &CausalLm, storage: Storage, threads: usize, positions: usize) -> Result<Network> {
    let _no_grad = tch::no_grad_guard();
    let config = model.config();
    let positions = positions.clamp(1, config.max_position_embeddings as usize);
    let mut packer = Packer { params: model.params(), config, storage, pool: Pool::new(threads)? };
    let layers = (0..config.num_hidden_layers).map(|i| packer.layer(i)).collect::<Result<Vec<_>>>()?;
    let (d, norm) = (config.hidden_size as usize, packer.vector("model.norm.weight")?);
    let head = Packed::new(&host(model.lm_head())?, d, Vec::new(), storage, &mut packer.pool)?;
    let embedding = packer.vector("model.embed_tokens.weight")?;
    let weights = Weights { embedding, layers, norm, head, rope: rope_tables(config, positions) };
    Network::new(Sizes { positions, ..sizes(config) }, weights, packer.pool)
}

fn sizes(c: &ModelConfig) -> Sizes {
    let moe = c.moe.as_ref();
    let count = |n: Option<i64>| n.unwrap_or(0) as usize;
    Sizes {
        hidden: c.hidden_size as usize,
        heads: c.num_attention_heads as usize,
        kv_heads: c.num_key_value_heads as usize,
        head_dim: c.head_dim as usize,
        inner: moe.map_or(c.intermediate_size, |m| m.moe_intermediate_size) as usize,
        vocab: c.vocab_size as usize,
        positions: c.max_position_embeddings as usize,
        routed: count(moe.map(|m| m.num_experts)),
        top_k: count(moe.map(|m| m.num_experts_per_tok)),
        shared: count(moe.map(|m| m.n_shared_experts)),
        // As in model/moe.rs.
        renormalise: moe
            .is_some_and(|m| m.norm_topk_prob && (c.era == Era::MiniMind3 || m.num_experts_per_tok > 1)),
        eps: c.rms_norm_eps as f32,
    }
}

/// Cosines and sines, `[positions, E / 2]` each, in fp32 as model/rope.rs has them.
fn rope_tables(config: &ModelConfig, positions: usize) -> (Vec<f32>, Vec<f32>) {
    let freqs = frequencies(config);
    let factor = attention_factor(config) as f32;
    let angles = || (0..positions).flat_map(|p| freqs.iter().map(move |f| p as f32 * f));
    let scaled = |turn: fn(f32) -> f32| angles().map(|angle| turn(angle) * factor).collect();
    (scaled(f32::cos), scaled(f32::sin))
}

/// A tensor as fp32 on the host, row by row.
fn host(tensor: &Tensor) -> Result<Vec<f32>> {
    let tensor = tensor.f_to_device(Device::Cpu)?.f_to_kind(Kind::Float)?.f_contiguous()?;
    let mut out = vec![0f32; tensor.numel()];
    let count = out.len();
    tensor.f_view([-1])?.f_copy_data(&mut out, count)?;
    Ok(out)
}

struct Packer<'m> {
    params: &'m Params,
    config: &'m ModelConfig,
    storage: Storage,
    pool: Pool,
}

impl Packer<'_> {
    fn vector(&self, name: &str) -> Result<Vec<f32>> {
        host(&self.params.get(name))
    }

    /// One matrix from several that share their inputs, one below the other.
    fn stacked(&mut self, names: &[String], storage: Storage) -> Result<Packed> {
        let parts: Vec<Tensor> =
            names.iter().map(|name| self.params.get(&format!("{name}.weight"))).collect();
        let whole = Tensor::f_cat(&parts, 0)?;
        let (_, inputs) = whole.size2()?;
        let mut bias = Vec::new();
        if names.iter().any(|name| self.params.find(&format!("{name}.bias")).is_some()) {
            for (name, part) in names.iter().zip(&parts) {
                let rows = part.size2()?.0 as usize;
                let own = self.params.find(&format!("{name}.bias"));
                bias.extend(own.map_or(Ok(vec![0.0; rows]), |own| host(&own))?);
            }
        }
        Packed::new(&host(&whole)?, inputs as usize, bias, storage, &mut self.pool)
    }

    fn layer(&mut self, index: i64) -> Result<LayerWeights> {
        let name = format!("model.layers.{index}");
        let attn = format!("{name}.self_attn");
        let part = |p: &str| format!("{attn}.{p}");
        let qkv = self.stacked(&["q_proj", "k_proj", "v_proj"].map(part), self.storage)?;
        let o = self.stacked(&[part("o_proj")], self.storage)?;
        let norms = || -> Result<_> {
            Ok((self.vector(&part("q_norm.weight"))?, self.vector(&part("k_norm.weight"))?))
        };
        let qk_norm = (self.config.era == Era::MiniMind3).then(norms).transpose()?;
        let norm_in = self.vector(&format!("{name}.input_layernorm.weight"))?;
        let norm_post = self.vector(&format!("{name}.post_attention_layernorm.weight"))?;
        let mlp = format!("{name}.mlp");
        let Some(moe) = &self.config.moe else {
            let ffns = vec![self.feed_forward(&mlp)?];
            return Ok(LayerWeights { qkv, o, norm_in, norm_post, qk_norm, router: None, ffns });
        };
        // The router decides between experts: it keeps full precision.
        let router = Some(self.stacked(&[format!("{mlp}.gate")], Storage::F32)?);
        let list = |part: &str, n: i64| (0..n).map(|i| format!("{mlp}.{part}.{i}")).collect::<Vec<_>>();
        let experts =
            [list("experts", moe.num_experts), list("shared_experts", moe.n_shared_experts)].concat();
        let ffns = experts.iter().map(|name| self.feed_forward(name)).collect::<Result<Vec<_>>>()?;
        Ok(LayerWeights { qkv, o, norm_in, norm_post, qk_norm, router, ffns })
    }

    fn feed_forward(&mut self, name: &str) -> Result<(Packed, Packed)> {
        let weight = |part: &str| self.vector(&format!("{name}.{part}.weight"));
        let (gate, up) = (weight("gate_proj")?, weight("up_proj")?);
        let d = self.config.hidden_size as usize;
        let gate_up = Packed::paired(&gate, &up, d, self.storage, &mut self.pool)?;
        let down = self.stacked(&[format!("{name}.down_proj")], self.storage)?;
        Ok((gate_up, down))
    }
}
