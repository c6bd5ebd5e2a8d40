//! The table of parameters: every name, shape and initialisation, in upstream's order.
//!
//! The order is the order in which upstream registers them, because an optimizer's state in a
//! `_resume.pth` is numbered by it. Building, loading, saving and counting all read this one table.
//! D hidden, H query heads, K kv heads, E head dim, V vocab, I inner width, N experts.

use std::collections::HashMap;

use tch::{Device, Kind, Tensor};

use super::config::{Era, ModelConfig};
use super::lora::Adapter;
use crate::error::{Error, Result};

/// How a fresh parameter is drawn: PyTorch's defaults for the layer it belongs to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fill {
    /// `U(-b, b)`: `nn.Linear`'s Kaiming uniform with a = sqrt(5), so b = 1 / sqrt(inputs).
    Uniform(f64),
    /// `N(0, 1)`: `nn.Embedding`.
    Normal,
    /// Ones: a norm's weight.
    Ones,
}

/// One parameter.
#[derive(Debug, Clone, PartialEq)]
pub struct Spec {
    /// Upstream's name.
    pub name: String,
    /// Its shape, as PyTorch stores it (a Linear is `[out, in]`).
    pub shape: Vec<i64>,
    /// The values of a model that is not loaded from weights.
    pub fill: Fill,
    /// Share of tokens that use it: below 1 for routed experts.
    pub active: f64,
}

/// Every parameter in upstream's order; a tied `lm_head.weight` is the embedding and is not listed.
pub fn specs(config: &ModelConfig) -> Vec<Spec> {
    let mut table = Table(Vec::new());
    let (d, v) = (config.hidden_size, config.vocab_size);
    // A tied embedding is upstream's lm_head, drawn as a Linear: the assignment replaces nn.Embedding's.
    let bound = 1.0 / (d as f64).sqrt();
    let fill = if config.tie_word_embeddings { Fill::Uniform(bound) } else { Fill::Normal };
    table.push("model.embed_tokens.weight", &[v, d], fill, 1.0);
    for layer in 0..config.num_hidden_layers {
        table.block(config, &format!("model.layers.{layer}"));
    }
    table.push("model.norm.weight", &[d], Fill::Ones, 1.0);
    if !config.tie_word_embeddings {
        table.push("lm_head.weight", &[v, d], Fill::Uniform(bound), 1.0);
    }
    table.0
}

struct Table(Vec<Spec>);

impl Table {
    fn push(&mut self, name: &str, shape: &[i64], fill: Fill, active: f64) {
        self.0.push(Spec { name: name.to_owned(), shape: shape.to_vec(), fill, active });
    }

    fn linear(&mut self, name: &str, out: i64, inputs: i64, active: f64) {
        self.push(
            &format!("{name}.weight"),
            &[out, inputs],
            Fill::Uniform(1.0 / (inputs as f64).sqrt()),
            active,
        );
    }

    /// A Linear with a bias where the architecture has one; PyTorch draws it like the weight.
    fn biased(&mut self, name: &str, out: i64, inputs: i64, bias: bool) {
        self.linear(name, out, inputs, 1.0);
        if bias {
            self.push(&format!("{name}.bias"), &[out], Fill::Uniform(1.0 / (inputs as f64).sqrt()), 1.0);
        }
    }

    fn feed_forward(&mut self, name: &str, d: i64, inner: i64, active: f64) {
        self.linear(&format!("{name}.gate_proj"), inner, d, active);
        self.linear(&format!("{name}.down_proj"), d, inner, active);
        self.linear(&format!("{name}.up_proj"), inner, d, active);
    }

    fn block(&mut self, config: &ModelConfig, name: &str) {
        let (d, e) = (config.hidden_size, config.head_dim);
        let (h, k) = (config.num_attention_heads, config.num_key_value_heads);
        let attn = format!("{name}.self_attn");
        self.biased(&format!("{attn}.q_proj"), h * e, d, config.qkv_bias);
        self.biased(&format!("{attn}.k_proj"), k * e, d, config.qkv_bias);
        self.biased(&format!("{attn}.v_proj"), k * e, d, config.qkv_bias);
        self.biased(&format!("{attn}.o_proj"), d, h * e, config.o_bias);
        if config.era == Era::MiniMind3 {
            self.push(&format!("{attn}.q_norm.weight"), &[e], Fill::Ones, 1.0);
            self.push(&format!("{attn}.k_norm.weight"), &[e], Fill::Ones, 1.0);
        }
        self.push(&format!("{name}.input_layernorm.weight"), &[d], Fill::Ones, 1.0);
        self.push(&format!("{name}.post_attention_layernorm.weight"), &[d], Fill::Ones, 1.0);
        let mlp = format!("{name}.mlp");
        let Some(moe) = &config.moe else {
            let inner = config.intermediate_size;
            self.biased(&format!("{mlp}.gate_proj"), inner, d, config.mlp_bias);
            self.biased(&format!("{mlp}.down_proj"), d, inner, config.mlp_bias);
            return self.biased(&format!("{mlp}.up_proj"), inner, d, config.mlp_bias);
        };
        let share = moe.num_experts_per_tok as f64 / moe.num_experts as f64;
        // minimind3 registers the gate before the experts, minimind2 after them.
        if config.era == Era::MiniMind3 {
            self.linear(&format!("{mlp}.gate"), moe.num_experts, d, 1.0);
        }
        for expert in 0..moe.num_experts {
            self.feed_forward(&format!("{mlp}.experts.{expert}"), d, moe.moe_intermediate_size, share);
        }
        if config.era == Era::MiniMind2 {
            self.linear(&format!("{mlp}.gate"), moe.num_experts, d, 1.0);
        }
        for expert in 0..moe.n_shared_experts {
            self.feed_forward(&format!("{mlp}.shared_experts.{expert}"), d, moe.moe_intermediate_size, 1.0);
        }
    }
}

/// Parameters of a model: all, and those that one token uses.
pub fn count(config: &ModelConfig) -> (u64, u64) {
    specs(config).iter().fold((0, 0), |(total, active), spec| {
        let n: i64 = spec.shape.iter().product();
        (total + n as u64, active + (n as f64 * spec.active).round() as u64)
    })
}

/// Named parameters in table order.
#[derive(Debug)]
pub struct Params {
    names: Vec<String>,
    tensors: Vec<Tensor>,
    index: HashMap<String, usize>,
    adapter: Option<Adapter>,
}

impl Params {
    /// Fresh parameters drawn from libtorch's random state, in table order, on the CPU first so that a
    /// seed gives the same weights on every device.
    ///
    /// # Errors
    /// libtorch runs out of memory.
    pub fn init(config: &ModelConfig, device: Device) -> Result<Self> {
        let draw = |spec: &Spec| -> Result<Tensor> {
            let mut t = Tensor::f_zeros(&spec.shape, (Kind::Float, Device::Cpu))?;
            let _ = match spec.fill {
                Fill::Uniform(bound) => t.f_uniform_(-bound, bound)?,
                Fill::Normal => t.f_normal_(0.0, 1.0)?,
                Fill::Ones => t.f_fill_(1.0)?,
            };
            Ok(t.f_to_device(device)?)
        };
        let table = specs(config);
        let tensors = table.iter().map(draw).collect::<Result<Vec<_>>>()?;
        Ok(Self::new(table.into_iter().map(|s| s.name).collect(), tensors))
    }

    /// Parameters that `make` gives one by one, of the spec's shape, each a tensor that nothing else looks at: training writes in
    /// place. One at a time, so that a model and its file are never in memory both.
    ///
    /// # Errors
    /// What `make` says; a tensor of another shape.
    pub fn build(config: &ModelConfig, mut make: impl FnMut(&Spec) -> Result<Tensor>) -> Result<Self> {
        let mut names = Vec::new();
        let mut tensors = Vec::new();
        for spec in specs(config) {
            let tensor = make(&spec)?;
            if tensor.size() != spec.shape {
                let (got, want) = (tensor.size(), &spec.shape);
                return Err(Error::failed(format!(
                    "`{}` has shape {got:?}, the model wants {want:?}",
                    spec.name
                )));
            }
            tensors.push(tensor);
            names.push(spec.name);
        }
        Ok(Self::new(names, tensors))
    }

    /// Parameters from tensors by name, of the table's shapes, each copied to `device` as `kind`.
    ///
    /// # Errors
    /// A name of the table without a tensor, or with one of another shape.
    pub fn from_named(
        config: &ModelConfig,
        mut named: HashMap<String, Tensor>,
        device: Device,
        kind: Kind,
    ) -> Result<Self> {
        Self::build(config, |spec| {
            let tensor = named.remove(&spec.name);
            let tensor =
                tensor.ok_or_else(|| Error::failed(format!("the weights hold no `{}`", spec.name)))?;
            Ok(tensor.f_to_device(device)?.f_to_kind(kind)?.f_contiguous()?.copy())
        })
    }

    fn new(names: Vec<String>, tensors: Vec<Tensor>) -> Self {
        let index = names.iter().enumerate().map(|(i, name)| (name.clone(), i)).collect();
        Self { names, tensors, index, adapter: None }
    }

    /// The tensor called `name`, of its spec's shape ([`specs`]); a handle to the same storage.
    pub fn get(&self, name: &str) -> Tensor {
        let index = *self.index.get(name).unwrap_or_else(|| panic!("the table of parameters holds `{name}`"));
        self.tensors[index].shallow_clone()
    }

    /// The tensor called `name`, of its spec's shape ([`specs`]), where the architecture has it.
    pub fn find(&self, name: &str) -> Option<Tensor> {
        self.index.get(name).map(|index| self.tensors[*index].shallow_clone())
    }

    /// Names in table order.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Tensors in table order ([`specs`] has their shapes).
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// The weight `[O, I]` as it acts: with the adapter's part where there is one. A copy then, without a graph.
    ///
    /// # Errors
    /// libtorch runs out of memory.
    pub fn effective(&self, name: &str) -> Result<Tensor> {
        let weight = self.get(name);
        let module = name.strip_suffix(".weight").unwrap_or(name);
        Ok(match self.adapter.as_ref().map(|adapter| adapter.delta(module)).transpose()?.flatten() {
            Some(delta) => weight.detach() + delta.f_to_kind(weight.kind())?,
            None => weight,
        })
    }

    /// One more parameter, of any shape, after the table's, such as a head that the architecture does not have.
    pub fn push(&mut self, name: &str, tensor: Tensor) {
        self.index.insert(name.to_owned(), self.tensors.len());
        self.names.push(name.to_owned());
        self.tensors.push(tensor);
    }

    /// The same parameters with another adapter, or none.
    pub fn adapted(self, adapter: Option<Adapter>) -> Self {
        Self { adapter, ..self }
    }

    /// The adapter, if there is one.
    pub fn adapter(&self) -> Option<&Adapter> {
        self.adapter.as_ref()
    }

    /// What training changes and checkpoints keep, in the optimizer's order: the adapter's A `[R, I]` and B `[O, R]`
    /// alone where there is one, else everything.
    pub fn trained(&self) -> (&[String], &[Tensor]) {
        match &self.adapter {
            Some(adapter) => (adapter.names(), adapter.tensors()),
            None => (&self.names, &self.tensors),
        }
    }

    /// Turns gradients on or off for what is trained; they are off for everything else.
    pub fn set_requires_grad(&self, on: bool) {
        for tensor in &self.tensors {
            let _ = tensor.set_requires_grad(on && self.adapter.is_none());
        }
        for tensor in self.adapter.iter().flat_map(Adapter::tensors) {
            let _ = tensor.set_requires_grad(on);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::config::preset;

    #[test]
    fn presets_have_the_released_sizes() {
        // Sizes in millions as upstream announces its releases.
        for (name, millions) in [
            ("minimind2-small", 26),
            ("minimind2", 104),
            ("minimind2-moe", 145),
            ("minimind3", 64),
            ("minimind3-moe", 198),
        ] {
            let config = preset(name).unwrap().resolve().unwrap();
            let (total, active) = count(&config);
            assert_eq!((total as f64 / 1e6).round() as u64, millions, "{name}: {total}");
            assert_eq!(active < total, config.moe.is_some());
        }
    }
}
