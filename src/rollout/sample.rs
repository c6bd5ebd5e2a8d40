//! One token out of a row of logits: penalties, biases, temperature, top-k, top-p (arXiv 1904.09751) and
//! min-p (arXiv 2407.01082), from a seed.
//!
//! V vocab.

use std::collections::HashMap;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::request::Constraint;
use super::types::SamplingParams;
use crate::error::{Error, Result};
use crate::native::exp_scaled;

/// A token with its log-probabilities.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SampledToken {
    /// The id that was drawn.
    pub token: u32,
    /// Under the very distribution it was drawn from; 0 for greedy choices.
    pub logprob: f32,
    /// Under the model's own distribution: no penalty, temperature 1, all tokens.
    pub model_logprob: f32,
}

/// The sampler of one sequence, with its random state and the tokens it has seen.
#[derive(Debug)]
pub struct Sampler {
    sampling: SamplingParams,
    rng: ChaCha8Rng,
    /// Token to times generated; 0 for those that stand in the prompt alone. Kept only where it is used.
    seen: HashMap<u32, u32>,
    weights: Weights,
}

impl Sampler {
    /// A sampler of a sequence that continues `prompt`. Sequences with the same seed and another `stream` make choices
    /// of their own.
    pub fn new(sampling: &SamplingParams, prompt: &[u32], stream: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(sampling.seed);
        rng.set_stream(stream);
        let seen =
            if sampling.penalizes() { prompt.iter().map(|&id| (id, 0)).collect() } else { HashMap::new() };
        Self { sampling: sampling.clone(), rng, seen, weights: Weights::default() }
    }

    /// Chooses a token from `[V]` logits, which it may change, and remembers the choice.
    ///
    /// # Errors
    /// Logits that are not numbers.
    pub fn sample(&mut self, logits: &mut [f32]) -> Result<SampledToken> {
        self.sample_constrained(logits, None)
    }

    /// As [`Sampler::sample`], among the tokens that a constraint allows. The caller tells the constraint what was chosen
    /// ([`Constraint::accept`]).
    ///
    /// # Errors
    /// Logits that are not numbers, a constraint that allows nothing.
    pub fn sample_constrained(
        &mut self,
        logits: &mut [f32],
        constraint: Option<&mut (dyn Constraint + Send + 'static)>,
    ) -> Result<SampledToken> {
        let adjusted = constraint.is_some() || !self.seen.is_empty() || !self.sampling.logit_bias.is_empty();
        let before = adjusted.then(|| logits.to_vec());
        let most = self.weights.exp(logits, 1.0);
        let total = most + self.weights.total.ln() as f32;
        if total.is_nan() {
            return Err(not_numbers());
        }
        if let Some(constraint) = constraint {
            constraint.mask(logits)?;
        }
        self.adjust(logits);
        let (token, logprob) = self.draw(logits, adjusted);
        if logits[token as usize] == f32::NEG_INFINITY {
            return Err(Error::failed("no token is allowed to come next"));
        }
        if self.sampling.penalizes() {
            *self.seen.entry(token).or_insert(0) += 1;
        }
        let own = before.as_deref().unwrap_or(logits)[token as usize];
        // An overflow in half precision: one token outweighs all others.
        let model_logprob = if own == f32::INFINITY { 0.0 } else { own - total };
        Ok(SampledToken { token, logprob, model_logprob })
    }

    /// A token, and its log-probability under what it was drawn from.
    fn draw(&mut self, logits: &[f32], adjusted: bool) -> (u32, f32) {
        let best = likeliest(logits);
        if self.sampling.temperature <= 0.0 || !logits[best as usize].is_finite() {
            return (best, 0.0);
        }
        if adjusted || self.sampling.temperature != 1.0 {
            self.weights.exp(logits, 1.0 / self.sampling.temperature as f32);
        }
        let point = self.rng.random::<f64>();
        if self.sampling.truncates() {
            self.weights.cut(&self.sampling);
            let mut left = point * self.weights.total;
            let hit = self.weights.kept.iter().find(|(_, w)| {
                left -= f64::from(*w);
                left < 0.0
            });
            let (token, weight) = *hit.unwrap_or(&self.weights.kept[self.weights.kept.len() - 1]);
            return (token, (f64::from(weight) / self.weights.total).ln() as f32);
        }
        let mut left = point * self.weights.total;
        let hit = self.weights.all.iter().position(|&w| {
            left -= f64::from(w);
            left < 0.0
        });
        // Rounding may leave a crumb beyond the last token.
        let token = hit.map_or(best, |i| i as u32);
        (token, (f64::from(self.weights.all[token as usize]) / self.weights.total).ln() as f32)
    }

    /// Penalties and biases, in the order of the well-known servers: repetition, frequency and presence, bias.
    fn adjust(&self, logits: &mut [f32]) {
        let SamplingParams { repetition_penalty, presence_penalty, frequency_penalty, .. } = self.sampling;
        let divide = repetition_penalty as f32;
        for (&token, &times) in &self.seen {
            let Some(logit) = logits.get_mut(token as usize) else { continue };
            *logit = if *logit > 0.0 { *logit / divide } else { *logit * divide };
            if times > 0 {
                *logit -= (presence_penalty + frequency_penalty * f64::from(times)) as f32;
            }
        }
        for &(token, bias) in &self.sampling.logit_bias {
            if let Some(logit) = logits.get_mut(token as usize) {
                *logit += bias;
            }
        }
    }
}

/// Unnormalised probabilities; the likeliest token weighs 1.
#[derive(Debug, Default)]
struct Weights {
    /// Of every token.
    all: Vec<f32>,
    /// What a cut leaves, likeliest first.
    kept: Vec<(u32, f32)>,
    total: f64,
}

impl Weights {
    /// Fills `all` with `exp(scale * (x - most))` and returns `most`.
    fn exp(&mut self, logits: &[f32], scale: f32) -> f32 {
        let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        if most.is_infinite() {
            self.total = 1.0;
            return if logits.iter().any(|x| x.is_nan()) { f32::NAN } else { most };
        }
        self.total = exp_scaled(logits, most, scale, &mut self.all);
        most
    }

    /// Top-k, then min-p, then top-p. Ties go to the lower id.
    fn cut(&mut self, sampling: &SamplingParams) {
        let SamplingParams { top_k, top_p, min_p, .. } = *sampling;
        let order = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        // What weighs less than this cannot be kept by top-p: all such tokens together weigh less than 1 - p.
        // After top-k the sum is another, and the few that are left need no such help.
        let floor = if top_k == 0 && min_p <= 0.0 && top_p < 1.0 {
            ((1.0 - top_p) * self.total / self.all.len() as f64 * 0.99) as f32
        } else {
            min_p as f32
        };
        let heavy = self.all.iter().enumerate().filter(|&(_, &w)| w >= floor && w > 0.0);
        self.kept.clear();
        self.kept.extend(heavy.map(|(i, &w)| (i as u32, w)));
        if top_k > 0 && top_k < self.kept.len() {
            self.kept.select_nth_unstable_by(top_k, order);
            self.kept.truncate(top_k);
        }
        self.kept.sort_unstable_by(order);
        let sum = |kept: &[(u32, f32)]| kept.iter().map(|&(_, w)| f64::from(w)).sum::<f64>();
        if top_p < 1.0 {
            let all = if top_k == 0 && min_p <= 0.0 { self.total } else { sum(&self.kept) };
            let mut covered = 0.0;
            let enough = self.kept.iter().position(|&(_, w)| {
                covered += f64::from(w);
                covered >= top_p * all
            });
            self.kept.truncate(enough.map_or(self.kept.len(), |i| i + 1));
        }
        self.total = sum(&self.kept);
    }
}

/// `ln(sum(exp(x)))` of a row; NaN where the row holds one.
pub fn log_sum_exp(logits: &[f32]) -> f32 {
    let mut weights = Weights::default();
    weights.exp(logits, 1.0) + weights.total.ln() as f32
}

/// The error for logits that hold a NaN.
pub fn not_numbers() -> Error {
    Error::failed("the model's logits are not numbers").hint(
        "the weights are broken or the precision is too low: try --precision fp32, or an earlier checkpoint",
    )
}

/// The first of the largest.
pub fn likeliest(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (i, &logit) in logits.iter().enumerate() {
        if logit > logits[best] || logits[best].is_nan() {
            best = i;
        }
    }
    best as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn plain() -> SamplingParams {
        SamplingParams { temperature: 1.0, ..SamplingParams::GREEDY }
    }

    /// What is sampled from: tokens with their probabilities, likeliest first.
    fn distribution(logits: &[f32], sampling: &SamplingParams) -> Vec<(u32, f64)> {
        let mut weights = Weights::default();
        weights.exp(logits, 1.0 / sampling.temperature as f32);
        weights.cut(sampling);
        weights.kept.iter().map(|&(token, w)| (token, f64::from(w) / weights.total)).collect()
    }

    proptest! {
        #[test]
        fn top_p_keeps_the_smallest_set(logits in prop::collection::vec(-9f32..9.0, 1..60), p in 0.01f64..1.0) {
            let all = distribution(&logits, &plain());
            let kept = distribution(&logits, &SamplingParams { top_p: p, ..plain() });
            let mass: f64 = all.iter().take(kept.len()).map(|(_, q)| q).sum();
            let less: f64 = all.iter().take(kept.len() - 1).map(|(_, q)| q).sum();
            prop_assert!(mass >= p - 1e-6 && less < p + 1e-6);
            prop_assert!((kept.iter().map(|(_, q)| q).sum::<f64>() - 1.0).abs() < 1e-9);
        }

        #[test]
        fn top_k_keeps_the_likeliest(logits in prop::collection::vec(-9f32..9.0, 1..60), k in 1usize..70) {
            let kept = distribution(&logits, &SamplingParams { temperature: 0.7, top_k: k, ..plain() });
            prop_assert_eq!(kept.len(), k.min(logits.len()));
            prop_assert_eq!(kept[0].0, likeliest(&logits));
        }
    }

    #[test]
    fn a_seed_repeats_and_frequencies_follow_the_probabilities() {
        let sampling = SamplingParams { seed: 5, ..plain() };
        let draw = |stream| {
            let mut sampler = Sampler::new(&sampling, &[], stream);
            (0..4000).map(|_| sampler.sample(&mut [0.0, 1.0, 2.0]).unwrap().token).collect::<Vec<_>>()
        };
        let first = draw(0);
        assert_eq!(first, draw(0));
        assert_ne!(first, draw(1));
        let share = first.iter().filter(|&&t| t == 2).count() as f64 / 4000.0;
        assert!((share - 0.665).abs() < 0.03, "{share}");
    }

    #[test]
    fn an_infinite_logit_wins_one_of_minus_infinity_never_does_and_a_nan_is_said() {
        let inf = f32::INFINITY;
        let mut sampler = Sampler::new(&plain(), &[], 0);
        for _ in 0..50 {
            let chosen = sampler.sample(&mut [0.0, inf, 1.0]).unwrap();
            assert_eq!((chosen.token, chosen.logprob, chosen.model_logprob), (1, 0.0, 0.0));
            assert_ne!(sampler.sample(&mut [0.0, -inf, 1.0]).unwrap().token, 1);
        }
        assert!(sampler.sample(&mut [0.0, f32::NAN, 1.0]).unwrap_err().to_string().contains("not numbers"));
        assert!(sampler.sample(&mut [-inf, -inf]).is_err());
    }

    #[test]
    fn penalties_act_once_a_token_and_on_what_they_should() {
        let mut logits = [2.0, -2.0, 1.9];
        let sampling = SamplingParams { repetition_penalty: 2.0, ..SamplingParams::GREEDY };
        let mut sampler = Sampler::new(&sampling, &[0, 1, 0], 0);
        assert_eq!(sampler.sample(&mut logits).unwrap().token, 2);
        assert_eq!(logits, [1.0, -4.0, 1.9]);
        // Presence and frequency count what was generated, not the prompt.
        let sampling =
            SamplingParams { presence_penalty: 0.5, frequency_penalty: 1.0, ..SamplingParams::GREEDY };
        let mut sampler = Sampler::new(&sampling, &[1], 0);
        let mut seen = Vec::new();
        for _ in 0..3 {
            let mut logits = [2.0, 1.9, 0.0];
            seen.push(sampler.sample(&mut logits).unwrap().token);
            if seen.len() == 3 {
                assert_eq!(logits, [2.0 - 1.5, 1.9 - 1.5, 0.0]);
            }
        }
        assert_eq!(seen, [0, 1, 0]);
        let sampling = SamplingParams { logit_bias: vec![(2, 9.0), (99, 1.0)], ..SamplingParams::GREEDY };
        assert_eq!(Sampler::new(&sampling, &[], 0).sample(&mut [2.0, 1.9, 0.0]).unwrap().token, 2);
    }

    #[test]
    fn logprobs_are_of_the_distribution_that_was_sampled_and_of_the_model() {
        let sampling = SamplingParams { top_k: 2, temperature: 0.5, logit_bias: vec![(0, -1.0)], ..plain() };
        let mut sampler = Sampler::new(&sampling, &[], 0);
        for _ in 0..20 {
            let chosen = sampler.sample(&mut [1.0, 1.0, -3.0]).unwrap();
            // Biased logits 0, 1 at temperature 0.5: 0 and 2.
            let sampled = [0.0f64, 2.0].map(|x| (x - (1.0 + 2f64.exp()).ln()) as f32);
            let total = (2.0 * 1f64.exp() + (-3f64).exp()).ln() as f32;
            assert!(chosen.token < 2);
            assert!((chosen.logprob - sampled[chosen.token as usize]).abs() < 1e-6);
            assert!((chosen.model_logprob - (1.0 - total)).abs() < 1e-6);
        }
    }

    #[test]
    fn min_p_cuts_relative_to_the_likeliest() {
        let logits = [0.0f32, -0.5, -1.0, -3.0];
        let kept = distribution(&logits, &SamplingParams { min_p: 0.3, ..plain() });
        assert_eq!(kept.iter().map(|k| k.0).collect::<Vec<_>>(), [0, 1, 2]);
    }
}
