//! Mixture of experts with a softmax gate and a load-balancing loss.
//!
//! Ports `MoEGate` and `MOEFeedForward` of minimind2 and `MOEFeedForward` of minimind3.
//!
//! B batch, T tokens, N = B * T, D hidden, X experts, k experts a token.

use tch::{Kind, Tensor};

use super::config::{Era, ModelConfig, MoeConfig};
use super::mlp::FeedForward;
use super::params::Params;
use crate::native::cpu_ops;

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
        let (weight, chosen) = scores.topk(self.config.num_experts_per_tok, -1, true, false); // [N, k]
        let weight = if self.config.renormalises(self.era) {
            &weight / (weight.sum_dim_intlist([-1i64].as_slice(), true, Kind::Float) + 1e-20)
        } else {
            weight
        };
        let mut y = self.route(&flat, &weight, &chosen, logits.kind(), train).view([b, t, d]);
        for expert in &self.shared_experts {
            y += expert.forward(x, train);
        }
        let aux = (train && self.config.aux_loss_coef > 0.0).then(|| self.balance(&scores, &chosen, b, t));
        (y, aux)
    }

    /// Sends each token to its experts and adds up what comes back, `[N, D]`; products are of `kind`. An expert
    /// without a token still takes part with zero rows, so that its gradient is zero and not missing.
    fn route(&self, x: &Tensor, weight: &Tensor, chosen: &Tensor, kind: Kind, train: bool) -> Tensor {
        let plain: Option<Vec<_>> = self.experts.iter().map(FeedForward::plain).collect();
        if let Some(weights) = plain {
            if cpu_ops::fits(&[x, weight])
                && weights.iter().all(|(gate, up, down)| cpu_ops::fits(&[gate, up, down]))
            {
                return cpu_ops::experts(x, weight, chosen, &weights)
                    .expect("x is [N, D], weight and chosen [N, k]");
            }
            // Of other kinds libtorch asks the host for the groups' sizes, as the loop does.
            if x.device().is_cuda() && kind == Kind::BFloat16 && fits_groups(&weights, kind) {
                return grouped(x, weight, chosen, &weights, kind);
            }
        }
        self.one_by_one(x, weight, chosen, train)
    }

    /// A loop over the experts: any device, kind, bias and adapter.
    fn one_by_one(&self, x: &Tensor, weight: &Tensor, chosen: &Tensor, train: bool) -> Tensor {
        let mut y = x.zeros_like();
        for (i, expert) in self.experts.iter().enumerate() {
            let hits = chosen.eq(i as i64).nonzero(); // [M, 2]: token, slot
            let (token, slot) = (hits.select(1, 0), hits.select(1, 1));
            let out = expert.forward(&x.index_select(0, &token), train); // [M, D]
            let share = weight.index(&[Some(&token), Some(&slot)]).unsqueeze(-1); // [M, 1]
            y = y.index_add(0, &token, &(out * share).to_kind(x.kind()));
        }
        y
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

/// Gate, up and down of an expert.
type Weights<'a> = (&'a Tensor, &'a Tensor, &'a Tensor);

/// Whether grouped products take the experts' weights: their rows must lie 16 bytes apart, or a multiple of it.
fn fits_groups(weights: &[Weights], kind: Kind) -> bool {
    let row = |w: &Tensor| w.size().last().is_some_and(|n| n * kind.elt_size_in_bytes() as i64 % 16 == 0);
    weights.iter().all(|(gate, up, down)| row(gate) && row(up) && row(down))
}

/// The experts as three grouped products over tokens sorted by expert, for a GPU: how many tokens an expert has
/// stays on the device, so that nothing waits for the host. Products are of `kind`; each token's `k` results are
/// added in the order of its slots, so that a run repeats to the bit.
///
/// x `[N, D]`, weight and chosen `[N, k]` -> `[N, D]`; M = N * k slots.
fn grouped(x: &Tensor, weight: &Tensor, chosen: &Tensor, weights: &[Weights], kind: Kind) -> Tensor {
    let (n, d) = x.size2().expect("x is [N, D]");
    let k = chosen.size()[1];
    let slots = chosen.reshape([-1]); // [M]
    let order = slots.argsort_stable(true, 0, false); // which slot lies at each place
    let experts = Tensor::arange(weights.len() as i64, (Kind::Int64, x.device()));
    let counts = slots.unsqueeze(0).eq_tensor(&experts.unsqueeze(1)).sum_dim_intlist(1, false, Kind::Int64); // [X]
    let ends = counts.cumsum(0, Kind::Int);
    let stack = |part: fn(&Weights) -> Tensor| {
        let all: Vec<Tensor> = weights.iter().map(part).collect();
        Tensor::stack(&all, 0).to_kind(kind).transpose(-2, -1) // [X, in, out]
    };
    let product =
        |rows: &Tensor, w: &Tensor| rows.internal_grouped_mm(w, Some(&ends), None::<&Tensor>, None::<Kind>);
    // A permutation of each token's k copies: going back, their gradients are summed in order.
    let copies = x.to_kind(kind).unsqueeze(1).expand([n, k, d], false).reshape([-1, d]);
    let rows = copies.index_select(0, &order); // [M, D]
    let (gate, up) = (stack(|w| w.0.shallow_clone()), stack(|w| w.1.shallow_clone()));
    let inner = product(&rows, &gate).silu() * product(&rows, &up); // [M, I]
    let y = product(&inner, &stack(|w| w.2.shallow_clone())); // [M, D]
    let place = order.argsort_stable(true, 0, false); // where each slot lies
    let back = y.index_select(0, &place).view([n, k, d]) * weight.unsqueeze(-1);
    back.sum_dim_intlist(1, false, Kind::Float).to_kind(x.kind())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::config::preset;
    use tch::Device;

    fn layer(experts: i64, k: i64) -> MoeFeedForward {
        let mut stated = preset("minimind3-moe").unwrap();
        (stated.hidden_size, stated.num_hidden_layers, stated.vocab_size) = (Some(16), Some(1), Some(40));
        (stated.num_attention_heads, stated.num_key_value_heads) = (Some(2), Some(1));
        (stated.intermediate_size, stated.moe_intermediate_size) = (Some(24), Some(24));
        (stated.num_experts, stated.num_experts_per_tok) = (Some(experts), Some(k));
        let config = stated.resolve().unwrap();
        let params = Params::init(&config, Device::Cpu).unwrap();
        params.set_requires_grad(true);
        MoeFeedForward::new(&params, "model.layers.0.mlp", config.era, config.moe.as_ref().unwrap())
    }

    /// Tokens, their shares, and what the output is pulled to. Drawn once for all that are compared: other tests draw
    /// from the same random state at the same time.
    fn draw(chosen: &Tensor) -> [Tensor; 3] {
        let n = chosen.size()[0];
        let wide = || Tensor::randn([n, 16], (Kind::Float, Device::Cpu));
        [wide(), Tensor::rand(chosen.size(), (Kind::Float, Device::Cpu)), wide()]
    }

    /// Output and gradients of `x`, the shares and all weights.
    fn outcome(
        layer: &MoeFeedForward,
        [x, weight, toward]: &[Tensor; 3],
        run: impl Fn(&Tensor, &Tensor) -> Tensor,
    ) -> Vec<Tensor> {
        let [x, weight] = [x, weight].map(|t| t.copy().set_requires_grad(true));
        let y = run(&x, &weight);
        let mut of = vec![x, weight];
        for expert in &layer.experts {
            let (gate, up, down) = expert.plain().unwrap();
            of.extend([gate, up, down].map(Tensor::shallow_clone));
        }
        let grads = Tensor::run_backward(&[(&y * toward).sum(Kind::Float)], &of, false, false);
        std::iter::once(y.detach()).chain(grads).collect()
    }

    fn farthest(a: &[Tensor], b: &[Tensor]) -> f64 {
        let apart = |(a, b): (&Tensor, &Tensor)| (a - b).abs().max().double_value(&[]);
        a.iter().zip(b).map(apart).fold(0.0, f64::max)
    }

    #[test]
    fn grouped_products_are_the_loop() {
        for (experts, k) in [(4, 1), (5, 2)] {
            let layer = layer(experts, k);
            // The last expert gets no token.
            let chosen =
                Tensor::rand([37, experts - 1], (Kind::Float, Device::Cpu)).topk(k, -1, true, false).1;
            let weights: Vec<_> = layer.experts.iter().map(|e| e.plain().unwrap()).collect();
            assert!(fits_groups(&weights, Kind::Float));
            let drawn = draw(&chosen);
            let loops = outcome(&layer, &drawn, |x, w| layer.one_by_one(x, w, &chosen, true));
            let made = outcome(&layer, &drawn, |x, w| grouped(x, w, &chosen, &weights, Kind::Float));
            assert_eq!(loops.len(), 3 + 3 * experts as usize);
            assert!(farthest(&loops, &made) < 1e-5, "{}", farthest(&loops, &made));
            let half = outcome(&layer, &drawn, |x, w| grouped(x, w, &chosen, &weights, Kind::BFloat16));
            let apart = farthest(&loops, &half);
            assert!(apart > 1e-6 && apart < 0.1, "{apart}");
        }
        let thin = Tensor::zeros([16, 13], (Kind::Float, Device::Cpu));
        assert!(!fits_groups(&[(&thin, &thin, &thin)], Kind::BFloat16));
    }
}
