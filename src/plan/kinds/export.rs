//! `export` stages.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::without_repeats;
use crate::export::{Format, Options};
use crate::plan::changes::{Kinds, SettingKind};
use crate::plan::resolve::Resolver;
use crate::plan::types::{DataFormat, Init, ModelPlan, StageConfig, TokenizerSource};
use crate::recipe::Section;

/// Writes a model in formats that other tools read.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct ExportConfig {
    /// Which weights: a stage above or a path (the training stage above).
    #[serde(skip_deserializing)]
    #[schemars(!skip_deserializing, rename = "from", with = "String")]
    pub init: Init,
    /// The architecture, for files that do not state theirs.
    #[serde(skip_deserializing)]
    #[schemars(skip)]
    pub model: Option<ModelPlan>,
    /// A tokenizer stage above or a folder (the model's stage's, else the recipe's).
    #[serde(skip_deserializing)]
    #[schemars(!skip_deserializing, with = "String")]
    pub tokenizer: Option<TokenizerSource>,
    /// One or several formats, written in this order.
    #[schemars(extend("default" = []))]
    pub formats: Vec<Format>,
    /// How to write.
    #[serde(skip_deserializing)]
    #[schemars(!skip_deserializing, flatten)]
    pub options: Options,
}

impl ExportConfig {
    /// What a change of a setting means that does not change the result.
    pub const KINDS: Kinds = &[(SettingKind::Place, "init tokenizer")];
}

impl Resolver<'_> {
    pub(in crate::plan) fn export(&mut self, s: &Section<'_>) -> Option<StageConfig> {
        let init = self.start(s, "from");
        if s.text("from") == Some("scratch") {
            let hint = "name a training stage above, or a weight file";
            self.fault(&s.at("from"), "fresh weights are not worth an export", hint);
        }
        let mut config: ExportConfig = self.read(s, &[])?;
        if s.list("formats").is_empty() {
            let hint = "for example formats: [torchscript, safetensors]";
            self.missing(&s.path, "formats", "stage `export` needs `formats`", hint);
        }
        without_repeats(&mut config.formats);
        config.options = self.read(s, &[])?;
        if config.options.freeze && !config.formats.contains(&Format::Torchscript) {
            let hint = "add it to formats, or leave freeze out";
            self.fault(&s.at("freeze"), "`freeze` is for torchscript", hint);
        }
        let model = self.stage_model(None, &init);
        // As for ready token ids: a tokenizer goes along where there is one, and is not demanded.
        let tokenizer = self.tokenizer_of(&s.path, s.text("tokenizer"), &init, DataFormat::Tokens);
        Some(StageConfig::Export(ExportConfig { init, model, tokenizer, ..config }))
    }
}
