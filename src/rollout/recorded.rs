//! Rows on a GPU whose steps are recorded: each has a cache of its own, and one that is done leaves cache and recording to
//! the next.

use std::rc::Rc;

use crate::error::Result;
use crate::model::{CausalLm, KvCache, RecordedStep, StepWeights};

/// Positions of a cache are a multiple of this, so that a later row finds one that fits.
const STRETCH: usize = 256;

/// The recordings of a decoder.
#[derive(Debug)]
pub(super) struct Recordings {
    weights: Rc<StepWeights>,
    free: Vec<Recorded>,
}

/// A cache and the step over it.
#[derive(Debug)]
pub(super) struct Recorded {
    pub cache: KvCache,
    pub step: RecordedStep,
}

impl Recordings {
    /// Of a model whose steps can be recorded: on a CUDA device, where the fused ops take it.
    pub fn new(model: &CausalLm) -> Result<Option<Self>> {
        if !model.device().is_cuda() {
            return Ok(None);
        }
        let weights = StepWeights::new(model)?;
        Ok(weights.map(|weights| Self { weights: Rc::new(weights), free: Vec::new() }))
    }

    /// A row for up to `positions` tokens that holds none.
    pub fn open(&mut self, model: &CausalLm, positions: usize) -> Result<Recorded> {
        // A much larger one would hold memory that a long row may want.
        let wanted = positions as i64..=4 * positions.next_multiple_of(STRETCH) as i64;
        let fits = |at: &usize| wanted.contains(&self.free[*at].cache.capacity());
        if let Some(at) = (0..self.free.len()).filter(fits).min_by_key(|&at| self.free[at].cache.capacity()) {
            return Ok(self.free.swap_remove(at));
        }
        self.free.clear();
        record(model, &self.weights, 1, positions)
    }

    /// Takes a row back.
    pub fn close(&mut self, mut row: Recorded) {
        row.cache.truncate(0);
        self.free.push(row);
    }
}

/// A step of `rows` rows over a fresh cache of at least `positions` each.
pub(super) fn record(
    model: &CausalLm,
    weights: &Rc<StepWeights>,
    rows: i64,
    positions: usize,
) -> Result<Recorded> {
    let most = model.config().max_position_embeddings as usize;
    let capacity = positions.next_multiple_of(STRETCH).min(most).max(positions) as i64;
    let cache = KvCache::new(model.config(), rows, capacity, model.kind(), model.device())?;
    let step = RecordedStep::new(weights, &cache)?;
    Ok(Recorded { cache, step })
}
