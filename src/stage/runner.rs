//! Walks through a plan: one run at a time in a folder, finished stages skipped, changed ones run again.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tch::Device;

use super::inputs;
use super::record::{Done, Inputs, Verdict, judge, write_json};
use super::{distill, dpo, eval, export, lora, merge, policy, reason, reward, tokenizer, train};
use crate::checkpoint::atomic;
use crate::engine::{Beside, Compute, Ranks, Signals};
use crate::error::{Error, Place, Result};
use crate::native::release_memory;
use crate::plan::{Plan, StageConfig, StagePlan};
use crate::report::console::ConsoleMode;

/// Whether a stage goes on from a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
pub enum Resume {
    /// Go on where a matching checkpoint is.
    Auto,
    /// Begin unfinished stages anew.
    Never,
    /// Go on, or fail.
    Must,
}

/// What `minimind run` was asked beside the recipe.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// Only this stage.
    pub only: Option<String>,
    /// This stage and those below it, done or not.
    pub from: Option<String>,
    /// Whether to go on from checkpoints.
    pub resume: Resume,
    /// How progress is shown.
    pub console: ConsoleMode,
    /// Where tokenised rows are kept.
    pub cache_dir: PathBuf,
}

/// What every stage needs.
#[derive(Debug)]
pub struct Context<'a> {
    /// The whole plan.
    pub plan: &'a Plan,
    /// Where tensors live.
    pub device: Device,
    /// Arithmetic.
    pub compute: Compute,
    /// Whether to go on from checkpoints.
    pub resume: Resume,
    /// Ctrl-C and SIGTERM.
    pub signals: Signals,
    /// How progress is shown.
    pub console: ConsoleMode,
    /// Where tokenised rows are kept.
    pub cache_dir: PathBuf,
    /// This process among those that train together.
    pub ranks: Ranks,
}

impl Context<'_> {
    /// Who has a say in a training loop.
    pub fn beside(&self) -> Beside<'_> {
        Beside { signals: &self.signals, ranks: &self.ranks }
    }
}

/// What a stage hands back.
#[derive(Debug)]
pub struct Finished {
    /// Files made, relative to the run's folder.
    pub outputs: Vec<String>,
    /// What came of it.
    pub summary: Value,
}

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
    let mut _lock = None;
    if ranks.is_first() {
        std::fs::create_dir_all(output).map_err(|e| Error::io("create the run's folder", output, e))?;
        _lock = Some(lock(output)?);
        atomic::write_bytes(&output.join("recipe.yaml"), plan.recipe_text.as_bytes())?;
        write_json(&output.join("plan.json"), plan)?;
    }
    let mut context = Context {
        plan,
        device,
        compute,
        resume: options.resume,
        signals: signals.clone(),
        console: options.console,
        cache_dir: options.cache_dir.clone(),
        ranks: ranks.clone(),
    };
    let mut ran = false;
    for (i, stage) in plan.stages.iter().enumerate() {
        if only.is_some_and(|only| only != i) {
            continue;
        }
        let forced = first.is_some_and(|first| i >= first);
        if ranks.is_first() {
            // A finished stage that is forced starts over; one that was cut short goes on.
            let forced = forced && !ran_half(output, stage);
            context.resume = if forced { Resume::Never } else { options.resume };
            ran |= one(&context, stage, forced)?;
        } else {
            beside(&mut context, stage)?;
        }
        // The next stage's tensors have other sizes.
        release_memory();
    }
    if !ranks.is_first() {
        return Ok(());
    }
    let report = crate::report::html::write_report(output)?;
    tracing::info!("report: {}", report.display());
    if !ran {
        tracing::info!("every stage is done; --from STAGE runs it and those below again");
    }
    Ok(())
}

/// Whether a stage has begun but not finished here.
fn ran_half(output: &Path, stage: &StagePlan) -> bool {
    let folder = output.join(&stage.name);
    folder.exists() && !folder.join("done.json").exists()
}

/// What the first rank tells the others of a stage.
#[derive(Debug, Serialize, Deserialize)]
struct Word {
    /// What decides the stage's result; none where it is not run.
    inputs: Option<Inputs>,
    resume: Resume,
}

/// The part in a stage of a rank after the first: it trains beside it, and waits while it does anything else.
fn beside(context: &mut Context<'_>, stage: &StagePlan) -> Result<()> {
    let word: Word = context.ranks.hear(None)?;
    let Some(inputs) = word.inputs else { return Ok(()) };
    context.resume = word.resume;
    let folder = context.plan.output.join(&stage.name);
    if stage.config.training().is_some() {
        dispatch(context, stage, &folder, &inputs)?;
    }
    Ok(())
}

/// Runs a stage, or not; says whether it ran.
fn one(context: &Context<'_>, stage: &StagePlan, forced: bool) -> Result<bool> {
    let output = &context.plan.output;
    let folder = output.join(&stage.name);
    let at = |error: Error| match &stage.place {
        Some(place) if error.place().is_none() => error.at(place.clone()),
        _ => error,
    };
    let inputs = inputs::describe(context, &stage.config).map_err(at)?;
    let verdict = judge(output, &folder, &inputs);
    let why = match (&verdict, forced) {
        (Verdict::Done, false) => {
            tracing::info!("{}: done already, skipped", stage.name);
            context.ranks.hear(Some(Word { inputs: None, resume: context.resume }))?;
            return Ok(false);
        }
        (_, true) => "asked for".to_owned(),
        (Verdict::New, _) => "not done yet".to_owned(),
        (Verdict::Changed(names), _) => format!("changed since it was done: {}", names.join(", ")),
        (Verdict::Missing(file), _) => format!("{file} is gone"),
    };
    tracing::info!("{}: runs ({why})", stage.name);
    std::fs::create_dir_all(&folder).map_err(|e| Error::io("create the stage's folder", &folder, e))?;
    // A training stage gives its record up when it begins to train (`Watch`), and not for a fault of its input.
    if stage.config.training().is_none() {
        super::record::give_up(&folder)?;
    }
    context.ranks.hear(Some(Word { inputs: Some(inputs.clone()), resume: context.resume }))?;
    let started = Instant::now();
    let finished = dispatch(context, stage, &folder, &inputs).map_err(at)?;
    let mut summary = json!({
        "kind": stage.config.kind(),
        "status": "done",
        "seconds": started.elapsed().as_secs_f64(),
    });
    if let (Some(all), Value::Object(own)) = (summary.as_object_mut(), finished.summary) {
        all.extend(own);
    }
    write_json(&folder.join("summary.json"), &summary)?;
    write_json(&folder.join("done.json"), &Done { inputs, outputs: finished.outputs })?;
    Ok(true)
}

fn dispatch(context: &Context<'_>, stage: &StagePlan, folder: &Path, inputs: &Inputs) -> Result<Finished> {
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
