//! Walks through a plan: one run at a time in a folder, finished stages skipped, unfinished ones gone on with. What was
//! made from something else stops the run before anything is written (`verdict`).

use std::fs::File;
use std::path::Path;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tch::Device;

use super::context::{Context, Resume, RunOptions, StageResult, StartFrom};
use super::record::{Done, Inputs, write_json};
use super::trace::{self, Trace};
use super::verdict::{Asked, Verdict, judge};
use super::{aside, campaign, inputs, legacy, verdict};
use super::{distill, dpo, eval, export, lora, merge, policy, reason, reward, tokenizer, train};
use crate::atomic;
use crate::engine::{Compute, Ranks, Signals};
use crate::error::{Error, Kind, Place, Result};
use crate::native::release_memory;
use crate::plan::{Plan, StageConfig, StagePlan};

/// Carries a plan out.
///
/// # Errors
/// The first stage that fails; those before it are kept.
pub fn run(
    plan: &Plan,
    options: &RunOptions,
    device: Device,
    compute: Compute,
    signals: &Signals,
    ranks: &Ranks,
) -> Result<()> {
    let output = &plan.output;
    let first = options.from.as_deref().map(|name| find(plan, name)).transpose()?;
    let only = options.only.as_deref().map(|name| find(plan, name)).transpose()?;
    let mut context = Context {
        plan,
        device,
        compute,
        start: StartFrom::Scratch,
        command: options.command.clone(),
        signals: signals.clone(),
        console: options.console,
        cache_dir: options.cache_dir.clone(),
        ranks: ranks.clone(),
    };
    if !ranks.is_rank0() {
        return follow(&mut context, only);
    }
    std::fs::create_dir_all(output).map_err(|e| Error::io("create the run's folder", output, e))?;
    let _lock = lock(output)?;
    let mut run = Walk {
        options,
        first,
        only,
        again: campaign::Again::read(output, options),
        known: Vec::new(),
        goes_on: false,
    };
    // All that can be known is looked at before anything is written.
    let looked = run.look(&context);
    ranks.broadcast(Some(looked.is_ok()))?;
    looked?;
    run.again.begin(output)?;
    atomic::write_bytes(&output.join("recipe.yaml"), plan.recipe_text.as_bytes())?;
    write_json(&output.join("plan.json"), plan)?;
    let mut ran = false;
    for i in run.stages(plan) {
        ran |= run.one(&mut context, i, ran)?;
        // The next stage's tensors have other sizes.
        release_memory();
    }
    run.again.end(output)?;
    let report = crate::report::html::write_report(output)?;
    tracing::info!("report: {}", report.display());
    if !ran {
        tracing::info!("every stage is done; --from STAGE runs it and those below again");
    }
    Ok(())
}

/// What the first rank tells the others of a stage.
#[derive(Debug, Serialize, Deserialize)]
struct Word {
    /// What decides the stage's result; none where it is not run.
    inputs: Option<Inputs>,
    start: StartFrom,
}

/// The part of a rank after the first: it trains beside it, and waits while it does anything else.
fn follow(context: &mut Context<'_>, only: Option<usize>) -> Result<()> {
    if !context.ranks.broadcast::<bool>(None)? {
        // The first rank says why this run does not begin, and ends it with its exit code.
        return Ok(());
    }
    for (i, stage) in context.plan.stages.iter().enumerate() {
        if only.is_some_and(|only| only != i) {
            continue;
        }
        let word: Word = context.ranks.broadcast(None)?;
        if let Some(inputs) = word.inputs.filter(|_| stage.config.training().is_some()) {
            context.start = word.start;
            dispatch(context, stage, &context.plan.output.join(&stage.name), &inputs)?;
        }
        release_memory();
    }
    Ok(())
}

/// A run over the stages of a plan.
struct Walk<'a> {
    options: &'a RunOptions,
    /// `--from`.
    first: Option<usize>,
    /// `--only`.
    only: Option<usize>,
    again: campaign::Again,
    /// What stages are made from and what they have left, as far as it was found out before any ran.
    known: Vec<Option<(Inputs, Trace)>>,
    /// Whether a stage was found that goes on: `--resume must` has what it demands, and those below it may begin.
    goes_on: bool,
}

impl Walk<'_> {
    fn stages(&self, plan: &Plan) -> Vec<usize> {
        (0..plan.stages.len()).filter(|i| self.only.is_none_or(|only| only == *i)).collect()
    }

    fn asked(&self, i: usize, name: &str) -> Asked<'_> {
        let forced = self.first.is_some_and(|first| i >= first) && !self.again.has(name);
        let resume = match self.options.resume {
            Resume::Must if self.goes_on => Resume::Auto,
            other => other,
        };
        Asked { forced, resume, command: &self.options.command }
    }

    /// Finds the stages that something was made of already and asks of each whether it holds; the first fault ends it.
    /// What depends on a stage that will run is looked at again when its turn comes.
    fn look(&mut self, context: &Context<'_>) -> Result<()> {
        let (plan, output) = (context.plan, &context.plan.output);
        self.known.resize_with(plan.stages.len(), || None);
        for i in self.stages(plan) {
            let stage = &plan.stages[i];
            let begun = output.join(&stage.name).is_dir() || !trace::files(output, &stage.name)?.is_empty();
            if !begun
                && self.asked(i, &stage.name).resume == Resume::Must
                && stage.config.training().is_some()
            {
                return Err(verdict::nothing(context, stage));
            }
            // What an earlier stage has yet to make is missing now; whatever else is wrong is told when its turn comes.
            let Some(inputs) = begun.then(|| inputs::describe(context, &stage.config).ok()).flatten() else {
                continue;
            };
            let found = trace::find(output, stage, &inputs)?;
            let verdict = judge(context, stage, &found, &inputs, self.asked(i, &stage.name))?;
            self.goes_on |= matches!(
                verdict,
                Verdict::Run { start: StartFrom::Checkpoint(_) | StartFrom::UpstreamFile, .. }
            );
            self.known[i] = Some((inputs, found));
        }
        for (i, known) in self.known.iter().enumerate() {
            let inputs = match known {
                Some((_, Trace::Done(done))) => &done.inputs,
                Some((_, Trace::Begun(begun))) => &begun.inputs,
                _ => continue,
            };
            legacy::keep(inputs, &output.join(&plan.stages[i].name))?;
        }
        Ok(())
    }

    /// Runs a stage, or not; says whether it ran. `after`: one above has run.
    fn one(&mut self, context: &mut Context<'_>, i: usize, after: bool) -> Result<bool> {
        let plan = context.plan;
        let (stage, output) = (&plan.stages[i], &plan.output);
        let folder = output.join(&stage.name);
        let at = |error: Error| match &stage.place {
            Some(place) if error.place().is_none() => error.at(place.clone()),
            _ => error,
        };
        let (inputs, found) = match self.known[i].take().filter(|_| !after) {
            Some(known) => known,
            None => {
                let inputs = inputs::describe(context, &stage.config).map_err(at)?;
                let found = trace::find(output, stage, &inputs)?;
                (inputs, found)
            }
        };
        let name = &stage.name;
        let (start, why, longer) = match judge(context, stage, &found, &inputs, self.asked(i, name))? {
            Verdict::Skip { note, record } => {
                let note = if note.is_empty() { note } else { format!(" ({note})") };
                tracing::info!("{name}: done already, skipped{note}");
                record.map_or(Ok(()), |record| record.write(&folder))?;
                context.ranks.broadcast(Some(Word { inputs: None, start: StartFrom::Scratch }))?;
                return Ok(false);
            }
            Verdict::Run { start, why, longer } => (start, why, longer),
        };
        tracing::info!("{name}: runs ({why})");
        let moved = if start == StartFrom::Scratch { aside::set_aside(output, name)? } else { Vec::new() };
        if !moved.is_empty() {
            tracing::info!("{name}: what was there is kept as {}", aside::names(&moved));
        }
        for file in trace::files(output, name)?.iter().filter(|path| longer && !trace::is_resume(path)) {
            if let Some(copy) = aside::keep_copy(file)? {
                tracing::info!("{name}: its weights of now are kept as {copy}");
            }
        }
        std::fs::create_dir_all(&folder).map_err(|e| Error::io("create the stage's folder", &folder, e))?;
        context.ranks.broadcast(Some(Word { inputs: Some(inputs.clone()), start: start.clone() }))?;
        context.start = start;
        let started = Instant::now();
        let finished = match dispatch(context, stage, &folder, &inputs).map_err(at) {
            Ok(finished) => finished,
            Err(fault) => {
                if fault.kind() == Kind::Input {
                    aside::put_back(output, name, &moved)?;
                }
                return Err(fault);
            }
        };
        let mut summary = json!({
            "kind": stage.config.kind(),
            "status": "done",
            "seconds": finished.earlier_seconds + started.elapsed().as_secs_f64(),
        });
        if let (Some(all), Value::Object(own)) = (summary.as_object_mut(), finished.summary) {
            all.extend(own);
        }
        write_json(&folder.join("summary.json"), &summary)?;
        let (steps, per_epoch) = finished.steps.unzip();
        let inputs = context.start.with_forced(inputs);
        Done { inputs, outputs: finished.outputs, steps, per_epoch }.write(&folder)?;
        self.again.done(output, name)?;
        Ok(true)
    }
}

fn dispatch(context: &Context<'_>, stage: &StagePlan, folder: &Path, inputs: &Inputs) -> Result<StageResult> {
    match &stage.config {
        StageConfig::Tokenizer(config) => tokenizer::run(context, config, folder),
        StageConfig::Pretrain(config) => train::run(context, &stage.name, config, folder, inputs, false),
        StageConfig::Sft(config) => train::run(context, &stage.name, config, folder, inputs, true),
        StageConfig::Lora(config) => lora::run(context, &stage.name, config, folder, inputs),
        StageConfig::Merge(config) => merge::run(context, &stage.name, config),
        StageConfig::Reason(config) => reason::run(context, &stage.name, config, folder, inputs),
        StageConfig::Distill(config) => distill::run(context, &stage.name, config, folder, inputs),
        StageConfig::Dpo(config) => dpo::run(context, &stage.name, config, folder, inputs),
        StageConfig::Reward(config) => reward::run(context, &stage.name, config, folder, inputs),
        StageConfig::Eval(config) => eval::run(context, config),
        StageConfig::Export(config) => export::run(context, config, folder),
        StageConfig::Ppo(config)
        | StageConfig::Grpo(config)
        | StageConfig::Spo(config)
        | StageConfig::Agent(config) => policy::run(context, &stage.name, config, folder, inputs),
    }
}

fn find(plan: &Plan, name: &str) -> Result<usize> {
    plan.stages.iter().position(|stage| stage.name == name).ok_or_else(|| {
        let names: Vec<_> = plan.stages.iter().map(|s| s.name.as_str()).collect();
        Error::input(format!("the recipe has no stage `{name}`"))
            .at(Place::file(&plan.recipe))
            .hint(format!("its stages: {}", names.join(", ")))
    })
}

/// Holds the folder for this process; the system frees it however the process ends.
fn lock(output: &Path) -> Result<File> {
    let path = output.join(".lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|e| Error::io("open the run's lock", &path, e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(_) => Err(Error::failed("another run is at work in this folder")
            .at(Place::file(output))
            .hint("wait for it, stop it, or give this run its own --output")),
    }
}
