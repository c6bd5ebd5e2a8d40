//! What a [`DataLoader`](super::DataLoader) hands to a stage: one padded micro-batch on the host, as ndarray.
//!
//! Not tensors: the engine copies a batch to its device. B rows, T tokens.

use ndarray::Array2;

/// A label without loss, as PyTorch's `ignore_index`.
pub const IGNORE_INDEX: i64 = -100;

/// One micro-batch. Labels come unshifted: `labels[t]` is the token at `t`, and logits at `t`
/// predict `labels[t + 1]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Token ids, `[B, T]`, padded on the right.
    pub input_ids: Array2<i64>,
    /// Labels, `[B, T]`; [`IGNORE_INDEX`] where there is no loss.
    pub labels: Array2<i64>,
    /// Tokens of each document of each row, padding as one more: where rows are packed. They add up to T.
    pub documents: Option<Vec<Vec<usize>>>,
    /// The part of a mixture that each row is of, and the row's tokens.
    pub parts: Option<Vec<(usize, usize)>>,
    /// Tokens that are not padding.
    pub real_tokens: usize,
    /// Labels that carry loss (after the shift: column 0 never does).
    pub loss_tokens: usize,
    /// UTF-8 bytes of the text that the loss-carrying labels spell, for bits per byte; 0 if unknown.
    pub loss_bytes: usize,
}

impl Batch {
    /// Each row with the part of the mixture that it is of and its tokens; nothing without a mixture.
    pub fn rows_by_part(&self) -> impl Iterator<Item = (usize, usize, u64)> + '_ {
        let rows = self.parts.iter().flatten().enumerate();
        rows.map(|(row, (part, tokens))| (row, *part, *tokens as u64))
    }

    /// Labels with loss of a row.
    pub fn row_labels(&self, row: usize) -> u64 {
        self.labels.row(row).iter().skip(1).filter(|label| **label >= 0).count() as u64
    }
}
