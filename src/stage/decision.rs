//! Decides whether a stage is skipped, resumes, starts from scratch, or has to be asked about: its state in the run's
//! folder against what it would be made from now. Nothing is written here, so that a fault leaves everything as it was.

use std::path::PathBuf;

use super::changes::{Changes, in_words};
use super::context::{Context, Resume, ResumePoint, StartFrom};
use super::record::{Done, Forced, Inputs};
use super::stage_state::{self, InProgress, StageState};
use crate::error::{Error, Place, Result};
use crate::plan::{Change, StageConfig, StagePlan};

/// What is to be done with a stage.
#[derive(Debug)]
pub enum Decision {
    /// Nothing; `record` replaces the old one where `--resume force` accepted its changes.
    Skip {
        /// What a person should know.
        note: String,
        /// The new record.
        record: Option<Box<Done>>,
    },
    /// It runs.
    Run {
        /// From where.
        start: StartFrom,
        /// Why, for people.
        why: String,
        /// Whether it was finished and only gets longer.
        longer: bool,
    },
}

/// What the command line asks of a stage.
#[derive(Debug, Clone, Copy)]
pub struct StageRequest<'a> {
    /// To run, done or not (`--from`).
    pub forced: bool,
    /// What becomes of checkpoints.
    pub resume: Resume,
    /// The command, for hints, without `--from`, `--only` and `--resume`.
    pub command: &'a str,
}

/// Decides by the stage's state; `now` is what it would be made from.
///
/// # Errors
/// The stage was made from something else, lacks what it needs to resume, or neither resume file can be read.
pub fn decide(
    context: &Context<'_>,
    stage: &StagePlan,
    state: &StageState,
    now: &Inputs,
    request: StageRequest<'_>,
) -> Result<Decision> {
    let must = request.resume == Resume::Must && stage.config.training().is_some();
    let new = |why: &str| if must { Err(no_checkpoint(context, stage)) } else { Ok(from_scratch(why)) };
    match state {
        StageState::Empty if request.forced => new("asked for"),
        StageState::Empty => new("not done yet"),
        StageState::UpstreamFile if request.resume == Resume::Never => Ok(from_scratch("not done yet")),
        StageState::UpstreamFile => Ok(Decision::Run {
            start: StartFrom::UpstreamFile,
            why: "not done yet".to_owned(),
            longer: false,
        }),
        StageState::Unreadable(_) if request.forced || request.resume == Resume::Never => {
            Ok(from_scratch("asked for"))
        }
        StageState::Unreadable(fault) => Err(fault.clone().hint(format!(
            "it cannot be resumed; `{} --from {}` starts the stage over and keeps the old files as .old",
            request.command, stage.name
        ))),
        StageState::Done(done) => Finished { context, stage, now, request, done }.decide(),
        StageState::InProgress(begun) => decide_in_progress(context, stage, now, request, begun),
    }
}

/// The fault of `--resume must` where the stage has no checkpoint.
pub fn no_checkpoint(context: &Context<'_>, stage: &StagePlan) -> Error {
    let output = Place::file(&context.plan.output);
    Error::input(format!("stage `{}` has no checkpoint to resume from", stage.name))
        .at(output)
        .hint("run without --resume must to start from the beginning")
}

fn from_scratch(why: impl Into<String>) -> Decision {
    Decision::Run { start: StartFrom::Scratch, why: why.into(), longer: false }
}

fn skip(note: String, record: Option<Done>) -> Decision {
    Decision::Skip { note, record: record.map(Box::new) }
}

/// A finished stage to decide on.
struct Finished<'a> {
    context: &'a Context<'a>,
    stage: &'a StagePlan,
    now: &'a Inputs,
    request: StageRequest<'a>,
    done: &'a Done,
}

impl Finished<'_> {
    fn decide(&self) -> Result<Decision> {
        if self.request.forced {
            return Ok(from_scratch("asked for"));
        }
        let config = &self.stage.config;
        let changes = Changes::between(self.context.plan, config, &self.done.inputs, self.now, true)?;
        if !changes.result.is_empty() {
            return self.other_result(&changes);
        }
        if !changes.earlier_stage.is_empty() {
            let what = in_words(&changes.earlier_stage);
            if self.force() {
                let note = format!("kept by --resume force, although it was made from other files: {what}");
                return Ok(skip(note, Some(self.accepted(&changes))));
            }
            return Ok(from_scratch(format!("what it starts from was made again: {what}")));
        }
        if !changes.length.is_empty() {
            return self.other_length(&changes);
        }
        let output = &self.context.plan.output;
        if let Some(file) = self.done.outputs.iter().find(|file| !output.join(file).exists()) {
            let why = format!("{file} is gone");
            return Ok(match stage_state::resume_file_of(output, self.done) {
                // Its end is written once more.
                Some(resume) => self.resume(resume, why, &changes),
                None => from_scratch(why),
            });
        }
        let note = match changes.harmless.is_empty() {
            true => String::new(),
            false => format!("its result does not depend on {}", in_words(&changes.harmless)),
        };
        Ok(skip(note, None))
    }

    fn force(&self) -> bool {
        self.request.resume == Resume::Force
    }

    /// The record where `--resume force` accepts the changes.
    fn accepted(&self, changes: &Changes) -> Done {
        let mut record = Done { inputs: self.now.clone(), ..self.done.clone() };
        record.inputs.forced.clone_from(&self.done.inputs.forced);
        let changes = changes.that_matter().map(ToString::to_string).collect();
        record.inputs.forced.push(Forced { step: self.done.steps.unwrap_or(0), changes });
        record
    }

    /// Resumes from the end of the finished stage.
    fn resume(&self, resume: PathBuf, why: String, changes: &Changes) -> Decision {
        let point = ResumePoint {
            file: resume,
            forced: self.force(),
            forced_changes: self.done.inputs.forced.clone(),
            harmless_changes: keys(&changes.harmless),
        };
        Decision::Run { start: StartFrom::Checkpoint(point), why, longer: true }
    }

    /// The stage would have another result now.
    fn other_result(&self, changes: &Changes) -> Result<Decision> {
        if self.force() {
            let all: Vec<Change> = changes.that_matter().cloned().collect();
            let note = format!("kept by --resume force, although it was made with {}", in_words(&all));
            return Ok(skip(note, Some(self.accepted(changes))));
        }
        // No stage builds on an evaluation or an export: it is simply made again.
        let is_leaf = matches!(self.stage.config, StageConfig::Eval(_) | StageConfig::Export(_));
        if self.request.resume == Resume::Never || is_leaf {
            let why = format!("changed since it was done: {}", in_words(&changes.result));
            return Ok(from_scratch(why));
        }
        Err(changed_fault(self.stage, &changes.result, self.request, None))
    }

    /// The stage would only be of another length now.
    fn other_length(&self, changes: &Changes) -> Result<Decision> {
        let what = in_words(&changes.length);
        let (steps, per_epoch) = self.length();
        match (new_length(self.stage, per_epoch), steps) {
            (Some(new), Some(steps)) if new < steps => {
                if self.force() {
                    let note = format!("kept by --resume force, although {what}");
                    return Ok(skip(note, Some(self.accepted(changes))));
                }
                let keeps = "keeps it as it is";
                return Err(shorter_fault(self.stage, &changes.length, (steps, new), self.request, keeps));
            }
            // Another limit that leaves the end where it is.
            (Some(new), Some(steps))
                if new == steps && !changes.length.iter().any(|c| c.key == "save_dtype") =>
            {
                return Ok(skip(format!("{what} leaves its length as it is"), None));
            }
            _ => {}
        }
        match stage_state::resume_file_of(&self.context.plan.output, self.done) {
            Some(resume) => Ok(self.resume(resume, format!("resumes from its end: {what}"), changes)),
            None if self.request.resume == Resume::Never => Ok(from_scratch(what)),
            None => Err(self.no_resume_file(what)),
        }
    }

    fn no_resume_file(&self, what: String) -> Error {
        let (name, command) = (&self.stage.name, self.request.command);
        let fault = Error::input(format!(
            "stage `{name}` is done and its resume file is gone, so that it cannot resume from its end"
        ));
        at(self.stage, fault.because(what).hint(format!(
            "put the recipe back, or `{command} --from {name}` runs it and those below again and keeps the old files as .old"
        )))
    }

    /// Micro-batches that the stage has done, and those of an epoch; old records lack them.
    fn length(&self) -> (Option<u64>, Option<u64>) {
        let folder = self.context.plan.output.join(&self.stage.name);
        let summary = super::record::summary(&folder).unwrap_or_default();
        let steps = self.done.steps.or(summary["steps"].as_u64());
        let settings = &self.done.inputs.settings;
        let derived = steps.and_then(|steps| stage_state::epoch_length(settings, &self.stage.config, steps));
        (steps, self.done.per_epoch.or(derived))
    }
}

fn decide_in_progress(
    context: &Context<'_>,
    stage: &StagePlan,
    now: &Inputs,
    request: StageRequest<'_>,
    begun: &InProgress,
) -> Result<Decision> {
    if request.resume == Resume::Never {
        return Ok(from_scratch("from the beginning, as --resume never asks"));
    }
    let changes = Changes::between(context.plan, &stage.config, &begun.inputs, now, false)?;
    let force = request.resume == Resume::Force;
    let steps = begun.position.epoch * begun.per_epoch + begun.position.step_in_epoch;
    let mut forced_changes = begun.inputs.forced.clone();
    if !changes.result.is_empty() || !changes.earlier_stage.is_empty() {
        if force {
            let all = changes.result.iter().chain(&changes.earlier_stage);
            let changes = all.map(ToString::to_string).collect();
            forced_changes.push(Forced { step: steps, changes });
        } else if request.forced {
            return Ok(from_scratch("asked for"));
        } else if changes.result.is_empty() {
            let what = in_words(&changes.earlier_stage);
            return Ok(from_scratch(format!("what it starts from was made again: {what}")));
        } else {
            return Err(changed_fault(stage, &changes.result, request, Some(steps)));
        }
    }
    let new = new_length(stage, Some(begun.per_epoch).filter(|n| *n > 0));
    if let Some(new) = new.filter(|new| *new < steps && !force) {
        if request.forced {
            return Ok(from_scratch("asked for"));
        }
        let ends = "ends it where it is";
        return Err(shorter_fault(stage, &changes.length, (steps, new), request, ends));
    }
    let mut why = "resumes".to_owned();
    let other: Vec<Change> = changes.length.iter().chain(&changes.harmless).cloned().collect();
    if !other.is_empty() {
        why += &format!(" with {}", in_words(&other));
    }
    if let Some(last) = forced_changes.last().filter(|_| forced_changes.len() > begun.inputs.forced.len()) {
        why += &format!(" by --resume force, although it was begun with {}", last.changes.join(", "));
    }
    let point = ResumePoint {
        file: begun.resume.clone(),
        forced: force,
        forced_changes,
        harmless_changes: keys(&changes.harmless),
    };
    Ok(Decision::Run { start: StartFrom::Checkpoint(point), why, longer: false })
}

fn keys(changes: &[Change]) -> Vec<String> {
    changes.iter().map(|change| change.key.clone()).collect()
}

/// Micro-batches that the recipe asks for now, where that is known without reading the data.
fn new_length(stage: &StagePlan, per_epoch: Option<u64>) -> Option<u64> {
    let config = stage.config.training()?;
    let all = per_epoch?.saturating_mul(config.epochs as u64);
    Some(config.max_steps.map_or(all, |most| all.min(most as u64)))
}

fn at(stage: &StagePlan, error: Error) -> Error {
    match &stage.place {
        Some(place) => error.at(place.clone()),
        None => error,
    }
}

/// The fault of a stage that was made with other settings, data or start weights; `steps` where it is in progress.
fn changed_fault(
    stage: &StagePlan,
    changes: &[Change],
    request: StageRequest<'_>,
    steps: Option<u64>,
) -> Error {
    let (name, command) = (&stage.name, request.command);
    let (what, force) = match steps {
        Some(steps) => (
            format!(
                "stage `{name}` was begun with other settings, data or start weights; nothing was changed"
            ),
            format!("`{command} --resume force` resumes from micro-batch {steps} all the same"),
        ),
        None => (
            format!(
                "stage `{name}` is done, but with other settings, data or start weights; nothing was changed"
            ),
            format!("`{command} --resume force` keeps it as it is"),
        ),
    };
    at(stage, Error::input(what).because(in_words(changes)).hint(format!(
        "put the recipe back, or {force}, or `{command} --from {name}` runs it and those below again and keeps the old files as .old; another --output is a run of its own"
    )))
}

/// The fault of a stage that has done more micro-batches than are asked for now; `force` is what `--resume force` does.
fn shorter_fault(
    stage: &StagePlan,
    changes: &[Change],
    (steps, new): (u64, u64),
    request: StageRequest<'_>,
    force: &str,
) -> Error {
    let (name, command) = (&stage.name, request.command);
    let fault = Error::input(format!(
        "stage `{name}` has done {steps} micro-batches, and {new} are asked for; nothing was changed"
    ));
    let fault = if changes.is_empty() { fault } else { fault.because(in_words(changes)) };
    at(stage, fault.hint(format!(
        "put the recipe back, or `{command} --resume force` {force}, or `{command} --from {name}` runs it and those below again and keeps the old files as .old"
    )))
}
