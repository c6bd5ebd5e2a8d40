//! A second set of parameters that learns beside the model: PPO's critic.
//!
//! It has an optimizer of its own, is clipped on its own, and steps at the same updates at a rate in a fixed
//! proportion to the model's. In a checkpoint it stands under upstream's names.

use tch::Tensor;

use super::objective::LoopConfig;
use super::resume::{self, Loaded};
use crate::checkpoint::Value;
use crate::error::Result;
use crate::optim::AdamW;
use crate::optim::clip::clip_to_norm;

/// What an objective trains beside the model.
#[derive(Debug)]
pub struct Companion {
    /// Names and tensors; the optimizer's state is numbered in their order.
    pub params: Vec<(String, Tensor)>,
    /// More names of the same tensors that a state dict lists (a tied output layer).
    pub aliases: Vec<(String, Tensor)>,
    /// Its highest learning rate.
    pub peak: f64,
}

impl Companion {
    fn tensors(&self) -> Vec<Tensor> {
        self.params.iter().map(|(_, t)| t.shallow_clone()).collect()
    }
}

/// The companion at work.
pub(super) struct Second {
    companion: Companion,
    optimizer: AdamW,
    grad_norm: Option<f64>,
}

impl Second {
    pub(super) fn new(companion: Companion, config: &LoopConfig) -> Result<Self> {
        let tensors = companion.tensors();
        for tensor in &tensors {
            let _ = tensor.set_requires_grad(true);
        }
        Ok(Self { companion, optimizer: AdamW::new(tensors, config.adamw)?, grad_norm: None })
    }

    pub(super) fn tensors(&self) -> Vec<Tensor> {
        self.companion.tensors()
    }

    fn ratio(&self, config: &LoopConfig) -> f64 {
        self.companion.peak / config.schedule.peak
    }

    pub(super) fn grads(&self) -> Vec<Tensor> {
        self.optimizer.grads()
    }

    pub(super) fn zero_grad(&mut self) {
        self.optimizer.zero_grad();
    }

    pub(super) fn step(&mut self, grads: &[Tensor], norm: f64, config: &LoopConfig, lr: f64) -> Result<()> {
        if config.grad_clip > 0.0 {
            clip_to_norm(grads, norm, config.grad_clip);
        }
        self.optimizer.step(grads, lr * self.ratio(config))?;
        self.grad_norm = Some(norm);
        Ok(())
    }

    /// What a row of metrics shows, by upstream's names.
    pub(super) fn row(&mut self, lr: f64, config: &LoopConfig) -> Vec<(&'static str, f64)> {
        let mut values = vec![("actor_lr", lr), ("critic_lr", lr * self.ratio(config))];
        values.extend(self.grad_norm.take().map(|norm| ("critic_grad_norm", norm)));
        values
    }

    pub(super) fn saved(
        &self,
        lr: f64,
        config: &LoopConfig,
        updates: u64,
    ) -> Result<Vec<(&'static str, Value)>> {
        let ratio = self.ratio(config);
        let all = self.companion.params.iter().chain(&self.companion.aliases);
        let dict: Vec<_> = all.map(|(name, t)| (name.clone(), t.shallow_clone())).collect();
        let mut entries = vec![
            ("critic_model", resume::tensor_dict(&dict)?),
            (
                "critic_optimizer",
                resume::optimizer_value(self.optimizer.config(), self.optimizer.states(), lr * ratio)?,
            ),
        ];
        if let Some(schedule) = &config.by_updates {
            entries.push(("critic_scheduler", resume::scheduler_value(schedule, ratio, updates)));
        }
        Ok(entries)
    }

    pub(super) fn restore(&mut self, loaded: &Loaded) -> Result<()> {
        loaded.restore_into("critic_model", self.companion.params.iter().map(|(name, t)| (name, t)))?;
        loaded.restore_optimizer("critic_optimizer", &mut self.optimizer)
    }
}
