//! Packs a model's weights for decoding on the CPU with `native`'s kernels, in the storage asked for.
//!
//! The packed network is a copy: training the model afterwards does not change it. Its results for a sequence do not
//! depend on the other sequences of a step, nor on how a prompt was cut into chunks, to the bit.
//!
//! D hidden, H query heads, K kv heads, E head dim, V vocab.

use tch::{Device, Kind, Tensor};

use crate::error::Result;
use crate::model::{CausalLm, Era, ModelConfig, Params};
use crate::native::{
    LayerWeights, Network, PAGE, PackedMatrix, Sizes, Storage, ThreadPool, Weights, tensor_floats,
};

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
/// Memory runs out for the copy.
pub fn pack_network(model: &CausalLm, storage: Storage, threads: usize, positions: usize) -> Result<Network> {
    let _no_grad = tch::no_grad_guard();
    let config = model.config();
    let positions = positions.clamp(1, config.max_position_embeddings as usize);
    let mut packer = Packer { params: model.params(), config, storage, pool: ThreadPool::new(threads)? };
    let layers = (0..config.num_hidden_layers).map(|i| packer.layer(i)).collect::<Result<Vec<_>>>()?;
    let (d, norm) = (config.hidden_size as usize, packer.vector("model.norm.weight")?);
    let head = host(model.lm_head())?;
    let head = PackedMatrix::stacked(&[tensor_floats(&head)?], d, Vec::new(), storage, &mut packer.pool)?;
    let embedding = packer.vector("model.embed_tokens.weight")?;
    let (cos, sin) = model.rope().halves(positions as i64)?;
    let rope = (copied(&cos)?, copied(&sin)?);
    let weights = Weights { embedding, layers, norm, head, rope };
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
        renormalise: moe.is_some_and(|m| m.renormalises(c.era)),
        eps: c.rms_norm_eps as f32,
    }
}

/// A tensor as contiguous fp32 on the host: the same memory where it is that already.
fn host(tensor: &Tensor) -> Result<Tensor> {
    Ok(tensor.f_to_device(Device::Cpu)?.f_to_kind(Kind::Float)?.f_contiguous()?)
}

fn copied(tensor: &Tensor) -> Result<Vec<f32>> {
    Ok(tensor_floats(&host(tensor)?)?.to_vec())
}

struct Packer<'m> {
    params: &'m Params,
    config: &'m ModelConfig,
    storage: Storage,
    pool: ThreadPool,
}

impl Packer<'_> {
    fn vector(&self, name: &str) -> Result<Vec<f32>> {
        copied(&self.params.get(name))
    }

    /// The bias of a projection; empty where it has none.
    fn bias(&self, name: &str) -> Result<Vec<f32>> {
        self.params.find(&format!("{name}.bias")).map_or(Ok(Vec::new()), |bias| copied(&bias))
    }

    fn weight(&self, name: &str) -> Result<Tensor> {
        host(&self.params.effective(&format!("{name}.weight"))?)
    }

    /// One matrix from several that share their inputs, one below the other.
    fn stacked(&mut self, names: &[String], storage: Storage) -> Result<PackedMatrix> {
        let mut parts = names.iter().map(|name| self.weight(name)).collect::<Result<Vec<_>>>()?;
        let mut bias = Vec::new();
        for name in names {
            bias.extend(self.bias(name)?);
        }
        let (_, inputs) = parts[0].size2()?;
        let even = |part: &Tensor| part.numel() as i64 / inputs % PAGE as i64 == 0;
        if !parts[..parts.len() - 1].iter().all(even) {
            parts = vec![Tensor::f_cat(&parts, 0)?];
        }
        let slices = parts.iter().map(tensor_floats).collect::<Result<Vec<_>>>()?;
        PackedMatrix::stacked(&slices, inputs as usize, bias, storage, &mut self.pool)
    }

    fn layer(&mut self, index: i64) -> Result<LayerWeights> {
        let name = format!("model.layers.{index}");
        let attn = format!("{name}.self_attn");
        let part = |p: &str| format!("{attn}.{p}");
        let qkv = self.stacked(&["q_proj", "k_proj", "v_proj"].map(part), self.storage)?;
        let o = self.stacked(&[part("o_proj")], self.storage)?;
        let qk_norm = match self.config.era {
            Era::MiniMind2 => None,
            Era::MiniMind3 => {
                Some((self.vector(&part("q_norm.weight"))?, self.vector(&part("k_norm.weight"))?))
            }
        };
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

    fn feed_forward(&mut self, name: &str) -> Result<(PackedMatrix, PackedMatrix)> {
        let part = |p: &str| format!("{name}.{p}");
        let (gate, up) = (self.weight(&part("gate_proj"))?, self.weight(&part("up_proj"))?);
        let biases = (self.bias(&part("gate_proj"))?, self.bias(&part("up_proj"))?);
        let d = self.config.hidden_size as usize;
        let gate_up = PackedMatrix::paired(
            (tensor_floats(&gate)?, &biases.0),
            (tensor_floats(&up)?, &biases.1),
            d,
            self.storage,
            &mut self.pool,
        )?;
        let down = self.stacked(&[part("down_proj")], self.storage)?;
        Ok((gate_up, down))
    }
}
