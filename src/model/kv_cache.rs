//! Keys and values of the tokens already seen, in one preallocated block a layer.
//!
//! B batch, K kv heads, S capacity in tokens, T new tokens, E head dim.

use tch::{Device, Kind, Tensor};

use super::config::ModelConfig;
use crate::error::Result;

/// The cache of a batch of rows that all stand at the same position.
#[derive(Debug)]
pub struct KvCache {
    /// Per layer: keys and values, each `[B, K, S, E]`.
    layers: Vec<(Tensor, Tensor)>,
    len: i64,
    capacity: i64,
}

impl KvCache {
    /// Room for `capacity` tokens of `batch` rows.
    ///
    /// # Errors
    /// libtorch runs out of memory.
    pub fn new(config: &ModelConfig, batch: i64, capacity: i64, kind: Kind, device: Device) -> Result<Self> {
        let shape = [batch, config.num_key_value_heads, capacity, config.head_dim];
        let block = || Tensor::f_empty(shape, (kind, device));
        let layers =
            (0..config.num_hidden_layers).map(|_| Ok((block()?, block()?))).collect::<Result<Vec<_>>>()?;
        Ok(Self { layers, len: 0, capacity })
    }

    /// A layer's keys and values, `[B, K, S, E]` each.
    pub fn layer(&self, index: usize) -> (&Tensor, &Tensor) {
        let (keys, values) = &self.layers[index];
        (keys, values)
    }

    /// B, the number of rows; 0 for a model without layers.
    pub fn rows(&self) -> i64 {
        self.layers.first().map_or(0, |(keys, _)| keys.size()[0])
    }

    /// The number of tokens of a row whose keys and values are cached.
    pub fn len(&self) -> i64 {
        self.len
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The number of tokens of a row for which there is room.
    pub fn capacity(&self) -> i64 {
        self.capacity
    }

    /// Writes a layer's new keys and values, `[B, K, T, E]`, after those held and gives back all of
    /// them, `[B, K, len + T, E]`. [`KvCache::advance`] moves on once every layer has written.
    pub fn extend(&mut self, layer: usize, k: &Tensor, v: &Tensor) -> (Tensor, Tensor) {
        let (_, _, t, _) = k.size4().expect("new keys are [B, K, T, E]");
        let (keys, values) = &self.layers[layer];
        keys.narrow(2, self.len, t).copy_(k);
        values.narrow(2, self.len, t).copy_(v);
        (keys.narrow(2, 0, self.len + t), values.narrow(2, 0, self.len + t))
    }

    /// Counts `t` tokens as held.
    pub fn advance(&mut self, t: i64) {
        self.len += t;
    }

    /// Forgets all but the first `len` tokens.
    pub fn truncate(&mut self, len: i64) {
        self.len = self.len.min(len);
    }

    /// Keeps only the rows at `rows` (int64 `[n]`), in that order.
    pub fn select_rows(&mut self, rows: &Tensor) {
        for (keys, values) in &mut self.layers {
            *keys = keys.index_select(0, rows);
            *values = values.index_select(0, rows);
        }
    }
}
