//! `minimind bench train`: a whole training step (forward, backward, clipping, update) beside the speed of this
//! machine's matrix products, measured in turns with it.
//!
//! B batch, T tokens, D hidden, H query heads, E head dim, V vocab.

use std::time::Instant;

use ndarray::Array2;
use tch::{Device, Kind, Tensor};

use super::gpu::product_flops;
use super::median;
use crate::engine::Compute;
use crate::error::Result;
use crate::loss::cross_entropy::{Targets, mean_with_grad};
use crate::model::{CausalLm, Mask, ModelConfig};
use crate::native::{
    cuda_peak_memory, enable_cpu_cache, peak_memory_bytes, processor_seconds, reset_cuda_peak_memory,
    synchronize,
};
use crate::optim::clip::{clip_to_norm, global_norm};
use crate::optim::{AdamW, AdamWConfig};

/// Side of the square matrices whose product is the machine's limit.
const SIDE: i64 = 1536;

/// Shape of the batch that is trained on, and how often a step is timed.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Rows of a micro-batch.
    pub batch_size: usize,
    /// Tokens of a row.
    pub seq_len: usize,
    /// Times that a step is measured.
    pub repeat: u16,
}

/// Medians of the timed steps.
#[derive(Debug)]
pub struct Trained {
    /// Tokens that pass a step.
    pub tokens: usize,
    /// Seconds of a step.
    pub seconds: f64,
    /// Processor seconds of a step: what counts where others use the machine (with one thread: idle ones spin).
    pub processor_seconds: f64,
    /// Operations of its matrix products, attention's causal half included.
    pub operations: f64,
    /// Operations a second of a plain matrix product.
    pub matrix_flops: f64,
    /// Most memory that this process held, or its tensors on the GPU.
    pub peak_bytes: u64,
    /// The last loss, to see that it learnt something.
    pub loss: f64,
}

/// Multiplications and additions of a step: six for each weight and token (two forward, four backward), and attention.
fn operations(config: &ModelConfig, batch: usize, tokens: usize) -> f64 {
    let (_, active) = crate::model::params::count(config);
    // A tied embedding is the output layer's product once; an untied one adds no product.
    let looked_up = if config.tie_word_embeddings { 0 } else { config.vocab_size * config.hidden_size };
    let (all, t) = ((batch * tokens) as f64, tokens as f64);
    // Scores and their use, 2 T^2 E each for a head, over half of the square; three times with the backward pass.
    let attention = 3.0 * 2.0 * t * (config.num_attention_heads * config.head_dim) as f64 * all;
    6.0 * (active as f64 - looked_up as f64) * all + attention * config.num_hidden_layers as f64
}

/// Seconds of one product of two square matrices on the CPU.
fn product(a: &Tensor, b: &Tensor) -> f64 {
    let clock = Instant::now();
    let made = a.matmul(b);
    assert_eq!(made.size(), [SIDE, SIDE]);
    clock.elapsed().as_secs_f64()
}

fn step(
    model: &CausalLm,
    optimizer: &mut AdamW,
    ids: &Tensor,
    targets: &Targets,
    compute: Compute,
) -> Result<f64> {
    let loss = compute.run(model.device(), || {
        let (hidden, aux) = model.hidden(ids, Mask::Causal, true);
        let (loss, surrogate) =
            mean_with_grad(&hidden, model.lm_head(), targets, 1.0)?.expect("all tokens carry loss");
        aux.map_or_else(|| surrogate.shallow_clone(), |aux| &surrogate + aux).f_backward()?;
        Ok(loss)
    })?;
    let grads = optimizer.grads();
    clip_to_norm(&grads, global_norm(&grads).double_value(&[]), 1.0);
    optimizer.step(&grads, 5e-4)?;
    optimizer.zero_grad();
    Ok(loss.double_value(&[]))
}

/// Trains `repeat` steps on made-up tokens after a first one that is not timed. Changes `model`'s weights.
///
/// # Errors
/// Memory runs out, on the CPU or on the device, or the optimizer refuses the weights.
pub fn train(model: &CausalLm, shape: Shape, compute: Compute) -> Result<Trained> {
    let Shape { batch_size, seq_len, repeat } = shape;
    let (config, device) = (model.config(), model.device());
    if device == Device::Cpu {
        enable_cpu_cache(); // as `run` does
    }
    model.params().set_requires_grad(true);
    let weights = model.params().trained().1.iter().map(|t| t.shallow_clone()).collect();
    let mut optimizer = AdamW::new(weights, AdamWConfig::default())?;
    let vocab = config.vocab_size as usize;
    let tokens =
        Array2::from_shape_fn((batch_size, seq_len), |(b, t)| ((b * 104_729 + t * t * 7919) % vocab) as i64);
    let flat: Vec<i64> = tokens.iter().copied().collect();
    let ids = Tensor::from_slice(&flat).view([batch_size as i64, seq_len as i64]).to_device(device); // [B, T]
    let targets = Targets::new(&tokens, device);
    let square = || Tensor::randn([SIDE, SIDE], (Kind::Float, Device::Cpu));
    let (a, b) = (square(), square());
    let on_gpu = device.is_cuda();
    let beside = |times| (0..if on_gpu { 0 } else { times }).map(|_| product(&a, &b)).collect::<Vec<_>>();
    beside(1);
    let mut loss = step(model, &mut optimizer, &ids, &targets, compute)?;
    if on_gpu {
        reset_cuda_peak_memory(device)?;
        loss = step(model, &mut optimizer, &ids, &targets, compute)?;
        synchronize(device)?;
    }
    let (mut seconds, mut used, mut products) = (Vec::new(), Vec::new(), Vec::new());
    let spent = || processor_seconds().unwrap_or(0.0);
    for _ in 0..repeat {
        products.extend(beside(3));
        let (clock, before) = (Instant::now(), spent());
        loss = step(model, &mut optimizer, &ids, &targets, compute)?;
        synchronize(device)?;
        seconds.push(clock.elapsed().as_secs_f64());
        used.push(spent() - before);
        products.extend(beside(3));
    }
    Ok(Trained {
        tokens: batch_size * seq_len,
        seconds: median(seconds),
        processor_seconds: median(used),
        operations: operations(config, batch_size, seq_len),
        matrix_flops: match (on_gpu, compute) {
            (false, _) => 2.0 * (SIDE as f64).powi(3) / median(products),
            (true, Compute::Fp32) => product_flops(device, Kind::Float)?,
            (true, _) => product_flops(device, Kind::BFloat16)?,
        },
        peak_bytes: if on_gpu { cuda_peak_memory(device)? } else { peak_memory_bytes().unwrap_or(0) },
        loss,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::config;

    #[test]
    fn operations_are_those_counted_by_hand() {
        let mut overrides = config::preset("minimind3").unwrap();
        (overrides.hidden_size, overrides.num_hidden_layers) = (Some(512), Some(1));
        let config = overrides.resolve().unwrap();
        let inner = 1664.0;
        let weights = 6400.0 * 512.0 + 512.0 * 512.0 * 3.0 + 3.0 * 512.0 * inner;
        let norms = 3.0 * 512.0 + 2.0 * 64.0;
        // 4 T^2 E a head, halved, three times.
        let attention = 3.0 * 0.5 * 4.0 * 100.0 * 100.0 * 512.0 * 2.0;
        let want = 6.0 * 200.0 * (weights + norms) + attention;
        assert!((operations(&config, 2, 100) - want).abs() < 1.0);
    }
}
