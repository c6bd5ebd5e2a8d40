//! `distill` stages.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::TrainConfig;
use crate::loss::distill::DistillConfig;
use crate::plan::changes::{Kinds, SettingKind};
use crate::plan::resolve::Resolver;
use crate::plan::schema::ModelSection;
use crate::plan::types::{Init, ModelPlan, StageConfig, TokenizerSource};
use crate::recipe::Section;

/// Learns from the labels and from a teacher's distribution.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct DistillStage {
    /// What every training stage has.
    #[serde(flatten)]
    pub train: TrainConfig,
    /// The teacher: a stage above or a path to weights of the same vocabulary.
    #[serde(skip_deserializing)]
    #[schemars(!skip_deserializing, with = "String")]
    pub teacher: Init,
    /// The teacher's architecture, where its file does not state it.
    #[serde(skip_deserializing)]
    #[schemars(!skip_deserializing, with = "ModelSection")]
    pub teacher_model: Option<ModelPlan>,
    /// The loss's settings.
    #[serde(flatten)]
    pub loss: DistillConfig,
}

impl DistillStage {
    /// What a change of a setting means that does not change the result.
    pub const KINDS: Kinds = &[(SettingKind::Place, "teacher")];
}

impl Resolver<'_> {
    pub(in crate::plan) fn distill(&mut self, s: &Section<'_>) -> Option<StageConfig> {
        let train = self.train(s)?;
        let at = s.at("teacher");
        let teacher = match s.text("teacher") {
            Some(given) => self.init(&at, given),
            None => {
                let hint = "give a stage above, or weights";
                self.missing(&s.path, "teacher", "stage `distill` needs `teacher`", hint);
                Init::Scratch
            }
        };
        if teacher == Init::Scratch && s.has("teacher") {
            self.fault(&at, "a teacher has learned something", "name a stage or a file");
        }
        self.same_tokenizer(&at, &teacher, train.tokenizer.as_ref());
        let teacher_model = match (s.section("teacher_model"), &teacher) {
            (Some(own), _) => self.model_of(&own),
            (None, Init::Stage(name)) => {
                self.above.iter().find(|a| a.name == *name).and_then(|a| a.model.clone())
            }
            (None, _) => None,
        };
        let config: DistillStage = self.read(s, &[("dropout".to_owned(), train.dropout.into())])?;
        Some(StageConfig::Distill(DistillStage { train, teacher, teacher_model, ..config }))
    }

    /// A stage above that is a teacher must have learned the student's tokens.
    fn same_tokenizer(&mut self, at: &[String], teacher: &Init, own: Option<&TokenizerSource>) {
        let Init::Stage(name) = teacher else { return };
        let theirs = self.above.iter().find(|a| a.name == *name).and_then(|a| a.tokenizer.clone());
        if let (Some(theirs), Some(own)) = (theirs, own)
            && theirs != *own
        {
            self.fault(
                at,
                format!("the teacher `{name}` was trained with another tokenizer than this stage uses"),
                "a teacher and its student share a vocabulary: give both the same tokenizer",
            );
        }
    }
}
