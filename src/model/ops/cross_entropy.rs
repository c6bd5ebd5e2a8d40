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
    /// Whether the loss of each position is wanted too.
    pub each: bool,
}

/// A summed cross-entropy.
#[derive(Debug)]
pub struct Entropy {
    /// The sum, a scalar without a graph.
    pub sum: Tensor,
    /// A scalar whose `backward` gives the gradients; of a sum without gradients the sum itself.
    pub surrogate: Tensor,
    /// The loss of each labelled position, `[M]`, where it was wanted.
    pub each: Option<Tensor>,
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

/// The cross-entropy of hidden states `[B, T, D]` under an output layer `[V, D]`, summed over the labelled positions,
/// without a graph.
///
/// # Errors
/// libtorch's: no memory, shapes that do not fit.
pub fn cross_entropy(hidden: &Tensor, lm_head: &Tensor, targets: &Targets) -> Result<Entropy> {
    let _no_grad = tch::no_grad_guard();
    if let Some(dtype) = kernel_dtype(hidden, lm_head) {
        return with_rows(hidden, lm_head, targets, dtype, |entropy| {
            let (sum, each) = entropy.sum()?;
            Ok(Entropy { surrogate: sum.shallow_clone(), sum, each: Some(each) })
        });
    }
    let selected = labelled_rows(hidden, targets)?;
    let mut total = Tensor::f_zeros([], (Kind::Float, hidden.device()))?;
    let mut parts = Vec::new();
    for (start, rows) in chunks(targets.count, lm_head) {
        let chunk = selected.narrow(0, start, rows);
        let (loss, each) = chunk_loss(&chunk, lm_head, targets.part(start, rows), targets.each)?;
        total += loss;
        parts.extend(each);
    }
    let each = targets.each.then(|| joined(&parts, hidden.device()));
    Ok(Entropy { surrogate: total.shallow_clone(), sum: total, each })
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
) -> Result<Entropy> {
    if let Some(dtype) = kernel_dtype(hidden, lm_head) {
        let scale = to_device(Tensor::from(scale as f32), hidden.device());
        return with_rows(hidden, lm_head, targets, dtype, |entropy| {
            let (sum, surrogate, each) = entropy.sum_with_grad(&scale)?;
            Ok(Entropy { sum, surrogate, each: Some(each) })
        });
    }
    let selected = labelled_rows(hidden, targets)?; // [M, D]
    let detached = selected.detach();
    let grad = Tensor::f_empty(detached.size(), (detached.kind(), detached.device()))?;
    let mut total = Tensor::f_zeros([], (Kind::Float, hidden.device()))?;
    let mut parts = Vec::new();
    for (start, rows) in chunks(targets.count, lm_head) {
        let chunk = detached.narrow(0, start, rows).detach().set_requires_grad(true);
        let (loss, each) = chunk_loss(&chunk, lm_head, targets.part(start, rows), targets.each)?;
        (&loss * scale).f_backward()?;
        grad.narrow(0, start, rows).f_copy_(&chunk.grad())?;
        total += loss.detach();
        parts.extend(each);
    }
    // d(sum(h * g)) / dh = g: hands the gathered gradient to the graph below.
    let surrogate = (selected * grad).sum(Kind::Float);
    let each = targets.each.then(|| joined(&parts, hidden.device()));
    Ok(Entropy { sum: total, surrogate, each })
}

/// Pieces of the losses of positions as one, `[M]`.
fn joined(parts: &[Tensor], device: tch::Device) -> Tensor {
    if parts.is_empty() { Tensor::zeros([0], (Kind::Float, device)) } else { Tensor::cat(parts, 0) }
}

/// The dtype of products where a GPU's fused cross-entropy takes this output layer.
fn kernel_dtype(hidden: &Tensor, lm_head: &Tensor) -> Option<Kind> {
    let (v, _) = lm_head.size2().expect("the output layer is [V, D]");
    cuda_ops::compute_dtype(hidden).filter(|_| cuda_ops::is_vec4_aligned(v))
}

/// Hands the labelled rows to the fused cross-entropy; where most are labelled, all of them as they lie, which costs
/// less than to gather them.
fn with_rows(
    hidden: &Tensor,
    lm_head: &Tensor,
    targets: &Targets,
    dtype: Kind,
    take: impl FnOnce(&CrossEntropy<'_>) -> Result<Entropy>,
) -> Result<Entropy> {
    let (b, t, d) = hidden.size3().expect("hidden states are [B, T, D]");
    let all = 4 * targets.count >= 3 * b * t;
    let (rows, tokens, weights) = if all {
        let (tokens, weights) = targets.spread(b * t);
        (hidden.f_reshape([-1, d])?, tokens, weights)
    } else {
        let weights = targets.weights.as_ref().map(Tensor::shallow_clone);
        (labelled_rows(hidden, targets)?, targets.tokens.shallow_clone(), weights)
    };
    let mut entropy =
        take(&CrossEntropy { hidden: &rows, lm_head, tokens: &tokens, weights: weights.as_ref(), dtype })?;
    let each = entropy.each.take().filter(|_| targets.each);
    entropy.each = each.map(|each| if all { each.index_select(0, &targets.positions) } else { each });
    Ok(entropy)
}

/// The labelled rows, `[B, T, D] -> [M, D]`.
///
/// # Errors
/// libtorch's: no memory, positions that the rows do not have.
pub fn labelled_rows(hidden: &Tensor, targets: &Targets) -> Result<Tensor> {
    let (_, _, d) = hidden.size3().expect("hidden states are [B, T, D]");
    Ok(hidden.f_reshape([-1, d])?.f_index_select(0, &targets.positions)?) // [M, D]
}

/// The loss of rows `[N, D]` summed up, by eager logits, and where it is wanted that of each row, `[N]`, without a graph. The
/// sum is the same to the bit either way.
fn chunk_loss(
    hidden: &Tensor,
    lm_head: &Tensor,
    (tokens, weights): (Tensor, Option<Tensor>),
    each: bool,
) -> Result<(Tensor, Option<Tensor>)> {
    let logits = hidden.f_linear(lm_head, None::<&Tensor>)?.to_kind(Kind::Float); // [rows, V]
    let of = |reduction| logits.f_cross_entropy_loss(&tokens, None::<&Tensor>, reduction, -100, 0.0);
    match weights {
        None if each => {
            // What the sum is made of, step by step.
            let logprobs = logits.f_log_softmax(-1, Kind::Float)?;
            let sum = logprobs.f_nll_loss(&tokens, None::<&Tensor>, Reduction::Sum, -100)?;
            let own = logprobs.detach().f_gather(1, &tokens.unsqueeze(1), false)?.squeeze_dim(1);
            Ok((sum, Some(own.neg())))
        }
        None => Ok((of(Reduction::Sum)?, None)),
        Some(weights) => {
            let own = of(Reduction::None)? * weights;
            let sum = own.f_sum(Kind::Float)?;
            Ok((sum, each.then(|| own.detach())))
        }
    }
}

/// Pieces of `count` rows whose logits fit into [`CHUNK_LOGITS`]: where each starts and its length.
pub fn chunks(count: i64, lm_head: &Tensor) -> impl Iterator<Item = (i64, i64)> {
    let (v, _) = lm_head.size2().expect("the output layer is [V, D]");
    let rows = (CHUNK_LOGITS / v).max(1);
    (0..count).step_by(rows as usize).map(move |start| (start, rows.min(count - start)))
}
