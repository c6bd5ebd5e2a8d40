//! What ppo, grpo, spo and agent share: a policy and its reference, learning from rollouts, held-out rewards.
//!
//! A step: `source` makes a rollout, `experience` the tensors and reference log-probabilities of it, a [`Learner`]
//! (`grpo`, `ppo`, `spo`) turns rewards into a loss, and `engine::train` into updates. [`run`] builds these
//! (`build`) and trains over the same [`Session`] as every other stage.

pub mod answer;
pub mod batch;
pub mod build;
pub mod completions_log;
pub mod experience;
pub mod generated;
pub mod generator;
pub mod grpo;
pub mod guards;
mod heldout;
pub mod learner;
pub mod multi_turn;
pub mod ppo;
pub mod source;
pub mod spo;

use serde_json::json;

use self::experience::ExperienceMaker;
use self::learner::Learner;
use self::source::StepIndex;
use super::context::{StageResult, StageRun};
use super::session::Session;
use crate::engine::{AuxModel, BackwardPass, Objective, Ranks, StepLoss};
use crate::error::{Error, Result};
use crate::model::CausalLm;
use crate::plan::{Method, PolicyConfig};

/// Trains a policy, writes weights and metrics; the result has its rewards on held-out prompts before and after.
///
/// # Errors
/// Weights, prompts or rollouts that cannot be read or do not fit the policy; those of [`crate::engine::train`].
pub fn run(stage: StageRun<'_>, config: &PolicyConfig) -> Result<StageResult> {
    let session = Session::open(stage, &config.train)?;
    let policy = session.model(config.train.dropout)?;
    let maker = build::experience_maker(&session, config, &policy)?;
    let learner = learner(&session, config, &maker, &policy)?;
    let mut objective = PolicyObjective { maker, learner };
    let run = session.prepare(&policy, &objective, serde_json::Map::new())?;
    let mut metrics = run.open_metrics()?;
    let before = match run.checkpoint {
        Some(_) => heldout::kept(stage),
        None => heldout::measure(stage, &mut objective, &policy, &mut metrics)?,
    };
    let trained = run.train(&policy, &mut objective, metrics)?;
    let mut summary = trained.summary(&policy);
    summary["notes"] = json!(trained.notes);
    summary["method"] = objective.learner.state();
    if before.as_object().is_some_and(|numbers| !numbers.is_empty()) {
        summary["heldout"] = json!({"before": before, "after": summary["metrics"]});
    }
    summary["completions"] = json!(objective.maker.source.completions()?);
    Ok(run.result(&trained, summary))
}

fn learner(
    session: &Session<'_>,
    config: &PolicyConfig,
    maker: &ExperienceMaker,
    policy: &CausalLm,
) -> Result<Box<dyn Learner>> {
    Ok(match &config.method {
        Method::Grpo(plan) => Box::new(grpo::Grpo::new(plan, config)?),
        Method::Spo(plan) => Box::new(spo::Spo::new(plan)),
        Method::Ppo(plan) => Box::new(ppo::Ppo::new(session, plan, maker.source.rows_per_step(), policy)?),
    })
}

/// A method over what all methods share.
struct PolicyObjective {
    maker: ExperienceMaker,
    learner: Box<dyn Learner>,
}

impl Objective for PolicyObjective {
    fn steps_per_epoch(&self) -> u64 {
        self.maker.source.steps_per_epoch()
    }

    fn backward(
        &mut self,
        model: &CausalLm,
        epoch: u64,
        index: u64,
        pass: &mut BackwardPass<'_>,
    ) -> Result<StepLoss> {
        self.learner.backward(&mut self.maker, model, StepIndex { epoch, index }, pass.scale)
    }

    fn validate(&mut self, model: &CausalLm, _ranks: &Ranks) -> Result<Vec<(&'static str, f64)>> {
        self.maker.source.measure_heldout(model)
    }

    fn lower_is_better(&self) -> bool {
        false
    }

    fn has_more_passes(&self) -> bool {
        self.learner.has_more_passes()
    }

    fn passes_per_step(&self) -> u64 {
        self.learner.passes_per_step()
    }

    fn schedules_by_updates(&self) -> bool {
        true
    }

    fn aux_model(&self) -> Option<AuxModel> {
        self.learner.aux_model()
    }

    fn lr_factor(&self) -> f64 {
        self.maker.guards.lr_factor()
    }

    fn notes(&mut self) -> Vec<String> {
        self.maker.take_notes()
    }

    fn state(&self) -> serde_json::Value {
        json!({
            "guards": self.maker.guards,
            "method": self.learner.state(),
            "source": self.maker.source.state(),
        })
    }

    fn restore(&mut self, state: &serde_json::Value) -> Result<()> {
        if let Some(guards) = state.get("guards") {
            self.maker.guards = serde_json::from_value(guards.clone())
                .map_err(|e| Error::failed("cannot read the guards' state in the resume file").because(e))?;
        }
        if let Some(source) = state.get("source") {
            self.maker.source.restore(source)?;
        }
        self.learner.restore(state.get("method").cloned().unwrap_or_default())
    }
}
