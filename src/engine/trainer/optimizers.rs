//! What an update changes: the model's optimizer and the auxiliary model's, with loss scaling, the reduction of
//! gradients over ranks, and optimizer states in shards.

use tch::Tensor;

use crate::engine::aux_model::AuxTrainer;
use crate::engine::objective::{LoopConfig, Objective};
use crate::engine::optimizer_shards::OptimizerShards;
use crate::engine::ranks::{GradientReducer, Ranks};
use crate::engine::resume::ResumeFile;
use crate::error::Result;
use crate::model::CausalLm;
use crate::optim::adamw::ParamState;
use crate::optim::clip::{clip_to_norm, global_norm};
use crate::optim::{AdamW, GradScaler};

/// The optimizers of a training loop.
pub(super) struct Optimizers {
    adamw: AdamW,
    pub aux: Option<AuxTrainer>,
    /// Dynamic loss scaling of fp16.
    pub scaler: Option<GradScaler>,
    /// Which rank keeps which part of the optimizer's state, where it is sharded.
    shards: Option<OptimizerShards>,
    /// Sum the gradients over ranks, the model's and the auxiliary model's; none in a single process.
    pub reducers: Vec<GradientReducer>,
}

/// Unscaled gradients, and their norms over all parameters of a model.
pub(super) struct Gradients {
    model: Vec<Tensor>,
    aux: Vec<Tensor>,
    pub norm: f64,
    aux_norm: f64,
}

impl Gradients {
    pub(super) fn are_finite(&self) -> bool {
        self.norm.is_finite() && self.aux_norm.is_finite()
    }
}

impl Optimizers {
    /// Those of `model` and of the objective's auxiliary model.
    pub(super) fn new(
        model: &CausalLm,
        config: &LoopConfig,
        objective: &dyn Objective,
        ranks: &Ranks,
    ) -> Result<Self> {
        model.params().set_requires_grad(true);
        let params = model.params().trained().1;
        let sizes: Vec<usize> = params.iter().map(Tensor::numel).collect();
        let shards =
            (config.shard_optimizer && !ranks.is_single()).then(|| OptimizerShards::new(ranks, &sizes));
        let owned = shards.as_ref().map_or_else(|| vec![true; sizes.len()], OptimizerShards::owned);
        let adamw = AdamW::part(params.iter().map(Tensor::shallow_clone).collect(), config.adamw, owned)?;
        let aux = objective.aux_model().map(|model| AuxTrainer::new(model, config)).transpose()?;
        let mut reducers = Vec::new();
        reducers.extend(ranks.gradient_reducer(params)?);
        if let Some(aux) = &aux {
            reducers.extend(ranks.gradient_reducer(&aux.tensors())?);
        }
        let scaler = config.loss_scaling.then(GradScaler::default);
        Ok(Self { adamw, aux, scaler, shards, reducers })
    }

    /// What the loss is multiplied with; 1 without loss scaling.
    pub(super) fn loss_scale(&self) -> f64 {
        self.scaler.as_ref().map_or(1.0, |scaler| scaler.scale)
    }

    /// Waits until the gradients are the sums over all ranks.
    pub(super) fn finish_reduction(&mut self) -> Result<()> {
        self.reducers.iter_mut().try_for_each(GradientReducer::finish)
    }

    /// The accumulated gradients with the loss scale divided out, in place.
    pub(super) fn unscaled_gradients(&self) -> Gradients {
        let model = self.adamw.grads();
        let aux = self.aux.as_ref().map_or_else(Vec::new, AuxTrainer::grads);
        if let Some(scaler) = &self.scaler {
            let inverse = 1.0 / scaler.scale;
            for grad in model.iter().chain(&aux) {
                let _ = grad.shallow_clone().g_mul_scalar_(inverse);
            }
        }
        let norm = global_norm(&model).double_value(&[]);
        let aux_norm = if aux.is_empty() { 0.0 } else { global_norm(&aux).double_value(&[]) };
        Gradients { model, aux, norm, aux_norm }
    }

    /// Adapts the loss scale; true where this update overflowed in fp16 and is skipped.
    pub(super) fn overflowed(&mut self, gradients: &Gradients) -> bool {
        self.scaler.as_mut().is_some_and(|scaler| !scaler.update(gradients.are_finite()))
    }

    /// Clips, updates the parameters, and brings those of other ranks' shards here.
    pub(super) fn step(
        &mut self,
        gradients: &Gradients,
        model: &CausalLm,
        config: &LoopConfig,
        lr: f64,
    ) -> Result<()> {
        if config.grad_clip > 0.0 {
            clip_to_norm(&gradients.model, gradients.norm, config.grad_clip);
        }
        self.adamw.step(&gradients.model, lr)?;
        if let Some(shards) = &self.shards {
            shards.broadcast_params(model.params().trained().1)?;
        }
        match &mut self.aux {
            Some(aux) => aux.step(&gradients.aux, gradients.aux_norm, config, lr),
            None => Ok(()),
        }
    }

    pub(super) fn zero_grad(&mut self) {
        self.adamw.zero_grad();
        if let Some(aux) = &mut self.aux {
            aux.zero_grad();
        }
    }

    /// Checks that all ranks hold the same parameters.
    pub(super) fn check_same(&self, model: &CausalLm, ranks: &Ranks) -> Result<()> {
        ranks.check_same(model.params().trained().1)?;
        match &self.aux {
            Some(aux) => ranks.check_same(&aux.tensors()),
            None => Ok(()),
        }
    }

    /// The moments of every parameter, on rank 0; nothing on the others.
    pub(super) fn states(&self, model: &CausalLm, ranks: &Ranks) -> Result<Vec<ParamState>> {
        match &self.shards {
            Some(shards) => shards.gather_states(&self.adamw, model.params().trained().1),
            None if ranks.is_rank0() => Ok(self.adamw.states()),
            None => Ok(Vec::new()),
        }
    }

    /// Puts weights, moments, loss scale and this rank's random state back.
    pub(super) fn restore(&mut self, file: &ResumeFile, model: &CausalLm, rank: usize) -> Result<()> {
        file.restore(model, &mut self.adamw, self.scaler.as_mut(), rank)?;
        match &mut self.aux {
            Some(aux) => aux.restore(file),
            None => Ok(()),
        }
    }
}
