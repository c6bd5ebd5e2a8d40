//! Learns from the labels and from a teacher's distribution (upstream's `train_distillation.py`; `loss::distill` has
//! the formula).
//!
//! The teacher may be of another size, era or family; it shares the vocabulary, and rows it has beyond the student's
//! are cut off. The experts' balance loss counts with the cross-entropy, as upstream's does.

use std::path::Path;

use super::context::{StageResult, StageRun};
use super::device_batch::DeviceBatch;
use super::loading;
use super::session::{Extras, Session};
use super::train::backward;
use crate::data::{DataLoader, Tokenizer};
use crate::engine::{BackwardPass, Compute, Objective, Ranks, StepLoss};
use crate::error::{Error, Place, Result};
use crate::loss::distill::{self, DistillConfig, Speaker};
use crate::model::CausalLm;
use crate::plan::DistillStage;

struct Distill {
    train: DataLoader,
    validation: Option<DataLoader>,
    compute: Compute,
    teacher: CausalLm,
    config: DistillConfig,
}

impl Distill {
    /// The teacher's hidden states of a batch, `[B, T, D]`.
    fn teacher_hidden(&self, batch: &DeviceBatch) -> tch::Tensor {
        tch::no_grad(|| self.teacher.hidden(&batch.ids, batch.mask(), false).0)
    }
}

impl Objective for Distill {
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
        let batch = self.train.batch(epoch, index)?;
        let uploaded = DeviceBatch::new(&batch, model.device());
        self.compute.run(model.device(), || {
            let teacher_hidden = self.teacher_hidden(&uploaded);
            let (hidden, aux) = model.hidden(&uploaded.ids, uploaded.mask(), true);
            let aux_loss = aux.as_ref().map_or(0.0, |a| a.double_value(&[]));
            let student = Speaker { hidden: &hidden, lm_head: model.lm_head() };
            let teacher = Speaker { hidden: &teacher_hidden, lm_head: self.teacher.lm_head() };
            let parts =
                distill::mean_with_grad(student, teacher, &uploaded.targets, self.config, pass.scale)?;
            let (loss, ce, kl, surrogate) = match parts {
                Some((parts, surrogate)) => {
                    let (ce, kl) = (parts.ce.double_value(&[]), parts.distill.double_value(&[]));
                    (parts.total(self.config), ce, kl, Some(surrogate))
                }
                None => (0.0, 0.0, 0.0, None),
            };
            backward(surrogate, aux, pass.scale * self.config.alpha, pass)?;
            let extra = vec![("ce_loss", ce), ("distill_loss", kl)];
            Ok(StepLoss { loss, aux_loss, tokens: batch.real_tokens as u64, extra, ..StepLoss::default() })
        })
    }

    fn validate(&mut self, model: &CausalLm, ranks: &Ranks) -> Result<Vec<(&'static str, f64)>> {
        let Some(loader) = &self.validation else { return Ok(Vec::new()) };
        let mut sums = [0.0; 3];
        for index in ranks.own_indices(loader.steps_per_epoch()) {
            let batch = DeviceBatch::new(&loader.batch(0, index)?, model.device());
            let parts = tch::no_grad(|| {
                self.compute.run(model.device(), || {
                    let (teacher_hidden, (hidden, _)) =
                        (self.teacher_hidden(&batch), model.hidden(&batch.ids, batch.mask(), false));
                    let student = Speaker { hidden: &hidden, lm_head: model.lm_head() };
                    let teacher = Speaker { hidden: &teacher_hidden, lm_head: self.teacher.lm_head() };
                    distill::mean(student, teacher, &batch.targets, self.config)
                })
            })?;
            let count = batch.targets.count as f64;
            for (sum, value) in
                sums.iter_mut().zip([parts.ce.double_value(&[]), parts.distill.double_value(&[]), 1.0])
            {
                *sum += value * count;
            }
        }
        ranks.all_reduce(&mut sums)?;
        let [ce, kl, tokens] = sums;
        if tokens == 0.0 {
            return Ok(Vec::new());
        }
        let (ce, kl) = (ce / tokens, kl / tokens);
        let total = self.config.alpha * ce + (1.0 - self.config.alpha) * kl;
        Ok(vec![("val_loss", total), ("val_ce_loss", ce), ("val_distill_loss", kl)])
    }
}

/// Trains and writes weights, metrics and samples.
///
/// # Errors
/// Weights or data that cannot be read or do not fit each other; those of [`Session::train`].
pub fn run(stage: StageRun<'_>, config: &DistillStage) -> Result<StageResult> {
    let context = stage.context;
    let session = Session::open(stage, &config.train)?;
    let batches = session.row_batches()?;
    // The teacher first: loading the student then sets the random state that training goes on from.
    let path = loading::start_weights(context, &config.teacher)?
        .ok_or_else(|| Error::input("the teacher needs trained weights").hint("name a stage or a file"))?;
    let teacher = loading::load(&path, config.teacher_model.as_ref(), context.device)?;
    let model = session.model(config.train.dropout)?;
    same_vocabulary(&path, &teacher, &model, session.tokenizer())?;
    let mut objective = Distill {
        train: batches.train,
        validation: batches.validation,
        compute: context.compute,
        teacher,
        config: config.loss,
    };
    session.train(&model, &mut objective, &batches.prepared, Extras { chat: true, ..Extras::default() })
}

/// Checks that the teacher has every token of the student, with the same ids where it has a tokenizer of its own.
fn same_vocabulary(
    path: &Path,
    teacher: &CausalLm,
    student: &CausalLm,
    tokenizer: Option<&Tokenizer>,
) -> Result<()> {
    let fault = |what: String| {
        Err(Error::input(what)
            .at(Place::file(path))
            .hint("a teacher and its student share a vocabulary: take a teacher trained with this tokenizer"))
    };
    let (have, want) = (teacher.config().vocab_size, student.config().vocab_size);
    if have < want {
        return fault(format!("the teacher has {have} tokens, the student {want}"));
    }
    let folder = if path.is_dir() { path } else { path.parent().unwrap_or(Path::new(".")) };
    let Some(own) = tokenizer.filter(|_| crate::data::tokenizer::load::file(folder).is_some()) else {
        return Ok(());
    };
    if own.same_vocabulary(&Tokenizer::load(folder)?) {
        return Ok(());
    }
    fault("the tokenizer beside the teacher has another vocabulary than this stage's".to_owned())
}
