//! A model ready to decode: packed weights on the CPU, libtorch and captured CUDA graphs elsewhere.
//!
//! Next: [`super::packing`] (the packed weights), `kv_slots` (keys and values of the sequences at work).

use tch::Device;

use super::cuda_graphs::GraphPool;
use super::packing::{natural_storage, pack_network};
use crate::error::{Error, Result};
use crate::model::{CausalLm, ModelConfig};
use crate::native::{Network, Storage};

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
    Torch(&'m CausalLm, Option<Box<GraphPool>>),
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
            let graphs = GraphPool::new(model)?.map(Box::new);
            return Ok(Self { config: own, backend: Backend::Torch(model, graphs) });
        }
        let storage = config.storage.unwrap_or_else(|| natural_storage(model.kind()));
        let threads = config.threads.unwrap_or_else(|| tch::get_num_threads().max(1) as usize);
        let network = pack_network(model, storage, threads, own.max_position_embeddings as usize)?;
        Ok(Self { config: own, backend: Backend::Native(Box::new(network)) })
    }

    /// Decodes through libtorch on any device, one sequence at a time: slow; what the packed decoder is tested against.
    pub fn reference(model: &'m CausalLm) -> Self {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Era, Params};
    use crate::rollout::packing_tests::model;

    /// That the kernels add these biases right: `packing_tests`.
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
