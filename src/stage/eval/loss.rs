//! Cross-entropy on held-out rows, for validation and for evaluation.

use tch::Kind;

use crate::data::DataLoader;
use crate::engine::{Compute, Ranks};
use crate::error::Result;
use crate::loss::cross_entropy;
use crate::model::CausalLm;
use crate::stage::device_batch::DeviceBatch;

/// Cross-entropy over all rows of a loader: `val_loss`, `val_perplexity` and, where the text's bytes are
/// known, `val_bits_per_byte`; empty where no row has a training target. The mean is over tokens, whatever the batch
/// size; the ranks share the batches.
///
/// # Errors
/// Rows that cannot be read; a fault of the device.
pub fn measure_loss(
    model: &CausalLm,
    loader: &DataLoader,
    compute: Compute,
    ranks: &Ranks,
) -> Result<Vec<(&'static str, f64)>> {
    let device = model.device();
    let mut sums = [0.0; 3];
    for index in ranks.own_indices(loader.steps_per_epoch()) {
        let batch = loader.batch(0, index)?;
        let on_device = DeviceBatch::new(&batch, device);
        let targets = &on_device.targets;
        if targets.count == 0 {
            continue;
        }
        let sum = tch::no_grad(|| {
            compute.run(device, || {
                let (hidden, _) = model.hidden(&on_device.ids, on_device.mask(), false);
                cross_entropy::sum(&hidden, model.lm_head(), targets)
            })
        })?;
        sums[0] += sum.to_kind(Kind::Double).double_value(&[]);
        sums[1] += targets.count as f64;
        sums[2] += batch.loss_bytes as f64;
    }
    ranks.all_reduce(&mut sums)?;
    let [total, tokens, bytes] = sums;
    if tokens == 0.0 {
        return Ok(Vec::new());
    }
    let mean = total / tokens;
    let mut values = vec![("val_loss", mean), ("val_perplexity", mean.exp())];
    if bytes > 0.0 {
        values.push(("val_bits_per_byte", total / std::f64::consts::LN_2 / bytes));
    }
    Ok(values)
}
