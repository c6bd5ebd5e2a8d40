//! PPO (arXiv 1707.06347): a critic values every token; each rollout is used for several passes over minibatches.
//!
//! Ports upstream's `train_ppo.py`. A step: generate rollouts, compute old values and advantages, then
//! `ppo_update_iters` passes over shuffled minibatches. Once a minibatch has moved farther than `early_stop_kl`
//! from the old policy, it and the rest of its pass have zero loss (the optimizers step all the same, as
//! upstream's do) and later passes are skipped. Next: `loss::ppo`, the formulas.

use tch::Tensor;

use super::batch::Batch;
use super::experience::{Experience, ExperienceMaker, max_logprob_gap};
use super::learner::Learner;
use super::source::StepIndex;
use crate::checkpoint::load_critic;
use crate::data::random::SplitMix64;
use crate::engine::{AuxModel, Compute, StepLoss};
use crate::error::{Error, Result};
use crate::loss::policy::token_mean;
use crate::loss::ppo::{self, PpoLoss};
use crate::model::{CausalLm, ValueModel};
use crate::plan::PpoPlan;
use crate::stage::loading;
use crate::stage::session::Session;

/// PPO's settings, its critic, and the step in progress.
pub struct Ppo {
    critic: ValueModel,
    plan: PpoPlan,
    loss: PpoLoss,
    seed: u64,
    /// Backward passes a step without an early stop.
    passes: u64,
    progress: Option<StepInProgress>,
}

/// A step in progress: everything that its passes share.
struct StepInProgress {
    step: Experience,
    old: Tensor,
    old_values: Tensor,
    targets: ppo::Targets,
    /// Minibatches still to come, the next one last: the pass's number and the rows' indices.
    queue: Vec<(usize, Tensor)>,
    stopped_in: Option<usize>,
    sums: Sums,
    gap: Option<f64>,
}

/// Sums over minibatches.
#[derive(Default)]
struct Sums {
    count: f64,
    loss: f64,
    policy: f64,
    critic: f64,
    kl_ref: Option<f64>,
    approx_kl: f64,
    clip_fraction: f64,
    aux: f64,
}

impl Ppo {
    /// From the plan; loads the critic. `rows` is the number of rows of a step.
    ///
    /// # Errors
    /// The critic cannot be read or has another vocabulary; a minibatch size that does not divide the rows.
    pub fn new(session: &Session<'_>, plan: &PpoPlan, rows: usize, policy: &CausalLm) -> Result<Self> {
        let critic = critic(session, plan, policy)?;
        let mini = plan.mini_batch_size.unwrap_or(rows);
        if !rows.is_multiple_of(mini) {
            return Err(Error::input(format!(
                "a step has {rows} rows, which `mini_batch_size` {mini} does not divide"
            ))
            .hint("give a divisor, or leave it out: the whole step is one minibatch then"));
        }
        let loss = PpoLoss {
            clip_epsilon: plan.clip_epsilon,
            kl_coef: plan.kl_coef,
            cliprange_value: plan.cliprange_value,
        };
        let plan = PpoPlan { mini_batch_size: Some(mini), ..plan.clone() };
        let passes = (plan.ppo_update_iters * rows / mini) as u64;
        Ok(Self { critic, plan, loss, seed: session.stage.context.plan.seed, passes, progress: None })
    }

    /// Generates a step's rollouts and computes what all its passes share.
    fn begin(&self, maker: &mut ExperienceMaker, model: &CausalLm, at: StepIndex) -> Result<StepInProgress> {
        let step = maker.make(model, at)?;
        let batch = &step.batch;
        let compute = maker.compute;
        let old_values = tch::no_grad(|| {
            compute.run(model.device(), || Ok(self.critic.values(&batch.ids, batch.attention(), false)))
        })?;
        let old = match &batch.old {
            Some(old) => old.shallow_clone(),
            None => batch.logprobs(model, compute)?,
        };
        let PpoPlan { gamma, lam, .. } = self.plan;
        let targets = ppo::targets(&step.rewards, &old_values, &batch.mask, gamma, lam);
        let number = at.in_run(maker.source.steps_per_epoch());
        let queue = self.minibatches(step.rewards.len(), number, model.device());
        let old_values = old_values * &batch.mask;
        Ok(StepInProgress {
            step,
            old,
            old_values,
            targets,
            queue,
            stopped_in: None,
            sums: Sums::default(),
            gap: None,
        })
    }

    /// The queue of a step's minibatches, in an order that depends on seed and step alone.
    fn minibatches(&self, rows: usize, step: u64, device: tch::Device) -> Vec<(usize, Tensor)> {
        let mini = self.plan.mini_batch_size.unwrap_or(rows);
        let mut random = SplitMix64::new(self.seed, step.wrapping_add(3 << 32));
        let mut queue = Vec::new();
        for pass in 0..self.plan.ppo_update_iters {
            let mut order: Vec<u32> = (0..rows as u32).collect();
            if mini < rows {
                random.shuffle(&mut order);
            }
            for rows in order.chunks(mini) {
                let rows: Vec<i64> = rows.iter().map(|&row| i64::from(row)).collect();
                queue.push((pass, Tensor::from_slice(&rows).to_device(device)));
            }
        }
        queue.reverse();
        queue
    }

    /// Forward and backward of one minibatch, of the policy and the critic.
    fn minibatch(
        &self,
        compute: Compute,
        model: &CausalLm,
        progress: &mut StepInProgress,
        (pass, rows): (usize, &Tensor),
        scale: f64,
    ) -> Result<()> {
        let pick = |t: &Tensor| t.index_select(0, rows);
        let batch: Batch = progress.step.batch.select(rows);
        let (old, advantages) = (pick(&progress.old), pick(&progress.targets.advantages));
        let reference = progress.step.reference.as_ref().map(pick);
        let limit = self.plan.early_stop_kl;
        let stopped = progress.stopped_in.is_some();
        let first = progress.sums.count == 0.0 && progress.step.on_policy;
        let ((terms, policy, share, gap), aux) = batch.backward(model, compute, scale, |logprobs| {
            let terms = self.loss.policy(logprobs, &old, reference.as_ref(), &advantages, &batch.mask);
            let share = if stopped || terms.approx_kl > limit { 0.0 } else { 1.0 };
            let gap = first.then(|| max_logprob_gap(&logprobs.detach(), &old, &batch.mask));
            let loss = terms.loss.shallow_clone();
            let value = loss.double_value(&[]);
            (loss, share, (terms, value, share, gap))
        })?;
        if share == 0.0 {
            progress.stopped_in.get_or_insert(pass);
        }
        let critic = compute.run(model.device(), || {
            let values = self.critic.values(&batch.ids, batch.attention(), true);
            let (old_values, returns) = (pick(&progress.old_values), pick(&progress.targets.returns));
            let loss = self.loss.value(&values, &old_values, &returns, &batch.mask);
            (&loss * (self.plan.vf_coef * scale * share)).f_backward()?;
            Ok(loss.double_value(&[]))
        })?;
        let sums = &mut progress.sums;
        sums.count += 1.0;
        sums.loss += policy + self.plan.vf_coef * critic;
        sums.policy += policy;
        sums.critic += critic;
        sums.kl_ref = terms.kl_ref.map(|kl| sums.kl_ref.unwrap_or(0.0) + kl);
        sums.approx_kl += terms.approx_kl;
        sums.clip_fraction += terms.clip_fraction;
        sums.aux += aux;
        progress.gap = progress.gap.or(gap);
        Ok(())
    }

    /// The metrics of a step whose passes are done.
    fn finish(
        &self,
        maker: &mut ExperienceMaker,
        progress: StepInProgress,
        at: StepIndex,
    ) -> Result<StepLoss> {
        let sums = &progress.sums;
        let mean = |sum: f64| sum / sums.count;
        let kl_ref = sums.kl_ref.map(mean);
        maker.check_guards(at, &progress.step, kl_ref)?;
        let mut extra = vec![("policy_loss", mean(sums.policy)), ("critic_loss", mean(sums.critic))];
        extra.extend(kl_ref.map(|kl| ("kl_ref", kl)));
        extra.extend([
            ("approx_kl", mean(sums.approx_kl)),
            ("clipfrac", mean(sums.clip_fraction)),
            ("early_stopped", f64::from(u8::from(progress.stopped_in.is_some()))),
        ]);
        if progress.step.on_policy {
            let entropy = -token_mean(&progress.old, &progress.step.batch.mask).double_value(&[]);
            extra.push(("entropy", entropy));
        }
        extra.extend(progress.gap.map(|gap| ("logprob_gap", gap)));
        let (loss, aux_loss) = (mean(sums.loss), mean(sums.aux));
        let tokens = progress.step.tokens;
        extra.extend(progress.step.into_metrics());
        Ok(StepLoss { loss, aux_loss, tokens, extra, ..StepLoss::default() })
    }
}

impl Learner for Ppo {
    fn passes_per_step(&self) -> u64 {
        self.passes
    }

    fn backward(
        &mut self,
        maker: &mut ExperienceMaker,
        model: &CausalLm,
        at: StepIndex,
        scale: f64,
    ) -> Result<StepLoss> {
        let mut progress = match self.progress.take() {
            Some(progress) => progress,
            None => self.begin(maker, model, at)?,
        };
        let (pass, rows) = progress.queue.pop().expect("a step has a minibatch left");
        self.minibatch(maker.compute, model, &mut progress, (pass, &rows), scale)?;
        if let Some(stopped_in) = progress.stopped_in {
            progress.queue.retain(|(pass, _)| *pass == stopped_in);
        }
        if progress.queue.is_empty() {
            return self.finish(maker, progress, at);
        }
        let loss = progress.sums.loss / progress.sums.count;
        self.progress = Some(progress);
        Ok(StepLoss { loss, ..StepLoss::default() })
    }

    fn has_more_passes(&self) -> bool {
        self.progress.is_some()
    }

    fn aux_model(&self) -> Option<AuxModel> {
        let trunk = self.critic.trunk();
        let tied = trunk.config().tie_word_embeddings;
        let aliases = tied.then(|| ("lm_head.weight".to_owned(), trunk.lm_head().shallow_clone()));
        Some(AuxModel {
            params: self.critic.named(),
            aliases: aliases.into_iter().collect(),
            peak_lr: self.plan.critic_learning_rate,
        })
    }
}

/// The critic: the file the recipe names, else the policy's own trunk with a fresh head.
fn critic(session: &Session<'_>, plan: &PpoPlan, policy: &CausalLm) -> Result<ValueModel> {
    let (context, model, tokenizer) =
        (session.stage.context, session.config.model.as_ref(), session.tokenizer());
    let init = plan.critic.as_ref().unwrap_or(&session.config.init);
    let critic = match loading::start_weights(context, init)? {
        None => ValueModel::fresh(loading::model(context, init, model, tokenizer, 0.0)?)?,
        Some(path) => {
            tch::manual_seed(context.plan.seed as i64);
            let given = loading::config_of_weights(&path, model)?;
            let (critic, notes) = load_critic(&path, given.as_ref(), context.device)?;
            loading::log_notes(&path, &notes);
            critic
        }
    };
    let (have, want) = (critic.trunk().config().vocab_size, policy.config().vocab_size);
    if have != want {
        return Err(Error::input(format!("the critic reads {have} tokens, the policy writes {want}"))
            .hint("name a critic of the policy's tokenizer, or leave `critic` out"));
    }
    Ok(critic)
}
