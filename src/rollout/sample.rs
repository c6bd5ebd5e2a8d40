//! One token out of a row of logits: temperature, top-k, top-p (arXiv 1904.09751), repetition penalty
//! (arXiv 1909.05858), from a seed.
//!
//! V vocab.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// How to choose.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 takes the likeliest token.
    pub temperature: f64,
    /// Only this many of the likeliest; 0 for all.
    pub top_k: usize,
    /// The smallest set of likeliest tokens with at least this probability; 1 for all.
    pub top_p: f64,
    /// Divides positive and multiplies negative logits of tokens already seen; 1 for none.
    pub repetition_penalty: f64,
    /// Seed of the choices.
    pub seed: u64,
}

impl Sampling {
    /// The likeliest token each time.
    pub const GREEDY: Self =
        Self { temperature: 0.0, top_k: 0, top_p: 1.0, repetition_penalty: 1.0, seed: 0 };
}

/// A sampler with its random state.
#[derive(Debug)]
pub struct Sampler {
    sampling: Sampling,
    rng: ChaCha8Rng,
}

impl Sampler {
    /// A fresh one.
    pub fn new(sampling: Sampling) -> Self {
        Self { sampling, rng: ChaCha8Rng::seed_from_u64(sampling.seed) }
    }

    /// Chooses from `[V]` logits, which it may change; `seen` is what the penalty acts on.
    pub fn choose(&mut self, logits: &mut [f32], seen: &[u32]) -> u32 {
        let Sampling { temperature, top_k, top_p, repetition_penalty, .. } = self.sampling;
        penalise(logits, seen, repetition_penalty as f32);
        if temperature <= 0.0 {
            return likeliest(logits);
        }
        let kept = distribution(logits, temperature, top_k, top_p);
        let mut left = self.rng.random::<f64>();
        for &(token, p) in &kept {
            left -= p;
            if left < 0.0 {
                return token;
            }
        }
        kept[kept.len() - 1].0
    }
}

fn penalise(logits: &mut [f32], seen: &[u32], penalty: f32) {
    if penalty == 1.0 {
        return;
    }
    let mut done = std::collections::HashSet::new();
    for &token in seen {
        if let Some(logit) = logits.get_mut(token as usize)
            && done.insert(token)
        {
            *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
        }
    }
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

/// What is sampled from: tokens with their probabilities, likeliest first, summing to one.
pub fn distribution(logits: &[f32], temperature: f64, top_k: usize, top_p: f64) -> Vec<(u32, f64)> {
    let most = f64::from(logits[likeliest(logits) as usize]);
    if !most.is_finite() {
        // An overflow in half precision: one token outweighs all others.
        return vec![(likeliest(logits), 1.0)];
    }
    let mut kept: Vec<(u32, f64)> = logits
        .iter()
        .enumerate()
        .map(|(i, &x)| (i as u32, ((f64::from(x) - most) / temperature).exp()))
        .filter(|(_, p)| p.is_finite())
        .collect();
    if kept.is_empty() {
        return vec![(likeliest(logits), 1.0)];
    }
    // Ties go to the lower id, so that a seed means the same everywhere.
    kept.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    if top_k > 0 {
        kept.truncate(top_k);
    }
    // Rounding must not cut the tail of the full distribution.
    if top_p < 1.0 {
        let sum: f64 = kept.iter().map(|(_, p)| p).sum();
        let mut covered = 0.0;
        let enough = kept.iter().position(|(_, p)| {
            covered += p / sum;
            covered >= top_p
        });
        kept.truncate(enough.map_or(kept.len(), |i| i + 1));
    }
    let sum: f64 = kept.iter().map(|(_, p)| p).sum();
    kept.iter_mut().for_each(|(_, p)| *p /= sum);
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn top_p_keeps_the_smallest_set(logits in prop::collection::vec(-9f32..9.0, 1..60), p in 0.01f64..1.0) {
            let all = distribution(&logits, 1.0, 0, 1.0);
            let kept = distribution(&logits, 1.0, 0, p);
            let mass: f64 = all.iter().take(kept.len()).map(|(_, q)| q).sum();
            let less: f64 = all.iter().take(kept.len() - 1).map(|(_, q)| q).sum();
            prop_assert!(mass >= p - 1e-9 && less < p + 1e-9);
            prop_assert!((kept.iter().map(|(_, q)| q).sum::<f64>() - 1.0).abs() < 1e-9);
        }

        #[test]
        fn top_k_keeps_the_likeliest(logits in prop::collection::vec(-9f32..9.0, 1..60), k in 1usize..70) {
            let kept = distribution(&logits, 0.7, k, 1.0);
            prop_assert_eq!(kept.len(), k.min(logits.len()));
            prop_assert_eq!(kept[0].0, likeliest(&logits));
        }
    }

    #[test]
    fn a_seed_repeats_and_frequencies_follow_the_probabilities() {
        let sampling = Sampling { temperature: 1.0, seed: 5, ..Sampling::GREEDY };
        let draw = || {
            let mut sampler = Sampler::new(sampling);
            (0..4000).map(|_| sampler.choose(&mut [0.0, 1.0, 2.0], &[])).collect::<Vec<_>>()
        };
        let first = draw();
        assert_eq!(first, draw());
        let share = first.iter().filter(|&&t| t == 2).count() as f64 / 4000.0;
        assert!((share - 0.665).abs() < 0.03, "{share}");
    }

    #[test]
    fn an_infinite_logit_wins_and_one_of_minus_infinity_never_does() {
        let inf = f32::INFINITY;
        assert_eq!(distribution(&[0.0, inf, 1.0], 1.0, 0, 1.0), [(1, 1.0)]);
        assert!(distribution(&[0.0, -inf, 1.0], 1.0, 0, 1.0).iter().all(|&(t, p)| t != 1 || p == 0.0));
    }

    #[test]
    fn the_penalty_acts_once_a_token_on_either_sign() {
        let mut logits = [2.0, -2.0, 1.9];
        let sampling = Sampling { repetition_penalty: 2.0, ..Sampling::GREEDY };
        assert_eq!(Sampler::new(sampling).choose(&mut logits, &[0, 1, 0]), 2);
        assert_eq!(logits, [1.0, -4.0, 1.9]);
    }
}
