//! What every stage with a training loop has, and `pretrain` and `sft`, which have nothing else.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::data::OnBadRow;
use crate::engine::{AnomalyConfig, LoopIntervals};
use crate::model::Era;
use crate::optim::{AdamWConfig, ScheduleKind};
use crate::plan::changes::{Kinds, SettingKind};
use crate::plan::resolve::Resolver;
use crate::plan::schema::{DataSection, ModelSection};
use crate::plan::types::{DataConfig, Init, ModelPlan, StageConfig, TokenizerSource};
use crate::recipe::Section;

/// The type of the numbers in the weight file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SaveDtype {
    /// Half precision, as upstream saves.
    Fp16,
    /// bfloat16.
    Bf16,
    /// Full precision.
    Fp32,
}

/// Pretraining and fine-tuning.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct TrainConfig {
    /// Start weights: scratch, a stage above, or a path (pretrain: scratch; others: the training stage above).
    #[serde(skip_deserializing)]
    #[schemars(!skip_deserializing, with = "String")]
    pub init: Init,
    /// The architecture, where it is not the recipe's: for `init: scratch`, and for files that do not state theirs.
    #[serde(skip_deserializing)]
    #[schemars(!skip_deserializing, with = "ModelSection")]
    pub model: Option<ModelPlan>,
    /// A tokenizer stage above or a folder (the recipe's); ready token ids need none.
    #[serde(skip_deserializing)]
    #[schemars(!skip_deserializing, with = "String")]
    pub tokenizer: Option<TokenizerSource>,
    /// The rows.
    #[serde(skip_deserializing)]
    #[schemars(!skip_deserializing, with = "DataSection")]
    pub data: DataConfig,
    /// Passes over the data.
    #[schemars(range(min = 1))]
    pub epochs: usize,
    /// Rows a micro-batch.
    #[schemars(range(min = 1))]
    pub batch_size: usize,
    /// Micro-batches an update.
    #[schemars(range(min = 1), extend("default" = 1))]
    pub accumulation_steps: usize,
    /// Peak learning rate.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub learning_rate: f64,
    /// Longest row in tokens; a model of fewer positions lowers the default.
    #[schemars(range(min = 2))]
    pub max_seq_len: usize,
    /// Largest global gradient norm; 0 turns clipping off.
    #[schemars(range(min = 0), extend("default" = 1.0))]
    pub grad_clip: f64,
    /// AdamW's constants.
    #[serde(flatten)]
    #[schemars(flatten)]
    pub adamw: AdamWConfig,
    /// The learning rate over time.
    #[schemars(extend("default" = "upstream"))]
    pub schedule: ScheduleKind,
    /// Micro-batches of linear warm-up.
    #[schemars(extend("default" = 0))]
    pub warmup_steps: usize,
    /// Stop after this many micro-batches; the schedule ends there too (the epochs decide).
    #[schemars(range(min = 1))]
    pub max_steps: Option<usize>,
    /// How often to log, save and validate.
    #[serde(flatten)]
    #[schemars(flatten)]
    pub intervals: LoopIntervals,
    /// Type of the numbers in the weight file; adapters of minimind2 are fp32, as upstream's.
    #[schemars(extend("default" = "fp16"))]
    pub save_dtype: SaveDtype,
    /// What to do about a loss that is not a number, or far too large.
    #[serde(flatten)]
    #[schemars(flatten)]
    pub anomalies: AnomalyConfig,
    /// Dropout probability while training (the model's; lora: of what goes into the adapter, 0).
    #[schemars(range(min = 0), extend("exclusiveMaximum" = 1))]
    pub dropout: f64,
    /// Chance of a random system prompt before a conversation without one.
    #[schemars(range(min = 0, max = 1), extend("default" = 0.2))]
    pub system_prompt_ratio: f64,
    /// Chance that empty think blocks stay in a conversation.
    #[schemars(range(min = 0, max = 1), extend("default" = 0.2))]
    pub empty_think_ratio: f64,
    /// Prompts answered before and after the stage, for the report.
    #[schemars(extend("default" = []))]
    pub samples: Vec<String>,
    /// The token that ends a row (the tokenizer's).
    #[schemars(range(min = 0))]
    pub eos_token_id: Option<i64>,
    /// The token that fills a row (the tokenizer's, and 0 where there is none).
    #[schemars(range(min = 0))]
    pub pad_token_id: Option<i64>,
    /// Stop at a row that cannot be used, or skip and count it; `data` may say so itself (error).
    #[serde(skip_serializing)]
    pub on_bad_row: Option<OnBadRow>,
}

impl TrainConfig {
    /// What a change of a setting means that does not change the result. `on_nan`, `on_spike` and `spike_factor` say what
    /// is done about a fault from now on: a run that one of them stopped is to go on with another.
    pub const KINDS: Kinds = &[
        (SettingKind::Place, "init tokenizer"),
        (SettingKind::Length, "epochs max_steps save_dtype"),
        (
            SettingKind::Watch,
            "log_interval save_interval eval_interval keep_last samples on_nan on_spike spike_factor",
        ),
    ];
}

impl Resolver<'_> {
    pub(in crate::plan) fn pretrain(&mut self, s: &Section<'_>) -> Option<StageConfig> {
        self.train(s).map(StageConfig::Pretrain)
    }

    pub(in crate::plan) fn sft(&mut self, s: &Section<'_>) -> Option<StageConfig> {
        self.train(s).map(StageConfig::Sft)
    }

    /// A stage that trains on rows; its own keys beside these are read by its kind.
    pub(in crate::plan) fn train(&mut self, s: &Section<'_>) -> Option<TrainConfig> {
        let data = self.stage_data(s);
        self.train_config(s, data)
    }

    /// What every stage with a training loop has, its `data` resolved already.
    pub(in crate::plan) fn train_config(&mut self, s: &Section<'_>, data: DataConfig) -> Option<TrainConfig> {
        let init = self.start(s, "init");
        let model = self.stage_model(s.section("model"), &init);
        let tokenizer = self.tokenizer_of(&s.path, s.text("tokenizer"), &init, data.format);
        let computed = self.computed(s, model.as_ref());
        let config: TrainConfig = self.read(s, &computed)?;
        if s.has("max_seq_len") {
            self.fits_positions(&s.path, config.max_seq_len, model.as_ref());
        }
        Some(TrainConfig { init, model, tokenizer, data, ..config })
    }

    /// What holds for settings that the kind has no key for: as in sft.
    fn fixed(&self, s: &Section<'_>) -> Vec<(String, Value)> {
        let sft = ["stages", "0", "sft"].map(str::to_owned);
        let own = crate::plan::shape().defaults(&s.path);
        crate::plan::shape().defaults(&sft).into_iter().filter(|(key, _)| !own.contains_key(key)).collect()
    }

    /// Defaults that follow from the model.
    fn computed(&self, s: &Section<'_>, model: Option<&ModelPlan>) -> Vec<(String, Value)> {
        let config = model.map(|model| &model.config);
        let lora = s.key() == "lora";
        let dropout = config.filter(|_| !lora).map_or(0.0, |config| config.dropout);
        let mut computed = self.fixed(s);
        computed.push(("dropout".to_owned(), json!(dropout)));
        if let Some(config) = config {
            let usual = self.default(s, "max_seq_len").and_then(|length| length.as_i64());
            let most = config.max_position_embeddings;
            computed.extend(usual.map(|length| ("max_seq_len".to_owned(), json!(length.min(most)))));
            // As upstream: minimind2's adapters alone are saved whole.
            computed.extend(
                (lora && config.era == Era::MiniMind2).then(|| ("save_dtype".to_owned(), json!("fp32"))),
            );
        }
        computed
    }

    /// The weights that a stage names under `key`; else fresh ones for pretrain, and for others those of the training
    /// stage above.
    pub(in crate::plan) fn start(&mut self, s: &Section<'_>, key: &str) -> Init {
        if let Some(given) = s.text(key) {
            return self.init(&s.at(key), given);
        }
        let kind = s.key();
        if kind == "pretrain" {
            return Init::Scratch;
        }
        let last = self.above.iter().rev().find(|above| above.trains());
        if let Some(above) = last {
            return Init::Stage(above.name.clone());
        }
        let hint = match key {
            "init" => "give a stage above, a weight file, or scratch",
            _ => "give a training stage above, or a weight file",
        };
        self.missing(&s.path, key, format!("stage `{kind}` needs `{key}`"), hint);
        Init::Scratch
    }
}
