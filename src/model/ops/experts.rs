//! Tokens through the experts that a router chose for them.
//!
//! N tokens, D hidden, I inner width, X experts, k experts a token, M = N * k slots.

use tch::{Kind, Tensor};

use super::swiglu;
use crate::model::linear::Linear;
use crate::native::cpu_ops;

/// Which experts each token goes to.
#[derive(Debug)]
pub struct Routing {
    /// Each expert's share of the token's result, `[N, k]`.
    pub weights: Tensor,
    /// Which experts, `[N, k]` in int64.
    pub experts: Tensor,
    /// The dtype of products.
    pub dtype: Kind,
}

/// `sum_j weights[n, j] * expert(experts[n, j])(x[n])`: `[N, D] -> [N, D]`. An expert is its gate, up and down projections
/// ([`swiglu`]). One that got no token still gets a gradient: zero, not missing.
pub fn experts(x: &Tensor, routing: &Routing, experts: &[[&Linear; 3]], train: bool) -> Tensor {
    if let Some(weights) = plain_weights(experts) {
        if cpu_ops::fits(&[x, &routing.weights])
            && weights.iter().all(|(gate, up, down)| cpu_ops::fits(&[gate, up, down]))
        {
            return cpu_ops::experts(x, &routing.weights, &routing.experts, &weights)
                .expect("x is [N, D], weights and experts [N, k]");
        }
        // Of other kinds libtorch asks the host for the groups' sizes, as the loop does.
        if x.device().is_cuda() && routing.dtype == Kind::BFloat16 && fits_groups(&weights, routing.dtype) {
            return grouped(x, routing, &weights);
        }
    }
    one_by_one(x, routing, experts, train)
}

/// A loop over the experts: any device, dtype, bias and adapter. `[N, D] -> [N, D]`.
fn one_by_one(x: &Tensor, routing: &Routing, experts: &[[&Linear; 3]], train: bool) -> Tensor {
    let mut y = x.zeros_like();
    for (i, expert) in experts.iter().enumerate() {
        let hits = routing.experts.eq(i as i64).nonzero(); // [M, 2]: token, slot
        let (token, slot) = (hits.select(1, 0), hits.select(1, 1));
        let out = swiglu(&x.index_select(0, &token), *expert, train); // [M, D]
        let share = routing.weights.index(&[Some(&token), Some(&slot)]).unsqueeze(-1); // [M, 1]
        y = y.index_add(0, &token, &(out * share).to_kind(x.kind()));
    }
    y
}

/// Gate, up and down of an expert.
type Weights<'a> = (&'a Tensor, &'a Tensor, &'a Tensor);

/// The experts' weights, where none has a bias or an adapter.
fn plain_weights<'a>(experts: &[[&'a Linear; 3]]) -> Option<Vec<Weights<'a>>> {
    let plain = |&[gate, up, down]: &[&'a Linear; 3]| Some((gate.plain()?, up.plain()?, down.plain()?));
    experts.iter().map(plain).collect()
}

/// Whether grouped products take the experts' weights: their rows must lie 16 bytes apart, or a multiple of it.
fn fits_groups(weights: &[Weights], kind: Kind) -> bool {
    let row = |w: &Tensor| w.size().last().is_some_and(|n| n * kind.elt_size_in_bytes() as i64 % 16 == 0);
    weights.iter().all(|(gate, up, down)| row(gate) && row(up) && row(down))
}

/// The experts as three grouped products over tokens sorted by expert, for a GPU: how many tokens an expert has
/// stays on the device, so that nothing waits for the host. Each token's `k` results are added in the order of its
/// slots, so that a run repeats to the bit. `[N, D] -> [N, D]`.
fn grouped(x: &Tensor, routing: &Routing, weights: &[Weights]) -> Tensor {
    let (n, d) = x.size2().expect("x is [N, D]");
    let (k, kind) = (routing.experts.size()[1], routing.dtype);
    let slots = routing.experts.reshape([-1]); // [M]
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
    // A permutation of each token's k copies: in backward, their gradients are summed in order.
    let copies = x.to_kind(kind).unsqueeze(1).expand([n, k, d], false).reshape([-1, d]);
    let rows = copies.index_select(0, &order); // [M, D]
    let (gate, up) = (stack(|w| w.0.shallow_clone()), stack(|w| w.1.shallow_clone()));
    let inner = product(&rows, &gate).silu() * product(&rows, &up); // [M, I]
    let y = product(&inner, &stack(|w| w.2.shallow_clone())); // [M, D]
    let place = order.argsort_stable(true, 0, false); // where each slot lies
    let back = y.index_select(0, &place).view([n, k, d]) * routing.weights.unsqueeze(-1);
    back.sum_dim_intlist(1, false, Kind::Float).to_kind(x.kind())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Params;
    use crate::model::config::preset;
    use tch::Device;

    fn layer(experts: i64, k: i64) -> Vec<[Linear; 3]> {
        let mut stated = preset("minimind3-moe").unwrap();
        (stated.hidden_size, stated.num_hidden_layers, stated.vocab_size) = (Some(16), Some(1), Some(40));
        (stated.num_attention_heads, stated.num_key_value_heads) = (Some(2), Some(1));
        (stated.intermediate_size, stated.moe_intermediate_size) = (Some(24), Some(24));
        (stated.num_experts, stated.num_experts_per_tok) = (Some(experts), Some(k));
        let config = stated.resolve().unwrap();
        let params = Params::init(&config, Device::Cpu).unwrap();
        params.set_requires_grad(true);
        let linear =
            |i: i64, part: &str| Linear::new(&params, &format!("model.layers.0.mlp.experts.{i}.{part}_proj"));
        (0..experts).map(|i| ["gate", "up", "down"].map(|part| linear(i, part))).collect()
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
        layer: &[[Linear; 3]],
        [x, weight, toward]: &[Tensor; 3],
        run: impl Fn(&Tensor, &Tensor) -> Tensor,
    ) -> Vec<Tensor> {
        let [x, weight] = [x, weight].map(|t| t.copy().set_requires_grad(true));
        let y = run(&x, &weight);
        let mut of = vec![x, weight];
        for expert in layer {
            of.extend(expert.each_ref().map(|linear| linear.plain().unwrap().shallow_clone()));
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
            let linears: Vec<_> = layer.iter().map(<[Linear; 3]>::each_ref).collect();
            let weights = plain_weights(&linears).unwrap();
            let routing = |w: &Tensor, dtype: Kind| Routing {
                weights: w.shallow_clone(),
                experts: chosen.shallow_clone(),
                dtype,
            };
            assert!(fits_groups(&weights, Kind::Float));
            let drawn = draw(&chosen);
            let loops =
                outcome(&layer, &drawn, |x, w| one_by_one(x, &routing(w, Kind::Float), &linears, true));
            let made = outcome(&layer, &drawn, |x, w| grouped(x, &routing(w, Kind::Float), &weights));
            assert_eq!(loops.len(), 3 + 3 * experts as usize);
            assert!(farthest(&loops, &made) < 1e-5, "{}", farthest(&loops, &made));
            let half = outcome(&layer, &drawn, |x, w| grouped(x, &routing(w, Kind::BFloat16), &weights));
            let apart = farthest(&loops, &half);
            assert!(apart > 1e-6 && apart < 0.1, "{apart}");
        }
        let thin = Tensor::zeros([16, 13], (Kind::Float, Device::Cpu));
        assert!(!fits_groups(&[(&thin, &thin, &thin)], Kind::BFloat16));
    }
}
