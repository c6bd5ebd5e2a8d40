//! Cross-entropy on held-out rows, for validation and for evaluation.

use tch::Kind;

use crate::data::DataLoader;
use crate::engine::{Compute, Ranks, column};
use crate::error::Result;
use crate::loss::cross_entropy;
use crate::model::CausalLm;
use crate::stage::device_batch::DeviceBatch;

/// Cross-entropy over all rows of a loader: `val_loss`, `val_perplexity` and, where the text's bytes are
/// known, `val_bits_per_byte`; `val_loss/NAME` of each part of a mixture; empty where no row has a training target. The mean is over tokens, whatever the batch
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
    let names = loader.part_names();
    // Loss, labels and bytes; then loss and labels of each part of a mixture.
    let mut sums = vec![0.0; 3 + 2 * names.len()];
    for index in ranks.own_indices(loader.steps_per_epoch()) {
        let batch = loader.batch(0, index)?;
        let mut on_device = DeviceBatch::new(&batch, device);
        on_device.targets.each = batch.parts.is_some();
        let targets = &on_device.targets;
        if targets.count == 0 {
            continue;
        }
        let entropy = tch::no_grad(|| {
            compute.run(device, || {
                let (hidden, _) = model.hidden(&on_device.ids, on_device.mask(), false);
                cross_entropy::measured(&hidden, model.lm_head(), targets)
            })
        })?;
        sums[0] += entropy.sum.to_kind(Kind::Double).double_value(&[]);
        sums[1] += targets.count as f64;
        sums[2] += batch.loss_bytes as f64;
        if let Some(each) = &entropy.each {
            let rows = cross_entropy::row_sums(each, targets, batch.input_ids.dim())?;
            for (row, part, _) in batch.rows_by_part() {
                sums[3 + 2 * part] += rows[row];
                sums[4 + 2 * part] += batch.row_labels(row) as f64;
            }
        }
    }
    ranks.all_reduce(&mut sums)?;
    let (total, tokens, bytes) = (sums[0], sums[1], sums[2]);
    if tokens == 0.0 {
        return Ok(Vec::new());
    }
    let mean = total / tokens;
    let mut values = vec![("val_loss", mean), ("val_perplexity", mean.exp())];
    if bytes > 0.0 {
        values.push(("val_bits_per_byte", total / std::f64::consts::LN_2 / bytes));
    }
    for (name, part) in names.iter().zip(sums[3..].chunks(2)).filter(|(_, part)| part[1] > 0.0) {
        values.push((column(&format!("val_loss/{name}")), part[0] / part[1]));
    }
    Ok(values)
}
