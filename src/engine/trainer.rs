//! The training loop of every stage.
//!
//! It stops and saves only between updates, so that a checkpoint never has to hold half-accumulated gradients and a
//! resumed run gives the same bits.
//!
//! Several ranks share one order of micro-batches: each round, rank r takes the r-th of the next `world` ones. Next:
//! `progress` (what is done and due), `optimizers` (what an update changes), `super::collectives` (what ranks exchange).

mod optimizers;
mod progress;
mod resuming;
mod saving;

use self::optimizers::Optimizers;
use self::progress::{Progress, Round};
use super::anomaly::{Anomaly, OnAnomaly};
use super::collectives::{self, Pass, StepStats};
use super::memory::PeakMemory;
use super::objective::{
    BackwardPass, LoopConfig, MetricsRow, Objective, Observer, Outcome, PartLoss, StepLoss, column,
};
use super::ranks::Ranks;
use super::resume::{self, CheckpointPaths, ResumeFile, SavedState};
use super::signals::Signals;
use super::throughput::Throughput;
use crate::error::{Error, Result};
use crate::model::CausalLm;

struct Trainer<'a> {
    model: &'a CausalLm,
    config: &'a LoopConfig,
    paths: &'a CheckpointPaths,
    ranks: &'a Ranks,
    signals: &'a Signals,
    objective: &'a mut dyn Objective,
    observer: &'a mut dyn Observer,
    optimizers: Optimizers,
    progress: Progress,
    /// What a checkpoint holds beside weights and optimizers.
    state: SavedState,
    /// This rank's passes since the last update, where there are several ranks.
    stats: StepStats,
    /// The columns of each part of a mixture: its loss, its tokens.
    part_columns: Vec<[&'static str; 2]>,
    /// The signal that some rank received; in a single process `signals` has it.
    stop_signal: Option<i32>,
    /// Notes of a rank after the first; rank 0 logs them with the next row of metrics.
    notes: Vec<String>,
    /// An anomaly since the last update.
    anomaly: Option<Anomaly>,
    lr: f64,
    peaks: PeakMemory,
    throughput: Throughput,
}

/// What can stop a training loop, and the processes it trains with.
#[derive(Debug, Clone, Copy)]
pub struct RunControl<'a> {
    /// Ctrl-C and SIGTERM: the loop saves and stops.
    pub signals: &'a Signals,
    /// The processes that train together.
    pub ranks: &'a Ranks,
}

/// What a training loop works on.
#[derive(Debug, Clone, Copy)]
pub struct TrainSetup<'a> {
    /// The model, whose parameters are changed in place.
    pub model: &'a CausalLm,
    /// The loop's settings.
    pub config: &'a LoopConfig,
    /// Where its files go.
    pub paths: &'a CheckpointPaths,
    /// The checkpoint to resume from; `None`: from the first step.
    pub resume: Option<&'a ResumeFile>,
    /// The signals that stop the run, and its ranks.
    pub control: RunControl<'a>,
}

/// Trains to the end, or until a signal.
///
/// # Errors
/// [`crate::error::Kind::Interrupted`] after a signal, with everything saved; an anomaly that the settings do not
/// tolerate; files that cannot be written or resumed from; a rank that is lost.
pub fn train(
    setup: TrainSetup<'_>,
    objective: &mut dyn Objective,
    observer: &mut dyn Observer,
) -> Result<Outcome> {
    let TrainSetup { model, config, paths, resume, control: RunControl { signals, ranks } } = setup;
    let optimizers = Optimizers::new(model, config, &*objective, ranks)?;
    let (per_epoch, total) = (objective.steps_per_epoch(), config.schedule.total_steps);
    let parts = objective.parts();
    let mut trainer = Trainer {
        model,
        config,
        paths,
        ranks,
        signals,
        objective,
        observer,
        optimizers,
        progress: Progress::new(per_epoch, total),
        state: SavedState {
            content_hash: config.content_hash.clone(),
            total_steps: total,
            per_epoch,
            made_from: config.made_from.clone(),
            parts: vec![PartLoss::default(); parts.len()],
            ..SavedState::default()
        },
        stats: StepStats::new(parts.len()),
        part_columns: parts
            .iter()
            .map(|name| [column(&format!("loss/{name}")), column(&format!("tokens/{name}"))])
            .collect(),
        stop_signal: None,
        notes: Vec::new(),
        anomaly: None,
        lr: config.schedule.peak,
        peaks: PeakMemory::default(),
        throughput: Throughput::resume_at(0.0),
    };
    collectives::seed_rank(ranks, config.seed);
    if let Some(file) = resume {
        trainer.resume(file)?;
    }
    let _deferred = signals.defer();
    trainer.run()
}

impl Trainer<'_> {
    fn run(mut self) -> Result<Outcome> {
        // All ranks have read what they start from before rank 0 writes anything.
        self.optimizers.check_same(self.model, self.ranks)?;
        let rolls_back =
            [self.config.anomalies.on_nan, self.config.anomalies.on_spike].contains(&OnAnomaly::Rollback);
        if rolls_back && self.progress.step == 0 {
            self.save_resume()?;
        }
        while self.progress.step < self.progress.total {
            let round = self.progress.next_round(self.ranks.rank(), self.ranks.world());
            let loss = self.micro_batch(&round)?;
            self.progress.end_round();
            self.observer.on_step(self.progress.step, loss.loss, self.lr, self.throughput.rate());
            self.log_and_save(&round, loss)?;
            self.stop_if_requested()?;
        }
        self.finish()
    }

    /// The backward passes of a round's micro-batch and the updates that fall due among them. A rank without a
    /// micro-batch, or with no pass left while others have, adds nothing.
    fn micro_batch(&mut self, round: &Round) -> Result<StepLoss> {
        let multi_pass = self.objective.passes_per_step() > 1;
        let mut index = round.index;
        let mut shown = StepLoss::default();
        loop {
            self.lr = match self.scheduled_lr() {
                Some(lr) => lr,
                None => self.config.schedule.at(self.progress.step),
            };
            let mut more = false;
            if let Some(index) = index {
                shown = self.backward(round, index)?;
                more = self.objective.has_more_passes();
            }
            self.record_pass(index.map(|_| Pass {
                loss: shown.loss,
                tokens: shown.tokens,
                parts: shown.parts.clone(),
            }));
            index = index.filter(|_| more);
            let more = if multi_pass { self.ranks.any(more)? } else { more };
            self.progress.accumulated += 1;
            if self.progress.accumulated == self.config.accumulation_steps || (round.flush && !more) {
                self.update()?;
            }
            if !more {
                self.collect_notes();
                return Ok(shown);
            }
        }
    }

    /// One backward pass of micro-batch `index`; gradients leave for other ranks in the last one of an update.
    fn backward(&mut self, round: &Round, index: u64) -> Result<StepLoss> {
        let window = self.config.accumulation_steps;
        let scale = self.optimizers.loss_scale() / (window * self.ranks.world() as u64) as f64;
        let last =
            self.objective.passes_per_step() == 1 && (self.progress.accumulated + 1 == window || round.flush);
        let reducers = if last { &mut self.optimizers.reducers[..] } else { &mut [] };
        let mut pass = BackwardPass::new(scale, reducers, self.ranks.is_single());
        let (objective, model) = (&mut *self.objective, self.model);
        self.peaks.backward(model.device(), || objective.backward(model, round.epoch, index, &mut pass))
    }

    /// Takes a pass's loss and tokens into account; those of several ranks at the next update.
    fn record_pass(&mut self, pass: Option<Pass>) {
        if !self.ranks.is_single() {
            self.stats.push(pass);
        } else if let Some(pass) = pass {
            self.count(&pass);
        }
    }

    fn count(&mut self, pass: &Pass) {
        let Pass { loss, tokens, .. } = *pass;
        self.state.parts.iter_mut().zip(&pass.parts).for_each(|(all, own)| all.add(own));
        self.state.tokens += tokens;
        self.throughput.count(tokens);
        self.state.loss = Some(loss);
        self.anomaly =
            self.anomaly.or(self.state.loss_monitor.check(loss, self.config.anomalies.spike_factor));
    }

    fn collect_notes(&mut self) {
        let notes = self.objective.notes();
        if self.ranks.is_rank0() {
            notes.iter().for_each(|note| self.observer.log_note(note));
        } else {
            self.notes.extend(notes);
        }
    }

    /// The end of an accumulation window: all ranks agree on gradients, losses and signals, then step.
    fn update(&mut self) -> Result<()> {
        self.all_reduce()?;
        let anomaly = self.anomaly.take();
        let mut peaks = std::mem::take(&mut self.peaks);
        let updated = peaks.update(self.model.device(), || self.optimizer_step(anomaly));
        self.peaks = peaks;
        updated?;
        self.progress.accumulated = 0;
        self.lr = self.scheduled_lr().unwrap_or(self.lr);
        Ok(())
    }

    /// Sums gradients over the ranks, and brings losses and signals of all of them here.
    fn all_reduce(&mut self) -> Result<()> {
        if self.ranks.is_single() {
            return Ok(());
        }
        self.optimizers.finish_reduction()?;
        let all = self.stats.all_reduce(self.ranks, self.signals.requested(), self.objective.lr_factor())?;
        all.passes.iter().for_each(|pass| self.count(pass));
        self.stop_signal = all.stop_signal;
        self.state.rate_factor = Some(all.lr_factor);
        self.lr = self.scheduled_lr().unwrap_or(self.lr);
        Ok(())
    }

    /// The learning rate where it follows the updates; `None` where it follows the micro-batches.
    fn scheduled_lr(&self) -> Option<f64> {
        let schedule = self.config.update_schedule.as_ref()?;
        // A guard that lowered the rate on any rank lowers it on all.
        let factor = self.objective.lr_factor().min(self.state.rate_factor.unwrap_or(1.0));
        Some(schedule.after(self.state.scheduled()) * factor)
    }

    /// One optimizer step with what has been accumulated, or none after an anomaly.
    fn optimizer_step(&mut self, anomaly: Option<Anomaly>) -> Result<()> {
        let gradients = self.optimizers.unscaled_gradients();
        if self.optimizers.overflowed(&gradients) && anomaly.is_none() {
            // An overflow is how fp16 finds its scale; it is not the model's fault.
            self.optimizers.zero_grad();
            return Ok(());
        }
        let anomaly = anomaly.or((!gradients.are_finite()).then_some(Anomaly::NotFinite));
        if let Some(anomaly) = anomaly {
            return self.handle_anomaly(anomaly);
        }
        self.optimizers.step(&gradients, self.model, self.config, self.lr)?;
        self.optimizers.zero_grad();
        self.state.updates += 1;
        self.state.grad_norm = Some(gradients.norm);
        self.state.loss_monitor.record_good_step();
        Ok(())
    }

    /// Skips the update, rolls back or stops, as the settings say.
    fn handle_anomaly(&mut self, anomaly: Anomaly) -> Result<()> {
        self.optimizers.zero_grad();
        let (what, policy) = match anomaly {
            Anomaly::NotFinite => {
                ("the loss or its gradient is not finite".to_owned(), self.config.anomalies.on_nan)
            }
            Anomaly::Spike(ratio) => {
                (format!("the loss is {ratio:.1} times its running mean"), self.config.anomalies.on_spike)
            }
        };
        let what = format!("micro-batch {}: {what}", self.progress.step);
        let tolerated = self.state.loss_monitor.record_anomaly();
        if policy == OnAnomaly::Stop || !tolerated {
            return Err(Error::failed(what).hint(
                "lower learning_rate or raise warmup_steps; on_nan and on_spike can be skip or rollback; \
                 the last checkpoint is untouched",
            ));
        }
        if policy == OnAnomaly::Rollback {
            let (file, broken) = resume::load_last(&self.paths.resume)?;
            self.restore(&file)?;
            if broken.is_some() && self.ranks.is_rank0() {
                resume::rename_broken(&self.paths.resume)?;
            }
            self.observer.log_note(&format!("{what}; rolled back to the last checkpoint's weights"));
        } else {
            self.observer.log_note(&format!("{what}; this update is skipped"));
        }
        Ok(())
    }

    /// Rows of metrics, validation and checkpoints that fall due after a round.
    fn log_and_save(&mut self, round: &Round, loss: StepLoss) -> Result<()> {
        let save = self.progress.is_due(self.config.intervals.save_interval);
        let validate =
            self.config.intervals.eval_interval.map_or(save, |interval| self.progress.is_due(interval));
        let validation = if validate { self.objective.validate(self.model, self.ranks)? } else { Vec::new() };
        let (step, log) = (self.progress.step, self.config.intervals.log_interval);
        let at_end = self.progress.at_end();
        if step / log > (step - round.size) / log || at_end || !validation.is_empty() {
            let notes = std::mem::take(&mut self.notes);
            let took_part = round.index.is_some();
            let (loss, notes) = collectives::mean_over_ranks(self.ranks, loss, took_part, notes)?;
            notes.iter().for_each(|note| self.observer.log_note(note));
            self.optimizers.check_same(self.model, self.ranks)?;
            self.log_metrics(round.epoch, &loss, &validation)?;
        }
        self.keep_best(&validation)?;
        if save && !at_end {
            self.save_all()?;
        }
        Ok(())
    }

    fn log_metrics(&mut self, epoch: u64, loss: &StepLoss, validation: &[(&'static str, f64)]) -> Result<()> {
        let mut values = vec![("loss", loss.loss), ("aux_loss", loss.aux_loss), ("lr", self.lr)];
        values.extend(self.state.grad_norm.take().map(|norm| ("grad_norm", norm)));
        values.extend(self.optimizers.aux.iter_mut().flat_map(|aux| aux.metrics(self.lr, self.config)));
        values.extend([
            ("tokens", self.state.tokens as f64),
            ("tokens_per_s", self.throughput.row()),
            ("elapsed_s", self.throughput.elapsed()),
        ]);
        values.extend(loss.extra.iter().copied());
        for (part, [loss, tokens]) in self.state.parts.iter_mut().zip(&self.part_columns) {
            values.extend(part.mean().map(|mean| (*loss, mean)));
            values.push((tokens, part.tokens as f64));
            (part.loss, part.labels) = (0.0, 0);
        }
        values.extend(self.peaks.take());
        values.extend(validation.iter().copied());
        self.observer.log_metrics(&MetricsRow { epoch: epoch + 1, step: self.progress.step, values })
    }

    /// Notes a validation, and writes `best.pth` where its first number is the best so far.
    fn keep_best(&mut self, validation: &[(&'static str, f64)]) -> Result<()> {
        let Some(&(_, value)) = validation.first() else { return Ok(()) };
        self.state.validation = validation.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
        let lower = self.objective.lower_is_better();
        let better = self.state.best.is_none_or(|(best, _)| if lower { value < best } else { value > best });
        if better && value.is_finite() {
            self.state.best = Some((value, self.progress.step));
            self.save_weights(&self.paths.folder.join("best.pth"))?;
        }
        Ok(())
    }

    /// Saves and ends with a fault where a signal came; only between updates.
    fn stop_if_requested(&mut self) -> Result<()> {
        if !self.progress.at_boundary() || self.progress.at_end() {
            return Ok(());
        }
        let signal = if self.ranks.is_single() { self.signals.requested() } else { self.stop_signal };
        let Some(signal) = signal else { return Ok(()) };
        self.save_all()?;
        // None ends before rank 0 has written: the launcher would stop it.
        self.ranks.barrier()?;
        let Progress { step, total, .. } = self.progress;
        Err(Error::interrupted(signal, format!("saved at micro-batch {step} of {total}"))
            .hint("the same command resumes from there"))
    }

    fn finish(mut self) -> Result<Outcome> {
        self.save_all()?;
        Ok(Outcome {
            steps: self.progress.step,
            updates: self.state.updates,
            tokens: self.state.tokens,
            elapsed_s: self.throughput.elapsed(),
            loss: self.state.loss,
            validation: self.state.validation,
            best: self.state.best,
            anomalies: self.state.loss_monitor.total,
        })
    }
}
