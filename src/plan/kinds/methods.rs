//! The methods of reinforcement learning: their settings, with upstream's defaults, and the checks between them.
//!
//! Next: `stage::grpo`, `stage::ppo`, `stage::spo`, which carry them out.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};

use crate::loss::grpo::LengthNorm;
use crate::loss::spo::TrackerConfig;
use crate::plan::resolve::Resolver;
use crate::plan::types::Init;
use crate::recipe::Section;

/// The method.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// A group of completions a prompt.
    Grpo(GrpoPlan),
    /// A critic.
    Ppo(PpoPlan),
    /// A tracked baseline.
    Spo(SpoPlan),
}

impl Method {
    /// Weight of the KL to the reference.
    pub(in crate::plan) fn kl_weight(&self) -> f64 {
        match self {
            Self::Grpo(grpo) => grpo.beta,
            Self::Ppo(ppo) => ppo.kl_coef,
            Self::Spo(spo) => spo.beta,
        }
    }
}

/// How GRPO keeps the ratio in bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum GrpoLossType {
    /// Clipped objective.
    Grpo,
    /// Clipped weight.
    Cispo,
}

/// GRPO and CISPO: a group of completions a prompt, compared with each other.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct GrpoPlan {
    /// grpo clips the objective, cispo the weight. The plan's file says whether it is cispo.
    #[serde(rename(serialize = "cispo"), serialize_with = "is_cispo")]
    #[schemars(extend("default" = "cispo"))]
    pub loss_type: GrpoLossType,
    /// Completions a prompt.
    #[schemars(range(min = 1))]
    pub num_generations: usize,
    /// Weight of the KL to the reference; 0 needs none.
    #[schemars(range(min = 0))]
    pub beta: f64,
    /// How far a ratio may go from 1, for grpo.
    #[schemars(extend("exclusiveMinimum" = 0, "exclusiveMaximum" = 1))]
    pub epsilon: f64,
    /// How far above 1 a ratio may go, for grpo: DAPO's clip-higher (epsilon).
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub clip_higher: Option<f64>,
    /// Largest weight of a token, for cispo.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub epsilon_high: f64,
    /// What a token's loss is divided by: row (upstream), token (DAPO) or constant (Dr. GRPO).
    pub length_normalization: LengthNorm,
    /// Whether advantages are divided by their group's standard deviation; Dr. GRPO does not.
    pub scale_rewards: bool,
    /// Whether prompts whose completions all got one reward are replaced by others, as in DAPO.
    #[serde(skip_serializing)]
    #[schemars(extend("default" = false))]
    pub dynamic_sampling: bool,
    /// Most rounds of replacement a step; the plan has 0 where `dynamic_sampling` is off.
    #[schemars(range(min = 1))]
    pub dynamic_sampling_rounds: usize,
}

impl Default for GrpoPlan {
    fn default() -> Self {
        Self {
            loss_type: GrpoLossType::Cispo,
            num_generations: 6,
            beta: 0.1,
            epsilon: 0.2,
            clip_higher: None,
            epsilon_high: 5.0,
            length_normalization: LengthNorm::Row,
            scale_rewards: true,
            dynamic_sampling: false,
            dynamic_sampling_rounds: 3,
        }
    }
}

impl GrpoPlan {
    /// How far above 1 a ratio may go, for grpo.
    pub fn upper_clip(&self) -> f64 {
        self.clip_higher.unwrap_or(self.epsilon)
    }
}

fn is_cispo<S: Serializer>(loss: &GrpoLossType, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_bool(*loss == GrpoLossType::Cispo)
}

/// PPO: one completion a prompt, a critic for its value.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct PpoPlan {
    /// The critic's start weights: a stage above or a path; a fresh head on the start weights where left out.
    #[serde(skip_deserializing)]
    #[schemars(!skip_deserializing, with = "String", extend("default" = null))]
    pub critic: Option<Init>,
    /// The critic's peak learning rate.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub critic_learning_rate: f64,
    /// How far a ratio may go from 1.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub clip_epsilon: f64,
    /// Weight of the critic's loss.
    #[schemars(range(min = 0))]
    pub vf_coef: f64,
    /// Weight of the KL to the reference; 0 needs none.
    #[schemars(range(min = 0))]
    pub kl_coef: f64,
    /// Discount a token.
    #[schemars(range(min = 0, max = 1))]
    pub gamma: f64,
    /// Decay of generalised advantages.
    #[schemars(range(min = 0, max = 1))]
    pub lam: f64,
    /// How far a value may go from the old one.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub cliprange_value: f64,
    /// Passes over a step's rows.
    #[schemars(range(min = 1))]
    pub ppo_update_iters: usize,
    /// KL to the old policy above which a step's updates end.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub early_stop_kl: f64,
    /// Rows a minibatch (the whole step).
    #[schemars(range(min = 1))]
    pub mini_batch_size: Option<usize>,
}

impl Default for PpoPlan {
    fn default() -> Self {
        Self {
            critic: None,
            critic_learning_rate: 5e-7,
            clip_epsilon: 0.2,
            vf_coef: 0.5,
            kl_coef: 0.02,
            gamma: 1.0,
            lam: 0.95,
            cliprange_value: 0.2,
            ppo_update_iters: 2,
            early_stop_kl: 0.25,
            mini_batch_size: None,
        }
    }
}

/// SPO: one completion a prompt, against a tracked baseline.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct SpoPlan {
    /// Weight of the KL to the reference; 0 needs none.
    #[schemars(range(min = 0))]
    pub beta: f64,
    /// The tracker's settings.
    #[serde(flatten)]
    pub tracker: TrackerConfig,
}

impl Default for SpoPlan {
    fn default() -> Self {
        Self { beta: 0.02, tracker: TrackerConfig::default() }
    }
}

impl Resolver<'_> {
    /// The keys that grpo and agent share.
    pub(super) fn grpo_method(&mut self, s: &Section<'_>) -> GrpoPlan {
        let mut plan: GrpoPlan = self.read(s, &[]).unwrap_or_default();
        if plan.num_generations == 1 {
            self.fault(
                &s.at("num_generations"),
                "`num_generations` is 1: an only completion has nothing to be compared with, its advantage is 0",
                "give at least 2, or use spo or ppo, which take one completion a prompt",
            );
        }
        if s.has("clip_higher") && plan.loss_type == GrpoLossType::Cispo {
            self.fault(
                &s.at("clip_higher"),
                "`clip_higher` is for `loss_type: grpo`",
                "set loss_type: grpo, or bound cispo's weight with epsilon_high",
            );
        }
        plan.clip_higher = Some(plan.upper_clip());
        if !plan.dynamic_sampling {
            plan.dynamic_sampling_rounds = 0;
        }
        plan
    }

    pub(super) fn ppo_method(&mut self, s: &Section<'_>) -> PpoPlan {
        let mut plan: PpoPlan = self.read(s, &[]).unwrap_or_default();
        plan.critic = s.text("critic").map(|given| self.init(&s.at("critic"), given));
        plan
    }

    pub(super) fn spo_method(&mut self, s: &Section<'_>) -> SpoPlan {
        let plan: SpoPlan = self.read(s, &[]).unwrap_or_default();
        let TrackerConfig { clip_lower, clip_upper, .. } = plan.tracker;
        if clip_lower > clip_upper {
            self.fault(
                &s.at("clip_lower"),
                format!("`clip_lower` {clip_lower} is above `clip_upper` {clip_upper}"),
                "lower it",
            );
        }
        plan
    }
}
