//! How a model of another family stretches its rotary positions, as its `config.json` states it.
//!
//! Each kind is a rule on the frequencies; the formulas are those of the models' papers as the
//! transformers library computes them (`modeling_rope_utils.py`). MiniMind's own YaRN has fixed constants
//! and lives in `config`. Next: `rope`.

use serde::Serialize;
use serde_json::{Value, json};

use super::config::{YARN_BETA_FAST, YARN_BETA_SLOW, YARN_FACTOR, YARN_ORIGINAL_POSITIONS};
use crate::error::{Error, Result};

/// A rule on the rotary frequencies.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RopeScaling {
    /// Every frequency divided by one factor (position interpolation, arXiv 2306.15595).
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// YaRN (arXiv 2309.00071): slow frequencies divided, fast ones left, a ramp between.
    Yarn {
        /// The divisor of the slow ones.
        factor: f64,
        /// Positions the model was trained on.
        original: f64,
        /// Rotations above which a frequency is left alone.
        beta_fast: f64,
        /// Rotations below which it is divided.
        beta_slow: f64,
        /// What cosines and sines are multiplied with.
        attention_factor: f64,
    },
    /// Llama 3.1's rule: by wavelength, with a smooth middle.
    Llama3 {
        /// The divisor of the slow ones.
        factor: f64,
        /// Positions per wavelength under which a frequency is slow.
        low: f64,
        /// Positions per wavelength above which it is fast.
        high: f64,
        /// Positions the model was trained on.
        original: f64,
    },
    /// Every frequency divided by a factor of its own.
    Factors {
        /// The divisors, `E / 2` of them.
        factors: Vec<f32>,
    },
}

impl RopeScaling {
    /// MiniMind's YaRN, in the form that other libraries read.
    pub fn minimind_yarn() -> Self {
        Self::Yarn {
            factor: YARN_FACTOR,
            original: YARN_ORIGINAL_POSITIONS as f64,
            beta_fast: YARN_BETA_FAST,
            beta_slow: YARN_BETA_SLOW,
            attention_factor: 1.0,
        }
    }

    /// Reads `rope_scaling` or `rope_parameters`; `None` where nothing is scaled. `positions` is the
    /// model's `max_position_embeddings`, which stands in where no original number is stated.
    ///
    /// # Errors
    /// A kind we do not compute, or a number that cannot be.
    pub fn from_json(value: &Value, positions: Option<i64>) -> Result<Option<Self>> {
        let kind = value.get("rope_type").or(value.get("type")).and_then(Value::as_str).unwrap_or("default");
        let number = |name: &str| value.get(name).and_then(Value::as_f64);
        let need = |name: &str| {
            number(name).filter(|x| *x > 0.0 && x.is_finite()).ok_or_else(|| {
                Error::failed(format!("`rope_scaling` of kind {kind} states no usable `{name}`"))
            })
        };
        let original =
            || need("original_max_position_embeddings").or_else(|e| positions.map(|p| p as f64).ok_or(e));
        Ok(Some(match kind {
            "default" => return Ok(None),
            "linear" => Self::Linear { factor: need("factor")? },
            "yarn" if value.get("truncate") == Some(&Value::Bool(false)) => {
                return Err(Error::failed("`rope_scaling` of the model is yarn without `truncate`"));
            }
            "yarn" => Self::Yarn {
                factor: need("factor")?,
                original: original()?,
                beta_fast: number("beta_fast").unwrap_or(YARN_BETA_FAST),
                beta_slow: number("beta_slow").unwrap_or(YARN_BETA_SLOW),
                attention_factor: match number("attention_factor") {
                    Some(factor) => factor,
                    None => attention_factor(need("factor")?, number("mscale"), number("mscale_all_dim")),
                },
            },
            "llama3" => Self::Llama3 {
                factor: need("factor")?,
                low: need("low_freq_factor")?,
                high: need("high_freq_factor")?,
                original: original()?,
            },
            // What long positions get, if short ones get the same: then it is no matter how long a text is.
            "longrope"
                if value.get("short_factor") == value.get("long_factor")
                    && number("attention_factor") == Some(1.0) =>
            {
                let list = value.get("long_factor").and_then(Value::as_array);
                let list: Option<Vec<f32>> = list.and_then(|list| {
                    list.iter().map(|x| x.as_f64().filter(|x| *x > 0.0).map(|x| x as f32)).collect()
                });
                let factors = list.ok_or_else(|| {
                    Error::failed("`rope_scaling` of kind longrope states no usable `long_factor`")
                })?;
                Self::Factors { factors }
            }
            other => {
                return Err(Error::failed(format!("`rope_scaling` of the model is {other}"))
                    .hint("linear, yarn and llama3 are supported"));
            }
        }))
    }

    /// What `from_json` reads and the transformers library too.
    pub fn to_json(&self) -> Value {
        let whole = |x: &f64| if x.fract() == 0.0 { json!(*x as i64) } else { json!(x) };
        match self {
            Self::Linear { factor } => json!({"rope_type": "linear", "factor": factor}),
            Self::Yarn { factor, original, beta_fast, beta_slow, attention_factor } => json!({
                "rope_type": "yarn",
                "factor": factor,
                "original_max_position_embeddings": whole(original),
                "beta_fast": beta_fast,
                "beta_slow": beta_slow,
                "attention_factor": attention_factor,
            }),
            Self::Llama3 { factor, low, high, original } => json!({
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": low,
                "high_freq_factor": high,
                "original_max_position_embeddings": whole(original),
            }),
            // The transformers library's kind with a list of them.
            Self::Factors { factors } => json!({
                "rope_type": "longrope",
                "short_factor": factors,
                "long_factor": factors,
                "factor": 1.0,
                "attention_factor": 1.0,
            }),
        }
    }

    /// What cosines and sines are multiplied with.
    pub fn attention_factor(&self) -> f64 {
        match self {
            Self::Yarn { attention_factor, .. } => *attention_factor,
            _ => 1.0,
        }
    }

    /// Scales `freqs` (`[E / 2]`, from `theta`) in place.
    pub fn apply(&self, freqs: &mut [f32], theta: f64) {
        let dim = 2.0 * freqs.len() as f64;
        match *self {
            Self::Factors { ref factors } => freqs.iter_mut().zip(factors).for_each(|(f, by)| *f /= by),
            Self::Linear { factor } => freqs.iter_mut().for_each(|f| *f /= factor as f32),
            Self::Yarn { factor, original, beta_fast, beta_slow, .. } => {
                let turns = |beta: f64| {
                    dim * (original / (beta * 2.0 * std::f64::consts::PI)).ln() / (2.0 * theta.ln())
                };
                let low = turns(beta_fast).floor().max(0.0);
                let high = turns(beta_slow).ceil().min(dim - 1.0);
                let width = if high == low { 0.001 } else { high - low };
                for (i, freq) in freqs.iter_mut().enumerate() {
                    let ramp = ((i as f64 - low) / width).clamp(0.0, 1.0) as f32;
                    *freq = *freq / factor as f32 * ramp + *freq * (1.0 - ramp);
                }
            }
            Self::Llama3 { factor, low, high, original } => {
                for freq in freqs.iter_mut() {
                    let wavelength = 2.0 * std::f32::consts::PI / *freq;
                    let slow = *freq / factor as f32;
                    if wavelength > (original / low) as f32 {
                        *freq = slow;
                    } else if wavelength >= (original / high) as f32 {
                        let smooth = (original as f32 / wavelength - low as f32) / (high - low) as f32;
                        *freq = (1.0 - smooth) * slow + smooth * *freq;
                    }
                }
            }
        }
    }
}

/// YaRN's own rule for the factor (its eq. 22, with DeepSeek's `mscale` where stated).
fn attention_factor(factor: f64, mscale: Option<f64>, all: Option<f64>) -> f64 {
    let scale = |m: f64| if factor <= 1.0 { 1.0 } else { 0.1 * m * factor.ln() + 1.0 };
    match (mscale, all) {
        (Some(m), Some(all)) if m != 0.0 && all != 0.0 => scale(m) / scale(all),
        _ => scale(1.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_read_written_and_refused() {
        let all = [
            RopeScaling::minimind_yarn(),
            RopeScaling::Linear { factor: 2.5 },
            RopeScaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original: 8192.0 },
            RopeScaling::Factors { factors: vec![1.0, 2.5] },
        ];
        for scaling in all {
            assert_eq!(RopeScaling::from_json(&scaling.to_json(), None).unwrap(), Some(scaling.clone()));
        }
        assert_eq!(RopeScaling::from_json(&json!({"rope_type": "default"}), None).unwrap(), None);
        for wrong in
            [json!({"type": "longrope"}), json!({"type": "linear"}), json!({"type": "yarn", "factor": -1})]
        {
            assert!(RopeScaling::from_json(&wrong, Some(64)).is_err(), "{wrong}");
        }
        let stated = json!({"type": "yarn", "factor": 4.0});
        let Some(RopeScaling::Yarn { original, attention_factor, .. }) =
            RopeScaling::from_json(&stated, Some(64)).unwrap()
        else {
            panic!("yarn");
        };
        // 0.1 ln 4 + 1
        assert!(original == 64.0 && (attention_factor - 1.138_629_436).abs() < 1e-8);
    }
}
