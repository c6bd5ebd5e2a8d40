//! Rotary positions (arXiv 2104.09864), half-split, with YaRN (arXiv 2309.00071) where the model asks for it.
//!
//! B batch, T tokens, H heads, E head dim.

use tch::{Device, Kind, Tensor};

use super::config::{ModelConfig, YARN_BETA_FAST, YARN_BETA_SLOW, YARN_FACTOR, YARN_ORIGINAL_POSITIONS};
use super::rope_scaling::RopeScaling;
use crate::error::Result;

/// Cosines and sines of every position.
#[derive(Debug)]
pub struct Rope {
    /// `[P, E]`, both halves alike.
    cos: Tensor,
    /// `[P, E]`, both halves alike.
    sin: Tensor,
}

/// Frequencies per pair, `[E / 2]`: `theta^(-2i / E)`, stretched as the config states or by YaRN's ramp when it is on.
pub fn frequencies(config: &ModelConfig) -> Vec<f32> {
    let dim = config.head_dim;
    let half = dim / 2;
    // fp32 throughout, as upstream's table is: a double would differ from it in the last bit.
    let theta = config.rope_theta as f32;
    let mut freqs: Vec<f32> = (0..half).map(|i| 1.0 / theta.powf((2 * i) as f32 / dim as f32)).collect();
    if let Some(scaling) = &config.rope_scaling {
        scaling.apply(&mut freqs, config.rope_theta);
    } else if config.inference_rope_scaling && config.max_position_embeddings > YARN_ORIGINAL_POSITIONS {
        let turns = |beta: f64| {
            dim as f64 * (YARN_ORIGINAL_POSITIONS as f64 / (beta * 2.0 * std::f64::consts::PI)).ln()
                / (2.0 * config.rope_theta.ln())
        };
        let low = turns(YARN_BETA_FAST).floor().max(0.0);
        let high = turns(YARN_BETA_SLOW).ceil().min((half - 1) as f64);
        for (i, freq) in freqs.iter_mut().enumerate() {
            let ramp = ((i as f64 - low) / (high - low).max(0.001)).clamp(0.0, 1.0) as f32;
            *freq *= 1.0 - ramp + ramp / YARN_FACTOR as f32;
        }
    }
    freqs
}

/// What cosines and sines are multiplied with: 1 but where a stated YaRN says otherwise.
pub fn attention_factor(config: &ModelConfig) -> f64 {
    config.rope_scaling.as_ref().map_or(1.0, RopeScaling::attention_factor)
}

impl Rope {
    /// Tables for every position the model knows.
    pub fn new(config: &ModelConfig, device: Device) -> Self {
        let freqs = Tensor::from_slice(&frequencies(config)).to_device(device); // [E / 2]
        let positions = Tensor::arange(config.max_position_embeddings, (Kind::Float, device)); // [P]
        let angles = positions.outer(&freqs); // [P, E / 2]
        let factor = attention_factor(config);
        let both = |t: Tensor| {
            let twice = Tensor::cat(&[&t, &t], -1); // [P, E]
            if factor == 1.0 { twice } else { twice * factor }
        };
        Self { cos: both(angles.cos()), sin: both(angles.sin()) }
    }

    /// Tables whose row i is that of `positions[i]`.
    pub fn at(&self, positions: &Tensor) -> Self {
        let rows = |table: &Tensor| table.index_select(0, positions);
        Self { cos: rows(&self.cos), sin: rows(&self.sin) }
    }

    /// Cosines and sines, `[P, E]` each.
    pub fn tables(&self) -> (&Tensor, &Tensor) {
        (&self.cos, &self.sin)
    }

    /// Positions the tables reach.
    pub fn positions(&self) -> i64 {
        self.cos.size2().expect("the table is [P, E]").0
    }

    /// Cosines and sines of the first positions, `[P, E / 2]` each: what one of a pair is turned by.
    ///
    /// # Errors
    /// More positions than the tables have.
    pub fn halves(&self, positions: i64) -> Result<(Tensor, Tensor)> {
        let half = |table: &Tensor| -> Result<Tensor> {
            let (_, e) = table.size2()?;
            Ok(table.f_narrow(0, 0, positions)?.f_narrow(1, 0, e / 2)?.f_contiguous()?)
        };
        Ok((half(&self.cos)?, half(&self.sin)?))
    }
}
