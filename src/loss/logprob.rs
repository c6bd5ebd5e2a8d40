//! Log-probabilities of given tokens without the whole log-softmax: chunks of rows, the gradient by hand.
//!
//! What every preference and policy loss needs: [`token_logprobs`] to compute the loss from, then [`surrogate`]
//! with the loss's derivative by each log-probability. Nothing of size `[B, T, V]` is ever held, and positions
//! whose target is -100 never meet the output layer.
//!
//! B batch, T tokens, M positions that count, D hidden, V vocab.

use tch::{Kind, Tensor};

use crate::model::ops::chunks;

/// The positions whose target is a token.
struct Counted {
    /// Rows of the flattened `[B * T, D]`, `[M]`.
    positions: Tensor,
    /// Their targets, `[M]`.
    tokens: Tensor,
    /// M.
    count: i64,
}

impl Counted {
    fn new(targets: &Tensor) -> Self {
        let flat = targets.reshape([-1]); // [B * T]
        let positions = flat.ge(0).nonzero().squeeze_dim(1); // [M]
        let tokens = flat.index_select(0, &positions);
        let count = positions.size1().expect("positions are [M]");
        Self { positions, tokens, count }
    }

    /// `[B, T, D] -> [M, D]`.
    fn select(&self, hidden: &Tensor) -> Tensor {
        let (_, _, d) = hidden.size3().expect("hidden states are [B, T, D]");
        hidden.reshape([-1, d]).index_select(0, &self.positions)
    }
}

/// Log-probability that the output layer at position t gives to `targets[t]`, `[B, T]` in fp32 without a graph.
///
/// Targets are aligned with the hidden states (the caller shifts); a negative one, as -100, counts nothing and
/// gets 0.
pub fn token_logprobs(hidden: &Tensor, lm_head: &Tensor, targets: &Tensor) -> Tensor {
    let _no_grad = tch::no_grad_guard();
    let (b, t) = targets.size2().expect("targets are [B, T]");
    let counted = Counted::new(targets);
    let selected = counted.select(hidden); // [M, D]
    let options = (Kind::Float, hidden.device());
    let picked = Tensor::empty([counted.count], options);
    for (start, rows) in chunks(counted.count, lm_head) {
        let logits = logits(&selected.narrow(0, start, rows), lm_head); // [rows, V]
        let tokens = counted.tokens.narrow(0, start, rows).unsqueeze(1);
        let chosen = logits.gather(1, &tokens, false).squeeze_dim(1);
        picked.narrow(0, start, rows).copy_(&(chosen - logits.logsumexp([1i64].as_slice(), false)));
    }
    Tensor::zeros([b * t], options).index_copy(0, &counted.positions, &picked).view([b, t])
}

/// A scalar whose `backward` gives `hidden` and `lm_head` the gradient of a loss whose derivative by the
/// log-probability at each position is `grad`, `[B, T]`. Its value means nothing.
///
/// `d logprob / d logits = onehot - softmax`. A loss scale belongs into `grad`, so that nothing underflows here.
pub fn surrogate(hidden: &Tensor, lm_head: &Tensor, targets: &Tensor, grad: &Tensor) -> Tensor {
    let counted = Counted::new(targets);
    let selected = counted.select(hidden); // [M, D]
    let (by_hidden, by_head) = tch::no_grad(|| derivatives(&selected.detach(), lm_head, &counted, grad));
    // d(sum(h * g)) / dh = g: hands each gradient to the graph below it.
    let total = (selected * by_hidden).sum(Kind::Float);
    match by_head {
        Some(by_head) => total + (lm_head * by_head).sum(Kind::Float),
        None => total,
    }
}

/// Derivatives by the selected hidden states, `[M, D]`, and by the output layer, `[V, D]`, where it learns.
fn derivatives(
    selected: &Tensor,
    lm_head: &Tensor,
    counted: &Counted,
    grad: &Tensor,
) -> (Tensor, Option<Tensor>) {
    let grad = grad.reshape([-1]).index_select(0, &counted.positions).to_kind(Kind::Float); // [M]
    let by_hidden = selected.empty_like();
    let mut by_head = lm_head.requires_grad().then(|| lm_head.zeros_like());
    for (start, rows) in chunks(counted.count, lm_head) {
        let chunk = selected.narrow(0, start, rows);
        let grad = grad.narrow(0, start, rows).unsqueeze(1); // [rows, 1]
        let tokens = counted.tokens.narrow(0, start, rows).unsqueeze(1);
        let by_logits = logits(&chunk, lm_head).softmax(1, Kind::Float) * grad.neg(); // [rows, V]
        let by_logits = by_logits.scatter_add(1, &tokens, &grad);
        by_hidden.narrow(0, start, rows).copy_(&by_logits.to_kind(lm_head.kind()).matmul(lm_head));
        if let Some(by_head) = &mut by_head {
            *by_head += by_logits.to_kind(chunk.kind()).tr().matmul(&chunk);
        }
    }
    (by_hidden, by_head)
}

fn logits(hidden: &Tensor, lm_head: &Tensor) -> Tensor {
    hidden.linear(lm_head, None::<&Tensor>).to_kind(Kind::Float) // [rows, V]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ops::CHUNK_LOGITS;
    use tch::Device;

    fn case(v: i64, kind: Kind) -> (Tensor, Tensor, Tensor) {
        tch::manual_seed(11);
        let draw = |shape: &[i64]| Tensor::randn(shape, (kind, Device::Cpu)).set_requires_grad(true);
        let targets = Tensor::from_slice(&[1i64, -100, 3, v - 1, 0, 2, -100, 7]).view([2, 4]);
        (draw(&[2, 4, 6]), draw(&[v, 6]), targets)
    }

    fn plain(hidden: &Tensor, head: &Tensor, targets: &Tensor) -> Tensor {
        // In double: a sum over millions in fp32 is no yardstick.
        let all = hidden.linear(head, None::<&Tensor>).log_softmax(-1, Kind::Double);
        let chosen = all.gather(2, &targets.clamp_min(0).unsqueeze(2), false).squeeze_dim(2);
        chosen * targets.ge(0)
    }

    fn far(a: &Tensor, b: &Tensor) -> f64 {
        (a - b).abs().max().double_value(&[])
    }

    #[test]
    fn values_and_gradients_equal_the_plain_ones() {
        // The second vocabulary makes every chunk two rows long; a softmax over millions in fp32 is good to 1e-3,
        // where a chunk in the wrong place would be off by whole numbers.
        for (v, rows, near) in [(13, 2, 1e-5), (CHUNK_LOGITS / 2, 1, 5e-3)] {
            let (hidden, head, targets) = case(v, Kind::Float);
            let hidden = hidden.detach().narrow(0, 0, rows).copy().set_requires_grad(true);
            let targets = targets.narrow(0, 0, rows);
            let expected = plain(&hidden, &head, &targets);
            let off = far(&token_logprobs(&hidden, &head, &targets), &expected);
            assert!(off < near, "{v}: {off}");
            // Any loss: here one that weighs every position differently.
            let weights = Tensor::randn([rows, 4], (Kind::Float, Device::Cpu));
            (&expected * &weights).sum(Kind::Float).backward();
            let (dh, dw) = (hidden.grad().copy(), head.grad().copy());
            let _ = (hidden.grad().zero_(), head.grad().zero_());
            surrogate(&hidden, &head, &targets, &weights).backward();
            let (by_hidden, by_head) = (far(&dh, &hidden.grad()), far(&dw, &head.grad()));
            assert!(by_hidden < near && by_head < near, "{v}: {by_hidden} {by_head}");
            assert!(dh.abs().max().double_value(&[]) > 0.1);
        }
    }

    #[test]
    fn gradients_equal_finite_differences() {
        let (hidden, head, targets) = case(13, Kind::Double);
        let grad = Tensor::ones([2, 4], (Kind::Float, Device::Cpu));
        surrogate(&hidden, &head, &targets, &grad).backward();
        let total = |h: &Tensor, w: &Tensor| {
            plain(&h.detach(), &w.detach(), &targets).sum(Kind::Double).double_value(&[])
        };
        for at in [0i64, 5, 13, 30, 47] {
            let nudge = |x: &Tensor, by: f64| {
                let y = x.detach().copy();
                let _ = y.view([-1]).get(at).g_add_scalar_(by);
                y
            };
            let by_hidden =
                (total(&nudge(&hidden, 1e-2), &head) - total(&nudge(&hidden, -1e-2), &head)) / 2e-2;
            let by_head = (total(&hidden, &nudge(&head, 1e-2)) - total(&hidden, &nudge(&head, -1e-2))) / 2e-2;
            let own = |x: &Tensor| x.grad().view([-1]).double_value(&[at]);
            assert!((own(&hidden) - by_hidden).abs() < 1e-3, "{at}: {} {by_hidden}", own(&hidden));
            assert!((own(&head) - by_head).abs() < 1e-3, "{at}: {} {by_head}", own(&head));
        }
    }

    #[test]
    fn a_frozen_layer_gets_nothing_and_no_target_is_no_gradient() {
        let (hidden, head, targets) = case(13, Kind::Float);
        let grad = Tensor::ones([2, 4], (Kind::Float, Device::Cpu));
        surrogate(&hidden, &head.detach(), &targets, &grad).backward();
        assert!(!head.grad().defined() && hidden.grad().abs().max().double_value(&[]) > 0.0);
        let none = targets.full_like(-100);
        assert!(token_logprobs(&hidden, &head, &none).equal(&grad.zeros_like()));
        let _ = hidden.grad().zero_();
        surrogate(&hidden, &head, &none, &grad).backward();
        assert_eq!(hidden.grad().abs().max().double_value(&[]), 0.0);
    }
}
