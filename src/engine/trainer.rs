//! The loop that every training stage shares.
//!
//! It stops and saves only between updates, so that a checkpoint never has to hold half-accumulated
//! gradients and going on gives the same bits.

use std::time::Instant;

use super::anomaly::{Anomaly, OnAnomaly};
use super::companion::Second;
use super::objective::{LoopConfig, Metrics, Objective, Observer, Outcome, StepLoss};
use super::resume::{self, Files, Loaded, Position, SavedState};
use super::signals::Signals;
use crate::checkpoint::pth;
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
    started: Instant,
    elapsed_before: f64,
    row_at: f64,
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
    signals: &Signals,
) -> Result<Outcome> {
    model.params().set_requires_grad(true);
    let optimizer =
        AdamW::new(model.params().trained().1.iter().map(|t| t.shallow_clone()).collect(), config.adamw)?;
    let second = objective.companion().map(|c| Second::new(c, config)).transpose()?;
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
        scaler: config.loss_scaling.then(GradScaler::default),
        state: SavedState {
            content_hash: config.content_hash.clone(),
            total_steps: total,
            ..SavedState::default()
        },
        per_epoch,
        total,
        step: 0,
        boundaries: [0, 0],
        pending: 0,
        bad: None,
        lr: config.schedule.peak,
        started: Instant::now(),
        elapsed_before: 0.0,
        row_at: 0.0,
    };
    if let Some(loaded) = resume {
        trainer.go_on_from(loaded)?;
    }
    let held = signals.hold();
    let outcome = trainer.run(signals);
    drop(held);
    outcome
}

impl Trainer<'_> {
    fn go_on_from(&mut self, loaded: &Loaded) -> Result<()> {
        loaded.restore(self.model, &mut self.optimizer, self.scaler.as_mut())?;
        if let Some(second) = &mut self.second {
            second.restore(loaded)?;
        }
        self.step = loaded.position.epoch * self.per_epoch + loaded.position.step_in_epoch;
        self.boundaries = [self.step; 2];
        if self.step > self.total {
            return Err(Error::input(format!(
                "the checkpoint is at micro-batch {}, the run has {}",
                self.step, self.total
            ))
            .hint("raise epochs or max_steps, or start over with --resume never"));
        }
        if let Some(state) = &loaded.state {
            self.state = state.clone();
            self.elapsed_before = state.elapsed_s;
            self.row_at = state.elapsed_s;
            self.objective.restore(&state.objective)?;
        } else if self.config.by_updates.is_some() {
            self.state.updates = loaded.scheduled_updates();
        }
        Ok(())
    }

    fn run(mut self, signals: &Signals) -> Result<Outcome> {
        let rolls_back = [self.config.on_nan, self.config.on_spike].contains(&OnAnomaly::Rollback);
        if rolls_back && self.step == 0 {
            self.save_resume()?;
        }
        while self.step < self.total {
            let (epoch, index) = (self.step / self.per_epoch, self.step % self.per_epoch);
            self.step += 1;
            let at_end = self.step == self.total;
            let step = self.micro_batch(epoch, index, at_end || index + 1 == self.per_epoch)?;
            let boundary = self.pending == 0;
            if boundary {
                self.boundaries = [self.step, self.boundaries[0]];
            }
            self.observer.tick(self.step, step.loss, self.lr, self.rate());
            self.after(epoch, &step, boundary)?;
            if boundary
                && !at_end
                && let Some(signal) = signals.asked()
            {
                self.save_all()?;
                return Err(Error::interrupted(
                    signal,
                    format!("saved at micro-batch {} of {}", self.step, self.total),
                )
                .hint("the same command goes on from there"));
            }
        }
        self.finish()
    }

    /// The backward passes of a micro-batch and the updates that fall due among them; `last`: nothing may stay
    /// accumulated.
    fn micro_batch(&mut self, epoch: u64, index: u64, last: bool) -> Result<StepLoss> {
        loop {
            self.lr = match self.rate_by_updates() {
                Some(rate) => rate,
                None => self.config.schedule.at(self.step),
            };
            let scale = self.scaler.as_ref().map_or(1.0, |s| s.scale) / self.config.accumulation_steps as f64;
            let step = self.objective.backward(self.model, epoch, index, scale)?;
            self.state.tokens += step.tokens;
            self.state.tokens_since_row += step.tokens;
            self.state.loss = Some(step.loss);
            self.bad = self.bad.or(self.state.watch.judge(step.loss, self.config.spike_factor));
            self.pending += 1;
            let more = self.objective.more();
            if self.pending == self.config.accumulation_steps || (last && !more) {
                let bad = self.bad.take();
                self.update(bad)?;
                self.pending = 0;
                self.lr = self.rate_by_updates().unwrap_or(self.lr);
            }
            if !more {
                self.objective.notes().iter().for_each(|note| self.observer.note(note));
                return Ok(step);
            }
        }
    }

    fn rate_by_updates(&self) -> Option<f64> {
        let schedule = self.config.by_updates.as_ref()?;
        Some(schedule.after(self.state.updates) * self.objective.rate_factor())
    }

    /// Rows, validation and checkpoints that fall due after a micro-batch. A checkpoint due inside an
    /// accumulation window waits for its end.
    fn after(&mut self, epoch: u64, step: &StepLoss, boundary: bool) -> Result<()> {
        let at_end = self.step == self.total;
        let due =
            |interval: u64| boundary && (at_end || self.step / interval > self.boundaries[1] / interval);
        let save = due(self.config.save_interval);
        let validate = self.config.eval_interval.map_or(save, due);
        let validation = if validate { self.objective.validate(self.model)? } else { Vec::new() };
        if self.step.is_multiple_of(self.config.log_interval) || at_end || !validation.is_empty() {
            self.row(epoch, step, &validation)?;
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
            let loaded = resume::load(&self.files.resume)?;
            loaded.restore(self.model, &mut self.optimizer, self.scaler.as_mut())?;
            if let Some(second) = &mut self.second {
                second.restore(&loaded)?;
            }
            self.observer
                .note(&format!("{what}; went back to the last checkpoint's weights and goes on after it"));
        } else {
            self.observer.note(&format!("{what}; this update is left out"));
        }
        Ok(())
    }

    fn elapsed(&self) -> f64 {
        self.elapsed_before + self.started.elapsed().as_secs_f64()
    }

    /// Tokens a second since the last row.
    fn rate(&self) -> f64 {
        self.state.tokens_since_row as f64 / (self.elapsed() - self.row_at).max(1e-9)
    }

    fn row(&mut self, epoch: u64, step: &StepLoss, validation: &[(&'static str, f64)]) -> Result<()> {
        let mut values = vec![("loss", step.loss), ("aux_loss", step.aux_loss), ("lr", self.lr)];
        values.extend(self.state.grad_norm.take().map(|norm| ("grad_norm", norm)));
        values.extend(self.second.iter_mut().flat_map(|second| second.row(self.lr, self.config)));
        let elapsed = self.elapsed();
        values.extend([
            ("tokens", self.state.tokens as f64),
            ("tokens_per_s", self.rate()),
            ("elapsed_s", elapsed),
        ]);
        values.extend(step.extra.iter().copied());
        values.extend(validation.iter().copied());
        self.observer.row(&Metrics { epoch: epoch + 1, step: self.step, values })?;
        self.state.tokens_since_row = 0;
        self.row_at = elapsed;
        Ok(())
    }

    fn position(&self) -> Position {
        // The last micro-batch of an epoch belongs to it, as in upstream's files.
        let epoch = self.step.saturating_sub(1) / self.per_epoch;
        Position { epoch, step_in_epoch: self.step - epoch * self.per_epoch }
    }

    fn save_resume(&mut self) -> Result<()> {
        self.state.elapsed_s = self.elapsed();
        self.state.metrics = self.observer.position()?;
        self.state.objective = self.objective.state();
        let mut extras = Vec::new();
        if let Some(schedule) = &self.config.by_updates {
            extras.push(("scheduler", resume::scheduler_value(schedule, 1.0, self.state.updates)));
        }
        if let Some(second) = &self.second {
            extras.extend(second.saved(self.lr, self.config, self.state.updates)?);
        }
        let snapshot = resume::Snapshot {
            model: self.model,
            optimizer: &self.optimizer,
            lr: self.lr,
            scaler: self.scaler.as_ref(),
            position: self.position(),
            state: &self.state,
            extras,
        };
        resume::save(self.files, snapshot)
    }

    fn save_weights(&self, path: &std::path::Path) -> Result<()> {
        let value = resume::weights_value(self.model, self.config.save_kind)?;
        pth::write(path, &value, &[("minimind.json", self.config.metadata.as_bytes())])
    }

    /// The resume file first: it alone is what going on needs.
    fn save_all(&mut self) -> Result<()> {
        self.save_resume()?;
        self.save_weights(&self.files.weights)?;
        if self.config.keep_last > 0 {
            self.save_weights(&self.files.folder.join(format!("step-{:08}.pth", self.step)))?;
            self.drop_old()?;
        }
        Ok(())
    }

    fn drop_old(&self) -> Result<()> {
        let folder = &self.files.folder;
        let read = |e| Error::io("list checkpoints", folder, e);
        let mut numbered = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(read)? {
            let path = entry.map_err(read)?.path();
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            if name.starts_with("step-") && name.ends_with(".pth") {
                numbered.push(path);
            }
        }
        numbered.sort();
        let surplus = numbered.len().saturating_sub(self.config.keep_last);
        for path in &numbered[..surplus] {
            std::fs::remove_file(path).map_err(|e| Error::io("remove an old checkpoint", path, e))?;
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Outcome> {
        self.save_all()?;
        Ok(Outcome {
            steps: self.step,
            updates: self.state.updates,
            tokens: self.state.tokens,
            elapsed_s: self.elapsed(),
            loss: self.state.loss,
            validation: self.state.validation,
            best: self.state.best,
            anomalies: self.state.watch.total,
        })
    }
}
