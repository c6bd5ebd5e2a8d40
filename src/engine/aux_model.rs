//! A second model that is trained beside the policy: PPO's critic.
//!
//! It has an optimizer of its own, is clipped on its own, and steps at the same updates, at a learning rate in a fixed
//! ratio to the model's. In a checkpoint it stands under upstream's names.

use tch::Tensor;

use super::objective::LoopConfig;
use super::resume::{self, ResumeFile};
use crate::checkpoint::Value;
use crate::error::Result;
use crate::optim::AdamW;
use crate::optim::clip::clip_to_norm;

/// A model that an objective trains beside the policy.
#[derive(Debug)]
pub struct AuxModel {
    /// Names and tensors; the optimizer's state is numbered in their order.
    pub params: Vec<(String, Tensor)>,
    /// Further names of the same tensors that a state dict lists (a tied output layer).
    pub aliases: Vec<(String, Tensor)>,
    /// Its highest learning rate.
    pub peak_lr: f64,
}

impl AuxModel {
    fn tensors(&self) -> Vec<Tensor> {
        self.params.iter().map(|(_, t)| t.shallow_clone()).collect()
    }
}

/// An auxiliary model with its optimizer.
pub(super) struct AuxTrainer {
    model: AuxModel,
    optimizer: AdamW,
    /// Gradient norm of an update since the last row of metrics.
    grad_norm: Option<f64>,
}

impl AuxTrainer {
    pub(super) fn new(model: AuxModel, config: &LoopConfig) -> Result<Self> {
        let tensors = model.tensors();
        for tensor in &tensors {
            let _ = tensor.set_requires_grad(true);
        }
        Ok(Self { model, optimizer: AdamW::new(tensors, config.adamw)?, grad_norm: None })
    }

    pub(super) fn tensors(&self) -> Vec<Tensor> {
        self.model.tensors()
    }

    /// Its learning rate over the model's.
    fn lr_ratio(&self, config: &LoopConfig) -> f64 {
        self.model.peak_lr / config.schedule.peak
    }

    pub(super) fn grads(&self) -> Vec<Tensor> {
        self.optimizer.grads()
    }

    pub(super) fn zero_grad(&mut self) {
        self.optimizer.zero_grad();
    }

    /// Clips and updates; `norm` is that of `grads`, `lr` the model's learning rate.
    pub(super) fn step(&mut self, grads: &[Tensor], norm: f64, config: &LoopConfig, lr: f64) -> Result<()> {
        if config.grad_clip > 0.0 {
            clip_to_norm(grads, norm, config.grad_clip);
        }
        self.optimizer.step(grads, lr * self.lr_ratio(config))?;
        self.grad_norm = Some(norm);
        Ok(())
    }

    /// Its columns in a row of metrics, by upstream's names.
    pub(super) fn metrics(&mut self, lr: f64, config: &LoopConfig) -> Vec<(&'static str, f64)> {
        let mut values = vec![("actor_lr", lr), ("critic_lr", lr * self.lr_ratio(config))];
        values.extend(self.grad_norm.take().map(|norm| ("critic_grad_norm", norm)));
        values
    }

    /// Its entries in a resume file, by upstream's names.
    pub(super) fn checkpoint_entries(
        &self,
        lr: f64,
        config: &LoopConfig,
        updates: u64,
    ) -> Result<Vec<(&'static str, Value)>> {
        let ratio = self.lr_ratio(config);
        let all = self.model.params.iter().chain(&self.model.aliases);
        let dict: Vec<_> = all.map(|(name, t)| (name.clone(), t.shallow_clone())).collect();
        let mut entries = vec![
            ("critic_model", resume::tensor_dict(&dict)?),
            (
                "critic_optimizer",
                resume::optimizer_value(self.optimizer.config(), self.optimizer.states(), lr * ratio)?,
            ),
        ];
        if let Some(schedule) = &config.update_schedule {
            entries.push(("critic_scheduler", resume::scheduler_value(schedule, ratio, updates)));
        }
        Ok(entries)
    }

    pub(super) fn restore(&mut self, file: &ResumeFile) -> Result<()> {
        file.restore_into("critic_model", self.model.params.iter().map(|(name, t)| (name, t)))?;
        file.restore_optimizer("critic_optimizer", &mut self.optimizer)
    }
}
