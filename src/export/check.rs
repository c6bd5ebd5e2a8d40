//! The check at the end of every export: the same ids through the source and through the export.
//!
//! Both compute at the export's precision, so that what is left is a fault of the format and not rounding.
//!
//! B rows, T tokens, V vocab.

use std::path::Path;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use tch::{Device, Kind, Tensor};

use super::source::Source;
use crate::checkpoint::load;
use crate::error::{Error, Result};
use crate::model::{CausalLm, Mask};

/// B and T of the ids that are compared; more than one row, so that a fixed batch size would show.
pub const SHAPE: (i64, i64) = (2, 24);

/// The comparison of an export with its source.
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    /// Largest absolute difference of a logit.
    pub largest_difference: f64,
    /// The largest difference that is allowed.
    pub tolerance: f64,
    /// What was compared, for people.
    pub compared: Vec<String>,
}

/// Largest difference allowed, as a share of the largest logit: about ten roundings of the type, and for
/// fp32 what the parity tests allow.
pub fn tolerance(kind: Kind) -> f64 {
    match kind {
        Kind::Half => 5e-3,
        Kind::BFloat16 => 4e-2,
        _ => 2e-5,
    }
}

/// `[B, T]` ids, the same every time.
pub fn random_ids(model: &CausalLm) -> Tensor {
    let (b, t) = (SHAPE.0, SHAPE.1.min(model.config().max_position_embeddings));
    let mut rng = ChaCha8Rng::seed_from_u64(2026);
    let vocab = model.config().vocab_size;
    let ids: Vec<i64> = (0..b * t).map(|_| rng.random_range(0..vocab)).collect();
    Tensor::from_slice(&ids).view([b, t])
}

/// `[B, T] -> [B, T, V]` in fp32.
pub fn logits(model: &CausalLm, ids: &Tensor) -> Tensor {
    let _no_grad = tch::no_grad_guard();
    let (hidden, _) = model.hidden(ids, Mask::Causal, false);
    model.logits(&hidden).to_kind(Kind::Float)
}

/// Compares what an export computed with what its source did, `[B, T, V]` each.
///
/// # Errors
/// They differ by more than `tolerance` times the largest logit (at least 1), or are no numbers.
pub fn compare(want: &Tensor, got: &Tensor, tolerance: f64, what: &str) -> Result<Check> {
    let finite = |t: &Tensor| t.isfinite().all().int64_value(&[]) == 1;
    if !finite(want) {
        return Err(Error::failed("the model's own logits are not numbers at this precision")
            .hint("export with --precision fp32; if that fails too, the weights are broken"));
    }
    if want.size() != got.size() {
        return Err(Error::failed(format!(
            "the export's {what} have shape {:?}, the source's {:?}",
            got.size(),
            want.size()
        )));
    }
    let allowed = tolerance * want.abs().max().double_value(&[]).max(1.0);
    let far = (want - got.to_kind(want.kind())).abs().max().double_value(&[]);
    if !finite(got) || far > allowed {
        return Err(Error::failed("the export does not compute what its source does")
            .because(format!("the largest difference of {what} is {far:.2e}, allowed is {allowed:.2e}"))
            .hint("nothing was written; --no-verify keeps it, for finding out why"));
    }
    Ok(Check { largest_difference: far, tolerance: allowed, compared: vec![what.to_owned()] })
}

impl Check {
    /// Two comparisons as one.
    pub fn and(mut self, other: Check) -> Self {
        self.largest_difference = self.largest_difference.max(other.largest_difference);
        self.tolerance = self.tolerance.max(other.tolerance);
        self.compared.extend(other.compared);
        self
    }
}

/// Loads a weight file or folder as any reader would, in the type `kind`, and compares its logits.
///
/// # Errors
/// It cannot be loaded, or its logits differ.
pub fn compare_file(source: &Source, kind: Kind, path: &Path) -> Result<Check> {
    let back = load::load_model(path, None, Device::Cpu, kind)?;
    let ids = random_ids(&source.model);
    let want = logits(&source.model_as(kind)?, &ids);
    compare(&want, &logits(&back.model, &ids), tolerance(kind), "logits")
}
