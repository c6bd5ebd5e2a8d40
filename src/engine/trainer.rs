//! The loop that every training stage shares.
//!
//! It stops and saves only between updates, so that a checkpoint never has to hold half-accumulated
//! gradients and going on gives the same bits.
//!
//! Several ranks take turns over the same order of micro-batches: rank r the r-th of each turn. `turns` is what
//! they tell each other.

mod going_on;
mod saving;

use tch::Tensor;

use super::anomaly::{Anomaly, OnAnomaly};
use super::companion::Second;
use super::memory::Peaks;
use super::objective::{LoopConfig, Metrics, Objective, Observer, Outcome, Pass, StepLoss};
use super::pace::Pace;
use super::ranks::{Gradients, Ranks};
use super::resume::{self, Files, Loaded, SavedState};
use super::shards::Shards;
use super::signals::Signals;
use super::turns::{self, Window};
use crate::error::{Error, Result};
use crate::model::CausalLm;
use crate::optim::clip::{clip_to_norm, global_norm};
use crate::optim::{AdamW, GradScaler};

struct Trainer<'a> {
    model: &'a CausalLm,
    config: &'a LoopConfig,
    files: &'a Files,
    objective: &'a mut dyn Objective,
    observer: &'a mut dyn Observer,
    optimizer: AdamW,
    second: Option<Second>,
    ranks: &'a Ranks,
    /// Who keeps which part of the optimizer's state, where it is spread.
    shards: Option<Shards>,
    /// What shares the model's gradients and the companion's; empty where this process is alone.
    gradients: Vec<Gradients>,
    /// What this rank has done since the last update.
    window: Window,
    /// The signal that some rank was sent.
    asked: Option<i32>,
    /// What a rank after the first has to say; the first says it with the next row.
    notes: Vec<String>,
    peaks: Peaks,
    scaler: Option<GradScaler>,
    state: SavedState,
    per_epoch: u64,
    total: u64,
    /// Micro-batches done.
    step: u64,
    /// Micro-batches done at the last update that left nothing accumulated, and before it.
    boundaries: [u64; 2],
    /// Backward passes since the last update.
    pending: u64,
    bad: Option<Anomaly>,
    lr: f64,
    pace: Pace,
    signals: &'a Signals,
}

/// What can stop a training loop, and the processes it trains with.
#[derive(Debug, Clone, Copy)]
pub struct RunControl<'a> {
    /// Ctrl-C and SIGTERM: the loop saves and stops.
    pub signals: &'a Signals,
    /// The processes that train together.
    pub ranks: &'a Ranks,
}

/// Trains to the end, or until a signal; starts from `resume` where given.
///
/// # Errors
/// [`crate::error::Kind::Interrupted`] after a signal, with everything saved.
pub fn train(
    model: &CausalLm,
    config: &LoopConfig,
    files: &Files,
    resume: Option<&Loaded>,
    objective: &mut dyn Objective,
    observer: &mut dyn Observer,
    control: RunControl<'_>,
) -> Result<Outcome> {
    let RunControl { signals, ranks } = control;
    model.params().set_requires_grad(true);
    let params = model.params().trained().1;
    let sizes: Vec<usize> = params.iter().map(Tensor::numel).collect();
    let shards = (config.shard_optimizer && !ranks.is_alone()).then(|| Shards::new(ranks, &sizes));
    let mine = shards.as_ref().map_or_else(|| vec![true; sizes.len()], Shards::mine);
    let optimizer = AdamW::part(params.iter().map(Tensor::shallow_clone).collect(), config.adamw, mine)?;
    let second = objective.companion().map(|c| Second::new(c, config)).transpose()?;
    let mut gradients = Vec::new();
    gradients.extend(ranks.reducer(params)?);
    if let Some(second) = &second {
        gradients.extend(ranks.reducer(&second.tensors())?);
    }
    let per_epoch = objective.steps_per_epoch();
    let total = config.schedule.total_steps;
    let mut trainer = Trainer {
        model,
        config,
        files,
        objective,
        observer,
        optimizer,
        second,
        ranks,
        shards,
        gradients,
        window: Window::default(),
        asked: None,
        notes: Vec::new(),
        peaks: Peaks::default(),
        scaler: config.loss_scaling.then(GradScaler::default),
        state: SavedState {
            content_hash: config.content_hash.clone(),
            total_steps: total,
            per_epoch,
            made_from: config.made_from.clone(),
            ..SavedState::default()
        },
        per_epoch,
        total,
        step: 0,
        boundaries: [0, 0],
        pending: 0,
        bad: None,
        lr: config.schedule.peak,
        pace: Pace::after(0.0),
        signals,
    };
    turns::seed(ranks, config.seed);
    if let Some(loaded) = resume {
        trainer.go_on_from(loaded)?;
    }
    let held = signals.hold();
    let outcome = trainer.run();
    drop(held);
    outcome
}

impl Trainer<'_> {
    fn run(mut self) -> Result<Outcome> {
        // All have read what they start from before the first rank writes anything.
        self.check_same()?;
        let rolls_back = [self.config.on_nan, self.config.on_spike].contains(&OnAnomaly::Rollback);
        if rolls_back && self.step == 0 {
            self.save_resume()?;
        }
        while self.step < self.total {
            let (epoch, index) = (self.step / self.per_epoch, self.step % self.per_epoch);
            // A micro-batch for each rank, as far as the epoch has them.
            let turn = (self.ranks.world() as u64).min(self.per_epoch - index).min(self.total - self.step);
            self.step += turn;
            let at_end = self.step == self.total;
            let mine = self.ranks.rank() as u64;
            let own = (mine < turn).then_some(index + mine);
            let step = self.micro_batch(epoch, own, at_end || index + turn == self.per_epoch)?;
            let boundary = self.pending == 0;
            if boundary {
                self.boundaries = [self.step, self.boundaries[0]];
            }
            self.observer.tick(self.step, step.loss, self.lr, self.pace.rate());
            self.after(epoch, step, turn, boundary)?;
            if boundary
                && !at_end
                && let Some(signal) = self.asked()
            {
                self.save_all()?;
                // None ends before the first has written: who started them would stop it.
                self.ranks.wait()?;
                return Err(Error::interrupted(
                    signal,
                    format!("saved at micro-batch {} of {}", self.step, self.total),
                )
                .hint("the same command goes on from there"));
            }
        }
        self.finish()
    }

    fn check_same(&self) -> Result<()> {
        self.ranks.check_same(self.model.params().trained().1)?;
        match &self.second {
            Some(second) => self.ranks.check_same(&second.tensors()),
            None => Ok(()),
        }
    }

    fn asked(&self) -> Option<i32> {
        if self.ranks.is_alone() { self.signals.asked() } else { self.asked }
    }

    /// The backward passes of a micro-batch and the updates that fall due among them; `last`: nothing may stay
    /// accumulated. A rank without a micro-batch (`index`), or with no pass left while others have, adds nothing.
    fn micro_batch(&mut self, epoch: u64, index: Option<u64>, last: bool) -> Result<StepLoss> {
        let mut mine = index;
        let mut shown = StepLoss::default();
        loop {
            self.lr = match self.rate_by_updates() {
                Some(rate) => rate,
                None => self.config.schedule.at(self.step),
            };
            let window = self.config.accumulation_steps;
            let scale =
                self.scaler.as_ref().map_or(1.0, |s| s.scale) / (window * self.ranks.world() as u64) as f64;
            let one_pass = !self.objective.many_passes();
            let ends_window = one_pass && (self.pending + 1 == window || last);
            let leaving = if ends_window { &mut self.gradients[..] } else { &mut [] };
            let mut pass = Pass::new(scale, leaving, self.ranks.is_alone());
            let mut more = false;
            if let Some(index) = mine {
                let (objective, model) = (&mut *self.objective, self.model);
                shown = self
                    .peaks
                    .backward(model.device(), || objective.backward(model, epoch, index, &mut pass))?;
                more = self.objective.more();
            }
            self.done(mine.map(|_| (shown.loss, shown.tokens)));
            mine = mine.filter(|_| more);
            let more = if one_pass { more } else { self.ranks.any(more)? };
            self.pending += 1;
            if self.pending == window || (last && !more) {
                self.meet()?;
                let bad = self.bad.take();
                let mut peaks = std::mem::take(&mut self.peaks);
                let updated = peaks.update(self.model.device(), || self.update(bad));
                self.peaks = peaks;
                updated?;
                self.pending = 0;
                self.lr = self.rate_by_updates().unwrap_or(self.lr);
            }
            if !more {
                let notes = self.objective.notes();
                if self.ranks.is_first() {
                    notes.iter().for_each(|note| self.observer.note(note));
                } else {
                    self.notes.extend(notes);
                }
                return Ok(shown);
            }
        }
    }

    /// Takes a pass's loss and tokens into account; beside other ranks, when they meet.
    fn done(&mut self, pass: Option<(f64, u64)>) {
        if !self.ranks.is_alone() {
            self.window.push(pass);
            return;
        }
        if let Some((loss, tokens)) = pass {
            self.count(loss, tokens);
        }
    }

    fn count(&mut self, loss: f64, tokens: u64) {
        self.state.tokens += tokens;
        self.pace.count(tokens);
        self.state.loss = Some(loss);
        self.bad = self.bad.or(self.state.watch.judge(loss, self.config.spike_factor));
    }

    /// Before an update: gradients, losses and signals become those of all ranks.
    fn meet(&mut self) -> Result<()> {
        if self.ranks.is_alone() {
            return Ok(());
        }
        self.gradients.iter_mut().try_for_each(Gradients::finish)?;
        let met = self.window.meet(self.ranks, self.signals.asked(), self.objective.rate_factor())?;
        met.passes.into_iter().for_each(|(loss, tokens)| self.count(loss, tokens));
        self.asked = met.asked;
        self.state.rate_factor = Some(met.rate_factor);
        self.lr = self.rate_by_updates().unwrap_or(self.lr);
        Ok(())
    }

    fn rate_by_updates(&self) -> Option<f64> {
        let schedule = self.config.by_updates.as_ref()?;
        // A guard that lowered the rate on any rank lowers it on all.
        let factor = self.objective.rate_factor().min(self.state.rate_factor.unwrap_or(1.0));
        Some(schedule.after(self.state.scheduled()) * factor)
    }

    /// Rows, validation and checkpoints that fall due after a micro-batch. A checkpoint due inside an
    /// accumulation window waits for its end.
    fn after(&mut self, epoch: u64, step: StepLoss, turn: u64, boundary: bool) -> Result<()> {
        let at_end = self.step == self.total;
        let due =
            |interval: u64| boundary && (at_end || self.step / interval > self.boundaries[1] / interval);
        let save = due(self.config.save_interval);
        let validate = self.config.eval_interval.map_or(save, due);
        let validation = if validate { self.objective.validate(self.model, self.ranks)? } else { Vec::new() };
        let log = self.config.log_interval;
        if self.step / log > (self.step - turn) / log || at_end || !validation.is_empty() {
            let told = std::mem::take(&mut self.notes);
            let (step, notes) = turns::mean(self.ranks, step, self.ranks.rank() < turn as usize, told)?;
            notes.iter().for_each(|note| self.observer.note(note));
            self.check_same()?;
            self.row(epoch, &step, &validation)?;
        }
        if let Some(&(_, loss)) = validation.first() {
            self.state.validation =
                validation.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
            let lower = self.objective.lower_is_better();
            let better =
                self.state.best.is_none_or(|(best, _)| if lower { loss < best } else { loss > best });
            if better && loss.is_finite() {
                self.state.best = Some((loss, self.step));
                self.save_weights(&self.files.folder.join("best.pth"))?;
            }
        }
        if save && !at_end {
            self.save_all()?;
        }
        Ok(())
    }

    /// One optimizer step with what has been accumulated, or none after an anomaly.
    fn update(&mut self, bad: Option<Anomaly>) -> Result<()> {
        let grads = self.optimizer.grads();
        let others = self.second.as_ref().map_or_else(Vec::new, Second::grads);
        if let Some(scaler) = &self.scaler {
            let inverse = 1.0 / scaler.scale;
            for grad in grads.iter().chain(&others) {
                let _ = grad.shallow_clone().g_mul_scalar_(inverse);
            }
        }
        let norm = global_norm(&grads).double_value(&[]);
        let other_norm = if others.is_empty() { 0.0 } else { global_norm(&others).double_value(&[]) };
        let finite = norm.is_finite() && other_norm.is_finite();
        if let Some(scaler) = &mut self.scaler
            && !scaler.update(finite)
            && bad.is_none()
        {
            // An overflow is how fp16 finds its scale; it is not the model's fault.
            self.zero_grad();
            return Ok(());
        }
        let bad = bad.or((!finite).then_some(Anomaly::NotFinite));
        if let Some(anomaly) = bad {
            return self.anomaly(anomaly);
        }
        if self.config.grad_clip > 0.0 {
            clip_to_norm(&grads, norm, self.config.grad_clip);
        }
        self.optimizer.step(&grads, self.lr)?;
        if let Some(shards) = &self.shards {
            shards.spread(self.model.params().trained().1)?;
        }
        if let Some(second) = &mut self.second {
            second.step(&others, other_norm, self.config, self.lr)?;
        }
        self.zero_grad();
        self.state.updates += 1;
        self.state.grad_norm = Some(norm);
        self.state.watch.relieve();
        Ok(())
    }

    fn zero_grad(&mut self) {
        self.optimizer.zero_grad();
        if let Some(second) = &mut self.second {
            second.zero_grad();
        }
    }

    fn anomaly(&mut self, anomaly: Anomaly) -> Result<()> {
        self.zero_grad();
        let (what, policy) = match anomaly {
            Anomaly::NotFinite => ("the loss or its gradient is not a number".to_owned(), self.config.on_nan),
            Anomaly::Spike(ratio) => {
                (format!("the loss is {ratio:.1} times its running mean"), self.config.on_spike)
            }
        };
        let what = format!("micro-batch {}: {what}", self.step);
        let patient = self.state.watch.bear();
        if policy == OnAnomaly::Stop || !patient {
            return Err(Error::failed(what).hint(
                "lower learning_rate or raise warmup_steps; on_nan and on_spike can be skip or rollback; \
                 the last checkpoint is untouched",
            ));
        }
        if policy == OnAnomaly::Rollback {
            let (loaded, broken) = resume::load_last(&self.files.resume)?;
            self.restore(&loaded)?;
            if broken.is_some() && self.ranks.is_first() {
                resume::set_broken_aside(&self.files.resume)?;
            }
            self.observer
                .note(&format!("{what}; went back to the last checkpoint's weights and goes on after it"));
        } else {
            self.observer.note(&format!("{what}; this update is left out"));
        }
        Ok(())
    }

    fn row(&mut self, epoch: u64, step: &StepLoss, validation: &[(&'static str, f64)]) -> Result<()> {
        let mut values = vec![("loss", step.loss), ("aux_loss", step.aux_loss), ("lr", self.lr)];
        values.extend(self.state.grad_norm.take().map(|norm| ("grad_norm", norm)));
        values.extend(self.second.iter_mut().flat_map(|second| second.row(self.lr, self.config)));
        values.extend([
            ("tokens", self.state.tokens as f64),
            ("tokens_per_s", self.pace.row()),
            ("elapsed_s", self.pace.elapsed()),
        ]);
        values.extend(step.extra.iter().copied());
        values.extend(self.peaks.take());
        values.extend(validation.iter().copied());
        self.observer.row(&Metrics { epoch: epoch + 1, step: self.step, values })?;
        Ok(())
    }

    fn finish(mut self) -> Result<Outcome> {
        self.save_all()?;
        Ok(Outcome {
            steps: self.step,
            updates: self.state.updates,
            tokens: self.state.tokens,
            elapsed_s: self.pace.elapsed(),
            loss: self.state.loss,
            validation: self.state.validation,
            best: self.state.best,
            anomalies: self.state.watch.total,
        })
    }
}
