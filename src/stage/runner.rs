//! Runs the stages of a plan: one run at a time in a folder, finished stages skipped, unfinished ones resumed. What was
//! made from something else stops the run before anything is written (`decision`).

use std::fs::File;
use std::path::Path;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::context::{Context, Resume, StageResult, StageRun, StartFrom};
use super::decision::{Decision, StageRequest, decide};
use super::record::{Done, Inputs, write_json};
use super::stage_state::{self, StageState};
use super::{backup, decision, fingerprint, legacy_records, rerun};
use super::{distill, dpo, eval, export, lora, merge, policy, reason, reward, tokenizer, train};
use crate::atomic;
use crate::checkpoint::weight_file;
use crate::error::{Error, Kind, Place, Result};
use crate::native::empty_cpu_cache;
use crate::plan::{Plan, StageConfig, StagePlan};

/// Runs the plan's stages in order; rank 0 decides and writes, the others follow it.
///
/// # Errors
/// The first stage that fails; those before it are kept. Nothing is written where a stage was made from something else
/// and has to be asked about.
pub fn run(mut context: Context<'_>) -> Result<()> {
    let (plan, options) = (context.plan, context.options);
    let from = options.from.as_deref().map(|name| find(plan, name)).transpose()?;
    let only = options.only.as_deref().map(|name| find(plan, name)).transpose()?;
    if !context.ranks.is_rank0() {
        return follow(&mut context, only);
    }
    let output = &plan.output;
    std::fs::create_dir_all(output).map_err(|e| Error::io("create the run's folder", output, e))?;
    let _lock = lock(output)?;
    let rerun = rerun::Rerun::read(output, options);
    let mut runner = Runner { context, from, only, rerun, known: Vec::new(), resumes: false };
    // All that can be known is checked before anything is written.
    let checked = runner.check_all();
    runner.context.ranks.broadcast(Some(checked.is_ok()))?;
    checked?;
    runner.rerun.start(output)?;
    atomic::write_bytes(&output.join("recipe.yaml"), plan.recipe_text.as_bytes())?;
    write_json(&output.join("plan.json"), plan)?;
    let mut ran = false;
    for i in runner.stages() {
        ran |= runner.run_stage(i, ran)?;
        // The next stage's tensors have other sizes.
        empty_cpu_cache();
    }
    runner.rerun.finish(output)?;
    let report = crate::report::html::write_report(output)?;
    tracing::info!("report: {}", report.display());
    if !ran {
        tracing::info!("every stage is done; --from STAGE runs it and those below again");
    }
    Ok(())
}

/// What rank 0 tells the others of a stage.
#[derive(Debug, Serialize, Deserialize)]
struct StageMessage {
    /// What the stage's result depends on; `None` where it is not run.
    inputs: Option<Inputs>,
    start: StartFrom,
}

/// The part of a rank after the first: it takes part in training stages and waits during the others.
fn follow(context: &mut Context<'_>, only: Option<usize>) -> Result<()> {
    if !context.ranks.broadcast::<bool>(None)? {
        // Rank 0 says why this run does not begin, and ends it with its exit code.
        return Ok(());
    }
    for (i, stage) in context.plan.stages.iter().enumerate() {
        if only.is_none_or(|only| only == i) {
            follow_stage(context, stage)?;
            empty_cpu_cache();
        }
    }
    Ok(())
}

fn follow_stage(context: &mut Context<'_>, stage: &StagePlan) -> Result<()> {
    let message: StageMessage = context.ranks.broadcast(None)?;
    let Some(inputs) = message.inputs.filter(|_| stage.config.training().is_some()) else {
        return Ok(());
    };
    context.start = message.start;
    let folder = context.plan.output.join(&stage.name);
    dispatch(StageRun { context, name: &stage.name, folder: &folder, inputs: &inputs }, &stage.config)?;
    Ok(())
}

/// A run over the stages of a plan, on rank 0.
struct Runner<'a> {
    context: Context<'a>,
    /// `--from`.
    from: Option<usize>,
    /// `--only`.
    only: Option<usize>,
    rerun: rerun::Rerun,
    /// What stages are made from and what they have left, as far as it was found out before any ran.
    known: Vec<Option<(Inputs, StageState)>>,
    /// Whether a stage was found that resumes: `--resume must` has what it demands, and those below it may begin.
    resumes: bool,
}

impl<'a> Runner<'a> {
    fn stages(&self) -> Vec<usize> {
        let all = 0..self.context.plan.stages.len();
        all.filter(|i| self.only.is_none_or(|only| only == *i)).collect()
    }

    /// What the command line asks of stage `i`.
    fn request(&self, i: usize) -> StageRequest<'a> {
        let (plan, options) = (self.context.plan, self.context.options);
        let forced = self.from.is_some_and(|from| i >= from) && !self.rerun.has_rerun(&plan.stages[i].name);
        let resume = match options.resume {
            Resume::Must if self.resumes => Resume::Auto,
            other => other,
        };
        StageRequest { forced, resume, command: &options.command }
    }

    /// Finds the stages that left something already and decides for each whether it holds; the first fault ends it.
    /// What depends on a stage that will run is decided again when its turn comes.
    fn check_all(&mut self) -> Result<()> {
        let plan = self.context.plan;
        let output = &plan.output;
        self.known.resize_with(plan.stages.len(), || None);
        for i in self.stages() {
            let stage = &plan.stages[i];
            let begun =
                output.join(&stage.name).is_dir() || !stage_state::files(output, &stage.name)?.is_empty();
            let request = self.request(i);
            if !begun && request.resume == Resume::Must && stage.config.training().is_some() {
                return Err(decision::no_checkpoint(&self.context, stage));
            }
            // What an earlier stage has yet to make is missing now; other faults show when the stage runs.
            let inputs =
                begun.then(|| fingerprint::stage_inputs(&self.context, &stage.config).ok()).flatten();
            let Some(inputs) = inputs else { continue };
            let state = stage_state::read(output, stage, &inputs)?;
            let decision = decide(&self.context, stage, &state, &inputs, request)?;
            self.resumes |= matches!(
                decision,
                Decision::Run { start: StartFrom::Checkpoint(_) | StartFrom::UpstreamFile, .. }
            );
            self.known[i] = Some((inputs, state));
        }
        for (i, known) in self.known.iter().enumerate() {
            let inputs = match known {
                Some((_, StageState::Done(done))) => &done.inputs,
                Some((_, StageState::InProgress(begun))) => &begun.inputs,
                _ => continue,
            };
            legacy_records::keep_settings(inputs, &output.join(&plan.stages[i].name))?;
        }
        Ok(())
    }

    /// Runs stage `i`, or skips it; whether it ran. `after`: one above has run.
    fn run_stage(&mut self, i: usize, after: bool) -> Result<bool> {
        let plan = self.context.plan;
        let stage = &plan.stages[i];
        let at = |error| at_stage(stage, error);
        let (inputs, state) = match self.known[i].take().filter(|_| !after) {
            Some(known) => known,
            None => {
                let inputs = fingerprint::stage_inputs(&self.context, &stage.config).map_err(at)?;
                let state = stage_state::read(&plan.output, stage, &inputs)?;
                (inputs, state)
            }
        };
        let name = &stage.name;
        let folder = plan.output.join(name);
        match decide(&self.context, stage, &state, &inputs, self.request(i))? {
            Decision::Skip { note, record } => {
                let note = if note.is_empty() { note } else { format!(" ({note})") };
                tracing::info!("{name}: done already, skipped{note}");
                record.map_or(Ok(()), |record| record.write(&folder))?;
                let message = StageMessage { inputs: None, start: StartFrom::Scratch };
                self.context.ranks.broadcast(Some(message))?;
                Ok(false)
            }
            Decision::Run { start, why, longer } => {
                tracing::info!("{name}: runs ({why})");
                self.execute(stage, &folder, inputs, (start, longer))?;
                self.rerun.record(&plan.output, name)?;
                Ok(true)
            }
        }
    }

    /// Runs a stage and writes its summary and record; old files are kept as `.old`. `longer`: it was finished before
    /// and only gets longer.
    fn execute(
        &mut self,
        stage: &StagePlan,
        folder: &Path,
        inputs: Inputs,
        (start, longer): (StartFrom, bool),
    ) -> Result<()> {
        let (output, name) = (&self.context.plan.output, &stage.name);
        let backup = if start == StartFrom::Scratch { backup::back_up(output, name)? } else { Vec::new() };
        if !backup.is_empty() {
            tracing::info!("{name}: what was there is kept as {}", backup::names(&backup));
        }
        for file in
            stage_state::files(output, name)?.iter().filter(|path| longer && !weight_file::is_resume(path))
        {
            if let Some(copy) = backup::copy_weights(file)? {
                tracing::info!("{name}: its current weights are kept as {copy}");
            }
        }
        std::fs::create_dir_all(folder).map_err(|e| Error::io("create the stage's folder", folder, e))?;
        let message = StageMessage { inputs: Some(inputs.clone()), start: start.clone() };
        self.context.ranks.broadcast(Some(message))?;
        self.context.start = start;
        let started = Instant::now();
        let run = StageRun { context: &self.context, name, folder, inputs: &inputs };
        let result = match dispatch(run, &stage.config).map_err(|error| at_stage(stage, error)) {
            Ok(result) => result,
            Err(fault) => {
                if fault.kind() == Kind::Input {
                    backup::restore(output, name, &backup)?;
                }
                return Err(fault);
            }
        };
        let mut summary = json!({
            "kind": stage.config.kind(),
            "status": "done",
            "seconds": result.earlier_seconds + started.elapsed().as_secs_f64(),
        });
        if let (Some(all), Value::Object(own)) = (summary.as_object_mut(), result.summary) {
            all.extend(own);
        }
        write_json(&folder.join("summary.json"), &summary)?;
        let (steps, per_epoch) = result.steps.unzip();
        let inputs = self.context.start.with_forced(inputs);
        Done { inputs, outputs: result.outputs, steps, per_epoch }.write(folder)
    }
}

/// `error` at the stage's line of the recipe, where it has no place of its own.
fn at_stage(stage: &StagePlan, error: Error) -> Error {
    match &stage.place {
        Some(place) if error.place().is_none() => error.at(place.clone()),
        _ => error,
    }
}

fn dispatch(stage: StageRun<'_>, config: &StageConfig) -> Result<StageResult> {
    let StageRun { context, name, folder, .. } = stage;
    match config {
        StageConfig::Tokenizer(config) => tokenizer::run(context, config, folder),
        StageConfig::Pretrain(config) => train::run(stage, config, false),
        StageConfig::Sft(config) => train::run(stage, config, true),
        StageConfig::Lora(config) => lora::run(stage, config),
        StageConfig::Merge(config) => merge::run(context, name, config),
        StageConfig::Reason(config) => reason::run(stage, config),
        StageConfig::Distill(config) => distill::run(stage, config),
        StageConfig::Dpo(config) => dpo::run(stage, config),
        StageConfig::Reward(config) => reward::run(stage, config),
        StageConfig::Eval(config) => eval::run(context, config),
        StageConfig::Export(config) => export::run(context, config, folder),
        StageConfig::Ppo(config)
        | StageConfig::Grpo(config)
        | StageConfig::Spo(config)
        | StageConfig::Agent(config) => policy::run(stage, config),
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
        Err(_) => Err(Error::failed("another run is using this folder")
            .at(Place::file(output))
            .hint("wait for it, stop it, or give this run its own --output")),
    }
}
