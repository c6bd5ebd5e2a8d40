//! Low-rank adapters (arXiv 2106.09685): `y = W x + s B (A x)`, where only A and B learn.
//!
//! Upstream's adapter sits on every square Linear, has scale 1, draws A from N(0, 0.02) and begins with B = 0.
//! Names are upstream's, `{module}.lora.A.weight` and `.lora.B.weight`, in the order in which its model
//! registers them. Next: `params`, which hands pairs to the layers.
//!
//! I inputs, O outputs, R rank.

use std::collections::HashMap;

use tch::{Device, Kind, Tensor};

use super::config::ModelConfig;
use super::params::{Params, specs};
use crate::error::{Error, Result};

/// Standard deviation of a fresh A (upstream's).
const A_STD: f64 = 0.02;
/// Names that `target_modules` takes; the last stands for all others.
pub const TARGETS: [&str; 8] =
    ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "all-linear"];

/// One adapted layer.
#[derive(Debug)]
pub struct Pair {
    /// `[R, I]`.
    a: Tensor,
    /// `[O, R]`.
    b: Tensor,
    scale: f64,
    dropout: f64,
}

impl Pair {
    /// `[..., I] -> [..., O]`: what the layer adds.
    pub fn forward(&self, x: &Tensor, train: bool) -> Tensor {
        let x = if train && self.dropout > 0.0 { x.dropout(self.dropout, true) } else { x.shallow_clone() };
        let y = x.linear(&self.a, None::<&Tensor>).linear(&self.b, None::<&Tensor>);
        // No product with 1: upstream has none.
        if self.scale == 1.0 { y } else { y * self.scale }
    }
}

/// An adapter for a whole model.
#[derive(Debug)]
pub struct Adapter {
    rank: i64,
    scale: f64,
    dropout: f64,
    names: Vec<String>,
    tensors: Vec<Tensor>,
}

/// A layer that can be adapted: module name, O, I.
type Layer = (String, i64, i64);

/// The layers that `target_modules` chooses; empty means upstream's choice, those with O = I.
///
/// # Errors
/// It chooses none.
pub fn layers(config: &ModelConfig, target_modules: &[String]) -> Result<Vec<Layer>> {
    let chosen = |module: &str, square: bool| {
        if target_modules.is_empty() {
            return square;
        }
        let last = module.rsplit('.').next().unwrap_or(module);
        target_modules.iter().any(|t| t == TARGETS[7] || t == last)
    };
    let found: Vec<Layer> = specs(config)
        .into_iter()
        .filter_map(|spec| {
            let module = spec.name.strip_suffix(".weight").filter(|m| m.ends_with("_proj"))?;
            let [o, i] = spec.shape[..] else { return None };
            chosen(module, o == i).then(|| (module.to_owned(), o, i))
        })
        .collect();
    if found.is_empty() {
        return Err(Error::input("no layer of this model is chosen for the adapter")
            .hint("give target_modules, for example [q_proj, v_proj]; without it, layers with as many outputs as inputs are taken"));
    }
    Ok(found)
}

impl Adapter {
    /// A fresh adapter, drawn from libtorch's random state on the CPU: A `[R, I]` and B `[O, R]` of each chosen layer.
    ///
    /// # Errors
    /// `target_modules` chooses no layer; no memory.
    pub fn fresh(config: &ModelConfig, target_modules: &[String], rank: i64, device: Device) -> Result<Self> {
        let (mut names, mut tensors) = (Vec::new(), Vec::new());
        for (module, o, i) in layers(config, target_modules)? {
            let mut a = Tensor::f_zeros([rank, i], (Kind::Float, Device::Cpu))?;
            let _ = a.f_normal_(0.0, A_STD)?;
            names.extend([format!("{module}.lora.A.weight"), format!("{module}.lora.B.weight")]);
            tensors.extend([a.f_to_device(device)?, Tensor::f_zeros([o, rank], (Kind::Float, device))?]);
        }
        Ok(Self { rank, scale: 1.0, dropout: 0.0, names, tensors })
    }

    /// An adapter from tensors by upstream's names, strict: every layer it names must be in the model with the
    /// right shape, A `[R, I]` and B `[O, R]` together, all of one rank.
    ///
    /// # Errors
    /// A layer that the model does not have, half a pair, another shape or rank.
    pub fn from_named(
        config: &ModelConfig,
        mut named: HashMap<String, Tensor>,
        device: Device,
    ) -> Result<Self> {
        let (mut names, mut tensors, mut ranks) = (Vec::new(), Vec::new(), Vec::new());
        for (module, o, i) in layers(config, &[TARGETS[7].to_owned()])? {
            let [a, b] = ["A", "B"].map(|part| format!("{module}.lora.{part}.weight"));
            let pair = match (named.remove(&a), named.remove(&b)) {
                (None, None) => continue,
                (Some(a), Some(b)) => [a, b],
                _ => return Err(misfit(format!("`{module}` has one of lora.A and lora.B alone"))),
            };
            let (got_a, got_b) = (pair[0].size(), pair[1].size());
            let ([rank, in_a], [out_b, rank_b]) = (&got_a[..], &got_b[..]) else {
                return Err(misfit(format!("`{module}` has an adapter of shapes {got_a:?} and {got_b:?}")));
            };
            if (*in_a, *out_b, rank) != (i, o, rank_b) {
                return Err(misfit(format!(
                    "`{module}` is [{o}, {i}] in the model, its adapter {got_a:?} and {got_b:?}"
                )));
            }
            ranks.push(*rank);
            for (name, tensor) in [a, b].into_iter().zip(pair) {
                tensors.push(tensor.f_to_device(device)?.f_to_kind(Kind::Float)?.f_contiguous()?.copy());
                names.push(name);
            }
        }
        if let Some(odd) = named.keys().min() {
            return Err(misfit(format!("the model has no place for `{odd}`")));
        }
        let rank = *ranks.first().ok_or_else(|| misfit("there is no lora weight in it".to_owned()))?;
        if ranks.iter().any(|r| *r != rank) {
            return Err(misfit(format!("its layers have different ranks: {ranks:?}")));
        }
        Ok(Self { rank, scale: 1.0, dropout: 0.0, names, tensors })
    }

    /// The same weights with a scale and a dropout.
    pub fn scaled(self, scale: f64, dropout: f64) -> Self {
        Self { scale, dropout, ..self }
    }

    /// The rank R: rows of each A, columns of each B.
    pub fn rank(&self) -> i64 {
        self.rank
    }

    /// What the adapter's output is multiplied by.
    pub fn scale(&self) -> f64 {
        self.scale
    }

    /// Dropout of its input while training.
    pub fn dropout(&self) -> f64 {
        self.dropout
    }

    /// Names in upstream's order.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Tensors in the order of [`Adapter::names`].
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// The pair of a module, if it is adapted; handles to the same storage.
    pub fn pair(&self, module: &str) -> Option<Pair> {
        let name = format!("{module}.lora.A.weight");
        let at = self.names.iter().position(|n| *n == name)?;
        Some(Pair {
            a: self.tensors[at].shallow_clone(),
            b: self.tensors[at + 1].shallow_clone(),
            scale: self.scale,
            dropout: self.dropout,
        })
    }

    /// `s B A` of a module, `[O, I]`, if it is adapted.
    ///
    /// # Errors
    /// libtorch runs out of memory.
    pub fn delta(&self, module: &str) -> Result<Option<Tensor>> {
        let Some(Pair { a, b, scale, .. }) = self.pair(module) else { return Ok(None) };
        let product = b.detach().f_matmul(&a.detach())?;
        Ok(Some(if scale == 1.0 { product } else { product * scale }))
    }

    /// Adds the adapter to the weights for good: each adapted weight and `s B A` are rounded to `kind` first and
    /// added in it (upstream's merge does so in fp16).
    ///
    /// # Errors
    /// libtorch runs out of memory.
    pub fn merge_into(&self, params: &Params, kind: Kind) -> Result<()> {
        let _no_grad = tch::no_grad_guard();
        for module in self.names.iter().filter_map(|name| name.strip_suffix(".lora.A.weight")) {
            let mut weight = params.get(&format!("{module}.weight")); // [O, I]
            if let Some(delta) = self.delta(module)? {
                let sum = weight.f_to_kind(kind)? + delta.f_to_kind(kind)?;
                weight.f_copy_(&sum)?;
            }
        }
        Ok(())
    }
}

fn misfit(why: String) -> Error {
    Error::input("the adapter does not fit the model")
        .because(why)
        .hint("use the weights that the adapter was trained on")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::config::preset;
    use crate::model::{CausalLm, Mask};

    fn config() -> ModelConfig {
        let mut stated = preset("minimind3").unwrap();
        (stated.hidden_size, stated.num_hidden_layers, stated.vocab_size) = (Some(32), Some(2), Some(64));
        stated.resolve().unwrap()
    }

    #[test]
    fn square_layers_are_the_default_and_names_choose_others() {
        let config = config();
        let of = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
            layers(&config, &names).map(|l| l.into_iter().map(|(m, ..)| m).collect::<Vec<_>>())
        };
        let square = of(&[]).unwrap();
        assert_eq!(square[..2], ["model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.o_proj"]);
        assert_eq!(square.len(), 4);
        assert_eq!(of(&["down_proj", "k_proj"]).unwrap().len(), 4);
        assert_eq!(of(&["all-linear"]).unwrap().len(), 14);
        assert!(of(&["nothing"]).is_err());
    }

    #[test]
    fn a_merged_model_is_the_adapted_one() {
        tch::manual_seed(3);
        let config = config();
        let params = Params::init(&config, Device::Cpu).unwrap();
        let adapter = Adapter::fresh(&config, &["all-linear".to_owned()], 4, Device::Cpu).unwrap();
        assert!(adapter.tensors()[1].abs().max().double_value(&[]) == 0.0);
        for tensor in adapter.tensors() {
            let _ = tensor.shallow_clone().normal_(0.0, 0.1);
        }
        let ids = Tensor::arange(10, (Kind::Int64, Device::Cpu)).view([2, 5]);
        let logits = |model: &CausalLm| model.logits(&model.hidden(&ids, Mask::Causal, false).0);
        let named: HashMap<String, Tensor> = adapter
            .names()
            .iter()
            .cloned()
            .zip(adapter.tensors().iter().map(Tensor::shallow_clone))
            .collect();
        let adapter = adapter.scaled(0.5, 0.0);
        let plain = CausalLm::new(&config, params);
        let before = logits(&plain);
        let adapted = plain.with_adapter(adapter);
        let with = logits(&adapted);
        assert!((&with - &before).abs().max().double_value(&[]) > 1e-2);
        let again = Adapter::from_named(
            &config,
            named.iter().map(|(k, t)| (k.clone(), t.copy())).collect(),
            Device::Cpu,
        );
        let again = again.unwrap().scaled(0.5, 0.0);
        let effective = adapted.params().effective("model.layers.1.mlp.up_proj.weight").unwrap();
        assert_eq!((again.rank(), again.names().len()), (4, 28));
        again.merge_into(adapted.params(), Kind::Float).unwrap();
        assert!(effective.equal(&adapted.params().get("model.layers.1.mlp.up_proj.weight")));
        let merged = logits(&adapted.without_adapter());
        assert!((&with - merged).abs().max().double_value(&[]) < 1e-4);
        for (spoil, why) in [("model.layers.9.self_attn.q_proj.lora.A.weight", "no place"), ("", "alone")] {
            let mut named: HashMap<String, Tensor> =
                named.iter().map(|(k, t)| (k.clone(), t.copy())).collect();
            if spoil.is_empty() {
                named.remove("model.layers.0.self_attn.q_proj.lora.A.weight");
            } else {
                named.insert(spoil.to_owned(), Tensor::zeros([4, 32], (Kind::Float, Device::Cpu)));
            }
            let fault = Adapter::from_named(&config, named, Device::Cpu).unwrap_err().to_string();
            assert!(fault.contains(why), "{fault}");
        }
    }
}
