//! The optimizer's state in shards: each rank keeps the moments of some parameters, updates those, and broadcasts them
//! (ZeRO stage 1, arXiv 1910.02054). The numbers are those of a whole optimizer.

use tch::{Kind, Tensor};

use super::ranks::Ranks;
use crate::error::Result;
use crate::optim::AdamW;
use crate::optim::adamw::ParamState;

/// Which rank owns which parameter's state.
#[derive(Debug)]
pub(super) struct OptimizerShards {
    ranks: Ranks,
    owners: Vec<usize>,
}

impl OptimizerShards {
    /// Assigns parameters of these sizes, the largest first, each to the rank that has least so far.
    pub(super) fn new(ranks: &Ranks, sizes: &[usize]) -> Self {
        let mut order: Vec<usize> = (0..sizes.len()).collect();
        order.sort_by_key(|i| (std::cmp::Reverse(sizes[*i]), *i));
        let mut held = vec![0; ranks.world()];
        let mut owners = vec![0; sizes.len()];
        for param in order {
            let owner = (0..held.len()).min_by_key(|rank| held[*rank]).unwrap_or(0);
            owners[param] = owner;
            held[owner] += sizes[param];
        }
        Self { ranks: ranks.clone(), owners }
    }

    /// For each parameter, whether this rank owns its state.
    pub(super) fn owned(&self) -> Vec<bool> {
        self.owners.iter().map(|owner| *owner == self.ranks.rank()).collect()
    }

    fn owned_by(&self, rank: usize) -> Vec<usize> {
        (0..self.owners.len()).filter(|i| self.owners[*i] == rank).collect()
    }

    /// After an update: brings every parameter from its owner.
    pub(super) fn broadcast_params(&self, params: &[Tensor]) -> Result<()> {
        for root in 0..self.ranks.world() {
            let owned = self.owned_by(root);
            if owned.is_empty() {
                continue;
            }
            let flat =
                self.broadcast_flat(root, &owned.iter().map(|i| params[*i].detach()).collect::<Vec<_>>())?;
            if root != self.ranks.rank() {
                unflatten_into(&flat, owned.iter().map(|i| &params[*i]))?;
            }
        }
        // The host has only queued work for the GPUs: a lost rank is noticed here, before anything waits for them.
        if self.ranks.uses_nccl() { self.ranks.barrier() } else { Ok(()) }
    }

    /// The whole state, on rank 0; nothing on the others.
    pub(super) fn gather_states(&self, optimizer: &AdamW, params: &[Tensor]) -> Result<Vec<ParamState>> {
        let mut states: Vec<Option<ParamState>> = params.iter().map(|_| None).collect();
        for root in 0..self.ranks.world() {
            let (owned, own) = (self.owned_by(root), root == self.ranks.rank());
            if owned.is_empty() {
                continue;
            }
            // [exp_avg, exp_avg_sq, step] of each
            let mut parts = Vec::new();
            for i in &owned {
                let state = match own {
                    true => optimizer.state(*i),
                    false => ParamState {
                        step: 0.0,
                        exp_avg: params[*i].detach().f_zeros_like()?,
                        exp_avg_sq: params[*i].detach().f_zeros_like()?,
                    },
                };
                let step = Tensor::from_slice(&[state.step as f32]).to_device(state.exp_avg.device());
                parts.extend([state.exp_avg, state.exp_avg_sq, step]);
            }
            let flat = self.broadcast_flat(root, &parts)?;
            if !self.ranks.is_rank0() {
                continue;
            }
            unflatten_into(&flat, parts.iter())?;
            let mut parts = parts.into_iter();
            for i in owned {
                if let (Some(exp_avg), Some(exp_avg_sq), Some(step)) =
                    (parts.next(), parts.next(), parts.next())
                {
                    let step = step.f_double_value(&[0])?;
                    states[i] = Some(ParamState { step, exp_avg, exp_avg_sq });
                }
            }
        }
        Ok(states.into_iter().flatten().collect())
    }

    /// One tensor of all `tensors` end to end, as rank `root` has them.
    fn broadcast_flat(&self, root: usize, tensors: &[Tensor]) -> Result<Tensor> {
        let rows: Vec<Tensor> = tensors.iter().map(|t| t.reshape([-1])).collect();
        let flat = Tensor::f_cat(&rows, 0)?.to_kind(Kind::Float);
        self.ranks.broadcast_tensor(root, &flat)?;
        Ok(flat)
    }
}

fn unflatten_into<'a>(flat: &Tensor, tensors: impl Iterator<Item = &'a Tensor>) -> Result<()> {
    let mut start = 0;
    for tensor in tensors {
        let size = tensor.numel() as i64;
        let part = flat.narrow(0, start, size).view_as(tensor);
        tch::no_grad(|| tensor.shallow_clone().f_copy_(&part))?;
        start += size;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_keeps_all() {
        let shards = OptimizerShards::new(&Ranks::single(), &[3, 9, 1]);
        assert_eq!(shards.owned(), [true; 3]);
        assert_eq!(shards.owned_by(0), [0, 1, 2]);
    }
}
