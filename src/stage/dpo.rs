//! Direct preference optimisation (upstream's `train_dpo.py`; `loss::dpo` has the formulas).
//!
//! For each batch of pairs: one forward pass over chosen and rejected rows together, which the experts' balance sees
//! too; the answers' log-probabilities; the same from the frozen reference; the loss; back through the
//! log-probabilities to the weights, without ever holding all logits.

use tch::Tensor;

use super::context::{Context, StageResult, StageRun};
use super::loading;
use super::preference_pairs::{DevicePairs, PairStats, validate_pairs};
use super::session::{Extras, Session};
use super::train::backward;
use crate::data::DataLoader;
use crate::engine::{BackwardPass, Compute, Objective, Ranks, StepLoss};
use crate::error::{Error, Result};
use crate::loss::dpo::{self, DpoConfig, Pair, Preferences};
use crate::loss::logprob::{surrogate, token_logprobs};
use crate::model::{CausalLm, Mask, ModelConfig};
use crate::plan::{DpoStage, Init, Reference};

struct Dpo {
    train: DataLoader,
    validation: Option<DataLoader>,
    compute: Compute,
    reference: Option<CausalLm>,
    config: DpoConfig,
    reduction: dpo::Reduction,
}

impl Dpo {
    /// The log-probabilities of chosen and rejected answers, `[P]` each, from those of their tokens, `[2 P, T - 1]`.
    fn sequence_logprobs(&self, pairs: &DevicePairs, logprobs: &Tensor, mask: &Tensor) -> Pair {
        let [chosen, rejected] = pairs.split(&dpo::reduce(logprobs, mask, self.reduction));
        Pair { chosen, rejected }
    }

    /// [`Self::sequence_logprobs`] under a model, without autograd.
    fn logprobs_under(&self, model: &CausalLm, pairs: &DevicePairs) -> Pair {
        let _no_grad = tch::no_grad_guard();
        let [inputs, targets, mask] = pairs.shifted();
        let (hidden, _) = model.hidden(&inputs, Mask::Causal, false);
        self.sequence_logprobs(pairs, &token_logprobs(&hidden, model.lm_head(), &targets), &mask)
    }

    fn loss(&self, policy: &Pair, pairs: &DevicePairs) -> Preferences {
        let reference = self.reference.as_ref().map(|model| self.logprobs_under(model, pairs));
        dpo::dpo(policy, reference.as_ref(), self.config)
    }
}

impl Objective for Dpo {
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
            let [inputs, targets, mask] = pairs.shifted();
            let (hidden, aux) = model.hidden(&inputs, Mask::Causal, true); // [2 P, T - 1, D]
            let aux_loss = aux.as_ref().map_or(0.0, |a| a.double_value(&[]));
            let logprobs = token_logprobs(&hidden, model.lm_head(), &targets).set_requires_grad(true);
            let out = self.loss(&self.sequence_logprobs(&pairs, &logprobs, &mask), &pairs);
            (&out.loss * pass.scale).f_backward()?;
            let learned = surrogate(&hidden, model.lm_head(), &targets, &logprobs.grad());
            backward(Some(learned), aux, pass.scale, pass)?;
            let loss = out.loss.double_value(&[]);
            let apart = PairStats::new(&out.chosen_reward, &out.rejected_reward);
            let extra = vec![
                ("dpo_loss", loss),
                ("chosen_reward", apart.chosen),
                ("rejected_reward", apart.rejected),
                ("preference_margin", apart.margin()),
                ("preference_accuracy", apart.accuracy),
            ];
            Ok(StepLoss { loss, aux_loss, tokens: pairs.tokens, extra, ..StepLoss::default() })
        })
    }

    fn validate(&mut self, model: &CausalLm, ranks: &Ranks) -> Result<Vec<(&'static str, f64)>> {
        let Some(loader) = &self.validation else { return Ok(Vec::new()) };
        validate_pairs(loader, model.device(), ranks, |pairs| {
            self.compute.run(model.device(), || {
                let out = self.loss(&self.logprobs_under(model, pairs), pairs);
                Ok((out.loss.double_value(&[]), PairStats::new(&out.chosen_reward, &out.rejected_reward)))
            })
        })
    }
}

/// Trains and writes weights, metrics and samples.
///
/// # Errors
/// Weights or data that cannot be read or do not fit each other; those of [`Session::train`].
pub fn run(stage: StageRun<'_>, config: &DpoStage) -> Result<StageResult> {
    let context = stage.context;
    let session = Session::open(stage, &config.train)?;
    let batches = session.pair_batches()?;
    // The reference first: loading the policy then sets the random state that training goes on from.
    let reference = match &config.reference {
        Reference::Free => None,
        Reference::Start => Some(session.model(0.0)?),
        Reference::Weights(init) => Some(load_reference(context, config, init)?),
    };
    let model = session.model(config.train.dropout)?;
    if let Some(reference) = &reference {
        same_architecture(reference.config(), model.config())?;
    }
    let mut objective = Dpo {
        train: batches.train,
        validation: batches.validation,
        compute: context.compute,
        reference,
        config: config.loss,
        reduction: config.logprob_reduction,
    };
    session.train(&model, &mut objective, &batches.prepared, Extras { chat: true, ..Extras::default() })
}

fn load_reference(context: &Context<'_>, config: &DpoStage, init: &Init) -> Result<CausalLm> {
    let path = loading::start_weights(context, init)?
        .ok_or_else(|| Error::input("the reference needs trained weights").hint("name a stage or a file"))?;
    loading::load(&path, config.train.model.as_ref(), context.device)
}

/// Checks that the reference has the policy's architecture.
fn same_architecture(reference: &ModelConfig, policy: &ModelConfig) -> Result<()> {
    if reference.same_architecture(policy) {
        return Ok(());
    }
    let shape = |c: &ModelConfig| {
        format!(
            "{}, hidden {}, {} layers, {} tokens{}",
            c.era.name(),
            c.hidden_size,
            c.num_hidden_layers,
            c.vocab_size,
            if c.moe.is_some() { ", experts" } else { "" }
        )
    };
    Err(Error::input("the reference has another architecture than the policy")
        .because(format!("reference: {}; policy: {}", shape(reference), shape(policy)))
        .hint("name weights of the same model, or leave `reference` out for the start weights"))
}
