//! LoRA adapters as files (arXiv 2106.09685): upstream's `.pth`, and PEFT's folders.
//!
//! An [`Adapter`] is a pair of matrices for each adapted Linear, and what their product is multiplied with:
//! always 1 upstream, `alpha / rank` in PEFT, what the record says in ours; PEFT's may bring more. [`peft`] reads and
//! writes PEFT's folders ([`config`] its keys), `apply` adds an adapter to weights, [`merge`] to a weight file;
//! [`mod@file`] makes a model of an adapter and its base, [`adapted`] of any adapter and any base. The layers that
//! train one live in `model`.
//!
//! R rank, I inputs, O outputs.

pub mod adapted;
mod apply;
pub mod config;
pub mod file;
pub mod merge;
mod parts;
mod pattern;
pub mod peft;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use sha2::{Digest, Sha256};
use tch::{Kind, Tensor};

use super::names::own_name;
use super::value::{HostTensor, Value};
use super::{bridge, load, pth};
use crate::error::{Error, Place, Result};

/// The name of PEFT's config in a folder.
pub const CONFIG: &str = "adapter_config.json";

/// What a weight is before the adapter is added: PEFT begins some kinds by taking a part out of the model's own
/// weights, and does so again whenever it loads them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Start {
    /// The model's.
    #[default]
    Same,
    /// Without its R largest singular values (arXiv 2404.02948).
    Pissa,
    /// Without `scale * Q[:, :R] R[:R]` of its QR decomposition (arXiv 2406.01775).
    Olora,
}

/// The matrices of one Linear: `y += scale * B(Ax)`; of an embedding, seen as a Linear from ids.
#[derive(Debug, Clone)]
pub struct Pair {
    /// `[R, I]`.
    pub a: HostTensor,
    /// `[O, R]`.
    pub b: HostTensor,
    /// What the product is multiplied with.
    pub scale: f64,
    /// What it is added to.
    pub start: Start,
    /// DoRA's magnitudes (arXiv 2402.09353): the sum's rows get these lengths; of an embedding its columns.
    pub magnitude: Option<HostTensor>,
    /// `[O]`, a bias of B.
    pub bias: Option<HostTensor>,
    /// Whether it is an embedding's.
    pub embedding: bool,
}

impl Pair {
    /// A pair whose shapes fit each other.
    ///
    /// # Errors
    /// They do not.
    pub fn new(module: &str, a: HostTensor, b: HostTensor, scale: f64) -> Result<Self> {
        match (&a.shape()[..], &b.shape()[..]) {
            ([rank, _], [_, same]) if rank == same && *rank > 0 => {
                Ok(Self { a, b, scale, start: Start::Same, magnitude: None, bias: None, embedding: false })
            }
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

    /// The part beyond plain LoRA, by PEFT's key; none where there is none.
    fn beyond(&self) -> Option<&'static str> {
        if self.start != Start::Same {
            Some("init_lora_weights")
        } else if self.magnitude.is_some() {
            Some("use_dora")
        } else if self.bias.is_some() {
            Some("lora_bias")
        } else {
            self.embedding.then_some("target_modules (the embedding)")
        }
    }

    /// The same pair with `scale` 1: B takes it up, in its own type.
    fn folded(&self) -> Result<Self> {
        if self.scale == 1.0 {
            return Ok(self.clone());
        }
        let b = (float(&self.b)? * self.scale).f_to_kind(self.b.dtype().kind())?;
        Ok(Self { b: bridge::to_host(&b)?, scale: 1.0, ..self.clone() })
    }
}

fn float(host: &HostTensor) -> Result<Tensor> {
    Ok(bridge::to_tensor(host)?.f_to_kind(Kind::Float)?)
}

/// A tensor of the model that comes with the adapter.
#[derive(Debug, Clone)]
pub struct Whole {
    /// The parameter's name.
    pub name: String,
    /// In its place.
    pub tensor: HostTensor,
    /// Whether its module is a copy of its own (`modules_to_save`), so that what is tied to the model's is not
    /// changed with it.
    pub own: bool,
}

/// Rows of a weight that come with the adapter.
#[derive(Debug, Clone)]
pub struct Rows {
    /// The parameter's name.
    pub name: String,
    /// Which.
    pub indices: Vec<i64>,
    /// `[n, columns]`.
    pub rows: HostTensor,
}

/// An adapter.
#[derive(Debug, Clone, Default)]
pub struct Adapter {
    /// By the adapted Linear's name (`model.layers.0.self_attn.q_proj`), in the order of layers.
    pub pairs: Vec<(String, Pair)>,
    /// Tensors that come whole.
    pub whole: Vec<Whole>,
    /// Rows that come new.
    pub rows: Vec<Rows>,
    /// Whether a tied output layer follows the embedding (`ensure_weight_tying`).
    pub keep_tie: bool,
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
        // A PEFT folder's own file stands for the folder.
        let folder = path.parent().unwrap_or(Path::new("."));
        if peft::is_folder(folder) && peft::weights_of(folder).is_ok_and(|weights| weights == path) {
            return peft::read(folder);
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
                halves.put(&own_name(module), half, tensor).map_err(at)?;
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

    /// That A, B and a scale are all there is.
    ///
    /// # Errors
    /// There is more, by PEFT's key.
    fn plain(&self, form: &str) -> Result<()> {
        let more = self.pairs.iter().find_map(|(_, pair)| pair.beyond());
        let rows = self.rows.first().map(|_| "trainable_token_indices");
        let whole = self.whole.first().map(|w| if w.own { "modules_to_save" } else { "bias" });
        match more.or(rows).or(whole) {
            None => Ok(()),
            Some(key) => {
                Err(Error::input(format!("this adapter has `{key}` set, for which {form} has no place"))
                    .hint("merge it into its model: minimind adapter merge --model M --adapter A --out FILE"))
            }
        }
    }

    /// Upstream's names, scales taken up by B, to their tensors.
    ///
    /// # Errors
    /// It is more than plain LoRA.
    pub fn upstream(&self) -> Result<Vec<(String, HostTensor)>> {
        self.plain("upstream's file")?;
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
        let of_pair = |pair: &Pair| {
            let more = [&pair.magnitude, &pair.bias].into_iter().flatten().map(HostTensor::numel);
            pair.a.numel() + pair.b.numel() + more.sum::<usize>()
        };
        let pairs: usize = self.pairs.iter().map(|(_, pair)| of_pair(pair)).sum();
        let whole: usize = self.whole.iter().map(|whole| whole.tensor.numel()).sum();
        let rows: usize = self.rows.iter().map(|rows| rows.rows.numel()).sum();
        (pairs + whole + rows) as u64
    }

    /// What tells it from other adapters: SHA-256 (hex) of its names and of the numbers it adds with, which
    /// are the same in every format and type that holds them exactly.
    pub fn fingerprint(&self) -> Result<String> {
        let mut hash = Sha256::new();
        let sorted: BTreeMap<&String, &Pair> = self.pairs.iter().map(|(name, pair)| (name, pair)).collect();
        for (name, pair) in sorted {
            let pair = pair.folded()?;
            hash.update(format!("{name}\n{:?}{:?}\n", pair.a.shape(), pair.b.shape()));
            for half in [Some(&pair.a), Some(&pair.b), pair.magnitude.as_ref(), pair.bias.as_ref()] {
                let Some(half) = half else { continue };
                hash.update(&*bridge::to_host(&float(half)?)?.bytes()?);
            }
            if let Some(key) = pair.beyond() {
                hash.update(format!("{key} {:?}\n", pair.start));
            }
        }
        let rows = self.rows.iter().map(|rows| (&rows.name, format!("{:?}", rows.indices), &rows.rows));
        let whole = self.whole.iter().map(|whole| (&whole.name, String::new(), &whole.tensor));
        let mut more: Vec<_> = rows.chain(whole).collect();
        more.sort_by_key(|(name, which, _)| (*name, which.clone()));
        for (name, which, tensor) in more {
            hash.update(format!("{name}\n{which}{:?}\n", tensor.shape()));
            hash.update(&*bridge::to_host(&float(tensor)?)?.bytes()?);
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
        Ok(Adapter { pairs, ..Adapter::default() })
    }
}

/// Layers 2 and 10 in the order of their numbers.
fn natural(name: &str) -> Vec<(u64, &str)> {
    name.split('.').map(|part| (part.parse().unwrap_or(u64::MAX), part)).collect()
}
