//! What every training stage does around the engine's loop: tokenizer, rows, model, files, samples, summary.
//!
//! A stage opens a [`Session`], builds its [`Objective`] and calls [`Session::train`]; policy stages, which have no rows
//! and measure themselves, take its two halves ([`Session::prepare`], [`TrainingRun::train`]). Next: `training_run`,
//! and `train`, the simplest stage.

use std::sync::Arc;

use serde_json::{Map, Value, json};
use tch::Tensor;

use super::context::{StageResult, StageRun};
use super::loop_config::loop_config;
use super::samples::Samples;
use super::training_run::TrainingRun;
use super::{loading, metadata, resuming};
use crate::checkpoint::{WeightFile, eos};
use crate::data::{DataLoader, DataLoaderConfig, Dataset, PrepareContext, PreparedData, Tokenizer, prepare};
use crate::engine::{CheckpointPaths, Objective};
use crate::error::{Error, Result};
use crate::model::CausalLm;
use crate::plan::TrainConfig;

/// A training stage of a run.
pub struct Session<'a> {
    /// The stage.
    pub stage: StageRun<'a>,
    /// Its settings.
    pub config: &'a TrainConfig,
    /// Its tokenizer, if it has one.
    pub tokenizer: Option<Arc<Tokenizer>>,
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
pub struct Extras {
    /// Whether samples are generated from chat prompts; otherwise text is continued.
    pub chat: bool,
    /// Further entries of the weight file's metadata.
    pub metadata: Map<String, Value>,
}

impl<'a> Session<'a> {
    /// Loads the stage's tokenizer.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn open(stage: StageRun<'a>, config: &'a TrainConfig) -> Result<Self> {
        let tokenizer = loading::tokenizer(stage.context, config.tokenizer.as_ref())?.map(Arc::new);
        Ok(Self { stage, config, tokenizer })
    }

    /// The stage's tokenizer, if it has one.
    pub fn tokenizer(&self) -> Option<&Tokenizer> {
        self.tokenizer.as_deref()
    }

    /// The stage's rows in batches, at least one of them; rank 0 reads them first and fills the cache.
    ///
    /// # Errors
    /// Data that cannot be read, has no row, or no training target.
    fn batches(&self) -> Result<Batches> {
        let (context, config) = (self.stage.context, self.config);
        let settings = PrepareContext {
            tokenizer: self.tokenizer(),
            max_seq_len: config.max_seq_len,
            seed: context.plan.seed,
            cache_dir: &context.options.cache_dir,
            system_prompt_ratio: config.system_prompt_ratio,
            empty_think_ratio: config.empty_think_ratio,
        };
        let prepared = context.ranks.rank0_first(|| prepare(&config.data, &settings))?;
        if prepared.train.is_empty() {
            return Err(Error::input(format!("stage `{}` has no row to train on", self.stage.name))
                .hint("look at its data with minimind data check, or lower `validation`"));
        }
        if !prepared.train.is_preference() {
            let targets = prepared.facts.check_targets(config.data.format, config.max_seq_len);
            targets.map_err(|e| config.data.source.at(e))?;
        }
        if context.ranks.is_rank0() {
            prepared.facts.parts.iter().for_each(|part| tracing::info!("{}", part.in_words("tokens")));
        }
        let loader = |rows: &Dataset, shuffle: bool| {
            let settings = DataLoaderConfig {
                batch_size: config.batch_size,
                max_seq_len: config.max_seq_len,
                batching: config.data.batching,
                shuffle,
                seed: context.plan.seed,
                pad_id: self.tokenizer().map_or(0, Tokenizer::pad_id),
            };
            DataLoader::new(rows.clone(), settings)
        };
        let train = loader(&prepared.train, config.data.shuffle);
        let validation = prepared.validation.as_ref().map(|rows| loader(rows, false));
        Ok(Batches { prepared, train, validation })
    }

    /// Batches of single rows.
    ///
    /// # Errors
    /// Data that cannot be read, has no row or no training target, or holds preference pairs.
    pub fn row_batches(&self) -> Result<Batches> {
        let batches = self.batches()?;
        if batches.prepared.train.is_preference() {
            let what = format!("the data of stage `{}` holds pairs, not single rows", self.stage.name);
            return Err(Error::input(what).hint("pairs are for dpo and reward"));
        }
        Ok(batches)
    }

    /// Batches of preference pairs.
    ///
    /// # Errors
    /// Data that cannot be read, has no row, or holds single rows.
    pub fn pair_batches(&self) -> Result<Batches> {
        let batches = self.batches()?;
        if !batches.prepared.train.is_preference() {
            let what = format!("the data of stage `{}` holds single rows, not pairs", self.stage.name);
            return Err(Error::input(what).hint(
                "a token file of preferences has chosen_ids, chosen_mask, rejected_ids and rejected_mask",
            ));
        }
        Ok(batches)
    }

    /// The start weights, whose vocabulary holds the tokenizer's; `dropout` is the model's own while it trains. Seeds
    /// the random generator.
    ///
    /// # Errors
    /// Weights that cannot be read or have another architecture than the recipe states; a vocabulary that is too small.
    pub fn model(&self, dropout: f64) -> Result<CausalLm> {
        let (context, config, tokenizer) = (self.stage.context, self.config, self.tokenizer());
        let model = loading::model(context, &config.init, config.model.as_ref(), tokenizer, dropout)?;
        loading::check_vocabulary(&model, tokenizer)?;
        let from = (&config.init, config.tokenizer.as_ref());
        loading::warn_of_other_tokenizer_of(context, from, tokenizer, model.config())?;
        Ok(model)
    }

    /// The ids of the tokens that end an answer: the recipe's, or those of the start weights and the tokenizer.
    ///
    /// # Errors
    /// The start weights cannot be read.
    pub fn eos_token_ids(&self) -> Result<Vec<u32>> {
        match self.config.eos_token_id {
            Some(id) => Ok(vec![id as u32]),
            None => loading::eos_token_ids(self.stage.context, &self.config.init, self.tokenizer()),
        }
    }

    /// Finds the checkpoint to resume from, and where files go: all that is settled before the first step.
    ///
    /// # Errors
    /// The checkpoint that the stage is to resume from cannot be read.
    pub fn prepare(
        &self,
        model: &CausalLm,
        objective: &dyn Objective,
        extra_metadata: Map<String, Value>,
    ) -> Result<TrainingRun<'a>> {
        let StageRun { context, name, folder, inputs } = self.stage;
        let file = WeightFile::new(name, model.config());
        let paths = CheckpointPaths {
            weights: context.plan.output.join(file.weights()),
            resume: context.plan.output.join(file.resume()),
            folder: folder.to_owned(),
        };
        let mut about = metadata::of_model(context, name, self.config.tokenizer.as_ref(), model);
        about.insert(eos::KEY.to_owned(), eos::to_json(&self.eos_token_ids()?));
        about.extend(metadata::of_inputs(inputs));
        about.extend(extra_metadata);
        let config = loop_config(self.stage, self.config, objective, Value::Object(about).to_string())?;
        let checkpoint = resuming::find_checkpoint(context, name, &paths, &config)?;
        let per_epoch = objective.steps_per_epoch();
        Ok(TrainingRun { stage: self.stage, weights: file.weights(), paths, config, per_epoch, checkpoint })
    }

    /// Trains, writes weights, metrics and samples; the result has the numbers and texts of before and after.
    ///
    /// # Errors
    /// Rows that the model cannot read; a checkpoint that cannot be resumed from; those of [`crate::engine::train`].
    pub fn train(
        &self,
        model: &CausalLm,
        objective: &mut dyn Objective,
        prepared: &PreparedData,
        extras: Extras,
    ) -> Result<StageResult> {
        loading::check_prepared(model.config(), prepared, &self.config.data)?;
        let run = self.prepare(model, &*objective, extras.metadata)?;
        let samples = Samples {
            stage: self.stage,
            prompts: &self.config.samples,
            tokenizer: self.tokenizer(),
            eos_token_ids: self.eos_token_ids()?,
            chat: extras.chat,
        };
        let before = samples.before(model, run.checkpoint.is_some())?;
        let trained = run.train(model, objective, run.open_metrics()?)?;
        let after = samples.answers(model)?;
        let mut summary = trained.summary(model);
        let parameters: usize = model.params().trained().1.iter().map(Tensor::numel).sum();
        summary["parameters"]["trained"] = json!(parameters);
        if let Some((best, _)) = trained.outcome.best {
            summary["metrics"]["best_val_loss"] = json!(best);
        }
        summary["samples"] = samples.compared(&before, &after);
        summary["data"] = json!(prepared.facts);
        summary["notes"] = json!(trained.notes);
        Ok(run.result(&trained, summary))
    }
}
