//! Rewards on held-out prompts before a policy stage began, kept in its folder (`heldout.json`).

use serde_json::{Value, json};

use crate::engine::{MetricsRow, Objective, Observer};
use crate::error::Result;
use crate::model::CausalLm;
use crate::stage::context::{StageRun, StartFrom};
use crate::stage::metrics_logger::MetricsLogger;
use crate::stage::record::write_json;

const FILE: &str = "heldout.json";

/// Measures the policy as it starts, as an object of numbers; logs them as step 0 where anything is held out.
///
/// # Errors
/// A reward that fails; I/O faults.
pub(super) fn measure(
    stage: StageRun<'_>,
    objective: &mut dyn Objective,
    policy: &CausalLm,
    metrics: &mut MetricsLogger,
) -> Result<Value> {
    let ranks = &stage.context.ranks;
    let values = objective.validate(policy, ranks)?;
    let kept = values.iter().map(|(name, value)| ((*name).to_owned(), json!(value)));
    let kept = Value::Object(kept.collect());
    if !values.is_empty() {
        metrics.log_metrics(&MetricsRow { epoch: 1, step: 0, values })?;
    }
    if ranks.is_rank0() {
        write_json(&stage.folder.join(FILE), &kept)?;
    }
    Ok(kept)
}

/// What a resumed stage measured when it began; null where other prompts are held out now, or nothing is known.
pub(super) fn kept(stage: StageRun<'_>) -> Value {
    if let StartFrom::Checkpoint(point) = &stage.context.start
        && point.harmless_changes.iter().any(|key| key.starts_with("heldout"))
    {
        return Value::Null;
    }
    let text = std::fs::read_to_string(stage.folder.join(FILE)).unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_default()
}
