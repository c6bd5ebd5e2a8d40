//! What the losses of policy optimisation share: the KL estimator and two ways to average tokens.
//!
//! Everything stands at the position that predicts: column t of a log-probability belongs to token t + 1, and
//! the mask is 1 where that token was generated. Next: `grpo`, `ppo`, `spo`.
//!
//! R rows, T tokens.

use tch::{Kind, Tensor};

/// Schulman's unbiased, never negative estimator (k3) of KL(policy || reference) a token, from the policy's samples:
/// `exp(ref - lp) - (ref - lp) - 1`, `[B, T]` in and out.
pub fn k3(reference: &Tensor, logprobs: &Tensor) -> Tensor {
    let by: Tensor = reference - logprobs;
    by.exp() - &by - 1.0
}

/// Mean of `[B, T]` over all tokens whose mask `[B, T]` is 1, a scalar; 0 where there is none.
pub fn token_mean(values: &Tensor, mask: &Tensor) -> Tensor {
    (values * mask).sum(Kind::Float) / mask.sum(Kind::Float).clamp_min(1.0)
}

/// Each row's mean of `[B, T]` over its tokens (mask `[B, T]`), then the mean over rows; a row without a token counts as 0.
pub fn row_mean(values: &Tensor, mask: &Tensor) -> Tensor {
    let last = [-1i64].as_slice();
    let sums = (values * mask).sum_dim_intlist(last, false, Kind::Float); // [R]
    (sums / mask.sum_dim_intlist(last, false, Kind::Float).clamp_min(1.0)).mean(Kind::Float)
}

/// A number a row, repeated over its tokens' columns: `[R] -> [R, 1]`.
pub fn column(values: &[f64], device: tch::Device) -> Tensor {
    Tensor::from_slice(values).to_kind(Kind::Float).to_device(device).unsqueeze(1)
}

/// Mean and the sample's standard deviation (n - 1); the latter is 0 for fewer than two.
pub fn spread(values: &[f64]) -> (f64, f64) {
    if values.is_empty() {
        return (0.0, 0.0);
    }
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
    (mean, if values.len() < 2 { 0.0 } else { (squares / (n - 1.0)).sqrt() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn averages_differ_where_rows_are_of_unlike_length() {
        let values = Tensor::from_slice(&[1f32, 2.0, 3.0, 10.0, 0.0, 7.0]).view([2, 3]);
        let mask = Tensor::from_slice(&[1f32, 1.0, 1.0, 1.0, 0.0, 0.0]).view([2, 3]);
        assert_eq!(token_mean(&values, &mask).double_value(&[]), 4.0);
        assert_eq!(row_mean(&values, &mask).double_value(&[]), 6.0);
        let none = mask.zeros_like();
        assert_eq!(
            (token_mean(&values, &none).double_value(&[]), row_mean(&values, &none).double_value(&[])),
            (0.0, 0.0)
        );
    }

    #[test]
    fn k3_is_zero_at_the_reference_and_positive_beside_it() {
        let reference = Tensor::from_slice(&[-1f32, -2.0, -3.0]);
        let logprobs = Tensor::from_slice(&[-1f32, -1.0, -4.0]);
        let got = k3(&reference, &logprobs);
        // exp(-1) + 1 - 1 and e - 1 - 1.
        for (i, want) in [0.0, 0.367_879_44, 0.718_281_8].iter().enumerate() {
            assert!((got.double_value(&[i as i64]) - want).abs() < 1e-6);
        }
    }

    #[test]
    fn spread_is_the_samples() {
        assert_eq!(spread(&[1.0, 3.0]), (2.0, 2f64.sqrt()));
        assert_eq!((spread(&[5.0]), spread(&[])), ((5.0, 0.0), (0.0, 0.0)));
    }
}
