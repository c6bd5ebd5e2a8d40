//! Next-token cross-entropy without the whole logits: chunks of rows, gradients taken on the way.
//!
//! Logits at `t` predict `labels[t + 1]`; the loss is the mean over labels other than -100 (upstream's
//! rule). Rows without a label never meet the output layer, and no more than [`CHUNK_LOGITS`] logits exist
//! at once: each chunk's gradient is taken before the next chunk is made.
//!
//! B batch, T tokens, M labelled positions, D hidden, V vocab.

use ndarray::Array2;
use tch::{Device, Kind, Reduction, Tensor};

use crate::error::Result;

/// Most logits held at once: 32 MiB in fp32.
pub const CHUNK_LOGITS: i64 = 8 << 20;

/// Which positions carry loss and what they should predict.
#[derive(Debug)]
pub struct Targets {
    /// Rows of the flattened hidden states `[B * T, D]`, `[M]`.
    pub positions: Tensor,
    /// The token that each should predict, `[M]`.
    pub tokens: Tensor,
    /// How much each counts, `[M]`; `None`: all alike. The mean still divides by M (upstream's reason stage).
    pub weights: Option<Tensor>,
    /// M.
    pub count: i64,
}

impl Targets {
    /// From unshifted labels `[B, T]`.
    pub fn new(labels: &Array2<i64>, device: Device) -> Self {
        let (rows, columns) = labels.dim();
        let (mut positions, mut tokens) = (Vec::new(), Vec::new());
        for row in 0..rows {
            for column in 1..columns {
                let label = labels[[row, column]];
                if label >= 0 {
                    positions.push((row * columns + column - 1) as i64);
                    tokens.push(label);
                }
            }
        }
        let upload = |v: &[i64]| Tensor::from_slice(v).to_device(device);
        Self {
            positions: upload(&positions),
            tokens: upload(&tokens),
            weights: None,
            count: positions.len() as i64,
        }
    }

    /// The same, where each of the tokens `markers` counts `weight` times.
    pub fn weighted(self, markers: &Tensor, weight: f64) -> Self {
        let marked = self.tokens.unsqueeze(1).eq_tensor(markers).any_dim(1, false); // [M]
        let weights = marked.to_kind(Kind::Float) * (weight - 1.0) + 1.0;
        Self { weights: Some(weights), ..self }
    }

    fn part(&self, start: i64, rows: i64) -> (Tensor, Option<Tensor>) {
        let cut = |t: &Tensor| t.narrow(0, start, rows);
        (cut(&self.tokens), self.weights.as_ref().map(cut))
    }
}

/// The mean loss, a scalar without a graph; 0 where nothing carries loss.
pub fn mean(hidden: &Tensor, lm_head: &Tensor, targets: &Targets) -> Result<Tensor> {
    let _no_grad = tch::no_grad_guard();
    Ok(sum(hidden, lm_head, targets)? / targets.count.max(1) as f64)
}

/// The loss summed over the labelled positions, a scalar without a graph.
pub fn sum(hidden: &Tensor, lm_head: &Tensor, targets: &Targets) -> Result<Tensor> {
    let _no_grad = tch::no_grad_guard();
    let selected = select(hidden, targets)?;
    let mut total = Tensor::f_zeros([], (Kind::Float, hidden.device()))?;
    for (start, rows) in chunks(targets.count, lm_head) {
        total += chunk_loss(&selected.narrow(0, start, rows), lm_head, targets.part(start, rows))?;
    }
    Ok(total)
}

/// The mean loss, and a surrogate whose `backward` gives the hidden states the gradient of `scale` times
/// that mean. The output layer's gradient has been added already when this returns.
///
/// `None` where nothing carries loss.
pub fn mean_with_grad(
    hidden: &Tensor,
    lm_head: &Tensor,
    targets: &Targets,
    scale: f64,
) -> Result<Option<(Tensor, Tensor)>> {
    if targets.count == 0 {
        return Ok(None);
    }
    let selected = select(hidden, targets)?; // [M, D]
    let detached = selected.detach();
    let grad = Tensor::f_empty(detached.size(), (detached.kind(), detached.device()))?;
    let mut total = Tensor::f_zeros([], (Kind::Float, hidden.device()))?;
    for (start, rows) in chunks(targets.count, lm_head) {
        let chunk = detached.narrow(0, start, rows).detach().set_requires_grad(true);
        let loss = chunk_loss(&chunk, lm_head, targets.part(start, rows))?;
        (&loss * (scale / targets.count as f64)).f_backward()?;
        grad.narrow(0, start, rows).f_copy_(&chunk.grad())?;
        total += loss.detach();
    }
    // d(sum(h * g)) / dh = g: hands the gathered gradient to the graph below.
    let surrogate = (selected * grad).sum(Kind::Float);
    Ok(Some((total / targets.count as f64, surrogate)))
}

/// The labelled rows, `[B, T, D] -> [M, D]`.
pub(super) fn select(hidden: &Tensor, targets: &Targets) -> Result<Tensor> {
    let (_, _, d) = hidden.size3().expect("hidden states are [B, T, D]");
    Ok(hidden.f_reshape([-1, d])?.f_index_select(0, &targets.positions)?) // [M, D]
}

fn chunk_loss(hidden: &Tensor, lm_head: &Tensor, targets: (Tensor, Option<Tensor>)) -> Result<Tensor> {
    let logits = hidden.f_linear(lm_head, None::<&Tensor>)?.to_kind(Kind::Float); // [rows, V]
    let of = |reduction| logits.f_cross_entropy_loss(&targets.0, None::<&Tensor>, reduction, -100, 0.0);
    Ok(match targets.1 {
        None => of(Reduction::Sum)?,
        Some(weights) => (of(Reduction::None)? * weights).f_sum(Kind::Float)?,
    })
}

/// Pieces of `count` rows whose logits fit into [`CHUNK_LOGITS`]: where each starts and its length.
pub(super) fn chunks(count: i64, lm_head: &Tensor) -> impl Iterator<Item = (i64, i64)> {
    let (v, _) = lm_head.size2().expect("the output layer is [V, D]");
    let rows = (CHUNK_LOGITS / v).max(1);
    (0..count).step_by(rows as usize).map(move |start| (start, rows.min(count - start)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

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
            let (dh, dw) = (hidden.grad().copy(), head.grad().copy());
            let _ = hidden.grad().zero_();
            let _ = head.grad().zero_();
            let logits = hidden.linear(&head, None::<&Tensor>).narrow(1, 0, 3).reshape([-1, v]);
            let flat: Vec<i64> = labels.slice(ndarray::s![.., 1..]).iter().copied().collect();
            let plain = logits.cross_entropy_loss(
                &Tensor::from_slice(&flat),
                None::<&Tensor>,
                Reduction::Mean,
                -100,
                0.0,
            );
            (&plain * 0.5).backward();
            let far = |a: &Tensor, b: &Tensor| (a - b).abs().max().double_value(&[]);
            assert!(far(&loss, &plain) < 1e-5, "{} {}", loss, plain);
            assert!(far(&mean(&hidden, &head, &targets).unwrap(), &plain) < 1e-5);
            assert!(far(&dh, &hidden.grad()) < 1e-6 && far(&dw, &head.grad()) < 1e-6);
        }
    }

    #[test]
    fn marked_tokens_weigh_more_and_the_count_stays() {
        let (hidden, head, labels) = case(11);
        let plain = Targets::new(&labels, Device::Cpu);
        let marked = Targets::new(&labels, Device::Cpu).weighted(&Tensor::from_slice(&[3i64, 4, 4]), 10.0);
        let logits = select(&hidden, &plain).unwrap().linear(&head, None::<&Tensor>);
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
    fn no_label_is_no_loss() {
        let (hidden, head, _) = case(11);
        let targets = Targets::new(&array![[5, -100, -100, -100], [5, -100, -100, -100]], Device::Cpu);
        assert_eq!(targets.count, 0);
        assert!(mean_with_grad(&hidden, &head, &targets, 1.0).unwrap().is_none());
        assert_eq!(mean(&hidden, &head, &targets).unwrap().double_value(&[]), 0.0);
    }
}
