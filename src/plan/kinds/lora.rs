//! `lora` and `merge` stages.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{SaveDtype, TrainConfig};
use crate::model::lora::TARGETS;
use crate::plan::changes::{Kinds, SettingKind};
use crate::plan::resolve::{Above, Makes, Resolver, join};
use crate::plan::schema::ModelSection;
use crate::plan::types::{DataFormat, Init, ModelPlan, StageConfig, TokenizerSource};
use crate::recipe::Section;
use crate::recipe::faults::hint;

/// Trains a low-rank adapter beside frozen weights.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct LoraConfig {
    /// What every training stage has; `dropout` is that of what goes into the adapter.
    #[serde(flatten)]
    pub train: TrainConfig,
    /// Rank of the adapter (16, or that of `adapter`).
    #[schemars(range(min = 1))]
    pub rank: Option<usize>,
    /// The adapter's output is multiplied by alpha / rank (without it: by 1, as upstream does).
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub alpha: Option<f64>,
    /// Which layers: q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj, all-linear (those with as many outputs
    /// as inputs).
    #[schemars(extend("default" = []))]
    pub target_modules: Vec<String>,
    /// An adapter to go on from: a lora stage above or a file (a fresh one).
    #[serde(skip_deserializing)]
    #[schemars(!skip_deserializing, with = "String")]
    pub adapter: Option<Init>,
}

impl LoraConfig {
    /// Upstream's rank (minimind3), where neither the recipe nor an adapter states one.
    pub const RANK: usize = 16;
    /// What a change of a setting means that does not change the result.
    pub const KINDS: Kinds = &[(SettingKind::Place, "adapter")];
}

/// Adds an adapter to the weights for good.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct MergeConfig {
    /// The weights: a stage above or a path (those that the adapter's stage started from).
    #[serde(skip_deserializing)]
    #[schemars(!skip_deserializing, with = "String")]
    pub init: Option<Init>,
    /// The architecture, where it is not the recipe's.
    #[serde(skip_deserializing)]
    #[schemars(!skip_deserializing, with = "ModelSection")]
    pub model: Option<ModelPlan>,
    /// A tokenizer stage above or a folder, noted in the file (the start weights').
    #[serde(skip_deserializing)]
    #[schemars(!skip_deserializing, with = "String")]
    pub tokenizer: Option<TokenizerSource>,
    /// The adapter: a lora stage above or a file (the lora stage above).
    #[serde(skip_deserializing)]
    #[schemars(!skip_deserializing, with = "String")]
    pub adapter: Init,
    /// What the adapter's output is multiplied by (what its file states, else 1).
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub scale: Option<f64>,
    /// Type of the numbers in which the two are added and saved.
    #[schemars(extend("default" = "fp16"))]
    pub save_dtype: SaveDtype,
}

impl MergeConfig {
    /// What a change of a setting means that does not change the result.
    pub const KINDS: Kinds = &[(SettingKind::Place, "init tokenizer adapter")];
}

impl Resolver<'_> {
    pub(in crate::plan) fn lora(&mut self, s: &Section<'_>) -> Option<StageConfig> {
        let train = self.train(s)?;
        let names = s.list("target_modules");
        for (index, name) in names.iter().enumerate() {
            let Some(name) = name.as_str().filter(|name| !TARGETS.contains(name)) else { continue };
            let at = join(&s.at("target_modules"), &index.to_string());
            self.fault(&at, format!("no layer is called `{name}`"), hint(name, &TARGETS, "layers"));
        }
        if s.has("target_modules") && names.iter().all(Value::is_null) {
            self.missing(
                &s.path,
                "target_modules",
                "`target_modules` names no layer",
                "leave it out for the square ones, or give for example [q_proj, v_proj]",
            );
        }
        let adapter = s.text("adapter").map(|given| self.adapter(&s.at("adapter"), given));
        if adapter.is_some() && s.has("target_modules") {
            self.fault(
                &s.at("target_modules"),
                "an adapter to go on from brings its own layers",
                "leave target_modules out, or adapter",
            );
        }
        let config: LoraConfig = self.read(s, &[("dropout".to_owned(), train.dropout.into())])?;
        Some(StageConfig::Lora(LoraConfig { train, adapter, ..config }))
    }

    /// An adapter by name: a lora stage above, or a file.
    fn adapter(&mut self, path: &[String], given: &str) -> Init {
        let wrong = self.above.iter().any(|a| a.name == given && a.makes != Makes::Adapter);
        if wrong {
            self.fault(path, format!("stage `{given}` makes no adapter"), "name a lora stage");
            return Init::Stage(given.to_owned());
        }
        if given == "scratch" {
            self.fault(path, "`adapter: scratch` is no adapter", "leave it out for a fresh one");
        }
        self.init(path, given)
    }

    pub(in crate::plan) fn merge(&mut self, s: &Section<'_>) -> Option<StageConfig> {
        let last = self.above.iter().rev().find(|a| a.makes == Makes::Adapter).map(|a| a.name.clone());
        let adapter = match (s.text("adapter"), last) {
            (Some(given), _) => self.adapter(&s.at("adapter"), given),
            (None, Some(name)) => Init::Stage(name),
            (None, None) => {
                let hint = "give a lora stage above, or a file";
                self.missing(&s.path, "adapter", "stage `merge` needs `adapter`", hint);
                Init::Scratch
            }
        };
        let init = s.text("init").map(|given| self.init(&s.at("init"), given));
        self.is_mergeable(&s.at("init"), init.as_ref());
        let from = init.clone().unwrap_or_else(|| adapter.clone());
        let model = self.stage_model(s.section("model"), &from);
        let tokenizer = self.tokenizer_of(&s.path, s.text("tokenizer"), &from, DataFormat::Tokens);
        let config: MergeConfig = self.read(s, &[])?;
        Some(StageConfig::Merge(MergeConfig { init, model, tokenizer, adapter, ..config }))
    }

    /// An adapter goes into trained weights that have none in them.
    fn is_mergeable(&mut self, at: &[String], init: Option<&Init>) {
        if init == Some(&Init::Scratch) {
            self.fault(at, "an adapter is merged into trained weights", "name a stage or a file");
        }
        if let Some(Init::Stage(name)) = init
            && self.above.iter().any(|a| a.name == *name && a.makes == Makes::Adapter)
        {
            self.fault(
                at,
                format!("stage `{name}` makes an adapter: merging into it would merge twice"),
                "name the weights that the adapter was trained on, or leave `init` out",
            );
        }
    }

    /// A merge as later stages see it: a model like the one it came from.
    pub(in crate::plan) fn merged(&self, name: &str, config: &MergeConfig) -> Above {
        let from = config.init.as_ref().unwrap_or(&config.adapter);
        let length = match from {
            Init::Stage(from) => self.above.iter().find(|a| a.name == *from).map_or(0, |a| a.max_seq_len),
            _ => 0,
        };
        Above {
            name: name.to_owned(),
            makes: Makes::Model,
            tokenizer: config.tokenizer.clone(),
            model: config.model.clone(),
            max_seq_len: length,
        }
    }
}
