//! Episodes become tensors, and a policy's forward and backward pass over them.
//!
//! Columns are shifted: column t is about token t + 1. Logits are computed only for positions whose token was
//! generated, in chunks (`loss::logprob`). Next: `source`, where episodes come from.
//!
//! R rows, T tokens, D hidden.

use tch::{Device, Kind, Tensor};

use crate::data::{Episode, IGNORE_INDEX};
use crate::engine::Compute;
use crate::error::Result;
use crate::loss::logprob::{surrogate, token_logprobs};
use crate::model::{CausalLm, Mask, padded_causal_mask};

/// What attention masks out beside the future.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attend {
    /// Nothing: rows are padded on the right, where a causal mask hides padding.
    All,
    /// Padding, wherever it stands.
    NotPadding,
}

/// Rows on a device.
#[derive(Debug)]
pub struct Batch {
    /// `[R, T]`.
    pub ids: Tensor,
    /// Additive, `[R, 1, T, T]`; `None`: causal alone.
    attention: Option<Tensor>,
    /// The token to predict where it was generated, else -100, `[R, T]`.
    pub targets: Tensor,
    /// 1 where there is a target, else 0, `[R, T]` in fp32.
    pub mask: Tensor,
    /// The log-probabilities the tokens were sampled with, `[R, T]`.
    pub old: Option<Tensor>,
}

impl Batch {
    /// Pads `episodes` on the right with `pad` and copies them to `device`.
    pub fn new(episodes: &[Episode], pad: i64, attend: Attend, device: Device) -> Self {
        let (rows, width) = (episodes.len(), episodes.iter().map(|e| e.ids.len()).max().unwrap_or(0));
        let mut ids = vec![pad; rows * width];
        let mut targets = vec![IGNORE_INDEX; rows * width];
        let mut old = vec![0f32; rows * width];
        for (row, episode) in episodes.iter().enumerate() {
            let at = row * width;
            ids[at..at + episode.ids.len()].copy_from_slice(&episode.ids);
            for t in (1..episode.ids.len()).filter(|&t| episode.learn[t]) {
                targets[at + t - 1] = episode.ids[t];
                old[at + t - 1] = episode.logprobs.get(t).copied().unwrap_or(0.0);
            }
        }
        let shape = [rows as i64, width as i64];
        let upload = |values: &[i64]| Tensor::from_slice(values).view(shape).to_device(device);
        let (ids, targets) = (upload(&ids), upload(&targets));
        let known = episodes.iter().all(|e| !e.logprobs.is_empty());
        let hidden = attend == Attend::NotPadding && ids.eq(pad).any().int64_value(&[]) != 0;
        Self {
            attention: hidden.then(|| padded_causal_mask(&ids.ne(pad))),
            mask: targets.ge(0).to_kind(Kind::Float),
            old: known.then(|| Tensor::from_slice(&old).view(shape).to_device(device)),
            ids,
            targets,
        }
    }

    /// The rows of these indices, `rows` being `[R']`.
    pub fn select(&self, rows: &Tensor) -> Self {
        let pick = |t: &Tensor| t.index_select(0, rows);
        Self {
            ids: pick(&self.ids),
            attention: self.attention.as_ref().map(pick),
            targets: pick(&self.targets),
            mask: pick(&self.mask),
            old: self.old.as_ref().map(pick),
        }
    }

    /// The attention mask.
    pub fn attention(&self) -> Mask<'_> {
        self.attention.as_ref().map_or(Mask::Causal, Mask::Additive)
    }

    /// The log-probabilities of the targets under `model`, `[R, T]` without autograd; 0 where there is no target.
    ///
    /// # Errors
    /// libtorch fails on the device, which includes running out of memory.
    pub fn logprobs(&self, model: &CausalLm, compute: Compute) -> Result<Tensor> {
        tch::no_grad(|| {
            compute.run(model.device(), || {
                let (hidden, _) = model.hidden(&self.ids, self.attention(), false);
                Ok(token_logprobs(&hidden, model.lm_head(), &self.targets))
            })
        })
    }

    /// Forward and backward: adds to the parameters' gradients that of `scale` times (the loss plus the experts' balance
    /// loss).
    ///
    /// `loss` gets the log-probabilities `[R, T]` as a leaf, and gives a scalar, how much of it and of the balance loss
    /// counts (0 or 1), and what the caller wants back. Also gives the balance loss's value.
    ///
    /// # Errors
    /// libtorch fails on the device, which includes running out of memory.
    pub fn backward<T>(
        &self,
        model: &CausalLm,
        compute: Compute,
        scale: f64,
        loss: impl FnOnce(&Tensor) -> (Tensor, f64, T),
    ) -> Result<(T, f64)> {
        compute.run(model.device(), || {
            let (hidden, aux) = model.hidden(&self.ids, self.attention(), true);
            let leaf =
                token_logprobs(&hidden.detach(), model.lm_head(), &self.targets).set_requires_grad(true);
            let (value, share, kept) = loss(&leaf);
            (value * (scale * share)).f_backward()?;
            let total = surrogate(&hidden, model.lm_head(), &self.targets, &leaf.grad());
            let aux_value = aux.as_ref().map_or(0.0, |aux| aux.double_value(&[]));
            let total = match aux {
                Some(aux) => total + aux * (scale * share),
                None => total,
            };
            total.f_backward()?;
            Ok((kept, aux_value))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn episode(ids: &[i64], learn: &[usize]) -> Episode {
        Episode {
            ids: ids.to_vec(),
            learn: (0..ids.len()).map(|t| learn.contains(&t)).collect(),
            logprobs: (0..ids.len()).map(|t| -(t as f32)).collect(),
            reward: 0.0,
        }
    }

    #[test]
    fn columns_predict_and_padding_is_hidden_wherever_it_stands() {
        let rows = [episode(&[0, 5, 6, 7], &[2, 3]), episode(&[5, 6, 2], &[2])];
        let batch = Batch::new(&rows, 0, Attend::NotPadding, Device::Cpu);
        assert_eq!(
            Vec::<i64>::try_from(batch.targets.view([-1])).unwrap(),
            [-100, 6, 7, -100, -100, 2, -100, -100]
        );
        assert_eq!(Vec::<f32>::try_from(batch.old.as_ref().unwrap().get(0)).unwrap(), [0.0, -2.0, -3.0, 0.0]);
        let Mask::Additive(mask) = batch.attention() else { panic!("padding was not seen") };
        let seen = |row: i64, from: i64, to: i64| mask.double_value(&[row, 0, from, to]) == 0.0;
        assert!(!seen(0, 2, 0) && seen(0, 2, 1) && seen(0, 0, 0));
        // The end of the second row sees its tokens alone, itself not.
        assert!(seen(1, 3, 2) && !seen(1, 3, 3));
        assert!(matches!(Batch::new(&rows, 0, Attend::All, Device::Cpu).attention(), Mask::Causal));
        assert!(matches!(
            Batch::new(&rows[1..], 0, Attend::NotPadding, Device::Cpu).attention(),
            Mask::Causal
        ));
        let second = batch.select(&Tensor::from_slice(&[1i64]));
        assert_eq!((second.ids.size(), second.mask.sum(Kind::Float).double_value(&[])), (vec![1, 4], 1.0));
    }
}
