//! From a stage's settings to those of the engine's loop.

use tch::Kind;

use super::context::{StageRun, StartFrom};
use crate::engine::{Compute, LoopConfig, Objective};
use crate::error::{Error, Result};
use crate::optim::Schedule;
use crate::plan::{SaveDtype, TrainConfig};

/// libtorch's type of the numbers in weight files.
pub fn save_kind(dtype: SaveDtype) -> Kind {
    match dtype {
        SaveDtype::Fp16 => Kind::Half,
        SaveDtype::Bf16 => Kind::BFloat16,
        SaveDtype::Fp32 => Kind::Float,
    }
}

/// The loop that a stage's settings ask for; `metadata` is the JSON of its weight files.
///
/// # Errors
/// None that a plan can have.
pub fn loop_config(
    stage: StageRun<'_>,
    config: &TrainConfig,
    objective: &dyn Objective,
    metadata: String,
) -> Result<LoopConfig> {
    let context = stage.context;
    let made_from = serde_json::to_value(context.start.with_forced(stage.inputs.clone()))
        .map_err(|e| Error::failed("cannot describe a stage").because(e))?;
    let all = objective.steps_per_epoch() * config.epochs as u64;
    let schedule = Schedule {
        kind: config.schedule,
        peak: config.learning_rate,
        warmup_steps: config.warmup_steps as u64,
        total_steps: config.max_steps.map_or(all, |most| all.min(most as u64)),
    };
    let accumulation_steps = config.accumulation_steps as u64;
    let update_schedule = objective.schedules_by_updates().then(|| {
        let updates = updates(&schedule, objective, accumulation_steps, context.ranks.world() as u64);
        Schedule { total_steps: updates.max(1), ..schedule }
    });
    Ok(LoopConfig {
        epochs: config.epochs as u64,
        accumulation_steps,
        schedule,
        update_schedule,
        grad_clip: config.grad_clip,
        adamw: config.adamw,
        intervals: config.intervals,
        save_kind: save_kind(config.save_dtype),
        anomalies: config.anomalies,
        loss_scaling: context.compute == Compute::Fp16,
        metadata,
        content_hash: stage.inputs.content_hash.clone(),
        made_from,
        forced: matches!(&context.start, StartFrom::Checkpoint(point) if point.forced),
        seed: context.plan.seed,
        shard_optimizer: context.plan.runtime.shard_optimizer,
    })
}

/// Optimizer steps of a whole run: nothing stays accumulated at the end of an epoch.
fn updates(schedule: &Schedule, objective: &dyn Objective, window: u64, world: u64) -> u64 {
    let (steps, per_epoch) = (schedule.total_steps, objective.steps_per_epoch());
    let passes = |steps: u64| steps.div_ceil(world) * objective.passes_per_step();
    (steps / per_epoch) * passes(per_epoch).div_ceil(window) + passes(steps % per_epoch).div_ceil(window)
}
