//! One new token a row on a GPU: fused ops over joined weights, over caches whose next places lie on the device, so that
//! the whole step can be captured once and replayed.
//!
//! B rows, D hidden, O outputs, H query heads, K kv heads, S capacity, E head dim, I inner width, V vocab.

use std::rc::Rc;

use tch::{Kind, Tensor};

use super::causal_lm::CausalLm;
use super::kv_cache::KvCache;
use crate::error::{Error, Result};
use crate::native::cuda_ops::{self, Norm, NormLinear};
use crate::native::{CudaGraph, synchronize, to_device};

#[derive(Debug)]
struct Layer {
    norm_in: Norm,
    /// Queries, keys and values, `[(H + 2K) E, D]`.
    qkv: Tensor,
    qk_norm: Option<(Norm, Norm)>,
    /// `[D, H * E]`.
    o: Tensor,
    norm_post: Norm,
    /// `[2I, D]`.
    gate_up: Tensor,
    /// `[D, I]`.
    down: Tensor,
}

/// A dense model's weights as a step wants them; those that share an input are copies, one below the other.
#[derive(Debug)]
pub struct StepWeights {
    embedding: Tensor,
    layers: Vec<Layer>,
    norm: Norm,
    head: Tensor,
    tables: (Tensor, Tensor),
    heads: cuda_ops::Heads,
    kind: Kind,
}

impl StepWeights {
    /// The weights of a model, with its adapter's part in them; `None` where the fused ops do not take it (experts,
    /// biases, widths that 4 does not divide, a GPU that compiles no kernels).
    ///
    /// # Errors
    /// libtorch runs out of memory.
    pub fn new(model: &CausalLm) -> Result<Option<Self>> {
        let _no_grad = tch::no_grad_guard();
        let (config, params) = (model.config(), model.params());
        let embedding = params.get("model.embed_tokens.weight");
        let fits =
            cuda_ops::fits_row(config.hidden_size) && cuda_ops::is_vec4_aligned(config.intermediate_size);
        let biased = config.qkv_bias || config.o_bias || config.mlp_bias;
        if config.moe.is_some()
            || biased
            || !fits
            || !cuda_ops::fits_head(config.head_dim)
            || cuda_ops::compute_dtype(&embedding) != Some(embedding.kind())
        {
            return Ok(None);
        }
        let eps = config.rms_norm_eps;
        let weight = |name: String| params.effective(&format!("{name}.weight"));
        let layer = |i: i64| -> Result<Layer> {
            let name = format!("model.layers.{i}");
            let (attn, mlp) = (format!("{name}.self_attn"), format!("{name}.mlp"));
            let joined = |of: &str, parts: &[&str]| -> Result<Tensor> {
                let all =
                    parts.iter().map(|part| weight(format!("{of}.{part}"))).collect::<Result<Vec<_>>>()?;
                Ok(Tensor::f_cat(&all, 0)?)
            };
            let norm = |part: String| (params.get(&format!("{part}.weight")), eps);
            let qk = params
                .find(&format!("{attn}.q_norm.weight"))
                .map(|_| (norm(format!("{attn}.q_norm")), norm(format!("{attn}.k_norm"))));
            Ok(Layer {
                norm_in: norm(format!("{name}.input_layernorm")),
                qkv: joined(&attn, &["q_proj", "k_proj", "v_proj"])?,
                qk_norm: qk,
                o: weight(format!("{attn}.o_proj"))?,
                norm_post: norm(format!("{name}.post_attention_layernorm")),
                gate_up: joined(&mlp, &["gate_proj", "up_proj"])?,
                down: weight(format!("{mlp}.down_proj"))?,
            })
        };
        let layers = (0..config.num_hidden_layers).map(layer).collect::<Result<Vec<_>>>()?;
        let (cos, sin) = model.rope().tables();
        Ok(Some(Self {
            kind: embedding.kind(),
            embedding,
            layers,
            norm: (params.get("model.norm.weight"), eps),
            head: model.lm_head().shallow_clone(),
            tables: (cos.shallow_clone(), sin.shallow_clone()),
            heads: cuda_ops::Heads {
                length: 1,
                start: 0,
                heads: config.num_attention_heads,
                kv_heads: config.num_key_value_heads,
                head_dim: config.head_dim,
            },
        }))
    }

    /// `[B]` ids -> logits `[B, V]` in fp32; keys and values of the ids go to the cache's place `place` (`[1]`, or
    /// `[B]`: one for each row), which counts as held.
    ///
    /// # Errors
    /// Shapes that do not fit; a GPU that fails.
    pub fn logits(&self, ids: &Tensor, cache: &KvCache, place: &Tensor) -> Result<Tensor> {
        let _no_grad = tch::no_grad_guard();
        let (_, width) = self.embedding.size2()?;
        let few = cuda_ops::fits_few(ids.size1()?, width);
        let product = |x: &Tensor, w: &Tensor| -> Result<Tensor> {
            if few { cuda_ops::linear_few(x, w, self.kind) } else { Ok(x.f_linear(w, None::<&Tensor>)?) }
        };
        // The residual summed up, and a product of its norm.
        let normed = |x: Tensor, pending: Option<Tensor>, into: NormLinear<'_>| -> Result<(Tensor, Tensor)> {
            if few {
                return cuda_ops::norm_linear(x, pending.as_ref(), into);
            }
            let NormLinear { norm: (norm, eps), weight, gated, kind } = into;
            let (x, normed) = match pending {
                Some(y) => cuda_ops::add_rms_norm(&x, &y, norm, *eps, self.kind)?,
                None => cuda_ops::rms_norm(&x, norm, *eps, self.kind).map(|normed| (x, normed))?,
            };
            let made = normed.f_linear(weight, None::<&Tensor>)?;
            Ok((x, if gated { cuda_ops::silu_mul(&made)? } else { made.f_to_kind(kind)? }))
        };
        let mut x = Tensor::f_embedding(&self.embedding, ids, -1, false, false)?; // [B, D]
        let mut pending: Option<Tensor> = None;
        let mut made;
        for (i, layer) in self.layers.iter().enumerate() {
            (x, made) = normed(x, pending, NormLinear::new(&layer.norm_in, &layer.qkv, self.kind))?;
            let (keys, values) = cache.layer(i);
            let into = cuda_ops::Caches { keys, values, place };
            let norms = layer.qk_norm.as_ref().map(|(q, k)| (&q.0, &k.0, q.1));
            let q =
                cuda_ops::rope_into_cache(&made, norms, (&self.tables.0, &self.tables.1), into, self.heads)?;
            let attended = product(&cuda_ops::attend_cached(&q, into)?, &layer.o)?; // [B, D]
            (x, made) = normed(
                x,
                Some(attended),
                NormLinear::new(&layer.norm_post, &layer.gate_up, self.kind).gated(),
            )?;
            pending = Some(product(&made, &layer.down)?);
        }
        Ok(normed(x, pending, NormLinear::new(&self.norm, &self.head, Kind::Float))?.1)
    }
}

/// A step over a cache of its own, captured as a CUDA graph.
#[derive(Debug)]
pub struct StepGraph {
    graph: CudaGraph,
    /// B ids and the place, `[B + 1]`.
    inputs: Tensor,
    /// `[B, V]`.
    logits: Tensor,
    rows: usize,
    /// Places that the cache and the rotary tables have.
    places: i64,
    /// What the graph reads and writes lives as long as it does.
    _kept: (Rc<StepWeights>, Vec<Tensor>),
}

impl StepGraph {
    /// Captures a step over `cache`, which holds nothing yet.
    ///
    /// # Errors
    /// A device other than a CUDA one; no memory.
    pub fn new(weights: &Rc<StepWeights>, cache: &KvCache) -> Result<Self> {
        let device = weights.embedding.device();
        let rows = cache.rows();
        let inputs = Tensor::f_zeros([rows + 1], (Kind::Int64, device))?;
        let (ids, place) = (inputs.f_narrow(0, 0, rows)?, inputs.f_narrow(0, rows, 1)?);
        // Once uncaptured: kernels are compiled and libraries set up.
        let _ = weights.logits(&ids, cache, &place)?;
        synchronize(device)?;
        let (graph, logits) = CudaGraph::capture(device, None, || weights.logits(&ids, cache, &place))?;
        let layers = 0..weights.layers.len();
        let kept =
            layers.flat_map(|i| [cache.layer(i).0, cache.layer(i).1]).map(Tensor::shallow_clone).collect();
        let places = cache.capacity().min(weights.tables.0.size2()?.0);
        Ok(Self { graph, inputs, logits, rows: rows as usize, places, _kept: (Rc::clone(weights), kept) })
    }

    /// Tells the GPU to run a step for each row's next id at `place`; the logits `[B, V]` are there until the next one.
    ///
    /// # Errors
    /// Another number of rows than was captured; a place beyond the cache; a GPU that fails.
    pub fn run(&mut self, ids: &[u32], place: i64) -> Result<&Tensor> {
        if ids.len() != self.rows || !(0..self.places).contains(&place) {
            let (rows, places, got) = (self.rows, self.places, ids.len());
            return Err(Error::failed(format!(
                "a step of {rows} rows with {places} places got {got} ids for place {place}"
            )));
        }
        let host: Vec<i64> = ids.iter().map(|&id| i64::from(id)).chain([place]).collect();
        let sent = to_device(Tensor::from_slice(&host), self.inputs.device());
        tch::no_grad(|| self.inputs.f_copy_(&sent))?;
        self.graph.replay()?;
        Ok(&self.logits)
    }
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;
    use crate::model::tiny;

    #[test]
    fn a_step_gives_what_the_model_gives() {
        for (preset, rows) in [("minimind3", 1), ("minimind2-small", 3), ("minimind3", 6)] {
            tch::manual_seed(7);
            let model = tiny(preset, 3, 60);
            let config = model.config();
            assert!(StepWeights::new(&model).unwrap().is_none());
            let fresh = || KvCache::new(config, rows, 9, Kind::Float, Device::Cpu).unwrap();
            let (mut want_cache, mut cache) = (fresh(), fresh());
            let prompt = Tensor::randint(60, [rows, 4], (Kind::Int64, Device::Cpu));
            let _no_grad = tch::no_grad_guard();
            for cache in [&mut want_cache, &mut cache] {
                let _ = model.hidden_cached(&prompt, cache);
            }
            let weights = cuda_ops::on_cpu(Kind::Float, || StepWeights::new(&model)).unwrap().unwrap();
            for place in 4..9i64 {
                let ids = Tensor::randint(60, [rows, 1], (Kind::Int64, Device::Cpu));
                let got = weights.logits(&ids.view([rows]), &cache, &Tensor::from_slice(&[place])).unwrap();
                let want = model.logits(&model.hidden_cached(&ids, &mut want_cache)).squeeze_dim(1);
                let apart = (got - want).abs().max().double_value(&[]);
                assert!(apart < 1e-5, "{preset} at {place}: {apart:e}");
            }
        }
        let experts = tiny("minimind3-moe", 1, 60);
        cuda_ops::on_cpu(Kind::Float, || assert!(StepWeights::new(&experts).unwrap().is_none()));
    }
}
