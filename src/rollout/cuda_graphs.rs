//! Decoding steps captured as CUDA graphs: each sequence has a cache of its own and a graph over it. A sequence that
//! is done leaves both to the next, so that a graph is captured once and replayed for many.

use std::rc::Rc;

use crate::error::Result;
use crate::model::{CausalLm, KvCache, StepGraph, StepWeights};

/// Positions of a cache are a multiple of this, so that a later sequence finds one that fits.
const CAPACITY_STEP: usize = 256;

/// The captured steps of a decoder that no sequence uses now.
#[derive(Debug)]
pub(super) struct GraphPool {
    weights: Rc<StepWeights>,
    free: Vec<CapturedStep>,
}

/// A cache and the step captured over it.
#[derive(Debug)]
pub(super) struct CapturedStep {
    pub cache: KvCache,
    pub step: StepGraph,
}

impl GraphPool {
    /// An empty pool; `None` for a model whose steps cannot be captured: not on a CUDA device, or not one that the
    /// fused ops take.
    ///
    /// # Errors
    /// Memory runs out for the copied weights.
    pub fn new(model: &CausalLm) -> Result<Option<Self>> {
        if !model.device().is_cuda() {
            return Ok(None);
        }
        let weights = StepWeights::new(model)?;
        Ok(weights.map(|weights| Self { weights: Rc::new(weights), free: Vec::new() }))
    }

    /// A captured step for a sequence of up to `positions` tokens; its cache is empty.
    ///
    /// # Errors
    /// No memory, a step that the device cannot capture.
    pub fn take(&mut self, model: &CausalLm, positions: usize) -> Result<CapturedStep> {
        // A much larger one would hold memory that a long sequence may want.
        let wanted = positions as i64..=4 * positions.next_multiple_of(CAPACITY_STEP) as i64;
        let fits = |at: &usize| wanted.contains(&self.free[*at].cache.capacity());
        if let Some(at) = (0..self.free.len()).filter(fits).min_by_key(|&at| self.free[at].cache.capacity()) {
            return Ok(self.free.swap_remove(at));
        }
        self.free.clear();
        capture(model, &self.weights, 1, positions)
    }

    /// Takes a step back for the next sequence.
    pub fn give_back(&mut self, mut step: CapturedStep) {
        step.cache.truncate(0);
        self.free.push(step);
    }
}

/// Captures a step of `rows` sequences over a fresh cache of at least `positions` each.
pub(super) fn capture(
    model: &CausalLm,
    weights: &Rc<StepWeights>,
    rows: i64,
    positions: usize,
) -> Result<CapturedStep> {
    let most = model.config().max_position_embeddings as usize;
    let capacity = positions.next_multiple_of(CAPACITY_STEP).min(most).max(positions) as i64;
    let cache = KvCache::new(model.config(), rows, capacity, model.kind(), model.device())?;
    let step = StepGraph::new(weights, &cache)?;
    Ok(CapturedStep { cache, step })
}
