//! Keys and values of the sequences at work, and how one step runs over them: pages of a shared cache and packed
//! weights on the CPU, one libtorch cache a sequence elsewhere. `batcher` decides what a step holds.
//!
//! N tokens of a step, T tokens of a sequence, D hidden, V vocab.

use tch::{Device, Kind, Tensor};

use super::cuda_graphs::CapturedStep;
use super::decoder::{Backend, Decoder};
use super::pages::{PagePool, PageTable};
use crate::error::{Error, Result};
use crate::model::{CausalLm, KvCache, ModelConfig};
use crate::native::{KvPages, PAGE, StepTokens};

/// Keys and values of one sequence.
#[derive(Debug)]
pub(super) enum KvSlot {
    Pages(PageTable),
    Cache(KvCache),
    Captured(Box<CapturedStep>),
}

/// Which tokens of a chunk need logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LogitsOf {
    None,
    Last,
    All,
}

/// A sequence's share of a step: the tokens that follow the `start` ones in its slot.
#[derive(Debug)]
pub(super) struct SequenceChunk<'a> {
    pub slot: &'a mut KvSlot,
    pub ids: &'a [u32],
    pub start: usize,
    pub logits_of: LogitsOf,
}

impl SequenceChunk<'_> {
    /// Rows of logits it needs.
    pub fn logit_rows(&self) -> usize {
        match self.logits_of {
            LogitsOf::None => 0,
            LogitsOf::Last => 1,
            LogitsOf::All => self.ids.len(),
        }
    }
}

/// The slots of all sequences over one decoder.
#[derive(Debug)]
pub(super) struct KvSlots<'m> {
    decoder: Decoder<'m>,
    cache: Option<(KvPages, PagePool)>,
    /// Positions that fit.
    capacity: usize,
    step: StepBuffers,
    /// Logits of the last step: `[V]` for each row that was needed, chunk after chunk.
    pub logits: Vec<f32>,
}

/// A step's lists, kept from step to step.
#[derive(Debug, Default)]
struct StepBuffers {
    ids: Vec<i32>,
    positions: Vec<i32>,
    starts: Vec<i32>,
    pages: Vec<i32>,
    outputs: Vec<i32>,
}

impl<'m> KvSlots<'m> {
    /// Slots for `max_tokens` positions of all sequences together.
    ///
    /// # Errors
    /// Memory runs out for the pages.
    pub fn new(decoder: Decoder<'m>, max_tokens: usize) -> Result<Self> {
        let count = max_tokens.div_ceil(PAGE).max(1);
        let cache = match &decoder.backend {
            Backend::Native(network) => Some((network.cache(count)?, PagePool::new(count))),
            Backend::Torch(..) => None,
        };
        Ok(Self { decoder, cache, capacity: count * PAGE, step: StepBuffers::default(), logits: Vec::new() })
    }

    /// The decoder that runs the steps.
    pub fn decoder(&mut self) -> &mut Decoder<'m> {
        &mut self.decoder
    }

    /// The decoder's architecture.
    pub fn config(&self) -> &ModelConfig {
        &self.decoder.config
    }

    /// The number of positions of all slots together.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// What a sequence of up to `positions` tokens takes of the capacity.
    pub fn cost(&self, positions: usize) -> usize {
        positions.next_multiple_of(PAGE)
    }

    /// A slot for a sequence of up to `positions` tokens, and how many of its first tokens, which are `prefix`, it
    /// holds already; fewer than all of them.
    ///
    /// # Errors
    /// No memory on the device.
    pub fn allocate(&mut self, prefix: &[u32], positions: usize) -> Result<(KvSlot, usize)> {
        if let Backend::Torch(model, graphs) = &mut self.decoder.backend {
            match graphs.as_mut().map(|graphs| graphs.take(model, positions)) {
                Some(Ok(step)) => return Ok((KvSlot::Captured(Box::new(step)), 0)),
                Some(Err(error)) => {
                    tracing::warn!("decoding without CUDA graphs on this GPU: {error}");
                    *graphs = None;
                }
                None => {}
            }
            let cache = KvCache::new(model.config(), 1, positions as i64, model.kind(), model.device())?;
            return Ok((KvSlot::Cache(cache), 0));
        }
        let (cache, pages) = self.cache.as_mut().expect("a packed network has pages");
        let (table, cached, copy) = pages.allocate(prefix);
        if let Some(copy) = copy {
            cache.copy_page(copy.from as usize, copy.to as usize);
        }
        Ok((KvSlot::Pages(table), cached))
    }

    /// How many of a prompt's tokens a new slot would hold already.
    pub fn cached_prefix(&self, prompt: &[u32]) -> usize {
        self.cache.as_ref().map_or(0, |(_, pages)| pages.cached_prefix(prompt))
    }

    /// Puts what a slot holds, `tokens`, into the prefix cache.
    pub fn cache_prefix(&mut self, slot: &KvSlot, tokens: &[u32]) {
        if let (Some((_, pages)), KvSlot::Pages(table)) = (&mut self.cache, slot) {
            pages.insert(table, tokens);
        }
    }

    /// Gives a slot's memory back.
    pub fn free(&mut self, slot: KvSlot) {
        let slot = match (&mut self.decoder.backend, slot) {
            (Backend::Torch(_, Some(graphs)), KvSlot::Captured(step)) => return graphs.give_back(*step),
            (_, slot) => slot,
        };
        if let (Some((_, pages)), KvSlot::Pages(table)) = (&mut self.cache, slot) {
            pages.free(table);
        }
    }

    /// Runs one step; the logits lie in `self.logits` afterwards. Logits that hold a NaN are the caller's to find: one
    /// sequence's do not harm the others.
    ///
    /// # Errors
    /// No page left, a device that fails.
    pub fn step(&mut self, chunks: &mut [SequenceChunk<'_>]) -> Result<()> {
        let rows: usize = chunks.iter().map(SequenceChunk::logit_rows).sum();
        let vocab = self.decoder.config.vocab_size as usize;
        self.logits.resize(rows * vocab, 0.0);
        match &mut self.decoder.backend {
            Backend::Torch(model, _) => torch_step(model, chunks, vocab, &mut self.logits),
            Backend::Native(network) => {
                let (cache, pages) = self.cache.as_mut().expect("a packed network has pages");
                self.step.fill(pages, chunks)?;
                let tokens = StepTokens {
                    ids: &self.step.ids,
                    positions: &self.step.positions,
                    starts: &self.step.starts,
                    pages: &self.step.pages,
                    max_pages: self.step.pages.len() / chunks.len(),
                    output_rows: &self.step.outputs,
                };
                network.step(cache, &tokens, &mut self.logits, &mut [])?;
                Ok(())
            }
        }
    }
}

impl StepBuffers {
    fn fill(&mut self, pages: &mut PagePool, chunks: &mut [SequenceChunk<'_>]) -> Result<()> {
        for list in [&mut self.ids, &mut self.positions, &mut self.starts, &mut self.pages, &mut self.outputs]
        {
            list.clear();
        }
        self.starts.push(0);
        let mut columns = 1;
        for chunk in chunks.iter_mut() {
            let end = chunk.start + chunk.ids.len();
            let KvSlot::Pages(table) = chunk.slot else {
                return Err(Error::failed("a sequence of another decoder"));
            };
            pages.reserve(table, end).map_err(|missing| {
                Error::failed(format!("the decoder's cache lacks {missing} pages"))
                    .hint("raise the budget of cached tokens, or lower the number of rows")
            })?;
            columns = columns.max(table.pages().len());
            let before = self.ids.len();
            self.ids.extend(chunk.ids.iter().map(|&id| id as i32));
            self.positions.extend((chunk.start..end).map(|p| p as i32));
            self.starts.push(self.ids.len() as i32);
            let first = self.ids.len() - chunk.logit_rows();
            debug_assert!(first >= before);
            self.outputs.extend((first..self.ids.len()).map(|row| row as i32));
        }
        for chunk in chunks.iter() {
            if let KvSlot::Pages(table) = &*chunk.slot {
                self.pages.extend(table.pages().iter().map(|&page| page as i32));
                let whole = self.pages.len().next_multiple_of(columns);
                self.pages.resize(whole, 0);
            }
        }
        Ok(())
    }
}

/// Sequence by sequence through libtorch. All sequences' work is queued on a GPU before the first logits are waited for.
fn torch_step(
    model: &CausalLm,
    chunks: &mut [SequenceChunk<'_>],
    vocab: usize,
    logits: &mut [f32],
) -> Result<()> {
    let _no_grad = tch::no_grad_guard();
    let mut outputs = Vec::with_capacity(chunks.len());
    for chunk in chunks {
        if let (KvSlot::Captured(captured), &[id]) = (&mut *chunk.slot, chunk.ids)
            && chunk.logits_of != LogitsOf::None
        {
            outputs.push(captured.step.run(&[id], captured.cache.len())?.shallow_clone());
            captured.cache.advance(1);
            continue;
        }
        let cache = match &mut *chunk.slot {
            KvSlot::Cache(cache) => cache,
            KvSlot::Captured(captured) => &mut captured.cache,
            KvSlot::Pages(_) => return Err(Error::failed("a sequence of another decoder")),
        };
        let hidden = model.hidden_cached(&ids_tensor(&[chunk.ids], model), cache); // [1, T, D]
        let n = chunk.logit_rows() as i64;
        if n > 0 {
            let (_, t, _) = hidden.size3().expect("hidden states are [1, T, D]");
            outputs.push(model.logits(&hidden.narrow(1, t - n, n)).to_kind(Kind::Float)); // [1, n, V]
        }
    }
    let mut at = 0;
    for rows in outputs {
        let n = rows.numel();
        debug_assert_eq!(n % vocab, 0);
        rows.to_device(Device::Cpu).contiguous().view([-1]).f_copy_data(&mut logits[at..at + n], n)?;
        at += n;
    }
    Ok(())
}

/// Rows of one length as ids `[B, T]` (int64) on the model's device.
pub(super) fn ids_tensor(rows: &[&[u32]], model: &CausalLm) -> Tensor {
    let flat: Vec<i64> = rows.iter().flat_map(|row| row.iter().map(|&id| i64::from(id))).collect();
    Tensor::from_slice(&flat).view([rows.len() as i64, -1]).to_device(model.device())
}
