//! Captures forward, loss and backward of one batch shape as a CUDA graph: some hundred kernel launches become one per
//! replay. What changes from batch to batch is copied into tensors whose address stays (static inputs).
//!
//! B rows, T tokens, N = B * T.

use std::collections::HashMap;

use tch::{Kind, Tensor};

use crate::data::Batch;
use crate::engine::Compute;
use crate::error::Result;
use crate::loss::cross_entropy::shifted;
use crate::model::{CausalLm, Mask, Packing, ops};
use crate::native::{CudaGraph, empty_cuda_cache, to_device};

/// Most shapes that are captured: each graph keeps memory of its own.
const MAX_SHAPES: usize = 12;
/// Rows that are not packed are padded to a multiple of this, so that there are few shapes.
const WIDTH_MULTIPLE: usize = 64;

/// What two batches must have in common to use the same graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Shape {
    rows: usize,
    width: usize,
    /// Most packed documents of the batch; 0 where rows are not packed.
    documents: usize,
}

/// A batch at the addresses that a graph reads.
#[derive(Debug)]
struct StaticInputs {
    /// `[B, T]`.
    ids: Tensor,
    /// The label of each position, -100 for none, `[N]`.
    tokens: Tensor,
    /// What the summed loss is multiplied with, a scalar.
    scale: Tensor,
    /// Each token's place in its document `[N]`, and where documents end.
    packing: Option<Packing>,
}

#[derive(Debug)]
struct CapturedStep {
    graph: CudaGraph,
    inputs: StaticInputs,
    /// The loss summed over the labels, a scalar.
    loss: Tensor,
    /// The loss of each position, `[N]`.
    each: Tensor,
}

/// The captured steps of a stage, by shape.
#[derive(Debug, Default)]
pub(super) struct GraphRunner {
    shapes: HashMap<Shape, CapturedStep>,
    /// Whether a micro-step has run without a graph: gradients have their memory then, and libraries are set up.
    begun: bool,
    /// Whether capturing has failed: everything runs launch by launch then.
    off: bool,
}

impl GraphRunner {
    /// Adds the gradients of `scale` times a batch's mean loss; the mean loss comes back, a scalar on the device, and the loss
    /// of each position, `[B, T]`, which the next run overwrites. `None` where
    /// the batch has to run without a graph: the first of all, or one beyond [`MAX_SHAPES`].
    ///
    /// # Errors
    /// A device that fails.
    pub fn run(
        &mut self,
        model: &CausalLm,
        batch: &Batch,
        scale: f64,
        compute: Compute,
    ) -> Result<Option<(Tensor, Tensor)>> {
        if self.off || batch.loss_tokens == 0 || !can_capture(model, batch.documents.is_some(), compute) {
            return Ok(None);
        }
        let shape = shape(batch, model.config().max_position_embeddings as usize);
        let known = self.shapes.contains_key(&shape);
        if !known && (!std::mem::replace(&mut self.begun, true) || self.shapes.len() == MAX_SHAPES) {
            return Ok(None);
        }
        let fresh = StaticInputs::new(batch, shape, scale, model);
        if !known {
            let like = self.shapes.values().next().map(|captured| &captured.graph);
            let captured = compute.run(model.device(), || match ops::capture_dtype(model.lm_head()) {
                Some(kind) => capture(model, fresh.copy(), kind, like).map(Some),
                None => Ok(None),
            });
            match captured {
                Ok(Some(captured)) => {
                    self.shapes.insert(shape, captured);
                }
                Ok(None) => self.off = true,
                Err(fault) => {
                    tracing::warn!("micro-steps cannot be captured as CUDA graphs on this GPU: {fault}");
                    self.off = true;
                }
            }
        }
        let Some(captured) = self.shapes.get_mut(&shape) else { return Ok(None) };
        captured.inputs.copy_from(&fresh);
        captured.graph.replay()?;
        let each = captured.each.view([shape.rows as i64, shape.width as i64]);
        Ok(Some((&captured.loss / batch.loss_tokens as f64, each)))
    }
}

/// Whether this model's micro-steps can be captured: nothing in them waits for the host or draws random numbers. Packed
/// documents are told apart by the host where the kernel for them does not serve.
fn can_capture(model: &CausalLm, packed: bool, compute: Compute) -> bool {
    let config = model.config();
    let draws =
        config.dropout > 0.0 || model.params().adapter().is_some_and(|adapter| adapter.dropout() > 0.0);
    model.device().is_cuda()
        && config.moe.is_none()
        && !draws
        && (!packed || compute == Compute::Bf16 && model.params().adapter().is_none())
        && ops::can_capture(config, model.lm_head(), packed)
}

fn shape(batch: &Batch, positions: usize) -> Shape {
    let (rows, width) = batch.input_ids.dim();
    match &batch.documents {
        Some(documents) => {
            let documents = documents.iter().map(Vec::len).sum::<usize>().next_power_of_two();
            Shape { rows, width, documents }
        }
        None => {
            let wide = width.next_multiple_of(WIDTH_MULTIPLE).min(positions).max(width);
            Shape { rows, width: wide, documents: 0 }
        }
    }
}

impl StaticInputs {
    /// Copies a batch to the device. Padding stands behind every label, where no earlier token attends to it.
    fn new(batch: &Batch, shape: Shape, scale: f64, model: &CausalLm) -> Self {
        let device = model.device();
        let mut ids = vec![0i64; shape.rows * shape.width];
        let mut tokens = vec![-100i64; shape.rows * shape.width];
        for ((row, column), id) in batch.input_ids.indexed_iter() {
            ids[row * shape.width + column] = *id;
        }
        for (row, column, token) in shifted(&batch.labels) {
            tokens[row * shape.width + column] = token;
        }
        let packing = batch.documents.as_ref().map(|rows| Packing::padded(rows, shape.documents, device));
        let sent = |values: &[i64]| to_device(Tensor::from_slice(values), device);
        Self {
            ids: sent(&ids).view([shape.rows as i64, shape.width as i64]),
            tokens: sent(&tokens),
            scale: to_device(Tensor::from((scale / batch.loss_tokens as f64) as f32), device),
            packing,
        }
    }

    /// A deep copy.
    fn copy(&self) -> Self {
        Self {
            ids: self.ids.copy(),
            tokens: self.tokens.copy(),
            scale: self.scale.copy(),
            packing: self.packing.as_ref().map(Packing::copy),
        }
    }

    /// Overwrites these tensors with another batch.
    fn copy_from(&mut self, other: &Self) {
        tch::no_grad(|| {
            self.ids.copy_(&other.ids);
            self.tokens.copy_(&other.tokens);
            self.scale.copy_(&other.scale);
            if let (Some(own), Some(other)) = (&mut self.packing, &other.packing) {
                own.take(other);
            }
        });
    }
}

/// Captures a micro-step over these inputs, in the memory pool of `like` where there is one. Gradients must have their
/// memory already, from an earlier micro-step.
fn capture(
    model: &CausalLm,
    inputs: StaticInputs,
    kind: Kind,
    like: Option<&CudaGraph>,
) -> Result<CapturedStep> {
    // What other micro-steps and validation used is cached for later ones; the graph may need it.
    empty_cuda_cache(model.device())?;
    let (graph, (loss, each)) =
        CudaGraph::capture(model.device(), like, || micro_step(model, &inputs, kind))?;
    Ok(CapturedStep { graph, inputs, loss, each })
}

/// Forward, loss and backward; the summed loss, and that of each position.
fn micro_step(model: &CausalLm, inputs: &StaticInputs, kind: Kind) -> Result<(Tensor, Tensor)> {
    let mask = inputs.packing.as_ref().map_or(Mask::Causal, Mask::Documents);
    let (hidden, _) = model.hidden(&inputs.ids, mask, true);
    let (loss, scaled, each) =
        ops::captured_cross_entropy(&hidden, model.lm_head(), &inputs.tokens, &inputs.scale, kind)?;
    scaled.f_backward()?;
    Ok((loss, each))
}

#[cfg(test)]
mod tests {
    use ndarray::Array2;
    use tch::Device;

    use super::super::device_batch::upload_ids;
    use super::*;
    use crate::loss::cross_entropy::{Targets, mean_with_grad};
    use crate::model::tiny;
    use crate::native::cuda_ops;

    /// What a graph would do, on the CPU: a padded batch gives the loss and the gradients of the batch.
    #[test]
    fn a_padded_batch_gives_the_same_loss_and_gradients() {
        tch::manual_seed(9);
        let model = tiny("minimind3", 2, 60);
        model.params().set_requires_grad(true);
        let input_ids = Array2::from_shape_fn((3, 21), |(b, t)| ((b * 31 + t * t * 7) % 60) as i64);
        let labels = input_ids.mapv(|id| if id % 3 == 0 { -100 } else { id });
        let loss_tokens = labels.slice(ndarray::s![.., 1..]).iter().filter(|id| **id >= 0).count();
        let batch = Batch {
            input_ids,
            labels,
            documents: None,
            parts: None,
            real_tokens: 63,
            loss_tokens,
            loss_bytes: 0,
        };
        let grads = || -> Vec<Tensor> {
            let params = model.params().trained().1;
            let grads = params.iter().map(|p| p.grad().copy()).collect();
            params.iter().for_each(|p| {
                let _ = p.grad().zero_();
            });
            grads
        };
        let targets = Targets::new(&batch.labels, Device::Cpu);
        let (hidden, _) = model.hidden(&upload_ids(&batch.input_ids, Device::Cpu), Mask::Causal, true);
        let (want, surrogate) = mean_with_grad(&hidden, model.lm_head(), &targets, 0.5).unwrap().unwrap();
        surrogate.backward();
        let wanted = grads();
        let shape = shape(&batch, 40);
        assert_eq!((shape.width, shape.documents), (40, 0));
        let mut inputs = StaticInputs::new(&batch, shape, 0.5, &model).copy();
        inputs.copy_from(&StaticInputs::new(&batch, shape, 0.5, &model));
        let (sum, _) = cuda_ops::on_cpu(Kind::Float, || micro_step(&model, &inputs, Kind::Float)).unwrap();
        let got = sum / loss_tokens as f64;
        assert!((got - want).abs().double_value(&[]) < 1e-5);
        for (got, want) in grads().iter().zip(&wanted) {
            let apart = (got - want).norm() / want.norm().clamp_min(1e-3);
            assert!(apart.double_value(&[]) < 1e-5, "{apart}");
        }
        // Nothing is captured on a CPU.
        assert!(GraphRunner::default().run(&model, &batch, 0.5, Compute::Fp32).unwrap().is_none());
    }
}
