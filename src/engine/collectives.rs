//! What the ranks of a training loop exchange: losses and signals at each update, the numbers of a row of metrics,
//! what a checkpoint holds of each rank.

use tch::Tensor;

use super::objective::{PartLoss, StepLoss};
use super::ranks::Ranks;
use crate::error::Result;
use crate::native;

/// The numbers of one backward pass that all ranks learn.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Pass {
    pub loss: f64,
    pub tokens: u64,
    /// By part of a mixture.
    pub parts: Vec<PartLoss>,
}

/// A rank's passes since the last update; `None` where it had no micro-batch.
#[derive(Debug, Default)]
pub(super) struct StepStats {
    passes: Vec<Option<Pass>>,
    /// Parts of the mixture.
    parts: usize,
}

/// What all ranks know before an update.
#[derive(Debug)]
pub(super) struct GlobalStats {
    /// Every pass, in the order in which one process would have made them.
    pub passes: Vec<Pass>,
    /// The signal that some rank received.
    pub stop_signal: Option<i32>,
    /// The lowest of the ranks' factors on the learning rate.
    pub lr_factor: f64,
}

impl StepStats {
    /// No passes yet, of so many parts.
    pub(super) fn new(parts: usize) -> Self {
        Self { passes: Vec::new(), parts }
    }

    pub(super) fn push(&mut self, pass: Option<Pass>) {
        self.passes.push(pass);
    }

    /// One all-reduce over a table in which each rank fills its own places; empties these stats.
    pub(super) fn all_reduce(
        &mut self,
        ranks: &Ranks,
        stop_signal: Option<i32>,
        lr_factor: f64,
    ) -> Result<GlobalStats> {
        const PASS: usize = 3; // 1 where there was one, its loss, its tokens
        const PART: usize = 3; // loss, labels, tokens
        const RANK: usize = 2; // signal, factor
        let (passes, world, rank) = (std::mem::take(&mut self.passes), ranks.world(), ranks.rank());
        let size = PASS + self.parts * PART;
        let mut table = vec![0.0; passes.len() * world * size + world * RANK];
        let ends = passes.len() * world * size;
        for (i, pass) in passes.iter().enumerate() {
            if let Some(pass) = pass {
                let at = (i * world + rank) * size;
                table[at..at + PASS].copy_from_slice(&[1.0, pass.loss, pass.tokens as f64]);
                for (place, p) in table[at + PASS..at + size].chunks_mut(PART).zip(&pass.parts) {
                    place.copy_from_slice(&[p.loss, p.labels as f64, p.tokens as f64]);
                }
            }
        }
        table[ends + rank * RANK] = f64::from(stop_signal.unwrap_or(0));
        table[ends + rank * RANK + 1] = lr_factor;
        ranks.all_reduce(&mut table)?;
        let (passes, ends) = table.split_at(ends);
        let part = |p: &[f64]| PartLoss { loss: p[0], labels: p[1] as u64, tokens: p[2] as u64 };
        let pass = |pass: &[f64]| Pass {
            loss: pass[1],
            tokens: pass[2] as u64,
            parts: pass[PASS..].chunks(PART).map(part).collect(),
        };
        let passes = passes.chunks(size).filter(|pass| pass[0] > 0.0);
        let signal = ends.chunks(RANK).map(|rank| rank[0] as i32).max().filter(|signal| *signal > 0);
        Ok(GlobalStats {
            passes: passes.map(pass).collect(),
            stop_signal: signal,
            lr_factor: ends.chunks(RANK).map(|rank| rank[1]).fold(f64::INFINITY, f64::min),
        })
    }
}

/// A round's numbers: means over the ranks that took part, tokens summed; a column that only some ranks have is the
/// mean over those. Beside it, on every rank, the notes of all, each behind its rank's number.
pub(super) fn mean_over_ranks(
    ranks: &Ranks,
    step: StepLoss,
    took_part: bool,
    notes: Vec<String>,
) -> Result<(StepLoss, Vec<String>)> {
    if ranks.is_single() {
        return Ok((step, notes));
    }
    let own: Vec<(&str, f64)> =
        [("loss", step.loss), ("aux_loss", step.aux_loss), ("tokens", step.tokens as f64)]
            .into_iter()
            .chain(step.extra.iter().copied())
            .filter(|_| took_part)
            .collect();
    // Bits, since JSON has no NaN.
    let own: Vec<(String, u64)> =
        own.into_iter().map(|(name, value)| (name.to_owned(), value.to_bits())).collect();
    let (mut columns, mut all_notes) = (Vec::new(), Vec::new());
    for (rank, (values, notes)) in ranks.all_gather(&(own, notes))?.into_iter().enumerate() {
        columns.push(values);
        all_notes.extend(notes.into_iter().map(|note| format!("rank {rank}: {note}")));
    }
    let values = |name: &str| -> Vec<f64> {
        let all = columns.iter().flatten().filter(|(n, _)| n == name);
        all.map(|(_, bits)| f64::from_bits(*bits)).collect()
    };
    let mean = |name: &str| {
        let values = values(name);
        values.iter().sum::<f64>() / values.len().max(1) as f64
    };
    let step = StepLoss {
        loss: mean("loss"),
        aux_loss: mean("aux_loss"),
        tokens: values("tokens").iter().sum::<f64>() as u64,
        extra: step.extra.iter().map(|(name, _)| (*name, mean(name))).collect(),
        parts: step.parts,
    };
    Ok((step, all_notes))
}

/// What a checkpoint holds of the ranks after the first, by rank.
#[derive(Debug, Default)]
pub(super) struct OtherRanks {
    /// States of their objectives.
    pub objectives: Vec<serde_json::Value>,
    /// States of their random generators.
    pub rng_states: Vec<Tensor>,
}

/// Gathers it on every rank; empty in a single process.
pub(super) fn gather_rank_states(
    ranks: &Ranks,
    objective: &serde_json::Value,
    device: tch::Device,
) -> Result<OtherRanks> {
    let mut others = OtherRanks::default();
    if ranks.is_single() {
        return Ok(others);
    }
    others.objectives.extend(ranks.all_gather(objective)?.into_iter().skip(1));
    let random = Vec::<u8>::try_from(&native::rng_state(device)?)?;
    for bytes in ranks.all_gather_bytes(&random)?.into_iter().skip(1) {
        others.rng_states.push(Tensor::from_slice(&bytes));
    }
    Ok(others)
}

/// Gives each rank a random stream of its own (for dropout); rank 0 keeps the stage's.
pub(super) fn seed_rank(ranks: &Ranks, seed: u64) {
    if !ranks.is_rank0() {
        tch::manual_seed(seed.wrapping_add(0x9e37_79b9_7f4a_7c15u64.wrapping_mul(ranks.rank() as u64)) as i64);
    }
}
