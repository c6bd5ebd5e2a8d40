//! Cross-entropy of an output layer without the whole logits: chunks of rows, gradients taken on the way.
//!
//! Rows without a label never meet the output layer (unless most rows have one and a GPU's kernel takes them all), and no
//! more than [`CHUNK_LOGITS`] logits exist at once: each chunk's gradient is taken before the next chunk is made.
//!
//! B batch, T tokens, M labelled positions, D hidden, V vocab.

use tch::{Kind, Reduction, Tensor};

use crate::error::Result;
use crate::native::cuda_ops::{self, CrossEntropy};
use crate::native::to_device;

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
    /// M, the number of positions that have a label.
    pub count: i64,
}

impl Targets {
    /// For an output layer that goes over every row, labelled or not: the token of each of `rows` rows, -100 where there
    /// is no label, and each row's weight. `[rows]` each.
    fn spread(&self, rows: i64) -> (Tensor, Option<Tensor>) {
        let over = |empty: Tensor, values: &Tensor| empty.index_copy(0, &self.positions, values);
        let device = self.tokens.device();
        let tokens = over(Tensor::full([rows], -100, (Kind::Int64, device)), &self.tokens);
        let weights = self.weights.as_ref().map(|w| over(Tensor::zeros([rows], (Kind::Float, device)), w));
        (tokens, weights)
    }

    /// Tokens and weights of `rows` labelled positions from `start` on, `[rows]` each.
    fn part(&self, start: i64, rows: i64) -> (Tensor, Option<Tensor>) {
        let cut = |t: &Tensor| t.narrow(0, start, rows);
        (cut(&self.tokens), self.weights.as_ref().map(cut))
    }
}

/// The cross-entropy of hidden states `[B, T, D]` under an output layer `[V, D]`, summed over the labelled positions: a
/// scalar without a graph.
///
/// # Errors
/// libtorch's: no memory, shapes that do not fit.
pub fn cross_entropy(hidden: &Tensor, lm_head: &Tensor, targets: &Targets) -> Result<Tensor> {
    let _no_grad = tch::no_grad_guard();
    if let Some(dtype) = kernel_dtype(hidden, lm_head) {
        return with_rows(hidden, lm_head, targets, dtype, |entropy| entropy.sum());
    }
    let selected = labelled_rows(hidden, targets)?;
    let mut total = Tensor::f_zeros([], (Kind::Float, hidden.device()))?;
    for (start, rows) in chunks(targets.count, lm_head) {
        total += chunk_loss(&selected.narrow(0, start, rows), lm_head, targets.part(start, rows))?;
    }
    Ok(total)
}

/// The same sum, and a surrogate scalar whose `backward` gives the hidden states the gradient of `scale` times it. The
/// output layer's gradient has been added already when this returns, or is when the surrogate's backward runs.
///
/// # Errors
/// libtorch's: no memory, shapes that do not fit.
pub fn cross_entropy_with_grad(
    hidden: &Tensor,
    lm_head: &Tensor,
    targets: &Targets,
    scale: f64,
) -> Result<(Tensor, Tensor)> {
    if let Some(dtype) = kernel_dtype(hidden, lm_head) {
        let scale = to_device(Tensor::from(scale as f32), hidden.device());
        return with_rows(hidden, lm_head, targets, dtype, |entropy| entropy.sum_with_grad(&scale));
    }
    let selected = labelled_rows(hidden, targets)?; // [M, D]
    let detached = selected.detach();
    let grad = Tensor::f_empty(detached.size(), (detached.kind(), detached.device()))?;
    let mut total = Tensor::f_zeros([], (Kind::Float, hidden.device()))?;
    for (start, rows) in chunks(targets.count, lm_head) {
        let chunk = detached.narrow(0, start, rows).detach().set_requires_grad(true);
        let loss = chunk_loss(&chunk, lm_head, targets.part(start, rows))?;
        (&loss * scale).f_backward()?;
        grad.narrow(0, start, rows).f_copy_(&chunk.grad())?;
        total += loss.detach();
    }
    // d(sum(h * g)) / dh = g: hands the gathered gradient to the graph below.
    let surrogate = (selected * grad).sum(Kind::Float);
    Ok((total, surrogate))
}

/// The dtype of products where a GPU's fused cross-entropy takes this output layer.
fn kernel_dtype(hidden: &Tensor, lm_head: &Tensor) -> Option<Kind> {
    let (v, _) = lm_head.size2().expect("the output layer is [V, D]");
    cuda_ops::compute_dtype(hidden).filter(|_| cuda_ops::is_vec4_aligned(v))
}

/// Hands the labelled rows to the fused cross-entropy; where most are labelled, all of them as they lie, which costs
/// less than to gather them.
fn with_rows<T>(
    hidden: &Tensor,
    lm_head: &Tensor,
    targets: &Targets,
    dtype: Kind,
    take: impl FnOnce(&CrossEntropy<'_>) -> Result<T>,
) -> Result<T> {
    let (b, t, d) = hidden.size3().expect("hidden states are [B, T, D]");
    let (rows, tokens, weights) = if 4 * targets.count >= 3 * b * t {
        let (tokens, weights) = targets.spread(b * t);
        (hidden.f_reshape([-1, d])?, tokens, weights)
    } else {
        let weights = targets.weights.as_ref().map(Tensor::shallow_clone);
        (labelled_rows(hidden, targets)?, targets.tokens.shallow_clone(), weights)
    };
    take(&CrossEntropy { hidden: &rows, lm_head, tokens: &tokens, weights: weights.as_ref(), dtype })
}

/// The labelled rows, `[B, T, D] -> [M, D]`.
///
/// # Errors
/// libtorch's: no memory, positions that the rows do not have.
pub fn labelled_rows(hidden: &Tensor, targets: &Targets) -> Result<Tensor> {
    let (_, _, d) = hidden.size3().expect("hidden states are [B, T, D]");
    Ok(hidden.f_reshape([-1, d])?.f_index_select(0, &targets.positions)?) // [M, D]
}

/// The loss of rows `[N, D]` summed up, by eager logits.
fn chunk_loss(hidden: &Tensor, lm_head: &Tensor, targets: (Tensor, Option<Tensor>)) -> Result<Tensor> {
    let logits = hidden.f_linear(lm_head, None::<&Tensor>)?.to_kind(Kind::Float); // [rows, V]
    let of = |reduction| logits.f_cross_entropy_loss(&targets.0, None::<&Tensor>, reduction, -100, 0.0);
    Ok(match targets.1 {
        None => of(Reduction::Sum)?,
        Some(weights) => (of(Reduction::None)? * weights).f_sum(Kind::Float)?,
    })
}

/// Pieces of `count` rows whose logits fit into [`CHUNK_LOGITS`]: where each starts and its length.
pub fn chunks(count: i64, lm_head: &Tensor) -> impl Iterator<Item = (i64, i64)> {
    let (v, _) = lm_head.size2().expect("the output layer is [V, D]");
    let rows = (CHUNK_LOGITS / v).max(1);
    (0..count).step_by(rows as usize).map(move |start| (start, rows.min(count - start)))
}
