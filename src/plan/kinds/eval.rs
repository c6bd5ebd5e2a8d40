//! `eval` stages: which weights, on which rows, by which measures.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::without_repeats;
use crate::data::source;
use crate::plan::changes::{Kinds, SettingKind};
use crate::plan::resolve::Resolver;
use crate::plan::schema::DataSection;
use crate::plan::types::{DataConfig, DataFormat, DataSource, Init, ModelPlan, StageConfig, TokenizerSource};
use crate::recipe::Section;

/// Longest row where neither the recipe nor the model's stage states one.
const MAX_SEQ_LEN: usize = 768;

/// Measures a model.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct EvalConfig {
    /// Which weights: a stage above or a path (the training stage above).
    #[serde(skip_serializing)]
    pub from: Option<String>,
    /// The same as `from`.
    #[serde(skip_deserializing)]
    #[schemars(!skip_deserializing, with = "String")]
    pub init: Init,
    /// The architecture, for files that do not state theirs.
    #[serde(skip_deserializing)]
    #[schemars(skip)]
    pub model: Option<ModelPlan>,
    /// A tokenizer stage above or a folder (the model's stage's, else the recipe's).
    #[serde(skip_deserializing)]
    #[schemars(!skip_deserializing, with = "String")]
    pub tokenizer: Option<TokenizerSource>,
    /// What to measure on.
    #[serde(skip_deserializing)]
    #[schemars(!skip_deserializing, with = "DataSection")]
    pub data: DataConfig,
    /// loss and exact_match; or multiple_choice (also by a benchmark's name); or math (math where the rows hold `gt`, else
    /// loss).
    #[schemars(extend("default" = []))]
    pub tasks: Vec<EvalTask>,
    /// Rows a batch.
    #[schemars(range(min = 1), extend("default" = 16))]
    pub batch_size: usize,
    /// Longest row in tokens (that of the model's stage, else 768).
    #[schemars(range(min = 2))]
    pub max_seq_len: usize,
    /// Longest answer in tokens.
    #[schemars(range(min = 1), extend("default" = 64))]
    pub max_new_tokens: usize,
    /// Most rows to measure; of multiple choice, most a file (all).
    #[schemars(range(min = 1))]
    pub limit: Option<usize>,
    /// How questions of multiple choice are put.
    #[serde(skip_deserializing)]
    #[schemars(!skip_deserializing, flatten)]
    pub choice: ChoicePlan,
}

impl EvalConfig {
    /// What a change of a setting means that does not change the result.
    pub const KINDS: Kinds = &[(SettingKind::Place, "init tokenizer choice.shots_from")];
}

/// How questions of multiple choice are put.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ChoicePlan {
    /// Answered examples before each question of multiple choice.
    #[schemars(extend("default" = 0))]
    pub shots: usize,
    /// Where examples come from: a file, or a folder with a file of each subject's name.
    pub shots_from: Option<PathBuf>,
    /// Whether questions of multiple choice are put as chat turns.
    #[schemars(extend("default" = false))]
    pub chat_template: bool,
}

/// What an evaluation measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum EvalTask {
    /// Cross-entropy, perplexity, bits per byte.
    Loss,
    /// Greedy answers compared with the verifiable answer.
    ExactMatch,
    /// The likeliest of several answers.
    #[serde(
        alias = "ceval",
        alias = "cmmlu",
        alias = "arc",
        alias = "piqa",
        alias = "openbookqa",
        alias = "hellaswag"
    )]
    #[schemars(extend("x-aliases" = ["ceval", "cmmlu", "arc", "piqa", "openbookqa", "hellaswag"]))]
    #[value(aliases = ["ceval", "cmmlu", "arc", "piqa", "openbookqa", "hellaswag"])]
    MultipleChoice,
    /// Greedy answers whose final number is compared.
    #[serde(alias = "gsm8k")]
    #[schemars(extend("x-aliases" = ["gsm8k"]))]
    #[value(alias = "gsm8k")]
    Math,
}

impl Resolver<'_> {
    pub(in crate::plan) fn eval(&mut self, s: &Section<'_>) -> Option<StageConfig> {
        if s.has("from") && s.has("init") {
            self.fault(&s.at("init"), "`from` and `init` mean the same here", "keep `from`");
        }
        let init = self.start(s, if s.has("init") && !s.has("from") { "init" } else { "from" });
        let model = self.stage_model(None, &init);
        let mut data = self.stage_data(s);
        let tokenizer = self.tokenizer_of(&s.path, s.text("tokenizer"), &init, data.format);
        let trained = match &init {
            Init::Stage(name) => {
                self.above.iter().find(|a| a.name == *name).map_or(MAX_SEQ_LEN, |a| a.max_seq_len.max(2))
            }
            _ => MAX_SEQ_LEN,
        };
        let mut config: EvalConfig = self.read(s, &[("max_seq_len".to_owned(), trained.into())])?;
        without_repeats(&mut config.tasks);
        if !config.tasks.contains(&EvalTask::MultipleChoice) {
            self.spread_folders(&s.at("data"), &mut data);
        }
        if config.tasks.is_empty() {
            // As `minimind eval`: sums in words are answered, not read.
            config.tasks.push(if is_math(&data) { EvalTask::Math } else { EvalTask::Loss });
        }
        if config.tasks.contains(&EvalTask::ExactMatch) && data.format != DataFormat::Chat {
            let hint = "set data.format: chat, or leave exact_match out";
            self.fault(&s.at("tasks"), "`exact_match` needs conversations", hint);
        }
        let choice = self.choice(s, &config.tasks, &data)?;
        Some(StageConfig::Eval(EvalConfig { init, model, tokenizer, data, choice, ..config }))
    }

    /// How questions of multiple choice are put, and whether the data can be such.
    fn choice(&mut self, s: &Section<'_>, tasks: &[EvalTask], data: &DataConfig) -> Option<ChoicePlan> {
        let asked = tasks.contains(&EvalTask::MultipleChoice);
        if asked && tasks.len() > 1 {
            self.fault(
                &s.at("tasks"),
                "`multiple_choice` has files of its own and stands alone",
                "measure the other tasks in a second eval stage",
            );
        }
        let DataSource::Paths(paths) = &data.source else {
            if asked {
                let what = "the built-in world has no multiple choice";
                self.fault(&s.at("data"), what, "name files with data.path");
            }
            return Some(ChoicePlan::default());
        };
        if asked && paths.iter().any(|path| path.extension().is_some_and(|e| e == "safetensors")) {
            let hint = "give such files, or a folder of them";
            self.fault(&s.at("data"), "questions are .csv or .jsonl files", hint);
        }
        if !asked {
            for key in ["shots", "shots_from", "chat_template"].into_iter().filter(|key| s.has(key)) {
                let hint = "take it out, or set tasks: [multiple_choice]";
                self.fault(&s.at(key), format!("`{key}` is for multiple_choice"), hint);
            }
        }
        let choice: ChoicePlan = self.read(s, &[])?;
        if let Some(from) = s.text("shots_from").filter(|from| !Path::new(from).exists()) {
            let hint = "paths count from the current folder";
            self.fault(&s.at("shots_from"), format!("no file {from}"), hint);
        }
        if asked && choice.shots > 0 && choice.shots_from.is_none() {
            let hint = "name a file of examples, or a folder with a file of each subject's name";
            self.fault(&s.at("shots"), "`shots` needs `shots_from`", hint);
        }
        Some(choice)
    }
}

/// Whether the rows are sums in words.
fn is_math(data: &DataConfig) -> bool {
    match &data.source {
        DataSource::Paths(paths) => !paths.is_empty() && paths.iter().all(|path| source::is_math(path)),
        DataSource::Synthetic(_) | DataSource::Mixture(_) => false,
    }
}
