//! Sections of the stages that train: the keys they share, written once, and each kind's own.
//!
//! A macro and no `flatten`: serde would lose a fault's line. Next: `plan::resolve` and `plan::tuning`.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    DataSection, ModelSection, OnAnomalyName, OnBadRowName, PairLossName, ReductionName, SaveDtypeName,
    ScheduleName,
};

macro_rules! training {
    ($(#[$doc:meta])* $section:ident { $($(#[$own_doc:meta])* $own:ident: $own_type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields)]
        pub struct $section {
            $($(#[$own_doc])* pub $own: Option<$own_type>,)*
            /// The stage's name (its kind).
            pub name: Option<String>,
            /// Start weights: scratch, a stage above, or a path (pretrain: scratch; others: the training stage above).
            pub init: Option<String>,
            /// A tokenizer stage above or a folder (the recipe's).
            pub tokenizer: Option<String>,
            /// The architecture, where it is not the recipe's.
            pub model: Option<ModelSection>,
            /// The rows.
            pub data: Option<DataSection>,
            /// Passes over the data (pretrain, sft 2; lora 10; distill 6; others 1).
            pub epochs: Option<i64>,
            /// Rows a micro-batch (pretrain, lora, distill 32; sft 16; reason, reward 8; dpo 4).
            pub batch_size: Option<i64>,
            /// Micro-batches an update (pretrain 8, others 1).
            pub accumulation_steps: Option<i64>,
            /// Peak learning rate (pretrain 5e-4, lora 1e-4, sft and reward 1e-5, distill 5e-6, reason 1e-6, dpo 4e-8).
            pub learning_rate: Option<f64>,
            /// Longest row in tokens (pretrain, lora, distill 340; reason 720; sft 768; dpo, reward 1024).
            pub max_seq_len: Option<i64>,
            /// Largest global gradient norm; 0 turns clipping off (1.0).
            pub grad_clip: Option<f64>,
            /// AdamW's decay (0.01).
            pub weight_decay: Option<f64>,
            /// AdamW's betas ([0.9, 0.999]).
            pub betas: Option<Vec<Option<f64>>>,
            /// AdamW's epsilon (1e-8).
            pub eps: Option<f64>,
            /// The learning rate over time (upstream: a cosine from the peak to a tenth).
            pub schedule: Option<ScheduleName>,
            /// Micro-batches of linear warm-up (0).
            pub warmup_steps: Option<i64>,
            /// Stop after this many micro-batches (the epochs decide).
            pub max_steps: Option<i64>,
            /// Micro-batches between rows of metrics (100).
            pub log_interval: Option<i64>,
            /// Micro-batches between checkpoints (1000).
            pub save_interval: Option<i64>,
            /// Micro-batches between validations (at each checkpoint).
            pub eval_interval: Option<i64>,
            /// Numbered checkpoints to keep beside the newest (0).
            pub keep_last: Option<i64>,
            /// Type of the numbers in the weight file (fp16).
            pub save_dtype: Option<SaveDtypeName>,
            /// What to do about a loss that is not a number (stop).
            pub on_nan: Option<OnAnomalyName>,
            /// What to do about a spike of the loss (skip).
            pub on_spike: Option<OnAnomalyName>,
            /// How many times its running mean a loss must be to count as a spike (never).
            pub spike_factor: Option<f64>,
            /// Dropout probability (the model's; lora: of what goes into the adapter, 0).
            pub dropout: Option<f64>,
            /// Chance of a random system prompt before a conversation without one (0.2).
            pub system_prompt_ratio: Option<f64>,
            /// Chance that empty think blocks stay in a conversation (0.2).
            pub empty_think_ratio: Option<f64>,
            /// Prompts answered before and after the stage, for the report.
            pub samples: Option<Vec<Option<String>>>,
            /// Stop at a row that cannot be used, or skip and count it (error).
            pub on_bad_row: Option<OnBadRowName>,
            /// The token that ends a row (the tokenizer's).
            pub eos_token_id: Option<i64>,
            /// The token that fills a row (the tokenizer's).
            pub pad_token_id: Option<i64>,
        }

        impl $section {
            /// The keys that every training stage has.
            pub fn shared(&self) -> TrainSection {
                let s = self.clone();
                TrainSection {
                    name: s.name,
                    init: s.init,
                    tokenizer: s.tokenizer,
                    model: s.model,
                    data: s.data,
                    epochs: s.epochs,
                    batch_size: s.batch_size,
                    accumulation_steps: s.accumulation_steps,
                    learning_rate: s.learning_rate,
                    max_seq_len: s.max_seq_len,
                    grad_clip: s.grad_clip,
                    weight_decay: s.weight_decay,
                    betas: s.betas,
                    eps: s.eps,
                    schedule: s.schedule,
                    warmup_steps: s.warmup_steps,
                    max_steps: s.max_steps,
                    log_interval: s.log_interval,
                    save_interval: s.save_interval,
                    eval_interval: s.eval_interval,
                    keep_last: s.keep_last,
                    save_dtype: s.save_dtype,
                    on_nan: s.on_nan,
                    on_spike: s.on_spike,
                    spike_factor: s.spike_factor,
                    dropout: s.dropout,
                    system_prompt_ratio: s.system_prompt_ratio,
                    empty_think_ratio: s.empty_think_ratio,
                    samples: s.samples,
                    on_bad_row: s.on_bad_row,
                    eos_token_id: s.eos_token_id,
                    pad_token_id: s.pad_token_id,
                }
            }
        }
    };
}

training!(
    /// Pretraining and fine-tuning.
    TrainSection {}
);
training!(
    /// Trains a low-rank adapter beside frozen weights.
    LoraSection {
        /// Rank of the adapter (16, or that of `adapter`).
        rank: i64,
        /// The adapter's output is multiplied by alpha / rank (without it: by 1, as upstream does).
        alpha: f64,
        /// Which layers: q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj, all-linear (those with as
        /// many outputs as inputs).
        target_modules: Vec<Option<String>>,
        /// An adapter to go on from: a lora stage above or a file (a fresh one).
        adapter: String,
    }
);
training!(
    /// Fine-tuning that weighs the tokens of think and answer tags more.
    ReasonSection {
        /// Tokens that weigh more (those of <think>, </think>, <answer>, </answer> in the tokenizer).
        marker_token_ids: Vec<Option<i64>>,
        /// How much they weigh (10).
        marker_weight: f64,
    }
);
training!(
    /// Learns from the labels and from a teacher's distribution.
    DistillSection {
        /// The teacher: a stage above or a path to weights of the same vocabulary.
        teacher: String,
        /// The teacher's architecture, where its file does not state it.
        teacher_model: ModelSection,
        /// Share of the cross-entropy, 0..1 (0.5).
        alpha: f64,
        /// Temperature that softens both distributions (1.5).
        temperature: f64,
    }
);
training!(
    /// Direct preference optimisation.
    DpoSection {
        /// The reference: a stage above or a path (the start weights).
        reference: String,
        /// Whether no reference is used (false).
        reference_free: bool,
        /// How strongly the reference holds (0.15).
        beta: f64,
        /// Chance that a label is the wrong way round, 0..0.5 (0).
        label_smoothing: f64,
        /// sigmoid (DPO) or ipo (sigmoid).
        loss_type: PairLossName,
        /// A row's log-probability: sum or mean over the answer's tokens (sum).
        logprob_reduction: ReductionName,
    }
);
training!(
    /// Trains a reward model: a score head on the trunk, by Bradley-Terry.
    RewardSection {
        /// Weight of a term that keeps scores around zero (0).
        center_rewards_coefficient: f64,
    }
);

/// Adds an adapter to the weights for good.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MergeSection {
    /// The stage's name (its kind).
    pub name: Option<String>,
    /// The weights: a stage above or a path (those that the adapter's stage started from).
    pub init: Option<String>,
    /// The adapter: a lora stage above or a file (the lora stage above).
    pub adapter: Option<String>,
    /// What the adapter's output is multiplied by (what its file states, else 1).
    pub scale: Option<f64>,
    /// A tokenizer stage above or a folder, noted in the file (the start weights').
    pub tokenizer: Option<String>,
    /// The architecture, where it is not the recipe's.
    pub model: Option<ModelSection>,
    /// Type of the numbers in which the two are added and saved (fp16).
    pub save_dtype: Option<SaveDtypeName>,
}
