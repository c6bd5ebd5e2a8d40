//! Trains a reward model: a linear head on the trunk's last normed state, read at the conversation's last token.
//!
//! Bradley-Terry on preference pairs (`loss::reward`). The file is a plain dict with the trunk's names and
//! `score.weight`, `[1, D]`, as sequence classifiers of Hugging Face have it; there is no output layer.
//!
//! P pairs, T tokens, D hidden.

use serde_json::json;
use tch::{Device, Kind, Tensor};

use super::context::{StageResult, StageRun};
use super::preference_pairs::{DevicePairs, PairStats, validate_pairs};
use super::session::{Extras, Session};
use crate::data::DataLoader;
use crate::engine::{BackwardPass, Compute, Objective, Ranks, StepLoss};
use crate::error::Result;
use crate::loss::reward::bradley_terry;
use crate::model::{CausalLm, Mask};
use crate::plan::RewardConfig;

/// Standard deviation of a fresh head, Hugging Face's `initializer_range`.
const HEAD_STD: f64 = 0.02;

struct Reward {
    train: DataLoader,
    validation: Option<DataLoader>,
    compute: Compute,
    /// Weight of the term that keeps scores around zero.
    center: f64,
}

/// Scores of the chosen and of the rejected rows, `[P]` each, and the experts' balance loss, a scalar.
fn scores(model: &CausalLm, pairs: &DevicePairs, train: bool) -> ([Tensor; 2], Option<Tensor>) {
    let (hidden, aux) = model.hidden(&pairs.ids, Mask::Causal, train); // [2 P, T, D]
    let (_, _, d) = hidden.size3().expect("hidden states are [2 P, T, D]");
    let last = hidden.reshape([-1, d]).index_select(0, &pairs.last); // [2 P, D]
    let head = model.score().expect("a reward model has a head");
    let scores = last.linear(&head, None::<&Tensor>).to_kind(Kind::Float).squeeze_dim(1); // [2 P]
    (pairs.split(&scores), aux)
}

impl Objective for Reward {
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
        let pairs = DevicePairs::read(&self.train, epoch, index, model.device())?;
        self.compute.run(model.device(), || {
            let ([chosen, rejected], aux) = scores(model, &pairs, true);
            let loss = bradley_terry(&chosen, &rejected, self.center);
            let aux_loss = aux.as_ref().map_or(0.0, |a| a.double_value(&[]));
            super::train::backward(Some(&loss * pass.scale), aux, pass.scale, pass)?;
            let apart = PairStats::new(&chosen.detach(), &rejected.detach());
            let extra = vec![
                ("chosen_score", apart.chosen),
                ("rejected_score", apart.rejected),
                ("preference_margin", apart.margin()),
                ("preference_accuracy", apart.accuracy),
            ];
            Ok(StepLoss {
                loss: loss.double_value(&[]),
                aux_loss,
                tokens: pairs.tokens,
                extra,
                ..StepLoss::default()
            })
        })
    }

    fn validate(&mut self, model: &CausalLm, ranks: &Ranks) -> Result<Vec<(&'static str, f64)>> {
        let Some(loader) = &self.validation else { return Ok(Vec::new()) };
        let _no_grad = tch::no_grad_guard();
        validate_pairs(loader, model.device(), ranks, |pairs| {
            self.compute.run(model.device(), || {
                let ([chosen, rejected], _) = scores(model, pairs, false);
                let loss = bradley_terry(&chosen, &rejected, self.center).double_value(&[]);
                Ok((loss, PairStats::new(&chosen, &rejected)))
            })
        })
    }
}

/// Trains and writes weights, metrics and samples.
///
/// # Errors
/// Weights or data that cannot be read or do not fit each other; those of [`Session::train`].
pub fn run(stage: StageRun<'_>, config: &RewardConfig) -> Result<StageResult> {
    let context = stage.context;
    let session = Session::open(stage, &config.train)?;
    let batches = session.pair_batches()?;
    let model = session.model(config.train.dropout)?;
    let mut head = Tensor::f_zeros([1, model.config().hidden_size], (Kind::Float, Device::Cpu))?;
    let _ = head.f_normal_(0.0, HEAD_STD)?;
    let model = model.with_score(head.f_to_device(context.device)?);
    let mut extras = Extras::default();
    extras.metadata.insert("head".to_owned(), json!("score"));
    let mut objective = Reward {
        train: batches.train,
        validation: batches.validation,
        compute: context.compute,
        center: config.center_rewards_coefficient,
    };
    session.train(&model, &mut objective, &batches.prepared, extras)
}
