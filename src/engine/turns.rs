//! What ranks tell each other in a training loop: the losses of an update, a row's numbers, what a checkpoint
//! must hold of each.

use tch::Tensor;

use super::objective::StepLoss;
use super::ranks::Ranks;
use crate::error::Result;
use crate::native;

/// A rank's passes since the last update; `None` where it had nothing to do.
#[derive(Debug, Default)]
pub(super) struct Window(Vec<Option<(f64, u64)>>);

/// What all ranks know before an update.
#[derive(Debug)]
pub(super) struct Met {
    /// Loss and tokens of every pass, in the order in which one process would have made them.
    pub passes: Vec<(f64, u64)>,
    /// The signal that some rank was sent.
    pub asked: Option<i32>,
    /// The lowest of the ranks' factors on the learning rate.
    pub rate_factor: f64,
}

impl Window {
    pub(super) fn push(&mut self, pass: Option<(f64, u64)>) {
        self.0.push(pass);
    }

    /// One sum over a table in which each rank fills its own places.
    pub(super) fn meet(&mut self, ranks: &Ranks, asked: Option<i32>, rate_factor: f64) -> Result<Met> {
        const PASS: usize = 3; // 1 where there was one, its loss, its tokens
        const RANK: usize = 2; // signal, factor
        let (passes, world, rank) = (std::mem::take(&mut self.0), ranks.world(), ranks.rank());
        let mut table = vec![0.0; passes.len() * world * PASS + world * RANK];
        let ends = passes.len() * world * PASS;
        for (i, pass) in passes.iter().enumerate() {
            if let Some((loss, tokens)) = pass {
                let at = (i * world + rank) * PASS;
                table[at..at + PASS].copy_from_slice(&[1.0, *loss, *tokens as f64]);
            }
        }
        table[ends + rank * RANK] = f64::from(asked.unwrap_or(0));
        table[ends + rank * RANK + 1] = rate_factor;
        ranks.sum(&mut table)?;
        let (passes, ends) = table.split_at(ends);
        let passes = passes.chunks(PASS).filter(|pass| pass[0] > 0.0);
        let signal = ends.chunks(RANK).map(|rank| rank[0] as i32).max().filter(|signal| *signal > 0);
        Ok(Met {
            passes: passes.map(|pass| (pass[1], pass[2] as u64)).collect(),
            asked: signal,
            rate_factor: ends.chunks(RANK).map(|rank| rank[1]).fold(f64::INFINITY, f64::min),
        })
    }
}

/// A turn's numbers and, for the first rank, what the others have to say; the mean over the ranks that had a micro-batch in it; tokens are added up. A column that only
/// some ranks have is the mean over those.
pub(super) fn mean(
    ranks: &Ranks,
    step: StepLoss,
    took_part: bool,
    notes: Vec<String>,
) -> Result<(StepLoss, Vec<String>)> {
    if ranks.is_alone() {
        return Ok((step, notes));
    }
    let said: Vec<(&str, f64)> =
        [("loss", step.loss), ("aux_loss", step.aux_loss), ("tokens", step.tokens as f64)]
            .into_iter()
            .chain(step.extra.iter().copied())
            .filter(|_| took_part)
            .collect();
    // Bits, since JSON has no NaN.
    let said: Vec<(String, u64)> =
        said.into_iter().map(|(name, value)| (name.to_owned(), value.to_bits())).collect();
    let (mut heard, mut all_notes) = (Vec::new(), Vec::new());
    for (rank, (values, told)) in ranks.hear_all(&(said, notes))?.into_iter().enumerate() {
        heard.push(values);
        all_notes.extend(told.into_iter().map(|note| format!("rank {rank}: {note}")));
    }
    let values = |name: &str| -> Vec<f64> {
        let all = heard.iter().flatten().filter(|(n, _)| n == name);
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
    };
    Ok((step, all_notes))
}

/// What a checkpoint holds of the ranks after the first.
#[derive(Debug, Default)]
pub(super) struct Others {
    pub objectives: Vec<serde_json::Value>,
    pub rng_states: Vec<Tensor>,
}

/// Brings it to the first rank.
pub(super) fn states(ranks: &Ranks, objective: &serde_json::Value, device: tch::Device) -> Result<Others> {
    let mut others = Others::default();
    if ranks.is_alone() {
        return Ok(others);
    }
    others.objectives.extend(ranks.hear_all(objective)?.into_iter().skip(1));
    let random = Vec::<u8>::try_from(&native::rng_state(device)?)?;
    for bytes in ranks.gather(&random)?.into_iter().skip(1) {
        others.rng_states.push(Tensor::from_slice(&bytes));
    }
    Ok(others)
}

/// Starts a random stream of this rank's own (for dropout); the first rank keeps the stage's.
pub(super) fn seed(ranks: &Ranks, seed: u64) {
    if !ranks.is_first() {
        tch::manual_seed(seed.wrapping_add(0x9e37_79b9_7f4a_7c15u64.wrapping_mul(ranks.rank() as u64)) as i64);
    }
}
