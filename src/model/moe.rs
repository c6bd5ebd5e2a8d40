//! Mixture of experts with a softmax gate and a load-balancing loss.
//!
//! Ports `MoEGate` and `MOEFeedForward` of minimind2 and `MOEFeedForward` of minimind3.
//!
//! B batch, T tokens, N = B * T, D hidden, X experts, k experts a token.

use tch::{Kind, Tensor};

use super::config::{Era, ModelConfig, MoeConfig};
use super::mlp::FeedForward;
use super::ops::{self, Routing};
use super::params::Params;

/// A layer of experts.
#[derive(Debug)]
pub struct MoeFeedForward {
    gate: Tensor,
    experts: Vec<FeedForward>,
    shared_experts: Vec<FeedForward>,
    config: MoeConfig,
    era: Era,
}

impl MoeFeedForward {
    /// The layer whose weights stand under `name`.
    pub fn new(params: &Params, name: &str, era: Era, moe: &MoeConfig) -> Self {
        let list = |part: &str, n: i64| {
            (0..n).map(|i| FeedForward::new(params, &format!("{name}.{part}.{i}"))).collect()
        };
        Self {
            gate: params.get(&format!("{name}.gate.weight")),
            experts: list("experts", moe.num_experts),
            shared_experts: list("shared_experts", moe.n_shared_experts),
            config: moe.clone(),
            era,
        }
    }

    /// `[B, T, D] -> ([B, T, D], balance loss)`; the loss is a scalar, only while training.
    pub fn forward(&self, x: &Tensor, train: bool) -> (Tensor, Option<Tensor>) {
        let (b, t, d) = x.size3().expect("expert input is [B, T, D]");
        let flat = x.reshape([-1, d]); // [N, D]
        let logits = flat.linear(&self.gate, None::<&Tensor>); // [N, X], in the kind that products have here
        let scores = logits.softmax(-1, Kind::Float); // [N, X]
        let (weights, experts) = scores.topk(self.config.num_experts_per_tok, -1, true, false); // [N, k]
        let weights = if self.config.renormalises(self.era) {
            &weights / (weights.sum_dim_intlist([-1i64].as_slice(), true, Kind::Float) + 1e-20)
        } else {
            weights
        };
        let routing = Routing { weights, experts, dtype: logits.kind() };
        let projections: Vec<_> = self.experts.iter().map(FeedForward::projections).collect();
        let mut y = ops::experts(&flat, &routing, &projections, train).view([b, t, d]);
        for expert in &self.shared_experts {
            y += expert.forward(x, train);
        }
        let aux =
            (train && self.config.aux_loss_coef > 0.0).then(|| self.balance(&scores, &routing.experts, b, t));
        (y, aux)
    }

    /// `sum_x load_x * mean score_x`, scaled: Switch Transformer's loss (arXiv 2101.03961, eq. 4) as each
    /// era measures the load.
    fn balance(&self, scores: &Tensor, chosen: &Tensor, b: i64, t: i64) -> Tensor {
        let (x, k) = (self.config.num_experts, self.config.num_experts_per_tok);
        let hits = chosen.one_hot(x).to_kind(Kind::Float); // [N, k, X]
        let first = [0i64].as_slice();
        let loss = if self.era == Era::MiniMind2 && self.config.seq_aux {
            let slots = hits.view([b, t * k, x]).sum_dim_intlist([1i64].as_slice(), false, Kind::Float); // [B, X]
            let load = slots / (t as f64 * k as f64 / x as f64);
            let mean = scores.view([b, t, x]).mean_dim([1i64].as_slice(), false, Kind::Float); // [B, X]
            (load * mean).sum_dim_intlist([1i64].as_slice(), false, Kind::Float).mean(Kind::Float)
        } else {
            // minimind2 averages the load over the slots, minimind3 adds them up.
            let load = match self.era {
                Era::MiniMind2 => hits.view([-1, x]).mean_dim(first, false, Kind::Float),
                Era::MiniMind3 => {
                    hits.mean_dim(first, false, Kind::Float).sum_dim_intlist(first, false, Kind::Float)
                }
            };
            (load * scores.mean_dim(first, false, Kind::Float)).sum(Kind::Float) * x as f64
        };
        loss * self.config.aux_loss_coef
    }
}

/// The feed-forward of a block, whichever the configuration asks for.
#[derive(Debug)]
pub enum Mlp {
    /// One for all tokens.
    Dense(FeedForward),
    /// Experts.
    Moe(MoeFeedForward),
}

impl Mlp {
    /// The layer whose weights stand under `name`.
    pub fn new(params: &Params, name: &str, config: &ModelConfig) -> Self {
        match &config.moe {
            None => Mlp::Dense(FeedForward::new(params, name)),
            Some(moe) => Mlp::Moe(MoeFeedForward::new(params, name, config.era, moe)),
        }
    }

    /// Whether all of it is products, whose input may be narrow; experts are summed in the kind of theirs.
    pub fn is_dense(&self) -> bool {
        matches!(self, Mlp::Dense(_))
    }

    /// `[B, T, D] -> ([B, T, D], balance loss)`.
    pub fn forward(&self, x: &Tensor, train: bool) -> (Tensor, Option<Tensor>) {
        match self {
            Mlp::Dense(mlp) => (mlp.forward(x, train), None),
            Mlp::Moe(moe) => moe.forward(x, train),
        }
    }
}
