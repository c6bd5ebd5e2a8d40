//! Keys of the stages that learn from rewards: ppo, grpo, spo, agent.
//!
//! They share most keys; a macro writes them once, since serde's `flatten` would lose the place of a fault.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    DataSection, ModelSection, OnAnomalyName, OnBadRowName, Reward, SaveDtypeName, ScheduleName, Tool,
};

macro_rules! word {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
        #[serde(rename_all = "snake_case")]
        pub enum $name { $($(#[$vdoc])* $variant),* }
    };
}

word!(
    /// Where rollouts come from.
    EngineName {
        /// The built-in generator.
        Native,
        /// A server.
        Http,
        /// Recorded rollouts.
        Replay,
    }
);
word!(
    /// What a server of rollouts speaks.
    ProtocolName {
        /// SGLang's own.
        Sglang,
        /// OpenAI's, with token ids: vLLM, and `minimind serve`.
        Openai,
    }
);
word!(
    /// How a server of rollouts gets the policy.
    UpdateName {
        /// A folder, and SGLang's call.
        Sglang,
        /// A folder that `minimind serve` serves, and its call.
        Reload,
        /// A folder alone.
        Folder,
        /// Not at all.
        None,
    }
);
word!(
    /// How GRPO keeps the ratio in bounds.
    LossTypeName {
        /// Clipped objective.
        Grpo,
        /// Clipped weight.
        Cispo,
    }
);
word!(
    /// What a token's loss is divided by.
    LengthNormName {
        /// Its row's length, then the rows.
        Row,
        /// The batch's tokens (DAPO).
        Token,
        /// A constant length (Dr. GRPO).
        Constant,
    }
);
word!(
    /// How fast SPO's tracker forgets.
    RhoModeName {
        /// By how far the policy moved.
        Kl,
        /// At a constant rate.
        Constant,
    }
);
word!(
    /// What a guard does.
    GuardActionName {
        /// Says so.
        Warn,
        /// Says so and halves the learning rate.
        Lower,
        /// Saves and ends the run with an error.
        Stop,
    }
);

/// Where rollouts come from, and how tokens are drawn.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RolloutSection {
    /// native generates them, http asks a server, replay reads `path` (native).
    pub engine: Option<EngineName>,
    /// Recorded rollouts (replay).
    pub path: Option<String>,
    /// Most new tokens a completion (1024; spo 1536; agent 768).
    pub max_new_tokens: Option<i64>,
    /// The same by upstream's name.
    pub max_gen_len: Option<i64>,
    /// Divides the logits (1.0).
    pub temperature: Option<f64>,
    /// The smallest set of likeliest tokens with this probability; 1: all (1.0).
    pub top_p: Option<f64>,
    /// Only this many of the likeliest; 0: all (0).
    pub top_k: Option<i64>,
    /// Where the server is (http).
    pub url: Option<String>,
    /// What it speaks: sglang, or openai with token ids (sglang).
    pub protocol: Option<ProtocolName>,
    /// The model's name there (openai).
    pub model: Option<String>,
    /// Completions a request (64).
    pub batch_size: Option<i64>,
    /// How the server gets each step's policy: sglang's call, reload (minimind serve), folder alone, or none (sglang; openai: folder).
    pub update: Option<UpdateName>,
    /// Seconds a request may take (600).
    pub timeout_secs: Option<f64>,
    /// Tries after the first (3).
    pub retries: Option<i64>,
    /// More headers.
    pub headers: Option<BTreeMap<String, String>>,
    /// Variable of the environment with the server's key.
    pub api_key_env: Option<String>,
}

/// What is watched while the policy learns; each guard is off until its bound is given.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GuardSection {
    /// Largest KL to the reference a token (its mean over recent steps).
    pub kl_above: Option<f64>,
    /// What to do then (warn).
    pub on_kl: Option<GuardActionName>,
    /// How far the mean reward over recent steps may fall below its best.
    pub reward_drop: Option<f64>,
    /// What to do then (warn).
    pub on_reward: Option<GuardActionName>,
    /// Largest share of repeated trigrams in completions (its mean over recent steps).
    pub repetition_above: Option<f64>,
    /// What to do then (warn).
    pub on_repetition: Option<GuardActionName>,
    /// Steps that count as recent (10).
    pub window: Option<i64>,
}

macro_rules! policy_section {
    ($(#[$doc:meta])* $name:ident { $($(#[$fdoc:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields)]
        pub struct $name {
            /// The stage's name (its kind).
            pub name: Option<String>,
            /// Start weights: a stage above, or a path (the training stage above).
            pub init: Option<String>,
            /// A tokenizer stage above or a folder (the recipe's); replay needs none.
            pub tokenizer: Option<String>,
            /// The architecture, where it is not the recipe's.
            pub model: Option<ModelSection>,
            /// Prompts: the last assistant turn of a row is ignored. Replay needs none.
            pub data: Option<DataSection>,
            /// What a completion is worth: a weighted list. Replay needs none.
            pub rewards: Option<Vec<Option<Reward>>>,
            /// Prompts to measure on before, during and after (none).
            pub heldout: Option<DataSection>,
            /// Most held-out prompts (100).
            pub heldout_limit: Option<i64>,
            /// How held-out prompts are answered: 0 greedily, 1 as training samples (0).
            pub heldout_temperature: Option<f64>,
            /// The model that the KL holds on to: a stage above or a path (the start weights).
            pub reference: Option<String>,
            /// Where rollouts come from.
            pub rollout: Option<RolloutSection>,
            /// What is watched.
            pub guards: Option<GuardSection>,
            /// Passes over the prompts (1).
            pub epochs: Option<i64>,
            /// Prompts a step (2).
            pub batch_size: Option<i64>,
            /// Backward passes an update (1; spo 4).
            pub accumulation_steps: Option<i64>,
            /// Peak learning rate (3e-7; spo 1e-7).
            pub learning_rate: Option<f64>,
            /// Longest prompt in tokens (768; spo 66; agent 1024).
            pub max_seq_len: Option<i64>,
            /// Most new tokens a completion: the same as rollout.max_new_tokens, by upstream's name.
            pub max_gen_len: Option<i64>,
            /// Chance that a prompt opens a think block, for templates that know it (grpo 0.9; others 0).
            pub thinking_ratio: Option<f64>,
            /// Largest global gradient norm; 0 turns clipping off (1.0).
            pub grad_clip: Option<f64>,
            /// AdamW's decay (0.01).
            pub weight_decay: Option<f64>,
            /// AdamW's betas ([0.9, 0.999]).
            pub betas: Option<Vec<Option<f64>>>,
            /// AdamW's epsilon (1e-8).
            pub eps: Option<f64>,
            /// The learning rate over updates (upstream: a cosine from the peak to a tenth).
            pub schedule: Option<ScheduleName>,
            /// Updates of linear warm-up (0).
            pub warmup_steps: Option<i64>,
            /// Stop after this many steps (the epochs decide).
            pub max_steps: Option<i64>,
            /// Steps between rows of metrics (1).
            pub log_interval: Option<i64>,
            /// Steps between checkpoints (10).
            pub save_interval: Option<i64>,
            /// Steps between measurements on held-out prompts (at each checkpoint).
            pub eval_interval: Option<i64>,
            /// Numbered checkpoints to keep beside the newest (0).
            pub keep_last: Option<i64>,
            /// Type of the numbers in the weight file (fp16).
            pub save_dtype: Option<SaveDtypeName>,
            /// What to do about a loss that is not a number (stop).
            pub on_nan: Option<OnAnomalyName>,
            /// Stop at a row that cannot be used, or skip and count it (error).
            pub on_bad_row: Option<OnBadRowName>,
            /// Completions of a logged step that are kept for the report (4).
            pub keep_completions: Option<i64>,
            /// The token that ends a completion (the tokenizer's, else 2).
            pub eos_token_id: Option<i64>,
            /// The token that fills a row; attention does not see it in replay (the tokenizer's, else 0).
            pub pad_token_id: Option<i64>,
            $($(#[$fdoc])* pub $field: $type,)*
        }

        impl $name {
            /// The keys that every such stage has.
            pub fn common(&self) -> PolicySection {
                PolicySection {
                    data: self.data.clone(),
                    max_seq_len: self.max_seq_len,
                    on_bad_row: self.on_bad_row,
                    rewards: self.rewards.clone(),
                    heldout: self.heldout.clone(),
                    heldout_limit: self.heldout_limit,
                    heldout_temperature: self.heldout_temperature,
                    reference: self.reference.clone(),
                    rollout: self.rollout.clone(),
                    guards: self.guards.clone(),
                    max_gen_len: self.max_gen_len,
                    thinking_ratio: self.thinking_ratio,
                    keep_completions: self.keep_completions,
                }
            }
        }
    };
}

/// The shared keys, taken out of a section.
#[derive(Debug, Clone, Default)]
#[allow(missing_docs)]
pub struct PolicySection {
    pub data: Option<DataSection>,
    pub max_seq_len: Option<i64>,
    pub on_bad_row: Option<OnBadRowName>,
    pub rewards: Option<Vec<Option<Reward>>>,
    pub heldout: Option<DataSection>,
    pub heldout_limit: Option<i64>,
    pub heldout_temperature: Option<f64>,
    pub reference: Option<String>,
    pub rollout: Option<RolloutSection>,
    pub guards: Option<GuardSection>,
    pub max_gen_len: Option<i64>,
    pub thinking_ratio: Option<f64>,
    pub keep_completions: Option<i64>,
}

/// The keys of a group's loss, taken out of a section.
#[derive(Debug, Clone, Copy, Default)]
#[allow(missing_docs)]
pub struct GroupSection {
    pub loss_type: Option<LossTypeName>,
    pub num_generations: Option<i64>,
    pub beta: Option<f64>,
    pub epsilon: Option<f64>,
    pub epsilon_high: Option<f64>,
    pub clip_higher: Option<f64>,
    pub length_normalization: Option<LengthNormName>,
    pub scale_rewards: Option<bool>,
    pub dynamic_sampling: Option<bool>,
    pub dynamic_sampling_rounds: Option<i64>,
}

/// A policy's section with the keys of a group's loss.
macro_rules! group_section {
    ($(#[$doc:meta])* $name:ident { $($own:tt)* }) => {
        policy_section!(
            $(#[$doc])*
            $name {
                $($own)*
                /// grpo clips the objective, cispo the weight (cispo).
                loss_type: Option<LossTypeName>,
                /// Completions a prompt (6; agent 4).
                num_generations: Option<i64>,
                /// Weight of the KL to the reference; 0 needs none (0.1).
                beta: Option<f64>,
                /// How far a ratio may go from 1, for grpo (0.2).
                epsilon: Option<f64>,
                /// Largest weight of a token, for cispo (5.0).
                epsilon_high: Option<f64>,
                /// How far above 1 a ratio may go, for grpo: DAPO's clip-higher (epsilon).
                clip_higher: Option<f64>,
                /// What a token's loss is divided by: row (upstream), token (DAPO) or constant (Dr. GRPO) (row).
                length_normalization: Option<LengthNormName>,
                /// Whether advantages are divided by their group's standard deviation; Dr. GRPO does not (true).
                scale_rewards: Option<bool>,
                /// Whether prompts whose completions all got one reward are replaced by others, as in DAPO (false).
                dynamic_sampling: Option<bool>,
                /// Most rounds of replacement a step (3).
                dynamic_sampling_rounds: Option<i64>,
            }
        );

        impl $name {
            /// The keys of the group's loss.
            pub fn group(&self) -> GroupSection {
                GroupSection {
                    loss_type: self.loss_type,
                    num_generations: self.num_generations,
                    beta: self.beta,
                    epsilon: self.epsilon,
                    epsilon_high: self.epsilon_high,
                    clip_higher: self.clip_higher,
                    length_normalization: self.length_normalization,
                    scale_rewards: self.scale_rewards,
                    dynamic_sampling: self.dynamic_sampling,
                    dynamic_sampling_rounds: self.dynamic_sampling_rounds,
                }
            }
        }
    };
}

group_section!(
    /// GRPO and CISPO: a group of completions a prompt, compared with each other.
    GrpoSection {}
);

group_section!(
    /// Tool use over several turns, by GRPO or CISPO: only what the policy wrote carries loss.
    AgentSection {
        /// Tools the policy may call: calculator, units, clock, lookup, command (calculator, units, clock; for
        /// the built-in world's errands lookup too).
        tools: Option<Vec<Option<Tool>>>,
        /// Most assistant turns (3).
        max_turns: Option<i64>,
        /// Most tokens after the prompt, all turns and results together (rollout.max_new_tokens a turn).
        max_total_len: Option<i64>,
    }
);

policy_section!(
    /// PPO: one completion a prompt, a critic for its value.
    PpoSection {
        /// The critic's start weights: a stage above or a path; a fresh head on the start weights where left out.
        critic: Option<String>,
        /// The critic's peak learning rate (5e-7).
        critic_learning_rate: Option<f64>,
        /// How far a ratio may go from 1 (0.2).
        clip_epsilon: Option<f64>,
        /// Weight of the critic's loss (0.5).
        vf_coef: Option<f64>,
        /// Weight of the KL to the reference; 0 needs none (0.02).
        kl_coef: Option<f64>,
        /// Discount a token (1.0).
        gamma: Option<f64>,
        /// Decay of generalised advantages (0.95).
        lam: Option<f64>,
        /// How far a value may go from the old one (0.2).
        cliprange_value: Option<f64>,
        /// Passes over a step's rows (2).
        ppo_update_iters: Option<i64>,
        /// KL to the old policy above which a step's updates end (0.25).
        early_stop_kl: Option<f64>,
        /// Rows a minibatch (the whole step).
        mini_batch_size: Option<i64>,
    }
);

policy_section!(
    /// SPO: one completion a prompt, against a tracked baseline.
    SpoSection {
        /// Weight of the KL to the reference; 0 needs none (0.02).
        beta: Option<f64>,
        /// What decides how fast the baseline forgets: kl or constant (kl).
        rho_mode: Option<RhoModeName>,
        /// Share kept at the first step, and always with rho_mode: constant (0.9).
        rho_const: Option<f64>,
        /// Move of the mean log-probability that halves what is kept (0.06).
        d_half: Option<f64>,
        /// Least share kept (0.5).
        clip_lower: Option<f64>,
        /// Most share kept (0.96).
        clip_upper: Option<f64>,
    }
);
