//! Next-token cross-entropy: logits at `t` predict `labels[t + 1]`; the loss is the mean over labels other than -100
//! (upstream's rule). `model::ops` computes it without the whole logits.
//!
//! B batch, T tokens, M labelled positions, D hidden, V vocab.

use ndarray::Array2;
use tch::{Device, Kind, Tensor};

use crate::error::Result;
use crate::model::ops;
use crate::native::to_device;

pub use crate::model::ops::{Entropy, Targets};

impl Targets {
    /// From unshifted labels `[B, T]`.
    pub fn new(labels: &Array2<i64>, device: Device) -> Self {
        let (_, columns) = labels.dim();
        let (positions, tokens): (Vec<i64>, Vec<i64>) =
            shifted(labels).map(|(row, column, token)| ((row * columns + column) as i64, token)).unzip();
        let upload = |v: &[i64]| to_device(Tensor::from_slice(v), device);
        Self {
            positions: upload(&positions),
            tokens: upload(&tokens),
            weights: None,
            count: positions.len() as i64,
            each: false,
        }
    }

    /// The same, where each of the tokens `markers` `[n]` counts `weight` times.
    pub fn weighted(self, markers: &Tensor, weight: f64) -> Self {
        let marked = self.tokens.unsqueeze(1).eq_tensor(markers).any_dim(1, false); // [M]
        let weights = marked.to_kind(Kind::Float) * (weight - 1.0) + 1.0;
        Self { weights: Some(weights), ..self }
    }
}

/// Row, column and token of each position that predicts one: what stands after it, unless it is -100.
pub fn shifted(labels: &Array2<i64>) -> impl Iterator<Item = (usize, usize, i64)> {
    let after = labels.indexed_iter().filter(|((_, column), label)| *column > 0 && **label >= 0);
    after.map(|((row, column), label)| (row, column - 1, *label))
}

/// The mean loss over the labelled positions of hidden states `[B, T, D]` under an output layer `[V, D]`: a scalar without
/// a graph; 0 where nothing carries loss.
///
/// # Errors
/// As [`ops::cross_entropy`].
pub fn mean(hidden: &Tensor, lm_head: &Tensor, targets: &Targets) -> Result<Tensor> {
    let _no_grad = tch::no_grad_guard();
    Ok(sum(hidden, lm_head, targets)? / targets.count.max(1) as f64)
}

/// The loss summed over the labelled positions, a scalar without a graph.
///
/// # Errors
/// As [`ops::cross_entropy`].
pub fn sum(hidden: &Tensor, lm_head: &Tensor, targets: &Targets) -> Result<Tensor> {
    Ok(ops::cross_entropy(hidden, lm_head, targets)?.sum)
}

/// The loss summed over the labelled positions, and that of each where the targets want it; without a graph.
///
/// # Errors
/// As [`ops::cross_entropy`].
pub fn measured(hidden: &Tensor, lm_head: &Tensor, targets: &Targets) -> Result<Entropy> {
    ops::cross_entropy(hidden, lm_head, targets)
}

/// The mean loss, and a surrogate whose `backward` gives the hidden states the gradient of `scale` times that mean: two
/// scalars. The output layer's gradient has been added already when this returns, or is when the surrogate's backward
/// runs.
///
/// `None` where nothing carries loss.
///
/// # Errors
/// As [`ops::cross_entropy_with_grad`].
pub fn mean_with_grad(
    hidden: &Tensor,
    lm_head: &Tensor,
    targets: &Targets,
    scale: f64,
) -> Result<Option<(Tensor, Tensor)>> {
    let entropy = entropy_with_grad(hidden, lm_head, targets, scale)?;
    Ok(entropy.map(|entropy| (entropy.sum / targets.count as f64, entropy.surrogate)))
}

/// The summed loss with that of each position where the targets want it; the surrogate is that of `scale` times the mean.
///
/// # Errors
/// As [`ops::cross_entropy_with_grad`].
pub fn entropy_with_grad(
    hidden: &Tensor,
    lm_head: &Tensor,
    targets: &Targets,
    scale: f64,
) -> Result<Option<Entropy>> {
    if targets.count == 0 {
        return Ok(None);
    }
    ops::cross_entropy_with_grad(hidden, lm_head, targets, scale / targets.count as f64).map(Some)
}

/// The summed loss of each of the `B` rows of `T` tokens, from that of each labelled position: numbers on the host.
///
/// # Errors
/// libtorch's.
pub fn row_sums(each: &Tensor, targets: &Targets, (rows, tokens): (usize, usize)) -> Result<Vec<f64>> {
    let all = Tensor::f_zeros([(rows * tokens) as i64], (Kind::Double, each.device()))?;
    let all = all.f_index_copy(0, &targets.positions, &each.to_kind(Kind::Double))?;
    let sums = all.view([rows as i64, tokens as i64]).sum_dim_intlist(1, false, Kind::Double);
    Ok(Vec::<f64>::try_from(&sums)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ops::{CHUNK_LOGITS, labelled_rows};
    use crate::model::{Mask, tiny};
    use crate::native::cuda_ops;
    use ndarray::array;
    use tch::Reduction;

    fn case(v: i64) -> (Tensor, Tensor, Array2<i64>) {
        tch::manual_seed(7);
        let hidden = Tensor::randn([2, 4, 8], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        let head = Tensor::randn([v, 8], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        (hidden, head, array![[1, 2, -100, 4], [-100, 0, 3, v - 1]])
    }

    #[test]
    fn loss_and_gradients_equal_the_plain_ones() {
        // The second vocabulary makes every chunk two rows long.
        for v in [11, CHUNK_LOGITS / 2] {
            let (hidden, head, labels) = case(v);
            let targets = Targets::new(&labels, Device::Cpu);
            assert_eq!(targets.count, 5);
            let (loss, surrogate) = mean_with_grad(&hidden, &head, &targets, 0.5).unwrap().unwrap();
            surrogate.backward();
            let flat: Vec<i64> = labels.slice(ndarray::s![.., 1..]).iter().copied().collect();
            let plain = |kind: Kind| {
                let leaf = |x: &Tensor| x.detach().to_kind(kind).copy().set_requires_grad(true);
                let (hidden, head) = (leaf(&hidden), leaf(&head));
                let logits = hidden.linear(&head, None::<&Tensor>).narrow(1, 0, 3).reshape([-1, v]);
                let flat = Tensor::from_slice(&flat);
                let loss = logits.cross_entropy_loss(&flat, None::<&Tensor>, Reduction::Mean, -100, 0.0);
                (&loss * 0.5).backward();
                (loss, hidden.grad(), head.grad())
            };
            // Sums over millions of logits round by processor: as near to the exact numbers as the plain way comes.
            let (plain, exact) = (plain(Kind::Float), plain(Kind::Double));
            let far = |a: &Tensor, b: &Tensor| (a - b).abs().max().double_value(&[]);
            let near = |got: &Tensor, plain: &Tensor, exact: &Tensor, least: f64| {
                let allowed = 4.0 * far(plain, exact) + least;
                assert!(far(got, exact) <= allowed, "{v}: {:e} > {allowed:e}", far(got, exact));
            };
            near(&loss, &plain.0, &exact.0, 1e-5);
            near(&mean(&hidden, &head, &targets).unwrap(), &plain.0, &exact.0, 1e-5);
            near(&hidden.grad(), &plain.1, &exact.1, 1e-6);
            near(&head.grad(), &plain.2, &exact.2, 1e-6);
        }
    }

    #[test]
    fn marked_tokens_weigh_more_and_the_count_stays() {
        let (hidden, head, labels) = case(11);
        let plain = Targets::new(&labels, Device::Cpu);
        let marked = Targets::new(&labels, Device::Cpu).weighted(&Tensor::from_slice(&[3i64, 4, 4]), 10.0);
        let logits = labelled_rows(&hidden, &plain).unwrap().linear(&head, None::<&Tensor>);
        let each = logits.cross_entropy_loss(&plain.tokens, None::<&Tensor>, Reduction::None, -100, 0.0);
        // The labels after the shift: 2, 4, 0, 3, 10.
        let weights = Tensor::from_slice(&[1f32, 10.0, 1.0, 10.0, 1.0]);
        let want = (each * weights).sum(Kind::Float) / 5.0;
        let (loss, surrogate) = mean_with_grad(&hidden, &head, &marked, 1.0).unwrap().unwrap();
        surrogate.backward();
        let dh = hidden.grad().copy();
        let _ = hidden.grad().zero_();
        want.backward();
        let far = |a: &Tensor, b: &Tensor| (a - b).abs().max().double_value(&[]);
        assert!(far(&loss, &want) < 1e-5 && far(&dh, &hidden.grad()) < 1e-6);
    }

    #[test]
    fn losses_of_rows_add_up_and_the_sum_stays_the_same_bits() {
        for (v, weigh) in [(11, false), (CHUNK_LOGITS / 2, false), (11, true)] {
            let (hidden, head, labels) = case(v);
            let targets = |each: bool| {
                let plain = Targets { each, ..Targets::new(&labels, Device::Cpu) };
                if weigh { plain.weighted(&Tensor::from_slice(&[3i64, 4, 4]), 10.0) } else { plain }
            };
            let run = |targets: &Targets| {
                let entropy = entropy_with_grad(&hidden, &head, targets, 0.5).unwrap().unwrap();
                entropy.surrogate.backward();
                let grads = [&hidden, &head].map(|x| {
                    let grad = x.grad().copy();
                    let _ = x.grad().zero_();
                    grad
                });
                (entropy, grads)
            };
            let ((plain, want), (by_row, got)) = (run(&targets(false)), run(&targets(true)));
            let same = |a: &Tensor, b: &Tensor| a.equal(b);
            assert!(plain.each.is_none() && same(&plain.sum, &by_row.sum));
            assert!(same(&want[0], &got[0]) && same(&want[1], &got[1]));
            let measured = ops::cross_entropy(&hidden, &head, &targets(true)).unwrap();
            assert!(same(&measured.sum, &plain.sum));
            let each = by_row.each.unwrap();
            assert!(same(&measured.each.unwrap(), &each));
            let rows = row_sums(&each, &targets(true), (2, 4)).unwrap();
            let total = plain.sum.double_value(&[]);
            assert!((rows.iter().sum::<f64>() - total).abs() < 1e-4 * total, "{rows:?} {total}");
            // A row alone.
            let first = Array2::from_shape_fn((2, 4), |(b, t)| if b == 0 { labels[[b, t]] } else { -100 });
            let first = Targets::new(&first, Device::Cpu);
            let first = if weigh { first.weighted(&Tensor::from_slice(&[3i64, 4, 4]), 10.0) } else { first };
            let alone = sum(&hidden, &head, &first).unwrap().double_value(&[]);
            assert!((alone - rows[0]).abs() < 1e-4 * alone, "{alone} {rows:?}");
        }
    }

    #[test]
    fn no_label_is_no_loss() {
        let (hidden, head, _) = case(11);
        let targets = Targets::new(&array![[5, -100, -100, -100], [5, -100, -100, -100]], Device::Cpu);
        assert_eq!(targets.count, 0);
        assert!(mean_with_grad(&hidden, &head, &targets, 1.0).unwrap().is_none());
        assert_eq!(mean(&hidden, &head, &targets).unwrap().double_value(&[]), 0.0);
    }

    /// Loss and gradients of a whole model by the GPU's ops, their kernels run here, against the CPU's own.
    #[test]
    fn a_model_by_the_gpu_s_ops_is_the_same_model() {
        for (preset, masked) in
            [("minimind3", false), ("minimind2-small", true), ("minimind3-moe", false), ("minimind3", true)]
        {
            tch::manual_seed(5);
            let model = tiny(preset, 2, 60);
            model.params().set_requires_grad(true);
            let labels = Array2::from_shape_fn((3, 12), |(b, t)| {
                if masked && t % 3 > 0 { -100 } else { ((b * 31 + t * t * 7) % 60) as i64 }
            });
            let ids = Tensor::from_slice(&labels.iter().map(|id| id.max(&0)).copied().collect::<Vec<_>>());
            let targets = Targets::new(&labels, Device::Cpu);
            let outcome = || {
                let (hidden, aux) = model.hidden(&ids.view([3, 12]), Mask::Causal, true);
                let (loss, surrogate) =
                    mean_with_grad(&hidden, model.lm_head(), &targets, 0.5).unwrap().unwrap();
                aux.map_or_else(|| surrogate.shallow_clone(), |aux| &surrogate + aux).backward();
                let params = model.params().trained().1;
                let grads: Vec<Tensor> = params.iter().map(|p| p.grad().copy()).collect();
                params.iter().for_each(|p| {
                    let _ = p.grad().zero_();
                });
                let summed = mean(&hidden, model.lm_head(), &targets).unwrap();
                assert!((summed - &loss).abs().double_value(&[]) < 1e-5);
                (loss.double_value(&[]), grads)
            };
            let want = outcome();
            for (kind, near) in [(Kind::Float, 1e-5), (Kind::BFloat16, 5e-2)] {
                if kind == Kind::BFloat16 && model.config().moe.is_some() {
                    continue; // a token may go to another expert when scores are rounded
                }
                let got = cuda_ops::on_cpu(kind, outcome);
                assert!((got.0 - want.0).abs() < near, "{preset}: {} and {}", got.0, want.0);
                for ((name, got), want) in model.params().names().iter().zip(&got.1).zip(&want.1) {
                    let apart = ((got - want).norm() / want.norm().clamp_min(1e-3)).double_value(&[]);
                    assert!(apart < near, "{preset}, {kind:?}: `{name}` differs by {apart:e}");
                }
            }
        }
    }
}
