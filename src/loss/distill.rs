//! White-box distillation (arXiv 1503.02531): cross-entropy with the labels, and the student's distance from the
//! teacher's softened distribution, chunk by chunk.
//!
//! `alpha CE + (1 - alpha) T^2 KL(p_T || q_T)`, where `p_T` and `q_T` are teacher and student at temperature T. The KL
//! is summed over the student's vocabulary (the teacher's logits are cut to it) and averaged over labelled positions.
//! As in `cross_entropy`, no more than a chunk of logits exists at once and its gradient is taken on the way.
//!
//! B batch, T tokens, M labelled positions, D hidden (the teacher's may differ), V vocab of the student.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::cross_entropy::Targets;
use crate::error::Result;
use crate::model::ops;

/// The loss's settings, as a recipe states them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DistillConfig {
    /// Share of the cross-entropy in the loss; the rest is the divergence from the teacher.
    #[schemars(range(min = 0, max = 1), extend("default" = 0.5))]
    pub alpha: f64,
    /// Temperature that softens both distributions.
    #[schemars(extend("default" = 1.5, "exclusiveMinimum" = 0))]
    pub temperature: f64,
}

/// Hidden states with the output layer that reads them.
#[derive(Debug, Clone, Copy)]
pub struct Speaker<'a> {
    /// `[B, T, D]`.
    pub hidden: &'a Tensor,
    /// `[V, D]`.
    pub lm_head: &'a Tensor,
}

/// What comes of a batch, scalars without a graph.
#[derive(Debug)]
pub struct Distilled {
    /// Mean cross-entropy.
    pub ce: Tensor,
    /// `T^2 KL`.
    pub distill: Tensor,
}

impl Distilled {
    /// `alpha * ce + (1 - alpha) * distill`, as a number on the host.
    pub fn total(&self, config: DistillConfig) -> f64 {
        config.alpha * self.ce.double_value(&[]) + (1.0 - config.alpha) * self.distill.double_value(&[])
    }
}

/// Both parts of the loss without gradients; zero where nothing carries loss.
///
/// # Errors
/// libtorch's: no memory, shapes that do not fit.
pub fn mean(
    student: Speaker<'_>,
    teacher: Speaker<'_>,
    targets: &Targets,
    config: DistillConfig,
) -> Result<Distilled> {
    let _no_grad = tch::no_grad_guard();
    let rows = Rows::select(student, teacher, targets)?;
    let (mut ce, mut distill) = zeros(student.hidden)?;
    for (start, count) in ops::chunks(targets.count, student.lm_head) {
        let parts = rows.chunk(&rows.student.narrow(0, start, count), start, count, config)?;
        ce += parts.0;
        distill += parts.1;
    }
    let count = targets.count.max(1) as f64;
    Ok(Distilled { ce: ce / count, distill: distill / count })
}

/// Both parts, and a surrogate whose `backward` gives the student's hidden states the gradient `[B, T, D]` of `scale` times
/// the weighted loss, a scalar; the output layer's has been added already. `None` where nothing carries loss.
///
/// # Errors
/// libtorch's: no memory, shapes that do not fit.
pub fn mean_with_grad(
    student: Speaker<'_>,
    teacher: Speaker<'_>,
    targets: &Targets,
    config: DistillConfig,
    scale: f64,
) -> Result<Option<(Distilled, Tensor)>> {
    if targets.count == 0 {
        return Ok(None);
    }
    let rows = Rows::select(student, teacher, targets)?;
    let detached = rows.student.detach();
    let grad = detached.f_empty_like()?;
    let (mut ce_sum, mut distill_sum) = zeros(student.hidden)?;
    let count = targets.count as f64;
    for (start, length) in ops::chunks(targets.count, student.lm_head) {
        let leaf = detached.narrow(0, start, length).detach().set_requires_grad(true);
        let (ce, distill) = rows.chunk(&leaf, start, length, config)?;
        let loss = &ce * (config.alpha * scale / count) + &distill * ((1.0 - config.alpha) * scale / count);
        loss.f_backward()?;
        grad.narrow(0, start, length).f_copy_(&leaf.grad())?;
        ce_sum += ce.detach();
        distill_sum += distill.detach();
    }
    let surrogate = (&rows.student * grad).sum(Kind::Float);
    Ok(Some((Distilled { ce: ce_sum / count, distill: distill_sum / count }, surrogate)))
}

fn zeros(like: &Tensor) -> Result<(Tensor, Tensor)> {
    let zero = || Tensor::f_zeros([], (Kind::Float, like.device()));
    Ok((zero()?, zero()?))
}

/// The labelled positions of both.
struct Rows<'a> {
    /// `[M, D]`, with the student's graph.
    student: Tensor,
    /// `[M, D]` of the teacher, without one.
    teacher: Tensor,
    student_head: &'a Tensor,
    /// The rows of the teacher's output layer that the student has too, `[V, D]`.
    teacher_head: Tensor,
    tokens: &'a Tensor,
}

impl<'a> Rows<'a> {
    fn select(student: Speaker<'a>, teacher: Speaker<'_>, targets: &'a Targets) -> Result<Self> {
        let (v, _) = student.lm_head.size2().expect("the output layer is [V, D]");
        Ok(Self {
            student: ops::labelled_rows(student.hidden, targets)?,
            teacher: ops::labelled_rows(&teacher.hidden.detach(), targets)?,
            student_head: student.lm_head,
            teacher_head: teacher.lm_head.detach().f_narrow(0, 0, v)?,
            tokens: &targets.tokens,
        })
    }

    /// Cross-entropy and `T^2 KL` of some rows, summed; `student` are those of `start..start + count`.
    fn chunk(
        &self,
        student: &Tensor,
        start: i64,
        count: i64,
        config: DistillConfig,
    ) -> Result<(Tensor, Tensor)> {
        let t = config.temperature;
        let none = None::<&Tensor>;
        let soft = tch::no_grad(|| -> Result<Tensor> {
            let logits = self.teacher.narrow(0, start, count).f_linear(&self.teacher_head, none)?;
            Ok((logits.to_kind(Kind::Float) / t).f_log_softmax(-1, Kind::Float)?) // [rows, V]
        })?;
        let logits = student.f_linear(self.student_head, none)?.to_kind(Kind::Float); // [rows, V]
        let tokens = self.tokens.narrow(0, start, count);
        let ce = logits.f_cross_entropy_loss(&tokens, none, tch::Reduction::Sum, -100, 0.0)?;
        let own = (logits / t).f_log_softmax(-1, Kind::Float)?;
        let kl = own.f_kl_div(&soft, tch::Reduction::Sum, true)?;
        Ok((ce, kl * (t * t)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ops::CHUNK_LOGITS;
    use ndarray::array;
    use tch::Device;

    #[test]
    fn parts_and_gradients_equal_the_plain_ones() {
        let options = (Kind::Float, Device::Cpu);
        // The second vocabulary makes every chunk two rows long; the teacher knows three tokens more.
        for v in [9, CHUNK_LOGITS / 2] {
            tch::manual_seed(5);
            let hidden = Tensor::randn([2, 4, 6], options).set_requires_grad(true);
            let head = Tensor::randn([v, 6], options).set_requires_grad(true);
            let (teacher_hidden, teacher_head) =
                (Tensor::randn([2, 4, 10], options), Tensor::randn([v + 3, 10], options));
            let targets = Targets::new(&array![[0, 3, -100, 4], [1, -100, v - 1, -100]], Device::Cpu);
            let config = DistillConfig { alpha: 0.3, temperature: 1.7 };
            let (student, teacher) = (
                Speaker { hidden: &hidden, lm_head: &head },
                Speaker { hidden: &teacher_hidden, lm_head: &teacher_head },
            );
            let (parts, surrogate) =
                mean_with_grad(student, teacher, &targets, config, 0.5).unwrap().unwrap();
            surrogate.backward();
            let plain = |kind: Kind| {
                let leaf = |x: &Tensor| x.detach().to_kind(kind).copy().set_requires_grad(true);
                let (hidden, head) = (leaf(&hidden), leaf(&head));
                let rows = |x: &Tensor| {
                    let d = x.size3().unwrap().2;
                    x.reshape([-1, d]).index_select(0, &targets.positions)
                };
                let none = None::<&Tensor>;
                let logits = rows(&hidden).linear(&head, none);
                let known = rows(&teacher_hidden.to_kind(kind)).linear(&teacher_head.to_kind(kind), none);
                let p = (known.narrow(1, 0, v) / 1.7).softmax(-1, kind);
                let q = (&logits / 1.7).log_softmax(-1, kind);
                let kl = (&p * (p.log() - q)).sum(kind) / targets.count as f64 * 1.7 * 1.7;
                let ce = logits.cross_entropy_loss(&targets.tokens, none, tch::Reduction::Mean, -100, 0.0);
                ((&ce * 0.3 + &kl * 0.7) * 0.5).backward();
                (ce, kl, hidden.grad(), head.grad())
            };
            // Sums over millions of logits round by processor: as near to the exact numbers as the plain way comes.
            let (plain, exact) = (plain(Kind::Float), plain(Kind::Double));
            let far = |a: &Tensor, b: &Tensor| (a - b).abs().max().double_value(&[]);
            let near = |got: &Tensor, plain: &Tensor, exact: &Tensor, least: f64| {
                let allowed = 4.0 * far(plain, exact) + least;
                assert!(far(got, exact) <= allowed, "{v}: {:e} > {allowed:e}", far(got, exact));
            };
            near(&parts.ce, &plain.0, &exact.0, 1e-4);
            near(&parts.distill, &plain.1, &exact.1, 1e-4);
            near(&hidden.grad(), &plain.2, &exact.2, 1e-5);
            near(&head.grad(), &plain.3, &exact.3, 1e-5);
            let without = mean(student, teacher, &targets, config).unwrap();
            assert!((without.total(config) - parts.total(config)).abs() < 1e-5);
        }
    }
}
