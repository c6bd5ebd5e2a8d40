//! Whether a stage is skipped, goes on, begins, or must be asked about: its trace in the run's folder beside what it
//! would be made from now. Nothing is written here, so that a fault leaves everything as it was.

use std::path::PathBuf;

use super::changes::{Changes, words};
use super::context::{Context, Resume, ResumePoint, StartFrom};
use super::record::{Done, Forced, Inputs};
use super::trace::{self, Begun, Trace};
use crate::error::{Error, Place, Result};
use crate::plan::{Change, StageConfig, StagePlan};

/// What is to be done with a stage.
#[derive(Debug)]
pub enum Verdict {
    /// Nothing; `record` is to be written in place of the old one where that was passed over by force.
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
        /// Whether it was finished and is only made longer.
        longer: bool,
    },
}

/// What the command line asks of a stage.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// To run, done or not (`--from`).
    pub forced: bool,
    /// What becomes of checkpoints.
    pub resume: Resume,
    /// The command, for hints, without `--from`, `--only` and `--resume`.
    pub command: &'a str,
}

/// Decides by what was found of the stage.
///
/// # Errors
/// The stage was made from something else, lacks what it needs to go on, or neither resume point can be read.
pub fn judge(
    context: &Context<'_>,
    stage: &StagePlan,
    found: &Trace,
    now: &Inputs,
    asked: Asked<'_>,
) -> Result<Verdict> {
    let run = |why: String| Verdict::Run { start: StartFrom::Scratch, why, longer: false };
    let must = asked.resume == Resume::Must && stage.config.training().is_some();
    let new = |why: String| if must { Err(nothing(context, stage)) } else { Ok(run(why)) };
    match found {
        Trace::Nothing if asked.forced => new("asked for".to_owned()),
        Trace::Nothing => new("not done yet".to_owned()),
        Trace::Upstream if asked.resume == Resume::Never => Ok(run("not done yet".to_owned())),
        Trace::Upstream => {
            Ok(Verdict::Run { start: StartFrom::UpstreamFile, why: "not done yet".to_owned(), longer: false })
        }
        Trace::Broken(_) if asked.forced || asked.resume == Resume::Never => Ok(run("asked for".to_owned())),
        Trace::Broken(fault) => Err(fault.clone().hint(format!(
            "nothing can go on from it; `{} --from {}` starts the stage over and keeps the old files as .old",
            asked.command, stage.name
        ))),
        Trace::Done(done) => finished(context, stage, now, asked, done),
        Trace::Begun(begun) => half_done(context, stage, now, asked, begun),
    }
}

/// The fault of `--resume must` where nothing was begun.
pub fn nothing(context: &Context<'_>, stage: &StagePlan) -> Error {
    let output = Place::file(&context.plan.output);
    Error::input(format!("stage `{}` has no checkpoint to go on from", stage.name))
        .at(output)
        .hint("run without --resume must to start from the beginning")
}

fn finished(
    context: &Context<'_>,
    stage: &StagePlan,
    now: &Inputs,
    asked: Asked<'_>,
    done: &Done,
) -> Result<Verdict> {
    let output = &context.plan.output;
    let anew = |why: String| Verdict::Run { start: StartFrom::Scratch, why, longer: false };
    if asked.forced {
        return Ok(anew("asked for".to_owned()));
    }
    let changes = Changes::between(context.plan, &stage.config, &done.inputs, now, true)?;
    let skip = |note: String, record: Option<Done>| Verdict::Skip { note, record: record.map(Box::new) };
    let passed: Vec<Change> =
        [&changes.different, &changes.followed, &changes.length].into_iter().flatten().cloned().collect();
    let accepted = || {
        let mut record = Done { inputs: now.clone(), ..done.clone() };
        record.inputs.forced.clone_from(&done.inputs.forced);
        let changes = passed.iter().map(ToString::to_string).collect();
        record.inputs.forced.push(Forced { step: done.steps.unwrap_or(0), changes });
        record
    };
    let force = asked.resume == Resume::Force;
    if !changes.different.is_empty() {
        if force {
            let note = format!("kept by --resume force, although it was made with {}", words(&passed));
            return Ok(skip(note, Some(accepted())));
        }
        let again = format!("changed since it was done: {}", words(&changes.different));
        // Nothing is built on an evaluation or an export: it is simply made again.
        if asked.resume == Resume::Never || is_leaf(&stage.config) {
            return Ok(anew(again));
        }
        return Err(different(stage, &changes.different, asked, None));
    }
    if !changes.followed.is_empty() {
        let what = words(&changes.followed);
        if force {
            return Ok(skip(
                format!("kept by --resume force, although it was made from other files: {what}"),
                Some(accepted()),
            ));
        }
        return Ok(anew(format!("what it starts from was made anew: {what}")));
    }
    let from = trace::resume_of(output, done);
    let go_on = |resume: &PathBuf, why: String| Verdict::Run {
        start: StartFrom::Checkpoint(ResumePoint {
            file: resume.clone(),
            forced: force,
            forced_changes: done.inputs.forced.clone(),
            harmless_changes: keys(&changes.watched),
        }),
        why,
        longer: true,
    };
    if !changes.length.is_empty() {
        let what = words(&changes.length);
        let (steps, per_epoch) = length(context, stage, done);
        match (new_length(stage, per_epoch), steps) {
            (Some(new), Some(steps)) if new < steps => {
                if force {
                    return Ok(skip(format!("kept by --resume force, although {what}"), Some(accepted())));
                }
                return Err(shorter(stage, &changes.length, steps, new, asked, true));
            }
            // Only its end is the same: another limit that does not bite.
            (Some(new), Some(steps))
                if new == steps && !changes.length.iter().any(|c| c.key == "save_dtype") =>
            {
                return Ok(skip(format!("{what} leaves its length as it is"), None));
            }
            _ => {}
        }
        return match from {
            Some(resume) => Ok(go_on(&resume, format!("goes on from its end: {what}"))),
            None if asked.resume == Resume::Never => Ok(anew(what)),
            None => Err(at(stage, Error::input(format!(
                "stage `{}` is done and its resume file is gone, so that it cannot go on from its end",
                stage.name
            ))
            .because(what)
            .hint(format!(
                "put the recipe back, or `{} --from {}` runs it and those below anew and keeps the old files as .old",
                asked.command, stage.name
            )))),
        };
    }
    if let Some(file) = done.outputs.iter().find(|file| !output.join(file).exists()) {
        return Ok(match from {
            // Its end is written once more.
            Some(resume) => go_on(&resume, format!("{file} is gone")),
            None => anew(format!("{file} is gone")),
        });
    }
    let note = match changes.watched.is_empty() {
        true => String::new(),
        false => format!("its result does not depend on {}", words(&changes.watched)),
    };
    Ok(skip(note, None))
}

fn half_done(
    context: &Context<'_>,
    stage: &StagePlan,
    now: &Inputs,
    asked: Asked<'_>,
    begun: &Begun,
) -> Result<Verdict> {
    let anew = |why: &str| Ok(Verdict::Run { start: StartFrom::Scratch, why: why.to_owned(), longer: false });
    if asked.resume == Resume::Never {
        return anew("from the beginning, as --resume never asks");
    }
    let changes = Changes::between(context.plan, &stage.config, &begun.inputs, now, false)?;
    let force = asked.resume == Resume::Force;
    let steps = begun.position.epoch * begun.per_epoch + begun.position.step_in_epoch;
    let mut passed = begun.inputs.forced.clone();
    if !changes.different.is_empty() || !changes.followed.is_empty() {
        let all: Vec<Change> = changes.different.iter().chain(&changes.followed).cloned().collect();
        if force {
            passed.push(Forced { step: steps, changes: all.iter().map(ToString::to_string).collect() });
        } else if asked.forced {
            return anew("asked for");
        } else if changes.different.is_empty() {
            return anew(&format!("what it starts from was made anew: {}", words(&changes.followed)));
        } else {
            return Err(different(stage, &changes.different, asked, Some(steps)));
        }
    }
    let new = new_length(stage, Some(begun.per_epoch).filter(|n| *n > 0));
    if let Some(new) = new.filter(|new| *new < steps && !force) {
        if asked.forced {
            return anew("asked for");
        }
        return Err(shorter(stage, &changes.length, steps, new, asked, false));
    }
    let mut why = "goes on".to_owned();
    let other: Vec<Change> = changes.length.iter().chain(&changes.watched).cloned().collect();
    if !other.is_empty() {
        why += &format!(" with {}", words(&other));
    }
    if let Some(passed) = passed.last().filter(|_| force && passed.len() > begun.inputs.forced.len()) {
        why += &format!(" by --resume force, although it was begun with {}", passed.changes.join(", "));
    }
    Ok(Verdict::Run {
        start: StartFrom::Checkpoint(ResumePoint {
            file: begun.resume.clone(),
            forced: force,
            forced_changes: passed,
            harmless_changes: keys(&changes.watched),
        }),
        why,
        longer: false,
    })
}

/// Micro-batches that a finished stage has done, and those of an epoch; records of before lack them.
fn length(context: &Context<'_>, stage: &StagePlan, done: &Done) -> (Option<u64>, Option<u64>) {
    let summary = super::record::summary(&context.plan.output.join(&stage.name)).unwrap_or_default();
    let steps = done.steps.or(summary["steps"].as_u64());
    let derived = steps.and_then(|steps| trace::epoch_length(&done.inputs.settings, &stage.config, steps));
    (steps, done.per_epoch.or(derived))
}

fn keys(changes: &[Change]) -> Vec<String> {
    changes.iter().map(|change| change.key.clone()).collect()
}

/// Micro-batches that the recipe asks for now, where that can be told without reading the data.
fn new_length(stage: &StagePlan, per_epoch: Option<u64>) -> Option<u64> {
    let config = stage.config.training()?;
    let all = per_epoch?.saturating_mul(config.epochs as u64);
    Some(config.max_steps.map_or(all, |most| all.min(most as u64)))
}

fn is_leaf(config: &StageConfig) -> bool {
    matches!(config, StageConfig::Eval(_) | StageConfig::Export(_))
}

fn at(stage: &StagePlan, error: Error) -> Error {
    match &stage.place {
        Some(place) => error.at(place.clone()),
        None => error,
    }
}

fn different(stage: &StagePlan, changes: &[Change], asked: Asked<'_>, steps: Option<u64>) -> Error {
    let Asked { command, .. } = asked;
    let name = &stage.name;
    let (what, force) = match steps {
        Some(steps) => (
            format!(
                "stage `{name}` was begun with other settings, data or start weights; nothing was changed"
            ),
            format!("`{command} --resume force` goes on from micro-batch {steps} all the same"),
        ),
        None => (
            format!(
                "stage `{name}` is done, but with other settings, data or start weights; nothing was changed"
            ),
            format!("`{command} --resume force` keeps it as it is"),
        ),
    };
    at(stage, Error::input(what).because(words(changes)).hint(format!(
        "put the recipe back, or {force}, or `{command} --from {name}` runs it and those below anew and keeps the old files as .old; another --output is a run of its own"
    )))
}

fn shorter(
    stage: &StagePlan,
    changes: &[Change],
    steps: u64,
    new: u64,
    asked: Asked<'_>,
    finished: bool,
) -> Error {
    let name = &stage.name;
    let keeps = if finished { "keeps it as it is" } else { "ends it where it is" };
    let fault = Error::input(format!(
        "stage `{name}` has done {steps} micro-batches, and {new} are asked for; nothing was changed"
    ));
    let fault = if changes.is_empty() { fault } else { fault.because(words(changes)) };
    at(stage, fault.hint(format!(
        "put the recipe back, or `{c} --resume force` {keeps}, or `{c} --from {name}` runs it and those below anew and keeps the old files as .old",
        c = asked.command
    )))
}
