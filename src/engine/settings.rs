//! Settings of the training loop that a recipe states as they are: `plan` reads them, `LoopConfig` carries them.
//!
//! Next: `objective` (`LoopConfig`).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::anomaly::OnAnomaly;

/// How often the loop logs, saves and validates, in micro-batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LoopIntervals {
    /// Micro-batches between rows of metrics.
    #[schemars(range(min = 1), extend("default" = 100))]
    pub log_interval: u64,
    /// Micro-batches between checkpoints.
    #[schemars(range(min = 1), extend("default" = 1000))]
    pub save_interval: u64,
    /// Micro-batches between validations (at each checkpoint and at the end).
    #[schemars(range(min = 1))]
    pub eval_interval: Option<u64>,
    /// Numbered checkpoints to keep beside the newest; 0 keeps the newest alone.
    #[schemars(extend("default" = 0))]
    pub keep_last: usize,
}

/// What the loop does about a loss that is not a number, or far too large.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AnomalyConfig {
    /// What to do about a loss that is not a number.
    #[schemars(extend("default" = "stop"))]
    pub on_nan: OnAnomaly,
    /// What to do about a loss above `spike_factor` times its running mean.
    #[schemars(extend("default" = "skip"))]
    pub on_spike: OnAnomaly,
    /// How many times its running mean a loss must be to count as a spike (never).
    #[schemars(extend("exclusiveMinimum" = 1))]
    pub spike_factor: Option<f64>,
}
