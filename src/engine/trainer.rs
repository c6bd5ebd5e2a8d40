//! The loop that every training stage shares.
//!
//! It stops and saves only between updates, so that a checkpoint never has to hold half-accumulated
//! gradients and going on gives the same bits.

use std::time::Instant;

use tch::Kind;

use super::anomaly::{Anomaly, OnAnomaly};
use super::resume::{self, Files, Loaded, Position, SavedState};
use super::signals::Signals;
use crate::checkpoint::pth;
use crate::error::{Error, Result};
use crate::model::CausalLm;
use crate::optim::clip::{clip_to_norm, global_norm};
use crate::optim::{AdamW, AdamWConfig, GradScaler, Schedule};

/// The loop's settings.
#[derive(Debug, Clone)]
pub struct LoopConfig {
    /// Passes over the data.
    pub epochs: u64,
    /// Micro-batches an update.
    pub accumulation_steps: u64,
    /// Learning rate; its `total_steps` is the run's length in micro-batches.
    pub schedule: Schedule,
    /// Largest gradient norm; 0 for no clipping.
    pub grad_clip: f64,
    /// The optimizer's constants.
    pub adamw: AdamWConfig,
    /// Micro-batches between rows of metrics.
    pub log_interval: u64,
    /// Micro-batches between checkpoints.
    pub save_interval: u64,
    /// Micro-batches between validations; `None`: with each checkpoint.
    pub eval_interval: Option<u64>,
    /// Numbered weight files to keep.
    pub keep_last: usize,
    /// Type of the numbers in weight files.
    pub save_kind: Kind,
    /// What to do about a loss that is not a number.
    pub on_nan: OnAnomaly,
    /// What to do about a leap.
    pub on_spike: OnAnomaly,
    /// What counts as a leap.
    pub spike_factor: Option<f64>,
    /// Whether the loss is scaled (fp16).
    pub loss_scaling: bool,
    /// JSON that goes into every weight file beside the tensors.
    pub metadata: String,
    /// Hash of settings, data and start weights.
    pub content_hash: String,
}

/// One micro-batch's numbers.
#[derive(Debug, Clone, Default)]
pub struct StepLoss {
    /// The loss as the stage reports it (cross-entropy alone).
    pub loss: f64,
    /// The experts' balance loss.
    pub aux_loss: f64,
    /// Real tokens seen.
    pub tokens: u64,
    /// What else the stage reports.
    pub extra: Vec<(&'static str, f64)>,
}

/// What a stage minimises.
pub trait Objective {
    /// Micro-batches an epoch, the same every epoch.
    fn steps_per_epoch(&self) -> u64;

    /// Adds to the parameters' gradients that of `scale` times the loss of a micro-batch.
    fn backward(&mut self, model: &CausalLm, epoch: u64, index: u64, scale: f64) -> Result<StepLoss>;

    /// Measures on held-out rows: `val_loss` first, then what follows from it; empty where there are none.
    fn validate(&mut self, model: &CausalLm) -> Result<Vec<(&'static str, f64)>>;
}

/// A row of metrics.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// From 1.
    pub epoch: u64,
    /// Micro-batches from 1 over the whole run.
    pub step: u64,
    /// Names and values in order.
    pub values: Vec<(&'static str, f64)>,
}

/// Who watches a run.
pub trait Observer {
    /// Keeps a row.
    fn row(&mut self, metrics: &Metrics) -> Result<()>;
    /// How far the kept rows reach; goes into the checkpoint.
    fn position(&self) -> Result<serde_json::Value>;
    /// Called after each micro-batch.
    fn tick(&mut self, step: u64, loss: f64, lr: f64, tokens_per_s: f64);
    /// Something a person should read.
    fn note(&mut self, text: &str);
}

/// How a run ended.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// Micro-batches done.
    pub steps: u64,
    /// Updates made.
    pub updates: u64,
    /// Real tokens seen.
    pub tokens: u64,
    /// Seconds trained, over all starts.
    pub elapsed_s: f64,
    /// Last micro-batch's loss.
    pub loss: Option<f64>,
    /// Last validation.
    pub validation: Vec<(String, f64)>,
    /// Best validation loss and its micro-batch.
    pub best: Option<(f64, u64)>,
    /// Anomalies met.
    pub anomalies: u64,
}

struct Trainer<'a> {
    model: &'a CausalLm,
    config: &'a LoopConfig,
    files: &'a Files,
    objective: &'a mut dyn Objective,
    observer: &'a mut dyn Observer,
    optimizer: AdamW,
    scaler: Option<GradScaler>,
    state: SavedState,
    per_epoch: u64,
    total: u64,
    /// Micro-batches done.
    step: u64,
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
    let per_epoch = objective.steps_per_epoch();
    let total = config.schedule.total_steps;
    let mut trainer = Trainer {
        model,
        config,
        files,
        objective,
        observer,
        optimizer,
        scaler: config.loss_scaling.then(GradScaler::default),
        state: SavedState {
            content_hash: config.content_hash.clone(),
            total_steps: total,
            ..SavedState::default()
        },
        per_epoch,
        total,
        step: 0,
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
        self.step = loaded.position.epoch * self.per_epoch + loaded.position.step_in_epoch;
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
        }
        Ok(())
    }

    fn run(mut self, signals: &Signals) -> Result<Outcome> {
        let rolls_back = [self.config.on_nan, self.config.on_spike].contains(&OnAnomaly::Rollback);
        if rolls_back && self.step == 0 {
            self.save_resume()?;
        }
        let mut bad = None;
        while self.step < self.total {
            let (epoch, index) = (self.step / self.per_epoch, self.step % self.per_epoch);
            self.step += 1;
            self.lr = self.config.schedule.at(self.step);
            let scale = self.scaler.as_ref().map_or(1.0, |s| s.scale) / self.config.accumulation_steps as f64;
            let step = self.objective.backward(self.model, epoch, index, scale)?;
            self.state.tokens += step.tokens;
            self.state.tokens_since_row += step.tokens;
            self.state.loss = Some(step.loss);
            bad = bad.or(self.state.watch.judge(step.loss, self.config.spike_factor));
            let at_end = self.step == self.total;
            let boundary =
                (index + 1) % self.config.accumulation_steps == 0 || index + 1 == self.per_epoch || at_end;
            if boundary {
                self.update(bad.take())?;
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

    /// Rows, validation and checkpoints that fall due after a micro-batch. A checkpoint due inside an
    /// accumulation window waits for its end.
    fn after(&mut self, epoch: u64, step: &StepLoss, boundary: bool) -> Result<()> {
        let at_end = self.step == self.total;
        let window = self.config.accumulation_steps;
        let due = |interval: u64| {
            boundary && (at_end || self.step / interval > self.step.saturating_sub(window) / interval)
        };
        let save = due(self.config.save_interval);
        let validate = self.config.eval_interval.map_or(save, due);
        let validation = if validate { self.objective.validate(self.model)? } else { Vec::new() };
        if self.step.is_multiple_of(self.config.log_interval) || at_end || !validation.is_empty() {
            self.row(epoch, step, &validation)?;
        }
        if let Some(&(_, loss)) = validation.first() {
            self.state.validation =
                validation.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
            let better = self.state.best.is_none_or(|(best, _)| loss < best);
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
        if let Some(scaler) = &self.scaler {
            let inverse = 1.0 / scaler.scale;
            for grad in &grads {
                let _ = grad.shallow_clone().g_mul_scalar_(inverse);
            }
        }
        let norm = global_norm(&grads).double_value(&[]);
        if let Some(scaler) = &mut self.scaler
            && !scaler.update(norm.is_finite())
            && bad.is_none()
        {
            // An overflow is how fp16 finds its scale; it is not the model's fault.
            self.optimizer.zero_grad();
            return Ok(());
        }
        let bad = bad.or((!norm.is_finite()).then_some(Anomaly::NotFinite));
        if let Some(anomaly) = bad {
            return self.anomaly(anomaly);
        }
        if self.config.grad_clip > 0.0 {
            clip_to_norm(&grads, norm, self.config.grad_clip);
        }
        self.optimizer.step(&grads, self.lr)?;
        self.optimizer.zero_grad();
        self.state.updates += 1;
        self.state.grad_norm = Some(norm);
        self.state.watch.relieve();
        Ok(())
    }

    fn anomaly(&mut self, anomaly: Anomaly) -> Result<()> {
        self.optimizer.zero_grad();
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
        let (scaler, position) = (self.scaler.as_ref(), self.position());
        resume::save(self.files, self.model, &self.optimizer, self.lr, scaler, position, &self.state)
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
