//! The checkpoint that a training stage resumes from, and what is logged of it.

use super::backup;
use super::context::{Context, StartFrom};
use super::record::Forced;
use crate::engine::resume::{self, ResumeFile};
use crate::engine::{CheckpointPaths, LoopConfig};
use crate::error::{Error, Place, Result};
use crate::optim::Schedule;

/// The checkpoint that the runner decided on: the last one, or the one before it where the last cannot be read.
///
/// # Errors
/// Neither can be read, or they are of weights of another shape.
pub fn find_checkpoint(
    context: &Context<'_>,
    name: &str,
    paths: &CheckpointPaths,
    config: &LoopConfig,
) -> Result<Option<ResumeFile>> {
    let command = &context.options.command;
    let hint = format!("`{command} --from {name}` starts the stage over and keeps the old files as .old");
    match &context.start {
        StartFrom::Scratch => return Ok(None),
        StartFrom::UpstreamFile if !paths.resume.exists() => {
            // Files of other widths alone; weights of this one are somebody's.
            if context.ranks.is_rank0()
                && let Some(copy) = backup::copy_weights(&paths.weights)?
            {
                tracing::info!("{name}: the weights that were there are kept as {copy}");
            }
            return Ok(None);
        }
        StartFrom::Checkpoint(point) if point.file != paths.resume => {
            let what =
                format!("this checkpoint is of weights of another shape than {}", paths.weights.display());
            return Err(Error::input(what).at(Place::file(&point.file)).hint(hint));
        }
        StartFrom::UpstreamFile | StartFrom::Checkpoint(_) => {}
    }
    let (file, fault) = resume::load_last(&paths.resume).map_err(|fault| fault.hint(&hint))?;
    // All ranks have read it before anything is renamed.
    context.ranks.barrier()?;
    if let Some(fault) = fault.filter(|_| context.ranks.is_rank0()) {
        let broken = resume::rename_broken(&paths.resume)?;
        tracing::warn!(
            "{}; it is kept as {}, and the resume file before it is used, at {}",
            resume::one_line(&fault),
            broken.display(),
            file.position
        );
    }
    if context.ranks.is_rank0() {
        log_resumption(name, &file, config);
    }
    Ok(Some(file))
}

/// Logs where a stage resumes, and how its schedule continues where its length is another one now.
fn log_resumption(name: &str, file: &ResumeFile, config: &LoopConfig) {
    let total = config.schedule.total_steps;
    let Some(state) = &file.state else {
        tracing::info!("{name}: resumes from upstream's {}, {}", file.path().display(), file.position);
        return;
    };
    let per_epoch = if state.per_epoch > 0 { state.per_epoch } else { total / config.epochs.max(1) };
    let step = file.position.epoch * per_epoch + file.position.step_in_epoch;
    if state.total_steps == total || step >= total {
        tracing::info!("{name}: resumes at micro-batch {step} of {total}");
        return;
    }
    let before = Schedule { total_steps: state.total_steps, ..config.schedule };
    let (old_lr, new_lr) = match &config.update_schedule {
        None => (before.at(step), config.schedule.at(step + 1)),
        Some(schedule) => {
            let share = state.total_steps as f64 / total.max(1) as f64;
            let updates = (schedule.total_steps as f64 * share).round() as u64;
            let before = Schedule { total_steps: updates, ..*schedule };
            (before.after(state.scheduled()), schedule.after(state.scheduled()))
        }
    };
    tracing::info!(
        "{name}: resumes at micro-batch {step}, now of {total} and not of {}: the schedule is that of {total}, and the \
         learning rate is {new_lr:.3e} where it was {old_lr:.3e}",
        state.total_steps
    );
}

/// The changes that `--resume force` accepted, for the report.
pub fn forced_notes(start: &StartFrom) -> Vec<String> {
    let StartFrom::Checkpoint(point) = start else { return Vec::new() };
    let note = |forced: &Forced| {
        format!("resumed by --resume force at micro-batch {}: {}", forced.step, forced.changes.join(", "))
    };
    point.forced_changes.iter().map(note).collect()
}
