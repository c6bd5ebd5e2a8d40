//! A LoRA adapter in memory: pairs of matrices and their scale; PEFT's may have more parts.
//!
//! Next: `read` (from disk), `apply` (into weights).
//!
//! R rank, I inputs, O outputs.

use std::collections::BTreeMap;
use std::path::Path;

use sha2::{Digest, Sha256};
use tch::{Kind, Tensor};

use crate::checkpoint::host_tensor::HostTensor;
use crate::checkpoint::value::Value;
use crate::checkpoint::{convert, pth};
use crate::error::{Error, Result};

/// How the base weight is prepared before the adapter is added: for some `init_lora_weights` PEFT takes a part out of
/// the model's own weights, and does so again whenever it loads them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BaseInit {
    /// Unchanged.
    #[default]
    Same,
    /// Without its R largest singular values and vectors (arXiv 2404.02948).
    Pissa,
    /// Without `scale * Q[:, :R] R[:R]` of its QR decomposition (arXiv 2406.01775).
    Olora,
}

/// The matrices of one Linear, `y += scale * B(Ax)`; or of an embedding, seen as a Linear from ids.
#[derive(Debug, Clone)]
pub struct LoraPair {
    /// `[R, I]`.
    pub a: HostTensor,
    /// `[O, R]`.
    pub b: HostTensor,
    /// Factor of the product: `alpha / rank` in PEFT, 1 upstream.
    pub scale: f64,
    /// How the base weight is prepared.
    pub start: BaseInit,
    /// DoRA's magnitudes `[O]` (arXiv 2402.09353), the norms of the sum's rows; for an embedding of its columns.
    pub magnitude: Option<HostTensor>,
    /// Bias of B, `[O]`.
    pub bias: Option<HostTensor>,
    /// Whether it is an embedding's.
    pub embedding: bool,
}

impl LoraPair {
    /// A plain pair of A `[R, I]` and B `[O, R]`; `module` is for the error.
    ///
    /// # Errors
    /// The two disagree on R, or are no matrices.
    pub fn new(module: &str, a: HostTensor, b: HostTensor, scale: f64) -> Result<Self> {
        match (&a.shape()[..], &b.shape()[..]) {
            ([rank, _], [_, same]) if rank == same && *rank > 0 => {
                Ok(Self { a, b, scale, start: BaseInit::Same, magnitude: None, bias: None, embedding: false })
            }
            (a, b) => Err(Error::failed(format!("the adapter of `{module}` has A {a:?} and B {b:?}"))
                .hint("A is [rank, inputs], B is [outputs, rank]")),
        }
    }

    /// The rank R.
    pub fn rank(&self) -> i64 {
        self.a.shape()[0]
    }

    /// `scale * B A`, `[O, I]`, in fp32.
    ///
    /// # Errors
    /// A type that libtorch does not compute with.
    pub fn delta(&self) -> Result<Tensor> {
        let (a, b) = (to_fp32(&self.a)?, to_fp32(&self.b)?);
        let product = b.f_matmul(&a)?;
        Ok(if self.scale == 1.0 { product } else { product * self.scale })
    }

    /// The feature beyond plain LoRA that it uses, by PEFT's key.
    fn beyond_plain(&self) -> Option<&'static str> {
        if self.start != BaseInit::Same {
            Some("init_lora_weights")
        } else if self.magnitude.is_some() {
            Some("use_dora")
        } else if self.bias.is_some() {
            Some("lora_bias")
        } else {
            self.embedding.then_some("target_modules (the embedding)")
        }
    }

    /// The same pair with `scale` 1, the old scale multiplied into B in its own type.
    ///
    /// # Errors
    /// A type that libtorch does not compute with.
    pub(super) fn folded(&self) -> Result<Self> {
        if self.scale == 1.0 {
            return Ok(self.clone());
        }
        let b = (to_fp32(&self.b)? * self.scale).f_to_kind(self.b.dtype().kind())?;
        Ok(Self { b: convert::to_host(&b)?, scale: 1.0, ..self.clone() })
    }
}

/// A tensor in fp32, shape unchanged.
///
/// # Errors
/// A type that libtorch does not compute with.
pub(super) fn to_fp32(host: &HostTensor) -> Result<Tensor> {
    Ok(convert::to_tensor(host)?.f_to_kind(Kind::Float)?)
}

/// A whole tensor of the model that comes with the adapter.
#[derive(Debug, Clone)]
pub struct WholeTensor {
    /// The parameter's name.
    pub name: String,
    /// What replaces it.
    pub tensor: HostTensor,
    /// Whether its module is a copy (`modules_to_save`), so that a layer tied to the original does not change with it.
    pub own: bool,
}

/// Rows of a weight that come with the adapter (`trainable_token_indices`).
#[derive(Debug, Clone)]
pub struct NewRows {
    /// The parameter's name.
    pub name: String,
    /// Indices of the rows.
    pub indices: Vec<i64>,
    /// The rows, `[indices, columns]`.
    pub rows: HostTensor,
}

/// An adapter.
#[derive(Debug, Clone, Default)]
pub struct Adapter {
    /// By the adapted Linear's name (`model.layers.0.self_attn.q_proj`), in the order of layers.
    pub pairs: Vec<(String, LoraPair)>,
    /// Tensors that come whole.
    pub whole: Vec<WholeTensor>,
    /// Rows of embeddings that come new.
    pub rows: Vec<NewRows>,
    /// Whether a tied output layer follows the embedding (`ensure_weight_tying`).
    pub keep_tie: bool,
    /// The model it was trained on, where the file states it.
    pub base: Option<String>,
}

impl Adapter {
    /// Demands plain LoRA: A, B and a scale. `form` is what cannot hold more, for the error.
    ///
    /// # Errors
    /// There is more, by PEFT's key.
    pub(super) fn check_plain(&self, form: &str) -> Result<()> {
        let more = self.pairs.iter().find_map(|(_, pair)| pair.beyond_plain());
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

    /// The tensors by upstream's names, scales multiplied into B.
    ///
    /// # Errors
    /// It is more than plain LoRA.
    pub fn to_upstream(&self) -> Result<Vec<(String, HostTensor)>> {
        self.check_plain("upstream's file")?;
        let mut named = Vec::with_capacity(2 * self.pairs.len());
        for (module, pair) in &self.pairs {
            let pair = pair.folded()?;
            named.push((format!("{module}.lora.A.weight"), pair.a));
            named.push((format!("{module}.lora.B.weight"), pair.b));
        }
        Ok(named)
    }

    /// Writes upstream's file, a plain dict of tensors.
    ///
    /// # Errors
    /// It is more than plain LoRA; the disk fails.
    pub fn write_pth(&self, path: &Path) -> Result<()> {
        let named = self.to_upstream()?;
        pth::write(path, &Value::dict(named.into_iter().map(|(name, t)| (name, Value::Tensor(t)))), &[])
    }

    /// Number of parameters.
    pub fn parameters(&self) -> u64 {
        let of_pair = |pair: &LoraPair| {
            let more = [&pair.magnitude, &pair.bias].into_iter().flatten().map(HostTensor::numel);
            pair.a.numel() + pair.b.numel() + more.sum::<usize>()
        };
        let pairs: usize = self.pairs.iter().map(|(_, pair)| of_pair(pair)).sum();
        let whole: usize = self.whole.iter().map(|whole| whole.tensor.numel()).sum();
        let rows: usize = self.rows.iter().map(|rows| rows.rows.numel()).sum();
        (pairs + whole + rows) as u64
    }

    /// Identity of the adapter: SHA-256 (hex) of its names and of its numbers in fp32, the same in every format and
    /// type that holds them exactly.
    ///
    /// # Errors
    /// A tensor of a type that libtorch does not compute with.
    pub fn fingerprint(&self) -> Result<String> {
        let mut hash = Sha256::new();
        let sorted: BTreeMap<&String, &LoraPair> =
            self.pairs.iter().map(|(name, pair)| (name, pair)).collect();
        for (name, pair) in sorted {
            let pair = pair.folded()?;
            hash.update(format!("{name}\n{:?}{:?}\n", pair.a.shape(), pair.b.shape()));
            for half in [Some(&pair.a), Some(&pair.b), pair.magnitude.as_ref(), pair.bias.as_ref()] {
                let Some(half) = half else { continue };
                hash.update(&*convert::to_host(&to_fp32(half)?)?.bytes()?);
            }
            if let Some(key) = pair.beyond_plain() {
                hash.update(format!("{key} {:?}\n", pair.start));
            }
        }
        let rows = self.rows.iter().map(|rows| (&rows.name, format!("{:?}", rows.indices), &rows.rows));
        let whole = self.whole.iter().map(|whole| (&whole.name, String::new(), &whole.tensor));
        let mut more: Vec<_> = rows.chain(whole).collect();
        more.sort_by_key(|(name, which, _)| (*name, which.clone()));
        for (name, which, tensor) in more {
            hash.update(format!("{name}\n{which}{:?}\n", tensor.shape()));
            hash.update(&*convert::to_host(&to_fp32(tensor)?)?.bytes()?);
        }
        Ok(crate::hash::hex(&hash.finalize()))
    }
}

/// A module's name as a key that sorts layer 2 before layer 10.
pub fn layer_order(name: &str) -> Vec<(u64, &str)> {
    name.split('.').map(|part| (part.parse().unwrap_or(u64::MAX), part)).collect()
}
