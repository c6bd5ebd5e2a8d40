//! What a plan will take: parameters, tokens, updates, memory, time. Formulas, no run.
//!
//! Compute: 6 FLOPs a token and active parameter (arXiv 2001.08361, section 2.1), plus 12 * layers *
//! hidden * context for attention, half of it where causal. Evaluation takes a third.
//! B rows, T tokens, D hidden, V vocabulary.

use serde::Serialize;

use super::machine::Machine;
use super::types::*;
use crate::model::ModelConfig;

mod second_model;
mod table;

pub use table::table;

/// What is known of a stage's rows.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Facts {
    /// Rows.
    pub rows: u64,
    /// Real tokens of an epoch.
    pub tokens: u64,
    /// Tokens of an epoch with padding.
    pub padded_tokens: u64,
    /// Micro-batches of an epoch.
    pub micro_batches_per_epoch: u64,
}

/// Numbers in the model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Parameters {
    /// All.
    pub total: u64,
    /// Those the stage changes.
    pub trained: u64,
    /// Those a token visits (fewer with experts).
    pub active: u64,
}

/// Bytes at the peak.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Memory {
    /// Weights.
    pub weights: u64,
    /// Gradients.
    pub gradients: u64,
    /// Optimizer state.
    pub optimizer: u64,
    /// Activations and logits of one micro-batch.
    pub activations: u64,
    /// Their sum.
    pub total: u64,
}

/// Bytes at the peak of each part of a policy's step.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Phases {
    /// Completions are drawn: all models and the optimizer's state, the generator's own copy of the policy, the cache.
    pub rollout: u64,
    /// The reference reads them.
    pub reference: Option<u64>,
    /// The policy learns, and where there is one its critic.
    pub update: u64,
}

/// What a stage will take. `None`: not known from the plan alone.
#[derive(Debug, Clone, Serialize)]
pub struct StageCost {
    /// The stage's name.
    pub name: String,
    /// Its kind.
    pub kind: &'static str,
    /// Numbers in the model.
    pub parameters: Option<Parameters>,
    /// Rows over all epochs.
    pub examples: Option<u64>,
    /// Real tokens over all epochs.
    pub tokens: Option<u64>,
    /// Padding over all epochs.
    pub padding_tokens: Option<u64>,
    /// Micro-batches.
    pub micro_batches: Option<u64>,
    /// Optimizer updates.
    pub updates: Option<u64>,
    /// Bytes at the peak.
    pub peak_memory: Option<Memory>,
    /// The same by phase, of stages that draw completions.
    pub memory_by_phase: Option<Phases>,
    /// Seconds.
    pub seconds: Option<f64>,
}

/// Total and active parameters; the shapes are the model's own.
pub fn parameters(c: &ModelConfig) -> Parameters {
    // Wide, so that a mistyped size gives a large number and no overflow.
    let (d, e, inner) = (c.hidden_size as i128, c.head_dim as i128, c.intermediate_size as i128);
    let (q, kv) = (c.num_attention_heads as i128 * e, c.num_key_value_heads as i128 * e);
    let norms = 2 * d + if c.era == crate::model::Era::MiniMind3 { 2 * e } else { 0 };
    let attention = d * q + 2 * d * kv + q * d;
    let (mlp, active) = match &c.moe {
        None => (3 * d * inner, 3 * d * inner),
        Some(m) => {
            let expert = 3 * d * m.moe_intermediate_size as i128;
            let gate = d * m.num_experts as i128;
            let shared = m.n_shared_experts as i128;
            (
                gate + expert * (m.num_experts as i128 + shared),
                gate + expert * (m.num_experts_per_tok as i128 + shared),
            )
        }
    };
    let embedding = c.vocab_size as i128 * d * if c.tie_word_embeddings { 1 } else { 2 };
    let rest = embedding + d;
    let of =
        |mlp: i128| (rest + c.num_hidden_layers as i128 * (attention + norms + mlp)).clamp(0, 1 << 56) as u64;
    Parameters { total: of(mlp), trained: of(mlp), active: of(active) }
}

/// FLOPs of a forward and backward pass over one token with a context of `length`.
pub fn flops_per_token(c: &ModelConfig, active: u64, length: usize) -> f64 {
    let attention =
        6.0 * c.num_hidden_layers as f64 * (c.num_attention_heads as f64 * c.head_dim as f64) * length as f64;
    // The matrix product of an untied or tied head counts once; the table look-up costs nothing.
    let lookup = if c.tie_word_embeddings { 0 } else { c.vocab_size.saturating_mul(c.hidden_size) as u64 };
    6.0 * active.saturating_sub(lookup) as f64 + attention
}

fn activations(c: &ModelConfig, batch: usize, length: usize, half: bool, train: bool) -> u64 {
    let tokens = batch as f64 * length as f64;
    let bytes = if half { 2.0 } else { 4.0 };
    let inner = match &c.moe {
        None => c.intermediate_size as f64,
        Some(m) => m.moe_intermediate_size as f64 * (m.num_experts_per_tok + m.n_shared_experts) as f64,
    };
    // A block keeps for backward about 8 tensors of width D, its heads, and 4 of the inner width.
    let heads = (c.num_attention_heads + 2 * c.num_key_value_heads) as f64 * c.head_dim as f64;
    let block = 8.0 * c.hidden_size as f64 + 3.0 * heads + 4.0 * inner;
    let layers = if train { c.num_hidden_layers as f64 } else { 1.0 };
    // Logits in fp32, and their gradient.
    let logits = tokens.min(4096.0) * c.vocab_size as f64 * 4.0 * if train { 2.0 } else { 1.0 };
    (tokens * block * layers * bytes + logits) as u64
}

/// A cost for each stage. `facts` knows the rows; `flops_per_s` is what the machine reaches.
pub fn estimate(
    plan: &Plan,
    machine: &Machine,
    facts: &dyn Fn(&StagePlan) -> Option<Facts>,
    flops_per_s: f64,
) -> Vec<StageCost> {
    let half = match plan.runtime.precision {
        Precision::Fp32 => false,
        Precision::Bf16 | Precision::Fp16 => true,
        Precision::Auto => match plan.runtime.device {
            Wanted::Cuda(_) => true,
            Wanted::Auto => machine.gpu_seen,
            Wanted::Cpu | Wanted::Mps => false,
        },
    };
    let trained_vocab_size = plan.stages.iter().find_map(|stage| match &stage.config {
        StageConfig::Tokenizer(c) => Some(c.vocab_size as i64),
        _ => None,
    });
    let estimator = Estimator { half, flops_per_s, trained_vocab_size };
    plan.stages.iter().map(|stage| estimator.stage(stage, facts(stage))).collect()
}

/// What the estimates of all stages share.
pub(super) struct Estimator {
    /// Whether activations have 16 bits.
    half: bool,
    /// What the machine reaches.
    flops_per_s: f64,
    /// Entries of the tokenizer that the plan trains, where it trains one.
    trained_vocab_size: Option<i64>,
}

impl Estimator {
    fn stage(&self, stage: &StagePlan, known: Option<Facts>) -> StageCost {
        if let StageConfig::Ppo(c) | StageConfig::Grpo(c) | StageConfig::Spo(c) | StageConfig::Agent(c) =
            &stage.config
        {
            let model = self.architecture(c.train.model.as_ref(), c.train.tokenizer.as_ref());
            return self.policy(stage, c, model.as_ref(), known);
        }
        if let Some(c) = stage.config.training() {
            let model = self.architecture(c.model.as_ref(), c.tokenizer.as_ref());
            let other = second_model::other_model(&stage.config, model.as_ref(), self);
            return self.training(stage, c, (model.as_ref(), other.as_ref()), known);
        }
        match &stage.config {
            StageConfig::Tokenizer(_) => {
                StageCost { examples: known.map(|f| f.rows), tokens: None, ..blank(stage, "tokenizer") }
            }
            StageConfig::Merge(c) => {
                let count =
                    self.architecture(c.model.as_ref(), c.tokenizer.as_ref()).as_ref().map(parameters);
                StageCost {
                    parameters: count.map(|p| Parameters { trained: 0, ..p }),
                    peak_memory: count.map(|p| total(Memory { weights: p.total * 4, ..Memory::default() })),
                    ..blank(stage, "merge")
                }
            }
            StageConfig::Export(c) => {
                let model = self.architecture(c.model.as_ref(), c.tokenizer.as_ref());
                let count = model.as_ref().map(parameters).map(|p| Parameters { trained: 0, ..p });
                StageCost { parameters: count, updates: Some(0), ..blank(stage, "export") }
            }
            StageConfig::Eval(c) => self.eval(stage, c, known),
            _ => blank(stage, stage.config.kind()),
        }
    }

    /// The architecture of a model plan, with the vocabulary of the plan's own tokenizer where that one is used.
    pub(super) fn architecture(
        &self,
        model: Option<&ModelPlan>,
        tokenizer: Option<&TokenizerSource>,
    ) -> Option<ModelConfig> {
        let mut config = model?.config.clone();
        if let (false, Some(TokenizerSource::Stage(_)), Some(size)) =
            (model?.vocab_size_given, tokenizer, self.trained_vocab_size)
        {
            config.vocab_size = size;
        }
        Some(config)
    }

    fn eval(&self, stage: &StagePlan, c: &EvalConfig, known: Option<Facts>) -> StageCost {
        let model = self.architecture(c.model.as_ref(), c.tokenizer.as_ref());
        let share = known.map(|f| c.limit.map_or(1.0, |l| (l as f64 / f.rows.max(1) as f64).min(1.0)));
        let part = |n: u64| (n as f64 * share.unwrap_or(1.0)).ceil() as u64;
        let count = model.as_ref().map(parameters).map(|p| Parameters { trained: 0, ..p });
        let seconds = known.zip(model.as_ref()).zip(count).map(|((f, m), p)| {
            part(f.padded_tokens) as f64 * flops_per_token(m, p.active, c.max_seq_len)
                / 3.0
                / self.flops_per_s
        });
        let memory = model.as_ref().zip(count).map(|(m, p)| {
            total(Memory {
                weights: p.total * 4,
                activations: activations(m, c.batch_size, c.max_seq_len, self.half, false),
                ..Memory::default()
            })
        });
        StageCost {
            parameters: count,
            examples: known.map(|f| part(f.rows)),
            tokens: known.map(|f| part(f.tokens)),
            padding_tokens: known.map(|f| part(f.padded_tokens.saturating_sub(f.tokens))),
            micro_batches: known.map(|f| part(f.micro_batches_per_epoch)),
            updates: Some(0),
            peak_memory: memory,
            seconds,
            ..blank(stage, "eval")
        }
    }

    fn training(
        &self,
        stage: &StagePlan,
        c: &TrainConfig,
        (model, other): (Option<&ModelConfig>, Option<&ModelConfig>),
        known: Option<Facts>,
    ) -> StageCost {
        let count = model.map(|m| second_model::trained(&stage.config, m));
        let beside = other.map(parameters);
        let steps = known.map(|f| {
            let all = f.micro_batches_per_epoch * c.epochs as u64;
            (f, c.max_steps.map_or(all, |most| all.min(most as u64)))
        });
        let scaled = |pick: fn(&Facts) -> u64| {
            steps.map(|(f, steps)| {
                (pick(&f) as f64 * steps as f64 / f.micro_batches_per_epoch.max(1) as f64).round() as u64
            })
        };
        let padded = scaled(|f| f.padded_tokens);
        let updates = steps.map(|(f, steps)| {
            let (epoch, group) = (f.micro_batches_per_epoch.max(1), c.accumulation_steps as u64);
            // Each epoch's tail makes an update of its own.
            (steps / epoch) * epoch.div_ceil(group) + (steps % epoch).div_ceil(group)
        });
        let memory = model.zip(count).map(|(m, p)| {
            total(Memory {
                weights: (p.total + beside.map_or(0, |b| b.total)) * 4,
                gradients: p.trained * 4,
                optimizer: p.trained * 8,
                activations: activations(m, c.batch_size, c.max_seq_len, self.half, true),
                total: 0,
            })
        });
        // A reference or a teacher runs forward only: a third of the work.
        let watched =
            other.zip(beside).map_or(0.0, |(m, p)| flops_per_token(m, p.active, c.max_seq_len) / 3.0);
        let seconds = padded.zip(model).zip(count).map(|((tokens, m), p)| {
            tokens as f64 * (flops_per_token(m, p.active, c.max_seq_len) + watched) / self.flops_per_s
        });
        StageCost {
            parameters: count,
            examples: scaled(|f| f.rows),
            tokens: scaled(|f| f.tokens),
            padding_tokens: scaled(|f| f.padded_tokens.saturating_sub(f.tokens)),
            micro_batches: steps.map(|(_, steps)| steps),
            updates,
            peak_memory: memory,
            seconds,
            ..blank(stage, stage.config.kind())
        }
    }

    /// A rollout decodes every new token once for its group, then the reference reads and the policy learns the
    /// whole rows. Decoding reads all weights for each token of a few rows: the share it takes is far from the
    /// FLOPs it needs, so it is counted as if it cost a whole forward and backward pass.
    fn policy(
        &self,
        stage: &StagePlan,
        c: &PolicyConfig,
        model: Option<&ModelConfig>,
        known: Option<Facts>,
    ) -> StageCost {
        let (rows, new) = match &c.rollout {
            RolloutPlan::Generated(plan) => (c.generations(), plan.max_new_tokens),
            RolloutPlan::Replay { .. } => (1, 0),
        };
        let facts = known.map(|f| Facts {
            tokens: (f.tokens + f.rows * new as u64) * rows as u64,
            padded_tokens: (f.padded_tokens + f.rows * new as u64) * rows as u64,
            ..f
        });
        let train = TrainConfig {
            batch_size: c.train.batch_size * rows,
            max_seq_len: c.train.max_seq_len + new,
            ..c.train.clone()
        };
        let mut cost = self.training(stage, &train, (model, None), facts);
        let critic = matches!(c.method, Method::Ppo(_));
        let passes = match &c.method {
            Method::Ppo(ppo) => {
                let mini = ppo.mini_batch_size.unwrap_or(c.train.batch_size).max(1);
                (ppo.ppo_update_iters * c.train.batch_size.div_ceil(mini)) as u64
            }
            _ => 1,
        };
        let repeats = if let Method::Ppo(ppo) = &c.method { 2.0 * ppo.ppo_update_iters as f64 } else { 1.0 };
        let reading = if c.reference.is_some() { 1.0 / 3.0 } else { 0.0 };
        let rolling = if new > 0 { 1.0 } else { 0.0 };
        cost.seconds = cost.seconds.map(|s| s * (repeats + reading + rolling));
        cost.updates = cost.micro_batches.map(|n| (n * passes).div_ceil(c.train.accumulation_steps as u64));
        if let (Some(memory), Some(p)) = (&mut cost.peak_memory, cost.parameters) {
            let learners = if critic { 2 } else { 1 };
            let copies = learners + u64::from(c.reference.is_some());
            *memory = total(Memory {
                weights: memory.weights * copies,
                gradients: p.trained * 4 * learners,
                optimizer: p.trained * 8 * learners,
                ..*memory
            });
            if let (Some(m), true) = (model, new > 0) {
                let (rows, length) = (train.batch_size, train.max_seq_len);
                let kept = memory.weights + memory.optimizer;
                let width = (2 * m.num_hidden_layers * m.num_key_value_heads * m.head_dim * 4) as u64;
                cost.memory_by_phase = Some(Phases {
                    rollout: kept + p.total * 4 + (rows * length) as u64 * width,
                    reference: c
                        .reference
                        .as_ref()
                        .map(|_| kept + activations(m, rows, length, self.half, false)),
                    update: memory.total,
                });
            }
        }
        cost
    }
}

fn total(m: Memory) -> Memory {
    let parts = [m.weights, m.gradients, m.optimizer, m.activations];
    Memory { total: parts.iter().fold(0u64, |sum, part| sum.saturating_add(*part)), ..m }
}

fn blank(stage: &StagePlan, kind: &'static str) -> StageCost {
    StageCost {
        name: stage.name.clone(),
        kind,
        parameters: None,
        examples: None,
        tokens: None,
        padding_tokens: None,
        micro_batches: None,
        updates: None,
        peak_memory: None,
        memory_by_phase: None,
        seconds: None,
    }
}
