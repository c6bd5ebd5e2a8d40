//! GRPO (arXiv 2402.03300) and CISPO (arXiv 2506.13585), with the switches of Dr. GRPO (arXiv 2503.20783) and
//! DAPO (arXiv 2503.14476).
//!
//! `rho = exp(lp - old)`. GRPO a token: `-(min(rho A, clip(rho, 1 - eps, 1 + eps) A) - beta k3)`; CISPO:
//! `-(stopgrad(min(rho, upper)) A lp - beta k3)`. Upstream averages a row's tokens, then rows, and divides
//! advantages by the group's standard deviation; the switches change either. Next: `stage::policy::grpo`.
//!
//! R rows, T tokens.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::policy::{k3, row_mean, token_mean};

/// How the ratio is kept in bounds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Clipping {
    /// GRPO: the pessimistic one of the plain and the clipped objective.
    Ratio {
        /// Below 1 by this.
        low: f64,
        /// Above 1 by this; larger than `low` is DAPO's clip-higher.
        high: f64,
    },
    /// CISPO: the ratio is a weight, cut from above; every token keeps its gradient.
    Weight {
        /// Its bound.
        upper: f64,
    },
}

/// What a token's loss is divided by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LengthNorm {
    /// Its row's length, then the rows: upstream's.
    #[default]
    Row,
    /// The batch's tokens: DAPO's.
    Token,
    /// Rows times a constant length: Dr. GRPO's, which favours no length.
    Constant,
}

/// The loss's settings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GrpoLoss {
    /// How the ratio is kept in bounds.
    pub clipping: Clipping,
    /// Weight of the KL to the reference.
    pub beta: f64,
    /// What a token's loss is divided by.
    pub length_norm: LengthNorm,
    /// The length that [`LengthNorm::Constant`] divides by: the most new tokens a completion may have.
    pub max_new_tokens: f64,
}

/// A loss and what it says of the policy; scalars, the loss with a graph.
#[derive(Debug)]
pub struct Terms {
    /// What is minimised, without the experts' balance loss.
    pub loss: Tensor,
    /// Token-mean of `ref - lp`, as upstream logs it: it can be negative.
    pub kl_ref: Option<f64>,
    /// Token-mean of k3, an estimate of the KL to the reference that is never negative.
    pub kl: Option<f64>,
    /// Share of tokens whose ratio the clipping holds back.
    pub clip_fraction: f64,
}

/// Advantages within groups of `group` neighbours: `r - mean`, divided by `std + 1e-4` (population) if `scale`.
pub fn advantages(rewards: &[f64], group: usize, scale: bool) -> Vec<f64> {
    let one = |rewards: &[f64]| {
        let n = rewards.len() as f64;
        let mean = rewards.iter().sum::<f64>() / n;
        let std = (rewards.iter().map(|r| (r - mean).powi(2)).sum::<f64>() / n).sqrt();
        rewards.iter().map(|r| (r - mean) / if scale { std + 1e-4 } else { 1.0 }).collect::<Vec<_>>()
    };
    rewards.chunks(group.max(1)).flat_map(one).collect()
}

impl GrpoLoss {
    /// The loss of `[R, T]` log-probabilities; `advantages` is `[R, 1]`.
    pub fn terms(
        &self,
        logprobs: &Tensor,
        old: &Tensor,
        reference: Option<&Tensor>,
        advantages: &Tensor,
        mask: &Tensor,
    ) -> Terms {
        let ratio = (logprobs - old).exp();
        let (gain, held) = match self.clipping {
            Clipping::Ratio { low, high } => {
                let plain = &ratio * advantages;
                let clipped = ratio.clamp(1.0 - low, 1.0 + high) * advantages;
                let held = clipped.lt_tensor(&plain);
                (plain.minimum(&clipped), held)
            }
            Clipping::Weight { upper } => {
                let weight = ratio.clamp_max(upper).detach();
                (weight * advantages * logprobs, ratio.gt(upper))
            }
        };
        let penalty = reference.map(|reference| k3(reference, logprobs) * self.beta);
        let token = match penalty {
            Some(penalty) => penalty - gain,
            None => gain.neg(),
        };
        let loss = match self.length_norm {
            LengthNorm::Row => row_mean(&token, mask),
            LengthNorm::Token => token_mean(&token, mask),
            LengthNorm::Constant => {
                let (rows, _) = mask.size2().expect("the mask is [R, T]");
                (token * mask).sum(Kind::Float) / (rows as f64 * self.max_new_tokens)
            }
        };
        let mean = |x: &Tensor| tch::no_grad(|| token_mean(x, mask).double_value(&[]));
        Terms {
            loss,
            kl_ref: reference.map(|reference| mean(&(reference - logprobs.detach()))),
            kl: reference.map(|reference| mean(&k3(reference, &logprobs.detach()))),
            clip_fraction: mean(&held.to_kind(Kind::Float)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: GrpoLoss = GrpoLoss {
        clipping: Clipping::Ratio { low: 0.2, high: 0.2 },
        beta: 0.0,
        length_norm: LengthNorm::Row,
        max_new_tokens: 10.0,
    };

    /// Two rows: ratios 1.5 and 1.1 with advantage 2; ratio 0.5 with advantage -1, its second token masked.
    fn case() -> [Tensor; 4] {
        let old = Tensor::from_slice(&[-1f32, -1.0, -1.0, -1.0]).view([2, 2]);
        let lp = &old + Tensor::from_slice(&[1.5f32, 1.1, 0.5, 9.0]).view([2, 2]).log();
        let advantages = super::super::policy::column(&[2.0, -1.0], tch::Device::Cpu);
        let mask = Tensor::from_slice(&[1f32, 1.0, 1.0, 0.0]).view([2, 2]);
        [lp.set_requires_grad(true), old, advantages, mask]
    }

    fn loss(settings: GrpoLoss) -> (f64, Vec<f64>, f64) {
        let [lp, old, advantages, mask] = case();
        let terms = settings.terms(&lp, &old, None, &advantages, &mask);
        terms.loss.backward();
        let grad = lp.grad().view([-1]);
        let grad = (0..4).map(|i| grad.double_value(&[i])).collect();
        (terms.loss.double_value(&[]), grad, terms.clip_fraction)
    }

    fn near(got: f64, want: f64) {
        assert!((got - want).abs() < 1e-5, "{got} {want}");
    }

    #[test]
    fn ratios_beyond_the_clip_lose_their_gradient() {
        // Row 1: -(1.2 * 2 + 1.1 * 2) / 2 = -2.3; row 2: -(min(-0.5, -0.8)) = 0.8; mean -0.75.
        let (value, grad, held) = loss(PLAIN);
        near(value, -0.75);
        near(held, 2.0 / 3.0);
        assert_eq!((grad[0], grad[2], grad[3]), (0.0, 0.0, 0.0));
        near(grad[1], -1.1 * 2.0 / 4.0);
        // DAPO: a higher upper bound lets the first token through, -(1.5 * 2 + 2.2) / 2 = -2.6.
        let (value, grad, _) = loss(GrpoLoss { clipping: Clipping::Ratio { low: 0.2, high: 0.6 }, ..PLAIN });
        near(value, (-2.6 + 0.8) / 2.0);
        near(grad[0], -1.5 * 2.0 / 4.0);
    }

    #[test]
    fn lengths_are_normed_three_ways() {
        // Token losses -2.4, -2.2 and 0.8.
        near(loss(GrpoLoss { length_norm: LengthNorm::Token, ..PLAIN }).0, -3.8 / 3.0);
        near(loss(GrpoLoss { length_norm: LengthNorm::Constant, ..PLAIN }).0, -3.8 / 20.0);
    }

    #[test]
    fn cispo_cuts_the_weight_and_keeps_the_gradient() {
        let (value, grad, held) = loss(GrpoLoss { clipping: Clipping::Weight { upper: 1.2 }, ..PLAIN });
        let lp = [-1.0 + 1.5f64.ln(), -1.0 + 1.1f64.ln(), -1.0 + 0.5f64.ln()];
        near(value, (-(1.2 * 2.0 * lp[0] + 1.1 * 2.0 * lp[1]) / 2.0 + 0.5 * lp[2]) / 2.0);
        near(grad[0], -1.2 * 2.0 / 4.0);
        near(grad[2], 0.5 / 2.0);
        near(held, 1.0 / 3.0);
    }

    #[test]
    fn the_reference_pulls() {
        let [lp, old, advantages, mask] = case();
        let reference = lp.detach() + 0.5;
        let zero = &advantages * 0.0;
        let settings = GrpoLoss { beta: 0.1, ..PLAIN };
        let terms = settings.terms(&lp, &old, Some(&reference), &zero, &mask);
        near(terms.loss.double_value(&[]), 0.1 * (0.5f64.exp() - 1.5));
        near(terms.kl_ref.unwrap(), 0.5);
        near(terms.kl.unwrap(), 0.5f64.exp() - 1.5);
        terms.loss.backward();
        near(lp.grad().double_value(&[1, 0]), 0.1 * (1.0 - 0.5f64.exp()) / 2.0);
    }

    #[test]
    fn advantages_compare_neighbours() {
        let got = advantages(&[1.0, 3.0, 5.0, 5.0], 2, true);
        near(got[1], 1.0 / 1.0001);
        assert_eq!((got[0], got[2], got[3]), (-got[1], 0.0, 0.0));
        assert_eq!(advantages(&[1.0, 3.0, 5.0, 6.0], 2, false), [-1.0, 1.0, -0.5, 0.5]);
    }
}
