//! LoRA adapters as files (arXiv 2106.09685): upstream's `.pth`, and PEFT's folders.
//!
//! An [`Adapter`] is a pair of matrices for each adapted Linear, and what their product is multiplied with:
//! always 1 upstream, `alpha / rank` in PEFT, what the record says in ours. [`peft`] reads and writes PEFT's folders, [`merge`] adds an
//! adapter to a weight file; [`mod@file`] makes a model of an adapter and its base, [`adapted`] of any adapter and any base. The layers that train one live in `model`.
//!
//! R rank, I inputs, O outputs.

pub mod adapted;
pub mod file;
pub mod merge;
pub mod peft;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use sha2::{Digest, Sha256};
use tch::{Kind, Tensor};

use super::value::{HostTensor, Value};
use super::{bridge, load, pth, strip_prefix};
use crate::error::{Error, Place, Result};

/// The matrices of one Linear: `y += scale * B(Ax)`.
#[derive(Debug, Clone)]
pub struct Pair {
    /// `[R, I]`.
    pub a: HostTensor,
    /// `[O, R]`.
    pub b: HostTensor,
    /// What the product is multiplied with.
    pub scale: f64,
}

impl Pair {
    /// A pair whose shapes fit each other.
    ///
    /// # Errors
    /// They do not.
    pub fn new(module: &str, a: HostTensor, b: HostTensor, scale: f64) -> Result<Self> {
        match (&a.shape()[..], &b.shape()[..]) {
            ([rank, _], [_, same]) if rank == same && *rank > 0 => Ok(Self { a, b, scale }),
            (a, b) => Err(Error::failed(format!("the adapter of `{module}` has A {a:?} and B {b:?}"))
                .hint("A is [rank, inputs], B is [outputs, rank]")),
        }
    }

    /// R.
    pub fn rank(&self) -> i64 {
        self.a.shape()[0]
    }

    /// `scale * B A`, `[O, I]`, in fp32.
    pub fn delta(&self) -> Result<Tensor> {
        let (a, b) = (float(&self.a)?, float(&self.b)?);
        let product = b.f_matmul(&a)?;
        Ok(if self.scale == 1.0 { product } else { product * self.scale })
    }

    /// The same pair with `scale` 1: B takes it up, in its own type.
    fn folded(&self) -> Result<Self> {
        if self.scale == 1.0 {
            return Ok(self.clone());
        }
        let b = (float(&self.b)? * self.scale).f_to_kind(self.b.dtype().kind())?;
        Ok(Self { a: self.a.clone(), b: bridge::to_host(&b)?, scale: 1.0 })
    }
}

fn float(host: &HostTensor) -> Result<Tensor> {
    Ok(bridge::to_tensor(host)?.f_to_kind(Kind::Float)?)
}

/// An adapter.
#[derive(Debug, Clone, Default)]
pub struct Adapter {
    /// By the adapted Linear's name (`model.layers.0.self_attn.q_proj`), in the order of layers.
    pub pairs: Vec<(String, Pair)>,
    /// The model it was trained on, where the file says.
    pub base: Option<String>,
}

impl Adapter {
    /// Reads upstream's file (`.pth`, or the same names in a `.safetensors`) or a PEFT folder.
    ///
    /// # Errors
    /// There is no adapter, half of a pair is missing, or PEFT's config asks for what is not plain LoRA.
    pub fn read(path: &Path) -> Result<Self> {
        if path.is_dir() {
            return peft::read(path);
        }
        let weights = load::read_weights(path)?;
        let at = |e: Error| e.at(Place::file(path));
        let scale = file::stated_scale(&weights);
        if weights.tensors.keys().any(|name| name.contains(".lora_A.")) {
            return Err(Error::input("these are PEFT's weights without their config")
                .at(Place::file(path))
                .hint("name the folder that holds adapter_config.json"));
        }
        let mut halves = Halves::default();
        for (name, tensor) in weights.tensors {
            // Whole weights may lie beside the adapter's; only its own are read.
            if let Some((module, half)) = name.split_once(".lora.") {
                halves.put(strip_prefix(module), half, tensor).map_err(at)?;
            }
        }
        let adapter = halves.adapter(|_| Ok(scale)).map_err(at)?;
        if adapter.pairs.is_empty() {
            return Err(Error::input("this file holds no LoRA adapter")
                .at(Place::file(path))
                .hint("an adapter's names end in .lora.A.weight and .lora.B.weight"));
        }
        Ok(adapter)
    }

    /// Upstream's names, scales taken up by B, to their tensors.
    pub fn upstream(&self) -> Result<Vec<(String, HostTensor)>> {
        let mut named = Vec::with_capacity(2 * self.pairs.len());
        for (module, pair) in &self.pairs {
            let pair = pair.folded()?;
            named.push((format!("{module}.lora.A.weight"), pair.a));
            named.push((format!("{module}.lora.B.weight"), pair.b));
        }
        Ok(named)
    }

    /// Writes upstream's file, a plain dict of tensors.
    pub fn write_pth(&self, path: &Path) -> Result<()> {
        let named = self.upstream()?;
        pth::write(path, &Value::dict(named.into_iter().map(|(name, t)| (name, Value::Tensor(t)))), &[])
    }

    /// Numbers it holds.
    pub fn parameters(&self) -> u64 {
        self.pairs.iter().map(|(_, pair)| (pair.a.numel() + pair.b.numel()) as u64).sum()
    }

    /// What tells it from other adapters: SHA-256 (hex) of its names and of the numbers it adds with, which
    /// are the same in every format and type that holds them exactly.
    pub fn fingerprint(&self) -> Result<String> {
        let mut hash = Sha256::new();
        let sorted: BTreeMap<&String, &Pair> = self.pairs.iter().map(|(name, pair)| (name, pair)).collect();
        for (name, pair) in sorted {
            let pair = pair.folded()?;
            hash.update(format!("{name}\n{:?}{:?}\n", pair.a.shape(), pair.b.shape()));
            for half in [&pair.a, &pair.b] {
                hash.update(&*bridge::to_host(&float(half)?)?.bytes()?);
            }
        }
        Ok(crate::hash::hex(&hash.finalize()))
    }
}

/// Pairs while a file is read: either half may come first.
#[derive(Default)]
struct Halves(HashMap<String, (Option<HostTensor>, Option<HostTensor>)>);

impl Halves {
    /// `half` is `A.weight` or `B.weight`.
    fn put(&mut self, module: &str, half: &str, tensor: HostTensor) -> Result<()> {
        let entry = self.0.entry(module.to_owned()).or_default();
        match half {
            "A.weight" => entry.0 = Some(tensor),
            "B.weight" => entry.1 = Some(tensor),
            _ => {
                return Err(Error::failed(format!("`{module}` has an unknown part `{half}` in its adapter")));
            }
        }
        Ok(())
    }

    fn adapter(self, scale: impl Fn(&str) -> Result<f64>) -> Result<Adapter> {
        let mut pairs = Vec::with_capacity(self.0.len());
        for (module, halves) in self.0 {
            let (Some(a), Some(b)) = halves else {
                return Err(Error::failed(format!("the adapter of `{module}` lacks its A or its B"))
                    .hint("copy or download the adapter again"));
            };
            let scale = scale(&module)?;
            let pair = Pair::new(&module, a, b, scale)?;
            pairs.push((module, pair));
        }
        pairs.sort_by(|a, b| natural(&a.0).cmp(&natural(&b.0)));
        Ok(Adapter { pairs, base: None })
    }
}

/// Layers 2 and 10 in the order of their numbers.
fn natural(name: &str) -> Vec<(u64, &str)> {
    name.split('.').map(|part| (part.parse().unwrap_or(u64::MAX), part)).collect()
}
