//! A batch of rows on the model's device.
//!
//! B batch, T tokens.

use ndarray::Array2;
use tch::Tensor;

use crate::data::Batch;
use crate::loss::cross_entropy::Targets;
use crate::model::{Mask, Packing};
use crate::native::to_device;

/// Copies token ids `[B, T]` to a device.
pub fn upload_ids(ids: &Array2<i64>, device: tch::Device) -> Tensor {
    let (b, t) = ids.dim();
    let flat: Vec<i64> = ids.iter().copied().collect();
    to_device(Tensor::from_slice(&flat), device).view([b as i64, t as i64])
}

/// A batch on a device.
pub struct DeviceBatch {
    /// Token ids, `[B, T]`.
    pub ids: Tensor,
    /// The labels.
    pub targets: Targets,
    packing: Option<Packing>,
}

impl DeviceBatch {
    /// Copies a batch to a device.
    pub fn new(batch: &Batch, device: tch::Device) -> Self {
        Self {
            ids: upload_ids(&batch.input_ids, device),
            targets: Targets::new(&batch.labels, device),
            packing: batch.documents.as_ref().map(|rows| Packing::new(rows, device)),
        }
    }

    /// The attention mask: causal, and within documents where rows are packed.
    pub fn mask(&self) -> Mask<'_> {
        self.packing.as_ref().map_or(Mask::Causal, Mask::Documents)
    }
}
