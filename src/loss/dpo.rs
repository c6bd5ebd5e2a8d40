//! Direct preference optimisation (arXiv 2305.18290), with label smoothing and IPO (arXiv 2310.12036).
//!
//! With `h = (c_pi - r_pi) - (c_ref - r_ref)`, the log-ratio of chosen to rejected answer against the reference:
//! sigmoid: `-(1 - e) log sigmoid(beta h) - e log sigmoid(-beta h)`; IPO: `(h - 1 / (2 beta))^2`. A pair's mean.
//!
//! P pairs, T tokens.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

/// Which preference loss.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PairLoss {
    /// DPO's own.
    #[default]
    Sigmoid,
    /// A square around the margin that the reference and beta ask for.
    Ipo,
}

/// How a row's log-probabilities become one number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Reduction {
    /// Their sum: the answer's log-likelihood (minimind3).
    #[default]
    Sum,
    /// Their mean over the tokens that count (minimind2).
    Mean,
}

/// The loss's settings, as a recipe states them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DpoConfig {
    /// How strongly the reference holds.
    #[schemars(extend("default" = 0.15, "exclusiveMinimum" = 0))]
    pub beta: f64,
    /// Chance that a label is the wrong way round, for loss_type: sigmoid.
    #[schemars(range(min = 0), extend("default" = 0.0, "exclusiveMaximum" = 0.5))]
    pub label_smoothing: f64,
    /// Which preference loss.
    #[schemars(extend("default" = "sigmoid"))]
    pub loss_type: PairLoss,
}

/// Both answers' log-probabilities, each `[P]`.
#[derive(Debug)]
pub struct Pair {
    /// Of the chosen ones.
    pub chosen: Tensor,
    /// Of the rejected ones.
    pub rejected: Tensor,
}

/// What comes of a batch of pairs.
#[derive(Debug)]
pub struct Preferences {
    /// The mean loss, a scalar with a graph.
    pub loss: Tensor,
    /// `beta (c_pi - c_ref)`: what DPO counts as the chosen answer's reward, `[P]`.
    pub chosen_reward: Tensor,
    /// The same of the rejected one.
    pub rejected_reward: Tensor,
}

/// `[R, T] -> [R]`: the log-probabilities of the tokens whose mask is 1.
pub fn reduce(logprobs: &Tensor, mask: &Tensor, how: Reduction) -> Tensor {
    let last = [-1i64].as_slice();
    let mask = mask.to_kind(Kind::Float);
    let sum = (logprobs * &mask).sum_dim_intlist(last, false, Kind::Float); // [R]
    match how {
        Reduction::Sum => sum,
        Reduction::Mean => sum / mask.sum_dim_intlist(last, false, Kind::Float).clamp_min(1.0),
    }
}

/// The loss; without a `reference` its log-probabilities count as equal (reference-free).
pub fn dpo(policy: &Pair, reference: Option<&Pair>, config: DpoConfig) -> Preferences {
    let DpoConfig { beta, label_smoothing, loss_type } = config;
    let against = |policy: &Tensor, reference: Option<&Tensor>| match reference {
        Some(reference) => policy - reference,
        None => policy.shallow_clone(),
    };
    let chosen = against(&policy.chosen, reference.map(|r| &r.chosen)); // [P]
    let rejected = against(&policy.rejected, reference.map(|r| &r.rejected));
    let h = &chosen - &rejected;
    let each = match loss_type {
        PairLoss::Sigmoid if label_smoothing == 0.0 => -(&h * beta).log_sigmoid(),
        PairLoss::Sigmoid => {
            (&h * beta).log_sigmoid() * (label_smoothing - 1.0) - (&h * -beta).log_sigmoid() * label_smoothing
        }
        PairLoss::Ipo => (&h - 0.5 / beta).square(),
    };
    Preferences {
        loss: each.mean(Kind::Float),
        chosen_reward: chosen.detach() * beta,
        rejected_reward: rejected.detach() * beta,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(chosen: &[f32], rejected: &[f32]) -> Pair {
        Pair { chosen: Tensor::from_slice(chosen), rejected: Tensor::from_slice(rejected) }
    }

    fn value(policy: &Pair, reference: Option<&Pair>, config: DpoConfig) -> f64 {
        dpo(policy, reference, config).loss.double_value(&[])
    }

    #[test]
    fn losses_follow_their_formulas() {
        let (policy, reference) = (pair(&[-3.0, -9.0], &[-4.0, -7.0]), pair(&[-3.5, -8.0], &[-4.0, -7.5]));
        // h = (1 - 0.5, -2 + 0.5) = (0.5, -1.5)
        let h = [0.5f64, -1.5];
        let log_sigmoid = |x: f64| -(1.0 + (-x).exp()).ln();
        let mean = |f: &dyn Fn(f64) -> f64| h.iter().map(|h| f(*h)).sum::<f64>() / 2.0;
        for (beta, e) in [(0.1, 0.0), (2.0, 0.0), (0.5, 0.2)] {
            let config = DpoConfig { beta, label_smoothing: e, loss_type: PairLoss::Sigmoid };
            let want = mean(&|h| -(1.0 - e) * log_sigmoid(beta * h) - e * log_sigmoid(-beta * h));
            assert!((value(&policy, Some(&reference), config) - want).abs() < 1e-6);
            let ipo = DpoConfig { loss_type: PairLoss::Ipo, ..config };
            let want = mean(&|h| (h - 0.5 / beta) * (h - 0.5 / beta));
            assert!((value(&policy, Some(&reference), ipo) - want).abs() < 1e-5);
        }
        let config = DpoConfig { beta: 1.0, label_smoothing: 0.0, loss_type: PairLoss::Sigmoid };
        let free = dpo(&policy, None, config);
        assert!((free.loss.double_value(&[]) + (log_sigmoid(1.0) + log_sigmoid(-2.0)) / 2.0).abs() < 1e-6);
        assert_eq!(Vec::<f32>::try_from(free.chosen_reward).unwrap(), [-3.0, -9.0]);
    }

    #[test]
    fn a_policy_that_is_its_reference_has_log_two() {
        let policy = pair(&[-1.0, -2.0], &[-3.0, -1.0]);
        let config = DpoConfig { beta: 0.15, label_smoothing: 0.1, loss_type: PairLoss::Sigmoid };
        assert!((value(&policy, Some(&policy), config) - 2f64.ln()).abs() < 1e-6);
    }

    #[test]
    fn rows_are_summed_or_averaged_over_their_mask() {
        let logprobs = Tensor::from_slice(&[-1f32, -2.0, -3.0, -4.0, -5.0, -6.0]).view([2, 3]);
        let mask = Tensor::from_slice(&[0i64, 1, 1, 0, 0, 0]).view([2, 3]);
        let of = |how| Vec::<f32>::try_from(reduce(&logprobs, &mask, how)).unwrap();
        assert_eq!(of(Reduction::Sum), [-5.0, 0.0]);
        assert_eq!(of(Reduction::Mean), [-2.5, 0.0]);
    }
}
