//! What dpo and reward share: preference pairs on the device, and how well chosen and rejected are separated.
//!
//! P pairs, T tokens.

use tch::{Device, Kind, Tensor};

use super::device_batch::upload_ids;
use crate::data::{DataLoader, PreferenceBatch, preference};
use crate::engine::Ranks;
use crate::error::{Error, Result};

/// A batch of pairs on the device: chosen rows, then rejected rows.
pub(super) struct DevicePairs {
    /// `[2 P, T]`.
    pub ids: Tensor,
    /// 1 where a token's log-probability counts, `[2 P, T]`.
    pub mask: Tensor,
    /// Each row's last token as an index into the flattened rows, `[2 P]`.
    pub last: Tensor,
    /// P.
    pub count: i64,
    /// Tokens that are not padding.
    pub tokens: u64,
}

impl DevicePairs {
    /// Batch `index` of `epoch`, both from 0.
    ///
    /// # Errors
    /// Rows that cannot be read, or have no completion.
    pub fn read(loader: &DataLoader, epoch: u64, index: u64, device: Device) -> Result<Self> {
        let PreferenceBatch { input_ids, mask, last, real_tokens } = preference::batch(loader, epoch, index)?;
        let width = input_ids.dim().1 as i64;
        if width < 2 {
            return Err(
                Error::input("rows of one token hold no completion to compare").hint("give longer rows")
            );
        }
        let flat: Vec<i64> = last.iter().enumerate().map(|(row, last)| row as i64 * width + last).collect();
        Ok(Self {
            ids: upload_ids(&input_ids, device),
            mask: upload_ids(&mask, device),
            count: flat.len() as i64 / 2,
            last: Tensor::from_slice(&flat).to_device(device),
            tokens: real_tokens as u64,
        })
    }

    /// What the forward pass reads, what it should predict (-100 where nothing counts) and the mask of that, each
    /// `[2 P, T - 1]`; upstream cuts before the forward pass, which the experts' balance sees.
    pub fn shifted(&self) -> [Tensor; 3] {
        let (_, t) = self.ids.size2().expect("ids are [2 P, T]");
        let (inputs, ids) = (self.ids.narrow(1, 0, t - 1), self.ids.narrow(1, 1, t - 1));
        let mask = self.mask.narrow(1, 1, t - 1);
        let targets = ids.masked_fill(&mask.eq(0), -100);
        [inputs, targets, mask]
    }

    /// `[2 P] -> [P]` of the chosen and of the rejected rows.
    pub fn split(&self, rows: &Tensor) -> [Tensor; 2] {
        [rows.narrow(0, 0, self.count), rows.narrow(0, self.count, self.count)]
    }
}

/// Statistics of the chosen and the rejected values of pairs, `[P]` each.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct PairStats {
    /// Mean of the chosen ones.
    pub chosen: f64,
    /// Mean of the rejected ones.
    pub rejected: f64,
    /// Share of pairs whose chosen one is higher.
    pub accuracy: f64,
}

impl PairStats {
    /// Of the chosen and the rejected values, `[P]` each.
    pub fn new(chosen: &Tensor, rejected: &Tensor) -> Self {
        let mean = |t: &Tensor| t.to_kind(Kind::Double).mean(Kind::Double).double_value(&[]);
        Self { chosen: mean(chosen), rejected: mean(rejected), accuracy: mean(&chosen.gt_tensor(rejected)) }
    }

    /// Mean difference.
    pub fn margin(&self) -> f64 {
        self.chosen - self.rejected
    }
}

/// Loss, accuracy and margin over all pairs of a loader, whose batches the ranks share; `of` measures one batch.
///
/// # Errors
/// Rows that cannot be read; those of `of`; a rank that is lost.
pub(super) fn validate_pairs(
    loader: &DataLoader,
    device: Device,
    ranks: &Ranks,
    mut of: impl FnMut(&DevicePairs) -> Result<(f64, PairStats)>,
) -> Result<Vec<(&'static str, f64)>> {
    let mut sums = [0.0; 4];
    for index in ranks.own_indices(loader.steps_per_epoch()) {
        let batch = DevicePairs::read(loader, 0, index, device)?;
        let (batch_loss, apart) = of(&batch)?;
        let count = batch.count as f64;
        for (sum, value) in sums.iter_mut().zip([batch_loss, apart.accuracy, apart.margin(), 1.0]) {
            *sum += value * count;
        }
    }
    ranks.all_reduce(&mut sums)?;
    let [loss, accuracy, margin, pairs] = sums;
    let values = [("val_loss", loss), ("val_accuracy", accuracy), ("val_margin", margin)];
    Ok(values.into_iter().map(|(name, sum)| (name, sum / f64::max(pairs, 1.0))).collect())
}
