//! Pretraining and supervised fine-tuning: next-token cross-entropy over batches.
//!
//! One file for both: they differ in how rows become ids and labels, which is `data`'s job, and in how samples are
//! prompted. Loss = CE + the experts' balance loss (upstream's `train_pretrain.py`,
//! `train_full_sft.py`). The objective serves `lora` and `reason` too.

use tch::{Kind, Tensor};

use super::context::{StageResult, StageRun};
use super::cuda_graph::GraphRunner;
use super::device_batch::DeviceBatch;
use super::eval::loss::measure_loss;
use super::session::{Extras, Session};
use crate::data::{Batch, DataLoader};
use crate::engine::{BackwardPass, Compute, Objective, PartLoss, Ranks, StepLoss};
use crate::error::Result;
use crate::loss::cross_entropy;
use crate::model::CausalLm;
use crate::plan::TrainConfig;

/// Next-token cross-entropy with the experts' balance loss.
pub(super) struct LanguageModelling {
    pub(super) train: DataLoader,
    pub(super) validation: Option<DataLoader>,
    pub(super) compute: Compute,
    /// Ids of tokens with a higher weight, and the weight.
    pub(super) markers: Option<(Tensor, f64)>,
    /// Micro-steps captured as CUDA graphs.
    graphs: GraphRunner,
    /// The prefetched next batch: epoch, index, batch.
    prefetched: Option<(u64, u64, Batch)>,
}

impl LanguageModelling {
    /// Cross-entropy over these batches.
    pub(super) fn new(train: DataLoader, validation: Option<DataLoader>, compute: Compute) -> Self {
        Self { train, validation, compute, markers: None, graphs: GraphRunner::default(), prefetched: None }
    }

    fn batch(&mut self, epoch: u64, index: u64) -> Result<Batch> {
        match self.prefetched.take() {
            Some((of, at, batch)) if (of, at) == (epoch, index) => Ok(batch),
            _ => self.train.batch(epoch, index),
        }
    }

    /// A batch's numbers by part of the mixture, from the summed loss of each row; nothing without a mixture.
    fn parts_of(&self, batch: &Batch, row_losses: Option<Vec<f64>>) -> Vec<PartLoss> {
        let mut parts = vec![PartLoss::default(); self.train.part_names().len()];
        let losses = row_losses.unwrap_or_default();
        for (row, part, tokens) in batch.rows_by_part() {
            let labels = batch.row_labels(row);
            let loss = losses.get(row).copied().unwrap_or(0.0);
            parts[part].add(&PartLoss { loss, labels, tokens });
        }
        parts
    }

    /// Prepares the next batch while a GPU computes; nothing on the CPU, or with several ranks. A fault of that batch
    /// shows when it is needed.
    fn prefetch(&mut self, model: &CausalLm, alone: bool, epoch: u64, index: u64) {
        if alone && model.device().is_cuda() && index < self.train.steps_per_epoch() {
            self.prefetched = self.train.batch(epoch, index).ok().map(|batch| (epoch, index, batch));
        }
    }
}

impl Objective for LanguageModelling {
    fn steps_per_epoch(&self) -> u64 {
        self.train.steps_per_epoch()
    }

    fn backward(
        &mut self,
        model: &CausalLm,
        epoch: u64,
        index: u64,
        pass: &mut BackwardPass<'_>,
    ) -> Result<StepLoss> {
        let batch = self.batch(epoch, index)?;
        let tokens = batch.real_tokens as u64;
        if pass.single_process()
            && self.markers.is_none()
            && let Some((loss, each)) = self.graphs.run(model, &batch, pass.scale, self.compute)?
        {
            self.prefetch(model, true, epoch, index + 1);
            let sums = || each.sum_dim_intlist(1, false, Kind::Double);
            let rows = batch.parts.is_some().then(|| Vec::<f64>::try_from(&sums())).transpose()?;
            let parts = self.parts_of(&batch, rows);
            return Ok(StepLoss { loss: loss.double_value(&[]), tokens, parts, ..StepLoss::default() });
        }
        let mut uploaded = DeviceBatch::new(&batch, model.device());
        if let Some((tokens, weight)) = &self.markers {
            uploaded.targets = uploaded.targets.weighted(tokens, *weight);
        }
        uploaded.targets.each = batch.parts.is_some();
        let (loss, each, balance) = self.compute.run(model.device(), || {
            let (hidden, aux) = model.hidden(&uploaded.ids, uploaded.mask(), true);
            let targets = &uploaded.targets;
            let ce = cross_entropy::entropy_with_grad(&hidden, model.lm_head(), targets, pass.scale)?;
            let (loss, surrogate, each) = match ce {
                Some(ce) => (Some(ce.sum / targets.count as f64), Some(ce.surrogate), ce.each),
                None => (None, None, None),
            };
            let balance = aux.as_ref().map(Tensor::detach);
            backward(surrogate, aux, pass.scale, pass)?;
            Ok((loss, each, balance))
        })?;
        self.prefetch(model, pass.single_process(), epoch, index + 1);
        // Read after backward: all work is queued on a GPU before the host waits for a number.
        let number = |scalar: Option<Tensor>| scalar.map_or(0.0, |scalar| scalar.double_value(&[]));
        let (loss, aux_loss) = (number(loss), number(balance));
        let extra = self.markers.iter().map(|_| ("logits_loss", loss)).collect();
        let sums = |each: &Tensor| cross_entropy::row_sums(each, &uploaded.targets, batch.input_ids.dim());
        let parts = self.parts_of(&batch, each.as_ref().map(sums).transpose()?);
        Ok(StepLoss { loss, aux_loss, tokens, extra, parts })
    }

    fn parts(&self) -> Vec<String> {
        self.train.part_names()
    }

    fn validate(&mut self, model: &CausalLm, ranks: &Ranks) -> Result<Vec<(&'static str, f64)>> {
        match &self.validation {
            Some(loader) => measure_loss(model, loader, self.compute, ranks),
            None => Ok(Vec::new()),
        }
    }
}

/// Adds the gradients of a surrogate, which is scaled already, and of the balance loss, which is not: the last
/// backward of a micro-batch.
pub(super) fn backward(
    surrogate: Option<Tensor>,
    aux: Option<Tensor>,
    scale: f64,
    pass: &mut BackwardPass<'_>,
) -> Result<()> {
    let total = match (surrogate, aux) {
        (Some(surrogate), Some(aux)) => Some(surrogate + aux * scale),
        (surrogate, aux) => surrogate.or_else(|| aux.map(|aux| aux * scale)),
    };
    // Nothing of it may depend on what is trained: an adapter behind the last expert, a row without labels.
    if let Some(total) = total.filter(Tensor::requires_grad) {
        pass.last_backward()?;
        total.f_backward()?;
    }
    Ok(())
}

/// Trains and writes weights, metrics and samples.
///
/// # Errors
/// Weights or data that cannot be read or do not fit each other; those of [`Session::train`].
pub fn run(stage: StageRun<'_>, config: &TrainConfig, chat: bool) -> Result<StageResult> {
    let context = stage.context;
    let session = Session::open(stage, config)?;
    let batches = session.row_batches()?;
    let model = session.model(config.dropout)?;
    let mut objective = LanguageModelling::new(batches.train, batches.validation, context.compute);
    session.train(&model, &mut objective, &batches.prepared, Extras { chat, ..Extras::default() })
}
