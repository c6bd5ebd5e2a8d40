//! `dpo` stages.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::TrainConfig;
use crate::loss::dpo::{DpoConfig, PairLoss, Reduction};
use crate::plan::changes::{Kinds, SettingKind};
use crate::plan::resolve::Resolver;
use crate::plan::types::{Init, ModelPlan, StageConfig};
use crate::recipe::Section;

/// What the policy is held against.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reference {
    /// The weights it starts from.
    #[default]
    Start,
    /// Nothing.
    Free,
    /// Other weights.
    Weights(Init),
}

/// Direct preference optimisation.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct DpoStage {
    /// What every training stage has.
    #[serde(flatten)]
    pub train: TrainConfig,
    /// The reference: a stage above or a path (the start weights).
    #[serde(skip_deserializing)]
    #[schemars(!skip_deserializing, with = "String")]
    pub reference: Reference,
    /// Whether no reference is used.
    #[serde(skip_serializing)]
    #[schemars(extend("default" = false))]
    pub reference_free: bool,
    /// The loss's settings.
    #[serde(flatten)]
    pub loss: DpoConfig,
    /// How the log-probabilities of an answer's tokens become one number.
    #[schemars(extend("default" = "sum"))]
    pub logprob_reduction: Reduction,
}

impl DpoStage {
    /// What a change of a setting means that does not change the result.
    pub const KINDS: Kinds = &[(SettingKind::Place, "reference.weights")];
}

impl Resolver<'_> {
    pub(in crate::plan) fn dpo(&mut self, s: &Section<'_>) -> Option<StageConfig> {
        let train = self.train(s)?;
        let config: DpoStage = self.read(s, &[("dropout".to_owned(), train.dropout.into())])?;
        let reference = match s.text("reference") {
            None if config.reference_free => Reference::Free,
            None => Reference::Start,
            Some(given) => {
                let at = s.at("reference");
                if config.reference_free {
                    self.fault(&at, "`reference_free: true` uses no reference", "remove one of the two");
                }
                let found = self.init(&at, given);
                if found == Init::Scratch {
                    self.fault(&at, "a reference is trained weights", "name a stage or a file");
                }
                self.same_shape(&at, &found, train.model.as_ref());
                Reference::Weights(found)
            }
        };
        if config.loss.loss_type == PairLoss::Ipo && config.loss.label_smoothing != 0.0 {
            let what = "`label_smoothing` is for loss_type: sigmoid";
            self.fault(&s.at("label_smoothing"), what, "remove it");
        }
        Some(StageConfig::Dpo(DpoStage { train, reference, ..config }))
    }

    /// A stage above that is a reference must have the policy's architecture.
    fn same_shape(&mut self, at: &[String], reference: &Init, own: Option<&ModelPlan>) {
        let Init::Stage(name) = reference else { return };
        let theirs = self.above.iter().find(|a| a.name == *name).and_then(|a| a.model.clone());
        if let (Some(theirs), Some(own)) = (theirs, own)
            && !theirs.config.same_architecture(&own.config)
        {
            self.fault(
                at,
                format!("the reference `{name}` has another architecture than the policy"),
                "name a stage of the same model, or leave `reference` out for the start weights",
            );
        }
    }
}
