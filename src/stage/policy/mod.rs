//! What ppo, grpo and spo share: build the policy and its reference, learn from rollouts, say what came of it.
//!
//! A step is one rollout: `source` makes its rows, `batch` turns them into tensors, the method's own file
//! (`stage::grpo`, `ppo`, `spo`) turns rewards into a loss, and `engine::train` into updates.

pub mod batch;
pub mod build;
pub mod generator;
pub mod guards;
pub mod native;
pub mod source;
pub mod table;
pub mod turns;

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use serde_json::{Value, json};

use self::batch::Batch;
use self::guards::{Memory, Seen};
use self::source::{Fact, Rollout, Source};
use super::context::StartFrom;
use super::context::{Context, StageResult};
use super::inputs;
use super::record::{Inputs, write_json};
use super::session as common;
use super::watch::Watch;
use super::{grpo, ppo, spo};
use crate::checkpoint::ends;
use crate::data::Tokenizer;
use crate::engine::memory::measure_peak;
use crate::engine::{
    AuxModel, BackwardPass, CheckpointPaths, Compute, LoopConfig, MetricsRow, Objective, Observer, Ranks,
    StepLoss, TrainSetup, train,
};
use crate::error::{Error, Result};
use crate::loss::policy::spread;
use crate::model::{CausalLm, params};
use crate::plan::{GuardPlan, Method, PolicyConfig};

/// Where a stage's folder keeps what was measured before it began.
const HELDOUT: &str = "heldout.json";

/// What every method needs beside its own settings.
pub struct Shared {
    /// Where rollouts come from.
    pub source: Box<dyn Source>,
    /// What the KL holds on to.
    pub reference: Option<CausalLm>,
    /// Arithmetic.
    pub compute: Compute,
    /// Fills short rows.
    pub pad: i64,
    guards: GuardPlan,
    memory: Memory,
    notes: Vec<String>,
}

/// A step's rows, ready to learn from.
pub struct Step {
    /// On the device.
    pub batch: Batch,
    /// The reference's log-probabilities, `[R, T]`.
    pub reference: Option<tch::Tensor>,
    /// A number a row.
    pub rewards: Vec<f64>,
    /// Whether the rows were drawn from the policy as it stands.
    pub fresh: bool,
    /// Tokens of all rows, padding aside.
    pub tokens: u64,
    /// Columns that do not depend on the loss.
    pub facts: Vec<Fact>,
    repetition: Option<f64>,
    started: Instant,
    rolled_s: f64,
}

impl Step {
    /// The columns, with the share of the step so far that the rollout took; call it when all is done.
    pub fn close(mut self) -> Vec<Fact> {
        if self.fresh {
            let all = self.started.elapsed().as_secs_f64();
            self.facts.push(("rollout_share", self.rolled_s / all.max(1e-9)));
        }
        self.facts
    }
}

impl Shared {
    /// Rolls out, reads the reference.
    pub fn step(&mut self, policy: &CausalLm, at: At) -> Result<Step> {
        let started = Instant::now();
        let device = policy.device();
        let (rollout, peak) = measure_peak(device, || self.source.roll(policy, at.epoch, at.index));
        let Rollout { episodes, attend, fresh, mut facts, repetition } = rollout?;
        let rolled_s = started.elapsed().as_secs_f64();
        facts.extend(peak.map(|peak| ("rollout_peak_mb", peak)));
        let vocab = policy.config().vocab_size;
        if let Some(id) = episodes.iter().flat_map(|e| &e.ids).find(|id| !(0..vocab).contains(*id)) {
            return Err(Error::input(format!(
                "step {} holds token {id}; the policy's vocabulary has {vocab}",
                self.number(at)
            ))
            .hint("whoever wrote the rollouts must speak the policy's tokenizer"));
        }
        let batch = Batch::new(&episodes, self.pad, attend, device);
        let mut reference = None;
        if let Some(model) = &self.reference {
            let (logprobs, peak) = measure_peak(device, || batch.logprobs(model, self.compute));
            reference = Some(logprobs?);
            facts.extend(peak.map(|peak| ("reference_peak_mb", peak)));
        }
        let rewards: Vec<f64> = episodes.iter().map(|e| e.reward).collect();
        let (reward, reward_std) = spread(&rewards);
        let rows = episodes.len().max(1) as f64;
        let length = episodes.iter().map(|e| e.length() as f64).sum::<f64>() / rows;
        facts.splice(0..0, [("reward", reward), ("reward_std", reward_std), ("avg_response_len", length)]);
        let tokens = episodes.iter().flat_map(|e| &e.ids).filter(|&&id| id != self.pad).count() as u64;
        Ok(Step { batch, reference, rewards, fresh, tokens, facts, repetition, started, rolled_s })
    }

    /// Of the steps of the run, from 1.
    fn number(&self, at: At) -> u64 {
        at.epoch * self.source.steps_per_epoch() + at.index + 1
    }

    /// Lets the guards look at a step.
    pub fn judge(&mut self, at: At, step: &Step, kl: Option<f64>) -> Result<()> {
        let number = self.number(at);
        let (reward, _) = spread(&step.rewards);
        let seen = Seen { kl, reward, repetition: step.repetition };
        self.notes.extend(self.memory.judge(&self.guards, number, seen)?);
        Ok(())
    }
}

/// Largest difference between the log-probabilities that rows were drawn with and those the trainer finds.
pub fn largest_gap(logprobs: &tch::Tensor, old: &tch::Tensor, mask: &tch::Tensor) -> f64 {
    tch::no_grad(|| ((logprobs - old) * mask).abs().max().double_value(&[]))
}

/// Trains a policy, writes weights and metrics, says what came of it.
pub fn run(
    context: &Context<'_>,
    name: &str,
    config: &PolicyConfig,
    folder: &Path,
    inputs: &Inputs,
) -> Result<StageResult> {
    let t = &config.train;
    let shared_tokenizer = inputs::tokenizer(context, t.tokenizer.as_ref())?.map(Arc::new);
    let tokenizer = shared_tokenizer.as_deref();
    let policy = inputs::model(context, &t.init, t.model.as_ref(), tokenizer, t.dropout)?;
    inputs::check_vocabulary(&policy, tokenizer)?;
    let source = build::source(context, config, shared_tokenizer.as_ref(), &policy, folder)?;
    let per_epoch = source.steps_per_epoch();
    let shared = Shared {
        source,
        reference: build::reference(context, config, tokenizer, &policy)?,
        compute: context.compute,
        pad: build::pad_id(config, tokenizer),
        guards: config.guards,
        memory: Memory::default(),
        notes: Vec::new(),
    };
    let stem = format!("{name}_{}{}", policy.config().hidden_size, policy.config().suffix());
    let files = CheckpointPaths {
        weights: context.plan.output.join(format!("{stem}.pth")),
        resume: context.plan.output.join(format!("{stem}_resume.pth")),
        folder: folder.to_owned(),
    };
    let mut said = common::describe(context, name, t.tokenizer.as_ref(), &policy);
    said.insert(ends::KEY.to_owned(), ends::as_json(&build::ends(context, config, tokenizer)?));
    said.extend(common::provenance(inputs));
    let metadata = Value::Object(said).to_string();
    let learner = learner(context, config, &shared, &policy, tokenizer)?;
    let mut objective = Policy { shared, learner };
    let loop_config = loop_config(context, config, per_epoch, objective.learner.passes(), metadata, inputs)?;
    let loaded = common::find_resume(context, name, &files, &loop_config)?;
    let total = loop_config.schedule.total_steps;
    let position = loaded.as_ref().and_then(|l| l.state.as_ref()).map(|s| s.metrics.clone());
    let mut watch = Watch::new(folder, name, total, context, position.as_ref())?;
    let before = match &loaded {
        // Of other prompts than those that are held out now, it tells nothing.
        Some(_) if other_heldout(context) => Value::Null,
        Some(_) => kept(folder),
        None => before(context, &mut objective, &policy, &mut watch, folder)?,
    };
    let setup = TrainSetup {
        model: &policy,
        config: &loop_config,
        paths: &files,
        resume: loaded.as_ref(),
        control: context.run_control(),
    };
    let result = train(setup, &mut objective, &mut watch);
    let mut notes = watch.finish();
    notes.extend(common::passed_over(context));
    let outcome = result?;
    let (parameters, active) = params::count(policy.config());
    let mut metrics = serde_json::Map::new();
    metrics.extend(outcome.loss.map(|loss| ("loss".to_owned(), json!(loss))));
    metrics.extend(outcome.validation.iter().map(|(key, value)| (key.clone(), json!(value))));
    let mut summary = json!({
        "parameters": {"total": parameters, "active": active},
        "tokens": outcome.tokens,
        "steps": outcome.steps,
        "updates": outcome.updates,
        "train_seconds": outcome.elapsed_s,
        "metrics": metrics,
        "notes": notes,
    });
    summary["method"] = objective.learner.state();
    if before.as_object().is_some_and(|numbers| !numbers.is_empty()) {
        summary["heldout"] = json!({"before": before, "after": summary["metrics"]});
    }
    summary["completions"] = json!(objective.shared.source.completions()?);
    Ok(StageResult {
        outputs: vec![format!("{stem}.pth")],
        summary,
        steps: Some((outcome.steps, per_epoch)),
        earlier_seconds: common::earlier_seconds(loaded.as_ref()),
    })
}

/// Whether a stage that goes on is measured otherwise than when it began.
fn other_heldout(context: &Context<'_>) -> bool {
    let StartFrom::Checkpoint(point) = &context.start else { return false };
    point.harmless_changes.iter().any(|key| key.starts_with("heldout"))
}

/// Held-out numbers of the policy as it starts: a row of step 0, where anything is held out, and kept for [`kept`].
fn before(
    context: &Context<'_>,
    objective: &mut Policy,
    policy: &CausalLm,
    watch: &mut Watch,
    folder: &Path,
) -> Result<Value> {
    let values = objective.validate(policy, &context.ranks)?;
    let kept = values.iter().map(|(name, value)| ((*name).to_owned(), json!(value)));
    let kept = Value::Object(kept.collect());
    if !values.is_empty() {
        watch.log_metrics(&MetricsRow { epoch: 1, step: 0, values })?;
    }
    if context.ranks.is_rank0() {
        write_json(&folder.join(HELDOUT), &kept)?;
    }
    Ok(kept)
}

/// The same, kept by a stage that goes on now.
fn kept(folder: &Path) -> Value {
    let text = std::fs::read_to_string(folder.join(HELDOUT)).unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_default()
}

/// A method at work: what it does with a step. The rest of a stage's course is the same for all.
pub trait Learner {
    /// Backward passes a step.
    fn passes(&self) -> u64 {
        1
    }

    /// As [`Objective::backward`].
    fn backward(&mut self, shared: &mut Shared, model: &CausalLm, at: At, scale: f64) -> Result<StepLoss>;

    /// As [`Objective::has_more_passes`].
    fn has_more_passes(&self) -> bool {
        false
    }

    /// As [`Objective::aux_model`].
    fn aux_model(&self) -> Option<AuxModel> {
        None
    }

    /// What a checkpoint must hold of the method.
    fn state(&self) -> Value {
        Value::Null
    }

    /// Goes on from [`Self::state`].
    fn restore(&mut self, state: Value) -> Result<()> {
        let _ = state;
        Ok(())
    }
}

/// Which step of the run.
#[derive(Debug, Clone, Copy)]
pub struct At {
    /// From 0.
    pub epoch: u64,
    /// In the epoch, from 0.
    pub index: u64,
}

/// A method over what all methods share.
struct Policy {
    shared: Shared,
    learner: Box<dyn Learner>,
}

impl Objective for Policy {
    fn steps_per_epoch(&self) -> u64 {
        self.shared.source.steps_per_epoch()
    }

    fn backward(
        &mut self,
        model: &CausalLm,
        epoch: u64,
        index: u64,
        pass: &mut BackwardPass<'_>,
    ) -> Result<StepLoss> {
        self.learner.backward(&mut self.shared, model, At { epoch, index }, pass.scale)
    }

    fn validate(&mut self, model: &CausalLm, _ranks: &Ranks) -> Result<Vec<(&'static str, f64)>> {
        self.shared.source.measure(model)
    }

    fn lower_is_better(&self) -> bool {
        false
    }

    fn has_more_passes(&self) -> bool {
        self.learner.has_more_passes()
    }

    fn multi_pass(&self) -> bool {
        self.learner.passes() > 1
    }

    fn aux_model(&self) -> Option<AuxModel> {
        self.learner.aux_model()
    }

    fn lr_factor(&self) -> f64 {
        self.shared.memory.rate_factor
    }

    fn notes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.shared.notes)
    }

    fn state(&self) -> Value {
        json!({
            "guards": self.shared.memory,
            "method": self.learner.state(),
            "source": self.shared.source.state(),
        })
    }

    fn restore(&mut self, state: &Value) -> Result<()> {
        if let Some(guards) = state.get("guards") {
            self.shared.memory = serde_json::from_value(guards.clone())
                .map_err(|e| Error::failed("cannot read the guards' state in the resume file").because(e))?;
        }
        if let Some(source) = state.get("source") {
            self.shared.source.restore(source)?;
        }
        self.learner.restore(state.get("method").cloned().unwrap_or_default())
    }
}

fn learner(
    context: &Context<'_>,
    config: &PolicyConfig,
    shared: &Shared,
    policy: &CausalLm,
    tokenizer: Option<&Tokenizer>,
) -> Result<Box<dyn Learner>> {
    Ok(match &config.method {
        Method::Grpo(plan) => Box::new(grpo::Grpo::new(plan, config)?),
        Method::Spo(plan) => Box::new(spo::Spo::new(plan)),
        Method::Ppo(plan) => Box::new(ppo::Ppo::new(context, config, plan, shared, policy, tokenizer)?),
    })
}

fn loop_config(
    context: &Context<'_>,
    config: &PolicyConfig,
    per_epoch: u64,
    passes: u64,
    metadata: String,
    inputs: &Inputs,
) -> Result<LoopConfig> {
    let t = &config.train;
    let mut settings = common::loop_config(context, t, per_epoch, metadata, inputs)?;
    let steps = settings.schedule.total_steps;
    let window = settings.accumulation_steps;
    // Nothing stays accumulated at the end of an epoch.
    let turns = |steps: u64| steps.div_ceil(context.ranks.world() as u64) * passes;
    let updates =
        (steps / per_epoch) * turns(per_epoch).div_ceil(window) + turns(steps % per_epoch).div_ceil(window);
    settings.update_schedule =
        Some(crate::optim::Schedule { total_steps: updates.max(1), ..settings.schedule });
    Ok(settings)
}
