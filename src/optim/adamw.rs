//! AdamW (arXiv 1711.05101) whose moments are our tensors, so that a checkpoint can hold them exactly.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::error::{Error, Result};
use crate::native::{AdamWStep, adamw_step, clear_grads, foreach_zero};

/// AdamW's constants, as a recipe states them; the defaults are PyTorch's.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AdamWConfig {
    /// AdamW's decay, on every parameter.
    #[schemars(range(min = 0), extend("default" = 0.01))]
    pub weight_decay: f64,
    /// AdamW's betas.
    #[schemars(
        with = "[f64; 2]",
        extend("default" = [0.9, 0.999], "items" = {"type": "number", "minimum": 0, "exclusiveMaximum": 1})
    )]
    pub betas: (f64, f64),
    /// AdamW's epsilon.
    #[schemars(extend("default" = 1e-8, "exclusiveMinimum" = 0))]
    pub eps: f64,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        Self { betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.01 }
    }
}

/// The optimizer: parameters and, in the same order, their moments and update counts.
#[derive(Debug)]
pub struct AdamW {
    config: AdamWConfig,
    params: Vec<Tensor>,
    exp_avgs: Vec<Tensor>,
    exp_avg_sqs: Vec<Tensor>,
    /// fp32 scalars: updates done, as PyTorch keeps them.
    steps: Vec<Tensor>,
    /// Which parameters it updates; the state of the others is another process's, and empty here.
    mine: Vec<bool>,
}

/// One parameter's state, as PyTorch's `state_dict` has it.
#[derive(Debug)]
pub struct ParamState {
    /// Updates that this parameter has had.
    pub step: f64,
    /// First moment, an average of gradients; of the shape of the parameter.
    pub exp_avg: Tensor,
    /// Second moment, an average of squared gradients; of the same shape.
    pub exp_avg_sq: Tensor,
}

impl AdamW {
    /// An optimizer over `params` of any shapes, with empty moments of the same shapes.
    ///
    /// # Errors
    /// libtorch runs out of memory.
    pub fn new(params: Vec<Tensor>, config: AdamWConfig) -> Result<Self> {
        let all = vec![true; params.len()];
        Self::part(params, config, all)
    }

    /// The same that keeps state for, and updates, those of `mine` (one a parameter, whatever its shape `[..]`) alone.
    ///
    /// # Errors
    /// libtorch runs out of memory.
    pub fn part(params: Vec<Tensor>, config: AdamWConfig, mine: Vec<bool>) -> Result<Self> {
        let zeros = || {
            let moment = |(p, mine): (&Tensor, &bool)| {
                Ok(if *mine { p.f_zeros_like()? } else { Tensor::f_zeros([0], (p.kind(), p.device()))? })
            };
            params.iter().zip(&mine).map(moment).collect::<Result<Vec<_>>>()
        };
        // CUDA's fused kernel wants the counters beside the parameters.
        let counter = |p: &Tensor| Ok(Tensor::f_zeros([], (Kind::Float, p.device()))?);
        Ok(Self {
            exp_avgs: zeros()?,
            exp_avg_sqs: zeros()?,
            steps: params.iter().map(counter).collect::<Result<_>>()?,
            params,
            config,
            mine,
        })
    }

    /// The hyper-parameters, without the learning rate of a step.
    pub fn config(&self) -> AdamWConfig {
        self.config
    }

    /// Gradients in parameter order, each shaped like its parameter `[..]`; a parameter that took no part gets zeros, since decay and moments act
    /// on it all the same.
    pub fn grads(&self) -> Vec<Tensor> {
        self.params
            .iter()
            .map(|p| {
                let grad = p.grad();
                if grad.defined() { grad } else { p.zeros_like() }
            })
            .collect()
    }

    /// One update (arXiv 1711.05101) with gradients in parameter order, each shaped like its parameter `[..]`.
    ///
    /// # Errors
    /// Shapes or dtypes that do not fit.
    pub fn step(&mut self, grads: &[Tensor], lr: f64) -> Result<()> {
        let AdamWConfig { betas, eps, weight_decay } = self.config;
        let step = AdamWStep { lr, betas, weight_decay, eps };
        let mine = |all: &[Tensor]| -> Vec<Tensor> {
            all.iter().zip(&self.mine).filter(|(_, mine)| **mine).map(|(t, _)| t.shallow_clone()).collect()
        };
        if !self.mine.contains(&true) {
            return Ok(());
        }
        let moments = (&mine(&self.exp_avgs)[..], &mine(&self.exp_avg_sqs)[..]);
        adamw_step(&mine(&self.params), &mine(grads), moments, &mine(&self.steps), step)
    }

    /// Forgets the gradients. A GPU keeps their memory, where recorded steps write; elsewhere the next backward pass
    /// brings its own, which is then neither filled with zeros nor added to.
    pub fn zero_grad(&mut self) {
        if self.params.first().is_some_and(|param| param.device().is_cuda()) {
            let grads: Vec<Tensor> = self.params.iter().map(Tensor::grad).filter(Tensor::defined).collect();
            return foreach_zero(&grads).expect("gradients can be filled");
        }
        clear_grads(&self.params).expect("parameters are leaves");
    }

    /// A parameter's state; handles to the tensors that the next update changes.
    pub fn state(&self, index: usize) -> ParamState {
        ParamState {
            step: self.steps[index].double_value(&[]),
            exp_avg: self.exp_avgs[index].shallow_clone(),
            exp_avg_sq: self.exp_avg_sqs[index].shallow_clone(),
        }
    }

    /// Every parameter's state.
    pub fn states(&self) -> Vec<ParamState> {
        (0..self.len()).map(|i| self.state(i)).collect()
    }

    /// The number of parameters that are updated.
    pub fn len(&self) -> usize {
        self.params.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.params.is_empty()
    }

    /// Puts a parameter's state back, where it is kept here.
    ///
    /// # Errors
    /// A moment of another shape than the parameter.
    pub fn set_state(&mut self, index: usize, state: &ParamState) -> Result<()> {
        if !self.mine[index] {
            return Ok(());
        }
        let want = self.params[index].size();
        for moment in [&state.exp_avg, &state.exp_avg_sq] {
            if moment.size() != want {
                let got = moment.size();
                return Err(Error::failed(format!(
                    "optimizer state {index} has shape {got:?}, its parameter {want:?}"
                )));
            }
        }
        tch::no_grad(|| -> Result<()> {
            self.exp_avgs[index].f_copy_(&state.exp_avg)?;
            self.exp_avg_sqs[index].f_copy_(&state.exp_avg_sq)?;
            let _ = self.steps[index].f_fill_(state.step)?;
            Ok(())
        })
    }
}
