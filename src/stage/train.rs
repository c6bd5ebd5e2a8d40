//! Pretraining and supervised fine-tuning: next-token cross-entropy over batches.
//!
//! One file for both: they differ in how rows become ids and labels, which is `data`'s affair, and in how
//! a sample is asked for. Loss = CE + the experts' balance loss (upstream's `train_pretrain.py`,
//! `train_full_sft.py`).

use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tch::Kind;

use super::inputs;
use super::measure;
use super::record::Inputs;
use super::runner::{Context, Finished, Resume};
use super::watch::Watch;
use crate::data::{DataFormat, Loader, LoaderConfig, PrepareContext, Prepared, Rows, Tokenizer, prepare};
use crate::engine::{Compute, Files, LoopConfig, Objective, StepLoss, resume, train};
use crate::error::{Error, Place, Result};
use crate::loss::cross_entropy::{self, Targets};
use crate::model::{CausalLm, Mask, params};
use crate::optim::{AdamWConfig, Schedule};
use crate::plan::{SaveDtype, TrainConfig};

/// Longest sample answer, in tokens.
const SAMPLE_TOKENS: usize = 48;

/// The loss of a batch.
struct LanguageModelling {
    train: Loader,
    validation: Option<Loader>,
    compute: Compute,
}

impl Objective for LanguageModelling {
    fn steps_per_epoch(&self) -> u64 {
        self.train.steps_per_epoch()
    }

    fn backward(&mut self, model: &CausalLm, epoch: u64, index: u64, scale: f64) -> Result<StepLoss> {
        let batch = self.train.batch(epoch, index)?;
        let ids = measure::upload(&batch, model.device());
        let targets = Targets::new(&batch.labels, model.device());
        self.compute.run(model.device(), || {
            let (hidden, aux) = model.hidden(&ids, Mask::Causal, true);
            let ce = cross_entropy::mean_with_grad(&hidden, model.lm_head(), &targets, scale)?;
            let aux_loss = aux.as_ref().map_or(0.0, |a| a.double_value(&[]));
            let (loss, surrogate) = match ce {
                Some((loss, surrogate)) => (loss.double_value(&[]), Some(surrogate)),
                None => (0.0, None),
            };
            let total = match (surrogate, aux) {
                (Some(surrogate), Some(aux)) => Some(surrogate + aux * scale),
                (surrogate, aux) => surrogate.or_else(|| aux.map(|aux| aux * scale)),
            };
            if let Some(total) = total {
                total.f_backward()?;
            }
            Ok(StepLoss { loss, aux_loss, tokens: batch.real_tokens as u64, extra: Vec::new() })
        })
    }

    fn validate(&mut self, model: &CausalLm) -> Result<Vec<(&'static str, f64)>> {
        match &self.validation {
            Some(loader) => measure::loss(model, loader, self.compute),
            None => Ok(Vec::new()),
        }
    }
}

/// Rows and loaders of a training stage.
pub fn loaders(
    context: &Context<'_>,
    config: &TrainConfig,
    tokenizer: Option<&Tokenizer>,
) -> Result<(Prepared, Loader, Option<Loader>)> {
    let prepared = prepare(
        &config.data,
        &PrepareContext {
            tokenizer,
            chat: config.data.format == DataFormat::Chat,
            max_seq_len: config.max_seq_len,
            seed: context.plan.seed,
            cache_dir: &context.cache_dir,
            system_prompt_ratio: config.system_prompt_ratio,
            empty_think_ratio: config.empty_think_ratio,
        },
    )?;
    let with = |rows: &Rows, shuffle: bool| {
        let settings = LoaderConfig {
            batch_size: config.batch_size,
            max_seq_len: config.max_seq_len,
            batching: config.data.batching,
            shuffle,
            seed: context.plan.seed,
            pad_id: tokenizer.map_or(0, Tokenizer::pad_id),
        };
        Loader::new(rows.clone(), settings)
    };
    let train = with(&prepared.train, config.data.shuffle);
    let validation = prepared.validation.as_ref().map(|rows| with(rows, false));
    Ok((prepared, train, validation))
}

/// Trains, writes weights and metrics, says what came of it.
pub fn run(
    context: &Context<'_>,
    name: &str,
    config: &TrainConfig,
    folder: &Path,
    inputs: &Inputs,
    chat: bool,
) -> Result<Finished> {
    let tokenizer = inputs::tokenizer(context, config.tokenizer.as_ref())?;
    let (prepared, train_loader, validation) = loaders(context, config, tokenizer.as_ref())?;
    if prepared.train.is_empty() {
        return Err(Error::input(format!("stage `{name}` has no row to train on"))
            .hint("look at its data with minimind data check, or lower `validation`"));
    }
    let model =
        inputs::model(context, &config.init, config.model.as_ref(), tokenizer.as_ref(), config.dropout)?;
    inputs::check_vocabulary(&model, tokenizer.as_ref())?;
    let stem = format!("{name}_{}{}", model.config().hidden_size, model.config().suffix());
    let files = Files {
        weights: context.plan.output.join(format!("{stem}.pth")),
        resume: context.plan.output.join(format!("{stem}_resume.pth")),
        folder: folder.to_owned(),
    };
    let content_hash = inputs.hash();
    let metadata = describe(context, name, config, &model, inputs);
    let loop_config = loop_config(context, config, train_loader.steps_per_epoch(), metadata, content_hash);
    let loaded = find_resume(context, &files, &loop_config)?;
    let samples_before = match &loaded {
        Some(_) => kept_samples(folder),
        None => sample(&model, tokenizer.as_ref(), config, chat)?,
    };
    super::record::write_json(&folder.join("samples.json"), &samples_before)?;
    let total = loop_config.schedule.total_steps;
    let position = loaded.as_ref().and_then(|l| l.state.as_ref()).map(|s| s.metrics.clone());
    let mut watch = Watch::new(folder, name, total, context.console, position.as_ref())?;
    let mut objective = LanguageModelling { train: train_loader, validation, compute: context.compute };
    let result =
        train(&model, &loop_config, &files, loaded.as_ref(), &mut objective, &mut watch, &context.signals);
    let notes = watch.finish();
    let outcome = result?;
    let samples_after = sample(&model, tokenizer.as_ref(), config, chat)?;
    let (parameters, active) = params::count(model.config());
    let mut metrics = serde_json::Map::new();
    metrics.extend(outcome.loss.map(|loss| ("loss".to_owned(), json!(loss))));
    metrics.extend(outcome.validation.iter().map(|(key, value)| (key.clone(), json!(value))));
    metrics.extend(outcome.best.map(|(loss, _)| ("best_val_loss".to_owned(), json!(loss))));
    Ok(Finished {
        outputs: vec![format!("{stem}.pth")],
        summary: json!({
            "parameters": {"total": parameters, "active": active},
            "tokens": outcome.tokens,
            "steps": outcome.steps,
            "updates": outcome.updates,
            "train_seconds": outcome.elapsed_s,
            "metrics": metrics,
            "samples": pair(config, &samples_before, &samples_after),
            "data": prepared.facts,
            "notes": notes,
        }),
    })
}

/// What the weight file says about itself.
pub(super) fn describe(
    context: &Context<'_>,
    name: &str,
    config: &TrainConfig,
    model: &CausalLm,
    inputs: &Inputs,
) -> String {
    let tokenizer = config.tokenizer.as_ref().map(|source| {
        let folder = inputs::tokenizer_folder(context, source);
        // Relative to the weight file where it lies in the run, so that a run's folder can be moved.
        match folder.strip_prefix(&context.plan.output) {
            Ok(inside) => inside.to_path_buf(),
            Err(_) => std::fs::canonicalize(&folder).unwrap_or(folder),
        }
    });
    json!({
        "config": model.config().to_json(),
        "tokenizer": tokenizer,
        "recipe": context.plan.name,
        "stage": name,
        "content_hash": inputs.hash(),
        "inputs": inputs,
        "recipe_hash": super::record::hex(&Sha256::digest(context.plan.recipe_text.as_bytes())),
        "program": format!("minimind {}", inputs::PROGRAM),
    })
    .to_string()
}

pub(super) fn loop_config(
    context: &Context<'_>,
    config: &TrainConfig,
    per_epoch: u64,
    metadata: String,
    content_hash: String,
) -> LoopConfig {
    let all = per_epoch * config.epochs as u64;
    let total_steps = config.max_steps.map_or(all, |most| all.min(most as u64));
    LoopConfig {
        epochs: config.epochs as u64,
        accumulation_steps: config.accumulation_steps as u64,
        schedule: Schedule {
            kind: config.schedule,
            peak: config.learning_rate,
            warmup_steps: config.warmup_steps as u64,
            total_steps,
        },
        by_updates: None,
        grad_clip: config.grad_clip,
        adamw: AdamWConfig { betas: config.betas, eps: config.eps, weight_decay: config.weight_decay },
        log_interval: config.log_interval as u64,
        save_interval: config.save_interval as u64,
        eval_interval: config.eval_interval.map(|n| n as u64),
        keep_last: config.keep_last,
        save_kind: match config.save_dtype {
            SaveDtype::Fp16 => Kind::Half,
            SaveDtype::Bf16 => Kind::BFloat16,
            SaveDtype::Fp32 => Kind::Float,
        },
        on_nan: config.on_nan,
        on_spike: config.on_spike,
        spike_factor: config.spike_factor,
        loss_scaling: context.compute == Compute::Fp16,
        metadata,
        content_hash,
    }
}

/// The checkpoint to go on from, as `--resume` allows it.
pub(super) fn find_resume(
    context: &Context<'_>,
    files: &Files,
    config: &LoopConfig,
) -> Result<Option<resume::Loaded>> {
    let missing = || {
        Error::input("there is no checkpoint to go on from")
            .at(Place::file(&files.resume))
            .hint("run without --resume must to start from the beginning")
    };
    if context.resume == Resume::Never || !files.resume.exists() {
        return if context.resume == Resume::Must { Err(missing()) } else { Ok(None) };
    }
    let loaded = resume::load(&files.resume)?;
    let same = loaded.state.as_ref().is_none_or(|state| {
        state.content_hash == config.content_hash && state.total_steps == config.schedule.total_steps
    });
    if same {
        return Ok(Some(loaded));
    }
    let why = "the checkpoint was made with other settings, data or start weights";
    if context.resume == Resume::Must {
        return Err(Error::input(why)
            .at(Place::file(&files.resume))
            .hint("put the recipe back as it was, or run with --resume never to start over"));
    }
    tracing::warn!("{why}: this stage starts over");
    Ok(None)
}

pub(super) fn sample(
    model: &CausalLm,
    tokenizer: Option<&Tokenizer>,
    config: &TrainConfig,
    chat: bool,
) -> Result<Vec<String>> {
    match tokenizer {
        Some(tokenizer) if !config.samples.is_empty() => {
            measure::samples(model, tokenizer, &config.samples, chat, SAMPLE_TOKENS)
        }
        _ => Ok(Vec::new()),
    }
}

/// The samples taken before a stage that goes on now.
pub(super) fn kept_samples(folder: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(folder.join("samples.json")).unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_default()
}

pub(super) fn pair(config: &TrainConfig, before: &[String], after: &[String]) -> Value {
    let rows = config.samples.iter().enumerate().filter_map(|(i, prompt)| {
        let after = after.get(i)?;
        Some(json!({"prompt": prompt, "before": before.get(i), "after": after}))
    });
    rows.collect()
}
