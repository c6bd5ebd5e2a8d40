//! PPO (arXiv 1707.06347) with generalised advantages (arXiv 1506.02438) and a clipped value loss.
//!
//! The reward sits on the last generated token. Ports upstream's `train_ppo.py`:
//! policy = token-mean of `max(-A rho, -A clip(rho))` + kl_coef * token-mean of k3;
//! value = 0.5 * token-mean of `max((V - ret)^2, (clip(V, V_old -+ c) - ret)^2)`. Next: `stage::policy::ppo`.
//!
//! R rows, T tokens.

use tch::{Kind, Tensor};

use super::policy::{k3, token_mean};

/// The losses' settings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PpoLoss {
    /// How far a ratio may go from 1.
    pub clip_epsilon: f64,
    /// Weight of the KL to the reference.
    pub kl_coef: f64,
    /// How far a value may go from the old one.
    pub cliprange_value: f64,
}

/// What to learn towards, fixed before the first pass; `[R, T]` each.
#[derive(Debug)]
pub struct Targets {
    /// Normalised over all generated tokens, 0 elsewhere.
    pub advantages: Tensor,
    /// Advantages before that, plus the old values.
    pub returns: Tensor,
}

/// Generalised advantages (arXiv 1506.02438) of a reward a row, old values and a mask (`[R, T]` both):
/// `delta_t = r_t + gamma V_(t+1) - V_t`, summed with decay `gamma lam`, the value past the end being 0. Then normalised
/// over the mask (population variance, as upstream). R rows, T tokens.
pub fn targets(rewards: &[f64], old_values: &Tensor, mask: &Tensor, gamma: f64, lam: f64) -> Targets {
    let _no_grad = tch::no_grad_guard();
    let (rows, columns) = mask.size2().expect("the mask is [R, T]");
    let values = old_values * mask;
    let given = on_last(rewards, mask); // [R, T]
    let mut running = Tensor::zeros([rows], (Kind::Float, mask.device()));
    let mut next = running.zeros_like();
    let mut all = Vec::with_capacity(columns as usize);
    for t in (0..columns).rev() {
        let value = values.select(1, t);
        let delta = given.select(1, t) + &next * gamma - &value;
        running = delta + running * (gamma * lam);
        all.push(running.shallow_clone());
        next = value;
    }
    all.reverse();
    let raw = Tensor::stack(&all, 1); // [R, T]
    let returns = &raw + &values;
    let mean = token_mean(&raw, mask);
    let centred = &raw - mean;
    let variance = token_mean(&centred.square(), mask);
    Targets { advantages: centred * (variance + 1e-8).rsqrt() * mask, returns }
}

/// Each row's reward at its last column with mask 1; a row without one gets none.
fn on_last(rewards: &[f64], mask: &Tensor) -> Tensor {
    let (_, columns) = mask.size2().expect("the mask is [R, T]");
    let numbers = Tensor::arange(columns, (Kind::Int64, mask.device())) + 1; // from 1
    let last = (mask.to_kind(Kind::Int64) * numbers).amax([1i64].as_slice(), true) - 1; // [R, 1]
    let some = last.ge(0).to_kind(Kind::Float);
    let rewards = super::policy::column(rewards, mask.device()) * some;
    mask.zeros_like().scatter(1, &last.clamp_min(0), &rewards)
}

/// What a minibatch's policy says; the loss has a graph.
#[derive(Debug)]
pub struct PolicyTerms {
    /// Clipped objective plus the KL penalty.
    pub loss: Tensor,
    /// Token-mean of k3 to the reference.
    pub kl_ref: Option<f64>,
    /// Token-mean of `0.5 (lp - old)^2`.
    pub approx_kl: f64,
    /// Share of tokens whose ratio is beyond the clip.
    pub clip_fraction: f64,
}

impl PpoLoss {
    /// The policy's loss; everything `[R, T]`.
    pub fn policy(
        &self,
        logprobs: &Tensor,
        old: &Tensor,
        reference: Option<&Tensor>,
        advantages: &Tensor,
        mask: &Tensor,
    ) -> PolicyTerms {
        let by = logprobs - old;
        let ratio = by.exp();
        let clipped = ratio.clamp(1.0 - self.clip_epsilon, 1.0 + self.clip_epsilon);
        let cost = (advantages * &ratio).minimum(&(advantages * clipped)).neg();
        let mut loss = token_mean(&cost, mask);
        let kl = reference.map(|reference| token_mean(&k3(reference, logprobs), mask));
        if let Some(kl) = &kl {
            loss += kl * self.kl_coef;
        }
        let beyond = (ratio.detach() - 1.0).abs().gt(self.clip_epsilon).to_kind(Kind::Float);
        let number = |x: &Tensor| x.detach().double_value(&[]);
        PolicyTerms {
            loss,
            kl_ref: kl.as_ref().map(number),
            approx_kl: number(&token_mean(&(by.detach().square() * 0.5), mask)),
            clip_fraction: number(&token_mean(&beyond, mask)),
        }
    }

    /// The critic's loss, without its weight `vf_coef`; everything `[R, T]`.
    pub fn value(&self, values: &Tensor, old_values: &Tensor, returns: &Tensor, mask: &Tensor) -> Tensor {
        let near = old_values + (values - old_values).clamp(-self.cliprange_value, self.cliprange_value);
        let worse = (values - returns).square().maximum(&(near - returns).square());
        token_mean(&worse, mask) * 0.5
    }
}

#[cfg(test)]
mod tests {
    use super::super::policy::column;
    use super::*;

    fn grid(values: [f32; 6]) -> Tensor {
        Tensor::from_slice(&values).view([2, 3])
    }

    fn near(got: f64, want: f64) {
        assert!((got - want).abs() < 1e-5, "{got} {want}");
    }

    #[test]
    fn advantages_by_hand() {
        // Row 1 generates at columns 1 and 2, row 2 at column 0 alone (its end came at once).
        let mask = grid([0.0, 1.0, 1.0, 1.0, 0.0, 0.0]);
        let values = grid([9.0, 0.5, 0.25, 0.5, 9.0, 9.0]);
        let got = targets(&[1.0, -1.0], &values, &mask, 0.9, 0.5);
        // Row 1: d2 = 1 - 0.25; d1 = 0.9 * 0.25 - 0.5, A1 = d1 + 0.45 d2. Row 2: -1 - 0.5.
        let (a2, a1, b0) = (0.75, -0.275 + 0.45 * 0.75, -1.5);
        near(got.returns.double_value(&[0, 1]), a1 + 0.5);
        near(got.returns.double_value(&[0, 2]), a2 + 0.25);
        near(got.returns.double_value(&[1, 0]), b0 + 0.5);
        let mean = (a1 + a2 + b0) / 3.0;
        let std = (((a1 - mean).powi(2) + (a2 - mean).powi(2) + (b0 - mean).powi(2)) / 3.0).sqrt();
        near(got.advantages.double_value(&[0, 2]), (a2 - mean) / std);
        near(got.advantages.double_value(&[1, 0]), (b0 - mean) / std);
        assert_eq!((got.advantages.double_value(&[0, 0]), got.advantages.double_value(&[1, 2])), (0.0, 0.0));
    }

    #[test]
    fn a_row_without_a_token_gets_no_reward() {
        let mask = grid([0.0, 0.0, 0.0, 1.0, 1.0, 0.0]);
        let got = on_last(&[5.0, 7.0], &mask);
        assert!(got.equal(&grid([0.0, 0.0, 0.0, 0.0, 7.0, 0.0])));
    }

    #[test]
    fn the_policy_loss_is_the_pessimistic_one() {
        let settings = PpoLoss { clip_epsilon: 0.2, kl_coef: 0.5, cliprange_value: 0.2 };
        let old = Tensor::zeros([1, 3], (Kind::Float, tch::Device::Cpu));
        let lp = Tensor::from_slice(&[1.5f32, 1.5, 1.1]).log().view([1, 3]).set_requires_grad(true);
        let advantages = Tensor::from_slice(&[1f32, -1.0, 2.0]).view([1, 3]);
        let mask = Tensor::ones([1, 3], (Kind::Float, tch::Device::Cpu));
        let reference = lp.detach();
        let terms = settings.policy(&lp, &old, Some(&reference), &advantages, &mask);
        near(terms.loss.double_value(&[]), (-1.2 + 1.5 - 2.2) / 3.0);
        near(terms.clip_fraction, 2.0 / 3.0);
        near(terms.kl_ref.unwrap(), 0.0);
        near(terms.approx_kl, 0.5 * (2.0 * 1.5f64.ln().powi(2) + 1.1f64.ln().powi(2)) / 3.0);
        terms.loss.backward();
        near(lp.grad().double_value(&[0, 0]), 0.0);
        near(lp.grad().double_value(&[0, 1]), 0.5);
    }

    #[test]
    fn the_value_may_not_run_from_the_old_one() {
        let settings = PpoLoss { clip_epsilon: 0.2, kl_coef: 0.0, cliprange_value: 0.2 };
        let old = column(&[0.0, 0.0], tch::Device::Cpu);
        let values = column(&[1.0, 0.1], tch::Device::Cpu);
        let returns = column(&[1.0, 1.0], tch::Device::Cpu);
        // The first reached its goal, but only 0.2 of the way counts: (0.2 - 1)^2; the second is inside.
        let loss = settings.value(&values, &old, &returns, &returns.ones_like());
        near(loss.double_value(&[]), 0.5 * (0.64 + 0.81) / 2.0);
    }
}
