//! What is watched while a policy learns: bounds, and what happens beyond them.
//!
//! Next: `stage::policy::guards`, which watches.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};

/// What a guard does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum GuardAction {
    /// Says so.
    #[default]
    Warn,
    /// Says so and halves the learning rate.
    Lower,
    /// Saves and ends the run with an error.
    Stop,
}

/// A bound and what happens beyond it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Guard {
    /// The bound.
    pub bound: f64,
    /// What happens beyond it.
    pub action: GuardAction,
}

/// What is watched while the policy learns; each guard is off until its bound is given.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, JsonSchema)]
#[serde(default)]
pub struct GuardPlan {
    /// Largest KL to the reference a token (its mean over recent steps).
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub kl_above: Option<f64>,
    /// What to do then.
    pub on_kl: GuardAction,
    /// How far the mean reward over recent steps may fall below its best.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub reward_drop: Option<f64>,
    /// What to do then.
    pub on_reward: GuardAction,
    /// Largest share of repeated trigrams in completions (its mean over recent steps).
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub repetition_above: Option<f64>,
    /// What to do then.
    pub on_repetition: GuardAction,
    /// Steps that count as recent.
    #[schemars(range(min = 1))]
    pub window: usize,
}

impl Default for GuardPlan {
    fn default() -> Self {
        let action = GuardAction::Warn;
        Self {
            kl_above: None,
            on_kl: action,
            reward_drop: None,
            on_reward: action,
            repetition_above: None,
            on_repetition: action,
            window: 10,
        }
    }
}

impl GuardPlan {
    /// The guard on the KL to the reference, where it is on.
    pub fn kl(&self) -> Option<Guard> {
        self.kl_above.map(|bound| Guard { bound, action: self.on_kl })
    }

    /// The guard on the reward's fall below its best, where it is on.
    pub fn reward(&self) -> Option<Guard> {
        self.reward_drop.map(|bound| Guard { bound, action: self.on_reward })
    }

    /// The guard on repetitions, where it is on.
    pub fn repetition(&self) -> Option<Guard> {
        self.repetition_above.map(|bound| Guard { bound, action: self.on_repetition })
    }
}

// The plan's file has a guard's bound and action together, and null for one that is off.
impl Serialize for GuardPlan {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Recorded {
            kl: Option<Guard>,
            reward: Option<Guard>,
            repetition: Option<Guard>,
            window: usize,
        }
        let (kl, reward, repetition) = (self.kl(), self.reward(), self.repetition());
        Recorded { kl, reward, repetition, window: self.window }.serialize(to)
    }
}
