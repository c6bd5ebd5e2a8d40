//! Rotary frequency factors as a tensor, `rope_freqs.weight`: the rope scaling of Llama 3.1's files.
//!
//! llama.cpp's converter computes them from `rope_scaling` of kind llama3 and states it in no other way
//! (`generate_extra_tensors` of its `convert_hf_to_gguf.py`). Read, they become that rule again where it gives the same
//! numbers, else they stay a list. Next: `metadata`.

use crate::checkpoint::dtype::DType;
use crate::checkpoint::host_tensor::{HostTensor, Storage};
use crate::error::Result;
use crate::model::ModelConfig;
use crate::model::rope_scaling::RopeScaling;

/// The tensor's name.
pub const FACTORS: &str = "rope_freqs.weight";

/// Largest relative difference between the rule's factors and the file's.
const CLOSE: f32 = 1e-5;

/// The divisor of each of the `pairs` frequencies.
fn factors(scaling: &RopeScaling, theta: f64, pairs: usize) -> Vec<f32> {
    let dim = 2.0 * pairs as f32;
    let plain: Vec<f32> = (0..pairs).map(|i| 1.0 / (theta as f32).powf(2.0 * i as f32 / dim)).collect();
    let mut scaled = plain.clone();
    scaling.apply(&mut scaled, theta);
    plain.iter().zip(scaled).map(|(plain, scaled)| plain / scaled).collect()
}

/// The rope scaling behind a file's factors `[E / 2]`; `None` where all are 1.
pub fn scaling(list: Vec<f32>, theta: f64) -> Option<RopeScaling> {
    if list.iter().all(|x| *x == 1.0) {
        return None;
    }
    let factor = list.iter().fold(1f32, |most, x| most.max(*x));
    // Llama's constants, and the lengths that models were trained at.
    let rules = (6..=17).map(|bits| RopeScaling::Llama3 {
        factor: f64::from(factor),
        low: 1.0,
        high: 4.0,
        original: f64::from(1u32 << bits),
    });
    let usual = RopeScaling::Llama3 { factor: f64::from(factor), low: 1.0, high: 4.0, original: 8192.0 };
    let same = |rule: &RopeScaling| {
        factors(rule, theta, list.len()).iter().zip(&list).all(|(a, b)| (a - b).abs() <= CLOSE * b.abs())
    };
    let found = std::iter::once(usual).chain(rules).find(same);
    Some(found.unwrap_or(RopeScaling::Factors { factors: list }))
}

/// The factors `[E / 2]` that state a model's rope scaling; `None` where it has none of the kinds that factors state.
///
/// # Errors
/// The head dimension is odd.
pub fn tensor(config: &ModelConfig) -> Result<Option<HostTensor>> {
    let Some(scaling @ (RopeScaling::Llama3 { .. } | RopeScaling::Factors { .. })) = &config.rope_scaling
    else {
        return Ok(None);
    };
    let list = factors(scaling, config.rope_theta, (config.head_dim / 2) as usize);
    let bytes = list.into_iter().flat_map(f32::to_le_bytes).collect();
    HostTensor::contiguous(DType::F32, vec![config.head_dim / 2], Storage::owned(bytes)).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_is_found_again_or_the_numbers_are_kept() {
        for (factor, original, theta, pairs) in
            [(8.0, 8192.0, 5e5, 64), (32.0, 8192.0, 5e5, 32), (8.0, 512.0, 1e4, 8), (4.0, 256.0, 1e4, 4)]
        {
            let rule = RopeScaling::Llama3 { factor, low: 1.0, high: 4.0, original };
            let list = factors(&rule, theta, pairs);
            let found = scaling(list.clone(), theta).unwrap();
            assert!(matches!(found, RopeScaling::Llama3 { factor: f, .. } if f == factor), "{found:?}");
            let again = factors(&found, theta, pairs);
            assert!(again.iter().zip(&list).all(|(a, b)| (a - b).abs() < 1e-4), "{again:?} {list:?}");
        }
        let odd = vec![1.0, 1.5, 7.0, 3.0];
        assert_eq!(scaling(odd.clone(), 1e4), Some(RopeScaling::Factors { factors: odd.clone() }));
        assert_eq!(factors(&RopeScaling::Factors { factors: odd.clone() }, 1e4, 4), odd);
        assert_eq!(scaling(vec![1.0; 4], 1e4), None);
    }
}
