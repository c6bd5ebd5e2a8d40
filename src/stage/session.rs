//! What every training stage does around the engine's loop: rows, model, files, resuming, samples, summary.
//!
//! A stage opens a [`Session`], builds its [`Objective`] and calls [`Session::train`]. Next: `train`, the
//! simplest stage.

use std::path::Path;

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use tch::Kind;

use super::context::StartFrom;
use super::context::{Context, StageResult};
use super::inputs;
use super::measure;
use super::record::Inputs;
use super::watch::Watch;
use crate::checkpoint::ends;
use crate::data::{DataLoader, DataLoaderConfig, Dataset, PrepareContext, PreparedData, Tokenizer, prepare};
use crate::engine::{CheckpointPaths, Compute, LoopConfig, Objective, TrainSetup, resume, train};
use crate::error::{Error, Place, Result};
use crate::model::{CausalLm, params};
use crate::optim::{AdamWConfig, Schedule};
use crate::plan::{SaveDtype, TokenizerSource, TrainConfig};

/// Longest sample answer, in tokens.
const SAMPLE_TOKENS: usize = 48;

/// A training stage at work.
pub struct Session<'a> {
    /// The run.
    pub context: &'a Context<'a>,
    /// The stage's name.
    pub name: &'a str,
    /// Its settings.
    pub config: &'a TrainConfig,
    /// Its folder.
    pub folder: &'a Path,
    /// What decides its result.
    pub inputs: &'a Inputs,
    /// Its tokenizer.
    pub tokenizer: Option<Tokenizer>,
}

/// A stage's rows.
pub struct Batches {
    /// What was read.
    pub prepared: PreparedData,
    /// Training rows.
    pub train: DataLoader,
    /// Held-out rows.
    pub validation: Option<DataLoader>,
}

/// What a stage adds to the common course.
#[derive(Debug, Default)]
pub struct Ending {
    /// Whether samples are asked for as chat.
    pub chat: bool,
    /// What the weight file says beside the common things.
    pub metadata: Map<String, Value>,
    /// What the summary says beside the common things.
    pub notes: Vec<String>,
}

impl<'a> Session<'a> {
    /// Loads the tokenizer.
    pub fn open(
        context: &'a Context<'a>,
        name: &'a str,
        config: &'a TrainConfig,
        folder: &'a Path,
        inputs: &'a Inputs,
    ) -> Result<Self> {
        let tokenizer = inputs::tokenizer(context, config.tokenizer.as_ref())?;
        Ok(Self { context, name, config, folder, inputs, tokenizer })
    }

    /// The stage's rows in batches; there is at least one.
    pub fn batches(&self) -> Result<Batches> {
        let (context, config) = (self.context, self.config);
        let settings = PrepareContext {
            tokenizer: self.tokenizer.as_ref(),
            max_seq_len: config.max_seq_len,
            seed: context.plan.seed,
            cache_dir: &context.cache_dir,
            system_prompt_ratio: config.system_prompt_ratio,
            empty_think_ratio: config.empty_think_ratio,
        };
        let prepared = context.ranks.rank0_first(|| prepare(&config.data, &settings))?;
        if prepared.train.is_empty() {
            return Err(Error::input(format!("stage `{}` has no row to train on", self.name))
                .hint("look at its data with minimind data check, or lower `validation`"));
        }
        if !prepared.train.is_preference() {
            let taught = prepared.facts.check_targets(config.data.format, config.max_seq_len);
            taught.map_err(|e| config.data.source.at(e))?;
        }
        let with = |rows: &Dataset, shuffle: bool| {
            let settings = DataLoaderConfig {
                batch_size: config.batch_size,
                max_seq_len: config.max_seq_len,
                batching: config.data.batching,
                shuffle,
                seed: context.plan.seed,
                pad_id: self.tokenizer.as_ref().map_or(0, Tokenizer::pad_id),
            };
            DataLoader::new(rows.clone(), settings)
        };
        let train = with(&prepared.train, config.data.shuffle);
        let validation = prepared.validation.as_ref().map(|rows| with(rows, false));
        Ok(Batches { prepared, train, validation })
    }

    /// Batches that must, or must not, be pairs.
    pub fn batches_of(&self, pairs: bool) -> Result<Batches> {
        let batches = self.batches()?;
        if batches.prepared.train.is_preference() == pairs {
            return Ok(batches);
        }
        let what = if pairs { "holds single rows, not pairs" } else { "holds pairs, not single rows" };
        Err(Error::input(format!("the data of stage `{}` {what}", self.name)).hint(if pairs {
            "a token file of preferences has chosen_ids, chosen_mask, rejected_ids and rejected_mask"
        } else {
            "pairs are for dpo and reward"
        }))
    }

    /// The start weights, whose vocabulary holds the tokenizer's; `dropout` is the model's own while it trains.
    pub fn model(&self, dropout: f64) -> Result<CausalLm> {
        let (config, tokenizer) = (self.config, self.tokenizer.as_ref());
        let model = inputs::model(self.context, &config.init, config.model.as_ref(), tokenizer, dropout)?;
        inputs::check_vocabulary(&model, tokenizer)?;
        let from = (&config.init, config.tokenizer.as_ref());
        inputs::say_smaller_of(self.context, from, tokenizer, model.config())?;
        Ok(model)
    }

    /// Trains, writes weights and metrics, says what came of it.
    pub fn train(
        &self,
        model: &CausalLm,
        objective: &mut dyn Objective,
        prepared: &PreparedData,
        ending: Ending,
    ) -> Result<StageResult> {
        let (context, name, folder) = (self.context, self.name, self.folder);
        inputs::check_prepared(model.config(), prepared, &self.config.data)?;
        let stem = format!("{name}_{}{}", model.config().hidden_size, model.config().suffix());
        let files = CheckpointPaths {
            weights: context.plan.output.join(format!("{stem}.pth")),
            resume: context.plan.output.join(format!("{stem}_resume.pth")),
            folder: folder.to_owned(),
        };
        let metadata = self.describe(model, &ending)?;
        let per_epoch = objective.steps_per_epoch();
        let loop_config = loop_config(context, self.config, per_epoch, metadata, self.inputs)?;
        let loaded = find_resume(context, name, &files, &loop_config)?;
        let samples_before = match &loaded {
            Some(_) => kept_samples(folder, self.config),
            None => self.config.samples.iter().cloned().zip(self.sample(model, ending.chat)?).collect(),
        };
        if context.ranks.is_rank0() {
            super::record::write_json(&folder.join("samples.json"), &samples_before)?;
        }
        let total = loop_config.schedule.total_steps;
        let position = loaded.as_ref().and_then(|l| l.state.as_ref()).map(|s| s.metrics.clone());
        let mut watch = Watch::new(folder, name, total, context, position.as_ref())?;
        let setup = TrainSetup {
            model,
            config: &loop_config,
            paths: &files,
            resume: loaded.as_ref(),
            control: context.run_control(),
        };
        let result = train(setup, objective, &mut watch);
        let mut notes = watch.finish();
        notes.extend(ending.notes);
        notes.extend(passed_over(context));
        let outcome = result?;
        let samples_after = self.sample(model, ending.chat)?;
        let (parameters, active) = params::count(model.config());
        let trained: usize = model.params().trained().1.iter().map(tch::Tensor::numel).sum();
        let mut metrics = Map::new();
        metrics.extend(outcome.loss.map(|loss| ("loss".to_owned(), json!(loss))));
        metrics.extend(outcome.validation.iter().map(|(key, value)| (key.clone(), json!(value))));
        metrics.extend(outcome.best.map(|(loss, _)| ("best_val_loss".to_owned(), json!(loss))));
        Ok(StageResult {
            outputs: vec![format!("{stem}.pth")],
            summary: json!({
                "parameters": {"total": parameters, "active": active, "trained": trained},
                "tokens": outcome.tokens,
                "steps": outcome.steps,
                "updates": outcome.updates,
                "train_seconds": outcome.elapsed_s,
                "metrics": metrics,
                "samples": pair(self.config, &samples_before, &samples_after),
                "data": prepared.facts,
                "notes": notes,
            }),
            steps: Some((outcome.steps, per_epoch)),
            earlier_seconds: earlier_seconds(loaded.as_ref()),
        })
    }

    /// What the weight file says about itself.
    fn describe(&self, model: &CausalLm, ending: &Ending) -> Result<String> {
        let mut said = describe(self.context, self.name, self.config.tokenizer.as_ref(), model);
        said.insert(ends::KEY.to_owned(), ends::as_json(&self.ends()?));
        said.extend(provenance(self.inputs));
        said.extend(ending.metadata.clone());
        Ok(Value::Object(said).to_string())
    }

    /// The tokens that end an answer: the recipe's, or those of the start weights and the tokenizer.
    fn ends(&self) -> Result<Vec<u32>> {
        match self.config.eos_token_id {
            Some(id) => Ok(vec![id as u32]),
            None => inputs::ends(self.context, &self.config.init, self.tokenizer.as_ref()),
        }
    }

    fn sample(&self, model: &CausalLm, chat: bool) -> Result<Vec<String>> {
        match &self.tokenizer {
            Some(tokenizer) if !self.config.samples.is_empty() && self.context.ranks.is_rank0() => {
                measure::samples(model, tokenizer, &self.config.samples, chat, (SAMPLE_TOKENS, &self.ends()?))
            }
            _ => Ok(Vec::new()),
        }
    }
}

/// What any weight file of ours says about itself.
pub fn describe(
    context: &Context<'_>,
    name: &str,
    tokenizer: Option<&TokenizerSource>,
    model: &CausalLm,
) -> Map<String, Value> {
    let tokenizer = tokenizer.map(|source| {
        let folder = inputs::tokenizer_folder(context, source);
        inputs::relative(context, &folder)
    });
    let mut said = Map::new();
    said.insert("config".to_owned(), model.config().to_json());
    said.insert("tokenizer".to_owned(), json!(tokenizer));
    said.insert("recipe".to_owned(), json!(context.plan.name));
    said.insert("stage".to_owned(), json!(name));
    let recipe = Sha256::digest(context.plan.recipe_text.as_bytes());
    said.insert("recipe_hash".to_owned(), json!(crate::hash::hex(&recipe)));
    said.insert("program".to_owned(), json!(format!("minimind {}", inputs::PROGRAM)));
    said
}

/// What a trained file says of what it was made from.
pub fn provenance(inputs: &Inputs) -> Map<String, Value> {
    Map::from_iter([
        ("content_hash".to_owned(), json!(inputs.content_hash)),
        ("inputs".to_owned(), json!(inputs.named)),
    ])
}

/// libtorch's name of a type of saved numbers.
pub fn save_kind(dtype: SaveDtype) -> Kind {
    match dtype {
        SaveDtype::Fp16 => Kind::Half,
        SaveDtype::Bf16 => Kind::BFloat16,
        SaveDtype::Fp32 => Kind::Float,
    }
}

/// The loop that a stage's settings ask for.
///
/// # Errors
/// None that a plan can have.
pub fn loop_config(
    context: &Context<'_>,
    config: &TrainConfig,
    per_epoch: u64,
    metadata: String,
    inputs: &Inputs,
) -> Result<LoopConfig> {
    let made_from = serde_json::to_value(context.start.with_forced(inputs.clone()))
        .map_err(|e| Error::failed("cannot describe a stage").because(e))?;
    let all = per_epoch * config.epochs as u64;
    let total_steps = config.max_steps.map_or(all, |most| all.min(most as u64));
    Ok(LoopConfig {
        epochs: config.epochs as u64,
        accumulation_steps: config.accumulation_steps as u64,
        schedule: Schedule {
            kind: config.schedule,
            peak: config.learning_rate,
            warmup_steps: config.warmup_steps as u64,
            total_steps,
        },
        update_schedule: None,
        grad_clip: config.grad_clip,
        adamw: AdamWConfig { betas: config.betas, eps: config.eps, weight_decay: config.weight_decay },
        log_interval: config.log_interval as u64,
        save_interval: config.save_interval as u64,
        eval_interval: config.eval_interval.map(|n| n as u64),
        keep_last: config.keep_last,
        save_kind: save_kind(config.save_dtype),
        on_nan: config.on_nan,
        on_spike: config.on_spike,
        spike_factor: config.spike_factor,
        loss_scaling: context.compute == Compute::Fp16,
        metadata,
        content_hash: inputs.content_hash.clone(),
        made_from,
        forced: matches!(&context.start, StartFrom::Checkpoint(point) if point.forced),
        seed: context.plan.seed,
        shard_optimizer: context.plan.runtime.shard_optimizer,
    })
}

/// The checkpoint to go on from, as the runner decided: the last one, or the one before it where that cannot be read.
///
/// # Errors
/// Neither can be read, or they are of weights of another shape.
pub fn find_resume(
    context: &Context<'_>,
    name: &str,
    files: &CheckpointPaths,
    config: &LoopConfig,
) -> Result<Option<resume::ResumeFile>> {
    let over =
        format!("`{} --from {name}` starts the stage over and keeps the old files as .old", context.command);
    match &context.start {
        StartFrom::Scratch => return Ok(None),
        StartFrom::UpstreamFile if !files.resume.exists() => {
            // Files of other widths alone; weights of this one are somebody's.
            if context.ranks.is_rank0()
                && let Some(copy) = super::aside::keep_copy(&files.weights)?
            {
                tracing::info!("{name}: the weights that were there are kept as {copy}");
            }
            return Ok(None);
        }
        StartFrom::Checkpoint(point) if point.file != files.resume => {
            let what =
                format!("this checkpoint is of weights of another shape than {}", files.weights.display());
            return Err(Error::input(what).at(Place::file(&point.file)).hint(over));
        }
        StartFrom::UpstreamFile | StartFrom::Checkpoint(_) => {}
    }
    let (loaded, fault) = resume::load_last(&files.resume).map_err(|fault| fault.hint(&over))?;
    // All have read it before anything is renamed.
    context.ranks.barrier()?;
    if let Some(fault) = fault.filter(|_| context.ranks.is_rank0()) {
        let aside = resume::rename_broken(&files.resume)?;
        tracing::warn!(
            "{}; it is kept as {}, and the resume point before it is taken, at {}",
            resume::one_line(&fault),
            aside.display(),
            loaded.position
        );
    }
    if context.ranks.is_rank0() {
        say_going_on(name, &loaded, config);
    }
    Ok(Some(loaded))
}

/// Where a stage goes on, and how its schedule goes on where its length is another one now.
fn say_going_on(name: &str, loaded: &resume::ResumeFile, config: &LoopConfig) {
    let total = config.schedule.total_steps;
    let Some(state) = &loaded.state else {
        tracing::info!("{name}: goes on from upstream's {}, {}", loaded.path().display(), loaded.position);
        return;
    };
    let per_epoch = if state.per_epoch > 0 { state.per_epoch } else { total / config.epochs.max(1) };
    let step = loaded.position.epoch * per_epoch + loaded.position.step_in_epoch;
    if state.total_steps == total || step >= total {
        tracing::info!("{name}: goes on at micro-batch {step} of {total}");
        return;
    }
    let before = Schedule { total_steps: state.total_steps, ..config.schedule };
    let (was, is) = match &config.update_schedule {
        None => (before.at(step), config.schedule.at(step + 1)),
        Some(schedule) => {
            let share = state.total_steps as f64 / total.max(1) as f64;
            let updates = (schedule.total_steps as f64 * share).round() as u64;
            let before = Schedule { total_steps: updates, ..*schedule };
            (before.after(state.scheduled()), schedule.after(state.scheduled()))
        }
    };
    tracing::info!(
        "{name}: goes on at micro-batch {step}, now of {total} and not of {}: the schedule is that of {total}, and the \
         learning rate goes on at {is:.3e} where it stood at {was:.3e}",
        state.total_steps
    );
}

/// Seconds that a stage trained before it was gone on with.
pub fn earlier_seconds(loaded: Option<&resume::ResumeFile>) -> f64 {
    loaded.and_then(|loaded| loaded.state.as_ref()).map_or(0.0, |state| state.elapsed_s)
}

/// What `--resume force` passed over, for the report.
pub fn passed_over(context: &Context<'_>) -> Vec<String> {
    let StartFrom::Checkpoint(point) = &context.start else { return Vec::new() };
    let word = |passed: &super::record::Forced| {
        format!(
            "gone on with by --resume force at micro-batch {}: {}",
            passed.step,
            passed.changes.join(", ")
        )
    };
    point.forced_changes.iter().map(word).collect()
}

/// Prompts and answers of before a stage that goes on now.
fn kept_samples(folder: &Path, config: &TrainConfig) -> Vec<(String, String)> {
    let text = std::fs::read_to_string(folder.join("samples.json")).unwrap_or_default();
    // Files of before hold the answers alone.
    let answers: Vec<String> = serde_json::from_str(&text).unwrap_or_default();
    let same = answers.len() == config.samples.len() && !answers.is_empty();
    let old = same.then(|| config.samples.iter().cloned().zip(answers).collect());
    old.or_else(|| serde_json::from_str(&text).ok()).unwrap_or_default()
}

fn pair(config: &TrainConfig, before: &[(String, String)], after: &[String]) -> Value {
    let rows = config.samples.iter().enumerate().filter_map(|(i, prompt)| {
        let after = after.get(i)?;
        // A prompt that came later has no answer of before.
        let before = before.iter().find(|(asked, _)| asked == prompt).map(|(_, answer)| answer);
        Some(json!({"prompt": prompt, "before": before, "after": after}))
    });
    rows.collect()
}
