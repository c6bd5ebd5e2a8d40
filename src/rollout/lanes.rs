//! Where rows keep what they have seen, and how a step runs over them: pages and packed weights on the CPU, one
//! libtorch cache a row elsewhere. `batcher` decides what a step holds.
//!
//! N tokens of a step, V vocab.

use tch::{Device, Kind};

use super::decoder::{natural_storage, network};
use super::grouped::ids_tensor;
use super::pages::{Pages, Sequence};
use super::recorded::{Recorded, Recordings};
use crate::error::{Error, Result};
use crate::model::{CausalLm, KvCache, ModelConfig};
use crate::native::{KvPages, Network, PAGE, StepTokens, Storage};

/// How a decoder is built.
#[derive(Debug, Clone, Copy, Default)]
pub struct DecoderConfig {
    /// How weights are stored on the CPU; `None` keeps the model's own precision.
    pub storage: Option<Storage>,
    /// Threads; `None` for as many as libtorch has been given.
    pub threads: Option<usize>,
    /// Longest sequence; `None` for what the model can.
    pub positions: Option<usize>,
}

/// A model ready to decode: packed weights on the CPU, the model itself elsewhere.
#[derive(Debug)]
pub struct Decoder<'m> {
    pub(super) config: ModelConfig,
    pub(super) backend: Backend<'m>,
}

#[derive(Debug)]
pub(super) enum Backend<'m> {
    Native(Box<Network>),
    Torch(&'m CausalLm, Option<Box<Recordings>>),
}

impl<'m> Decoder<'m> {
    /// Packs the model's weights. Training the model afterwards does not change the decoder on the CPU; on a GPU, which
    /// copies a part of them, it must be made anew then.
    ///
    /// # Errors
    /// No memory; a storage that the device cannot take.
    pub fn new(model: &'m CausalLm, config: DecoderConfig) -> Result<Self> {
        let mut own = model.config().clone();
        if let Some(positions) = config.positions {
            own.max_position_embeddings = own.max_position_embeddings.min(positions.max(1) as i64);
        }
        if model.device() != Device::Cpu {
            if config.storage.is_some_and(|s| s != natural_storage(model.kind())) {
                return Err(Error::input("int8 weights are decoded on the CPU alone")
                    .hint("use --device cpu, or leave int8"));
            }
            let recordings = Recordings::new(model)?.map(Box::new);
            return Ok(Self { config: own, backend: Backend::Torch(model, recordings) });
        }
        let storage = config.storage.unwrap_or_else(|| natural_storage(model.kind()));
        let threads = config.threads.unwrap_or_else(|| tch::get_num_threads().max(1) as usize);
        let network = network(model, storage, threads, own.max_position_embeddings as usize)?;
        Ok(Self { config: own, backend: Backend::Native(Box::new(network)) })
    }

    /// The same on any device through libtorch, one row at a time: slow, and the yardstick of the other.
    pub fn plain(model: &'m CausalLm) -> Self {
        Self { config: model.config().clone(), backend: Backend::Torch(model, None) }
    }

    /// The architecture; its positions are the decoder's.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The packed network, where there is one.
    pub fn network(&mut self) -> Option<&mut Network> {
        match &mut self.backend {
            Backend::Native(network) => Some(network),
            Backend::Torch(..) => None,
        }
    }
}

/// What one row has seen.
#[derive(Debug)]
pub(super) enum Lane {
    Pages(Sequence),
    Cache(KvCache),
    Recorded(Box<Recorded>),
}

/// Which tokens' logits a part of a step wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Want {
    Nothing,
    Last,
    All,
}

/// A row's share of a step: the next tokens after the `start` it holds.
#[derive(Debug)]
pub(super) struct Part<'a> {
    pub lane: &'a mut Lane,
    pub ids: &'a [u32],
    pub start: usize,
    pub want: Want,
}

impl Part<'_> {
    /// Rows of logits it asks for.
    pub fn outputs(&self) -> usize {
        match self.want {
            Want::Nothing => 0,
            Want::Last => 1,
            Want::All => self.ids.len(),
        }
    }
}

/// All rows' memory.
#[derive(Debug)]
pub(super) struct Lanes<'m> {
    decoder: Decoder<'m>,
    cache: Option<(KvPages, Pages)>,
    /// Positions that fit.
    capacity: usize,
    step: Buffers,
    /// Logits of the last step, a row of V for each output, part after part.
    pub logits: Vec<f32>,
}

/// A step's lists, kept from step to step.
#[derive(Debug, Default)]
struct Buffers {
    ids: Vec<i32>,
    positions: Vec<i32>,
    starts: Vec<i32>,
    pages: Vec<i32>,
    outputs: Vec<i32>,
}

impl<'m> Lanes<'m> {
    /// Memory for `max_tokens` positions of all rows together.
    pub fn new(decoder: Decoder<'m>, max_tokens: usize) -> Result<Self> {
        let count = max_tokens.div_ceil(PAGE).max(1);
        let cache = match &decoder.backend {
            Backend::Native(network) => Some((network.cache(count)?, Pages::new(count))),
            Backend::Torch(..) => None,
        };
        Ok(Self { decoder, cache, capacity: count * PAGE, step: Buffers::default(), logits: Vec::new() })
    }

    pub fn decoder(&mut self) -> &mut Decoder<'m> {
        &mut self.decoder
    }

    pub fn config(&self) -> &ModelConfig {
        &self.decoder.config
    }

    /// Positions in all.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// What a row of up to `positions` tokens takes of the capacity.
    pub fn cost(&self, positions: usize) -> usize {
        positions.next_multiple_of(PAGE)
    }

    /// A lane for a row of up to `positions` tokens, and how many of its prompt's tokens it holds already. With
    /// `afresh` it holds none.
    pub fn open(&mut self, prompt: &[u32], positions: usize, afresh: bool) -> Result<(Lane, usize)> {
        if let Backend::Torch(model, recordings) = &mut self.decoder.backend {
            match recordings.as_mut().map(|recordings| recordings.open(model, positions)) {
                Some(Ok(row)) => return Ok((Lane::Recorded(Box::new(row)), 0)),
                Some(Err(fault)) => {
                    tracing::warn!("steps are not recorded on this GPU: {fault}");
                    *recordings = None;
                }
                None => {}
            }
            let cache = KvCache::new(model.config(), 1, positions as i64, model.kind(), model.device())?;
            return Ok((Lane::Cache(cache), 0));
        }
        let (cache, pages) = self.cache.as_mut().expect("a packed network has pages");
        let (sequence, held, copy) = pages.start(if afresh { &prompt[..1] } else { prompt });
        if let Some(copy) = copy {
            cache.copy_page(copy.from as usize, copy.to as usize);
        }
        Ok((Lane::Pages(sequence), held))
    }

    /// How many of a prompt's tokens a lane would hold at once.
    pub fn known(&self, prompt: &[u32]) -> usize {
        self.cache.as_ref().map_or(0, |(_, pages)| pages.known(prompt))
    }

    /// Lets later prompts take over what a lane holds: `tokens`.
    pub fn remember(&mut self, lane: &Lane, tokens: &[u32]) {
        if let (Some((_, pages)), Lane::Pages(sequence)) = (&mut self.cache, lane) {
            pages.remember(sequence, tokens);
        }
    }

    /// Gives a lane's memory back.
    pub fn close(&mut self, lane: Lane) {
        let lane = match (&mut self.decoder.backend, lane) {
            (Backend::Torch(_, Some(recordings)), Lane::Recorded(row)) => return recordings.close(*row),
            (_, lane) => lane,
        };
        if let (Some((_, pages)), Lane::Pages(sequence)) = (&mut self.cache, lane) {
            pages.release(sequence);
        }
    }

    /// Runs one step; the logits lie in `self.logits` afterwards. A row whose logits hold a NaN is the caller's to
    /// find: the others are sound.
    pub fn run(&mut self, parts: &mut [Part<'_>]) -> Result<()> {
        let outputs: usize = parts.iter().map(Part::outputs).sum();
        let vocab = self.decoder.config.vocab_size as usize;
        self.logits.resize(outputs * vocab, 0.0);
        match &mut self.decoder.backend {
            Backend::Torch(model, _) => torch_step(model, parts, vocab, &mut self.logits),
            Backend::Native(network) => {
                let (cache, pages) = self.cache.as_mut().expect("a packed network has pages");
                self.step.fill(pages, parts)?;
                let tokens = StepTokens {
                    ids: &self.step.ids,
                    positions: &self.step.positions,
                    starts: &self.step.starts,
                    pages: &self.step.pages,
                    max_pages: self.step.pages.len() / parts.len(),
                    output_rows: &self.step.outputs,
                };
                network.step(cache, &tokens, &mut self.logits, &mut [])?;
                Ok(())
            }
        }
    }
}

impl Buffers {
    fn fill(&mut self, pages: &mut Pages, parts: &mut [Part<'_>]) -> Result<()> {
        for list in [&mut self.ids, &mut self.positions, &mut self.starts, &mut self.pages, &mut self.outputs]
        {
            list.clear();
        }
        self.starts.push(0);
        let mut columns = 1;
        for part in parts.iter_mut() {
            let end = part.start + part.ids.len();
            let Lane::Pages(sequence) = part.lane else {
                return Err(Error::failed("a row of another decoder"));
            };
            pages.reserve(sequence, end).map_err(|missing| {
                Error::failed(format!("the decoder's cache lacks {missing} pages"))
                    .hint("raise the budget of cached tokens, or lower the number of rows")
            })?;
            columns = columns.max(sequence.pages().len());
            let before = self.ids.len();
            self.ids.extend(part.ids.iter().map(|&id| id as i32));
            self.positions.extend((part.start..end).map(|p| p as i32));
            self.starts.push(self.ids.len() as i32);
            let first = self.ids.len() - part.outputs();
            debug_assert!(first >= before);
            self.outputs.extend((first..self.ids.len()).map(|row| row as i32));
        }
        for part in parts.iter() {
            if let Lane::Pages(sequence) = &*part.lane {
                self.pages.extend(sequence.pages().iter().map(|&page| page as i32));
                let whole = self.pages.len().next_multiple_of(columns);
                self.pages.resize(whole, 0);
            }
        }
        Ok(())
    }
}

/// Row by row through libtorch. A GPU is told all rows' work before the first logits are waited for.
fn torch_step(model: &CausalLm, parts: &mut [Part<'_>], vocab: usize, logits: &mut [f32]) -> Result<()> {
    let _no_grad = tch::no_grad_guard();
    let mut made = Vec::with_capacity(parts.len());
    for part in parts {
        if let (Lane::Recorded(row), &[id]) = (&mut *part.lane, part.ids)
            && part.want != Want::Nothing
        {
            made.push(row.step.run(&[id], row.cache.len())?.shallow_clone());
            row.cache.advance(1);
            continue;
        }
        let cache = match &mut *part.lane {
            Lane::Cache(cache) => cache,
            Lane::Recorded(row) => &mut row.cache,
            Lane::Pages(_) => return Err(Error::failed("a row of another decoder")),
        };
        let hidden = model.hidden_cached(&ids_tensor(&[part.ids], model), cache); // [1, T, D]
        let n = part.outputs() as i64;
        if n > 0 {
            let (_, t, _) = hidden.size3().expect("hidden states are [1, T, D]");
            made.push(model.logits(&hidden.narrow(1, t - n, n)).to_kind(Kind::Float)); // [1, n, V]
        }
    }
    let mut at = 0;
    for rows in made {
        let n = rows.numel();
        debug_assert_eq!(n % vocab, 0);
        rows.to_device(Device::Cpu).contiguous().view([-1]).f_copy_data(&mut logits[at..at + n], n)?;
        at += n;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Era, Params};
    use crate::rollout::decoder_tests::model;

    /// That the kernels add these biases right: `decoder_tests`.
    #[test]
    fn a_model_with_biases_in_its_feed_forward_is_packed_too() {
        let plain = model(Era::MiniMind3, false, 40).config().clone();
        let config = ModelConfig { mlp_bias: true, ..plain };
        let model = CausalLm::new(&config, Params::init(&config, Device::Cpu).unwrap());
        for storage in [None, Some(Storage::Int8)] {
            let mut decoder = Decoder::new(&model, DecoderConfig { storage, ..Default::default() }).unwrap();
            assert!(decoder.network().is_some(), "{storage:?}");
        }
    }
}
