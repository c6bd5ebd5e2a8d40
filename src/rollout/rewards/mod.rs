//! What a completion is worth: a weighted list of rewards, each with a curve of its own.
//!
//! `config` (what is asked for), `text` (upstream's: length, tags, repetition), `answers` (verifiers), `remote` (services and
//! programs), `model` (a reward model). Pure rewards run on all cores; the others see a whole batch at once.

pub mod answers;
pub mod config;
mod model;
mod remote;
pub mod text;

#[cfg(test)]
mod tests;

use std::fmt;
use std::path::Path;

use rayon::prelude::*;
use regex::Regex;
use serde_json::Value;
use tch::{Device, Kind};

pub use config::*;

use crate::error::{Error, Result};
use crate::rollout::tools::ToolCallFormat;

/// One completion with all that rewards may look at.
#[derive(Debug, Clone, Copy)]
pub struct RewardInput<'a> {
    /// The conversation that was continued.
    pub prompt_messages: &'a [Value],
    /// The same as rendered text.
    pub prompt: &'a str,
    /// What the model wrote, without the end mark.
    pub completion: &'a str,
    /// The data row (`gt`, `answer`, ...).
    pub row: &'a Value,
}

/// What rewards need from the run.
#[derive(Debug, Clone, Copy)]
pub struct RewardContext<'a> {
    /// The run's folder, where its stages' weights lie.
    pub run: &'a Path,
    /// Where a reward model lives.
    pub device: Device,
    /// The dtype that reward models compute in.
    pub kind: Kind,
    /// How the policy writes tool calls, where its chat template shows that.
    pub calls: Option<&'a ToolCallFormat>,
}

impl Default for RewardContext<'_> {
    fn default() -> Self {
        Self { run: Path::new("."), device: Device::Cpu, kind: Kind::Float, calls: None }
    }
}

/// What a completion is worth.
#[derive(Debug, Clone, PartialEq)]
pub struct Scores {
    /// Sum of weight times value.
    pub total: f64,
    /// Each reward's name and value, before its weight, in the recipe's order.
    pub parts: Vec<(String, f64)>,
    /// Rewards that failed and stand at their stated default.
    pub failed: Vec<String>,
}

/// A reward that sees a whole batch: a model, a service, a program.
pub trait BatchReward: fmt::Debug + Send {
    /// A finite score for each completion, in order.
    ///
    /// # Errors
    /// A model, service or program that fails, or does not answer in time.
    fn score(&self, inputs: &[RewardInput<'_>]) -> Result<Vec<f64>>;
}

#[derive(Debug)]
enum Pure {
    Length(LengthConfig),
    Format(FormatConfig),
    Repetition(RepetitionConfig),
    Regex(RegexConfig, Regex),
    Math(MathConfig),
    JsonTool(JsonToolConfig, ToolCallFormat),
    Synthetic(SyntheticReward),
}

impl Pure {
    fn score(&self, input: &RewardInput<'_>) -> Result<f64, String> {
        match self {
            Self::Length(config) => Ok(text::length(input.completion, config)),
            Self::Format(config) => Ok(text::format(input.completion, config)),
            Self::Repetition(config) => Ok(text::repetition(input.completion, config)),
            Self::Regex(config, pattern) => {
                let found = pattern.is_match(text::part(input.completion, config.on));
                Ok(if found { config.found } else { config.missing })
            }
            Self::Math(config) => answers::math(input, config),
            Self::JsonTool(config, form) => answers::json_tool(input, config, form),
            Self::Synthetic(config) => answers::world(input, config),
        }
    }
}

#[derive(Debug)]
enum Scorer {
    Pure(Box<Pure>),
    Batch(Box<dyn BatchReward>),
}

#[derive(Debug)]
struct Item {
    name: String,
    weight: f64,
    on_error: OnError,
    scorer: Scorer,
}

/// A recipe's rewards, ready to score.
#[derive(Debug, Default)]
pub struct Rewards {
    items: Vec<Item>,
}

impl Rewards {
    /// Prepares every reward: compiles patterns, starts programs, loads models.
    ///
    /// # Errors
    /// A pattern that cannot be read, a program that does not start, a model that is none.
    pub fn new(configs: &[RewardConfig], context: &RewardContext<'_>) -> Result<Self> {
        let mut rewards = Self::default();
        for config in configs {
            let scorer = scorer(&config.kind, context).map_err(|e| match e.hint_text() {
                Some(fix) => e.clone().hint(format!("{fix} (reward `{}`)", config.name)),
                None => e.hint(format!("see reward `{}`", config.name)),
            })?;
            rewards.items.push(Item {
                name: config.name.clone(),
                weight: config.weight,
                on_error: config.on_error,
                scorer,
            });
        }
        Ok(rewards)
    }

    /// Adds a reward of the caller's own.
    pub fn add(&mut self, name: &str, weight: f64, on_error: OnError, reward: Box<dyn BatchReward>) {
        self.items.push(Item { name: name.to_owned(), weight, on_error, scorer: Scorer::Batch(reward) });
    }

    /// The rewards' names in order.
    pub fn names(&self) -> Vec<&str> {
        self.items.iter().map(|item| item.name.as_str()).collect()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Scores completions, in order.
    ///
    /// # Errors
    /// The failure of a reward whose `on_error` is `stop`.
    pub fn score(&self, inputs: &[RewardInput<'_>]) -> Result<Vec<Scores>> {
        let mut all = vec![Scores { total: 0.0, parts: Vec::new(), failed: Vec::new() }; inputs.len()];
        for item in &self.items {
            for (scores, value) in all.iter_mut().zip(item.values(inputs)?) {
                let value = match value {
                    Ok(value) => value,
                    Err(default) => {
                        scores.failed.push(item.name.clone());
                        default
                    }
                };
                scores.total += item.weight * value;
                scores.parts.push((item.name.clone(), value));
            }
        }
        Ok(all)
    }
}

impl Item {
    /// A value each, or the stated default of a failure.
    fn values(&self, inputs: &[RewardInput<'_>]) -> Result<Vec<Result<f64, f64>>> {
        if inputs.is_empty() {
            return Ok(Vec::new());
        }
        let values: Vec<Result<f64, Error>> = match &self.scorer {
            Scorer::Pure(pure) => {
                let fault = |what: String| {
                    Error::input(what)
                        .hint("give the rows what the reward needs, or set its `on_error` to a number")
                };
                inputs.par_iter().map(|input| pure.score(input).map_err(fault)).collect()
            }
            Scorer::Batch(batch) => {
                match batch.score(inputs).and_then(|scores| checked(scores, inputs.len())) {
                    Ok(scores) => scores.into_iter().map(Ok).collect(),
                    Err(error) => vec![Err(error); inputs.len()],
                }
            }
        };
        let failed = values.iter().filter(|v| v.is_err()).count();
        let Some(Err(first)) = values.iter().find(|v| v.is_err()) else {
            return Ok(values.into_iter().map(|v| v.map_err(|_| 0.0)).collect());
        };
        match self.on_error {
            OnError::Stop => Err(Error::failed(format!(
                "reward `{}` failed for {failed} of {} completions",
                self.name,
                inputs.len()
            ))
            .because(first.what())
            .and(first.clone())),
            OnError::Value(default) => {
                tracing::warn!(
                    "reward `{}` failed for {failed} of {}, counted as {default}: {first}",
                    self.name,
                    inputs.len()
                );
                Ok(values.into_iter().map(|v| v.map_err(|_| default)).collect())
            }
        }
    }
}

fn checked(scores: Vec<f64>, wanted: usize) -> Result<Vec<f64>> {
    if scores.len() != wanted {
        return Err(Error::failed(format!("{} scores came for {wanted} completions", scores.len())));
    }
    match scores.iter().find(|score| !score.is_finite()) {
        Some(score) => Err(Error::failed(format!("a score is {score}"))),
        None => Ok(scores),
    }
}

fn scorer(kind: &RewardKind, context: &RewardContext<'_>) -> Result<Scorer> {
    Ok(Scorer::Pure(Box::new(match kind {
        RewardKind::Length(config) => Pure::Length(*config),
        RewardKind::Format(config) => Pure::Format(*config),
        RewardKind::Repetition(config) => Pure::Repetition(*config),
        RewardKind::Regex(config) => {
            let pattern = Regex::new(&config.pattern).map_err(|e| {
                Error::input(format!("the pattern `{}` cannot be read", config.pattern)).because(e)
            })?;
            Pure::Regex(config.clone(), pattern)
        }
        RewardKind::Math(config) => Pure::Math(config.clone()),
        RewardKind::JsonTool(config) => {
            Pure::JsonTool(config.clone(), context.calls.cloned().unwrap_or_default())
        }
        RewardKind::Synthetic(config) => Pure::Synthetic(*config),
        RewardKind::Http(config) => return Ok(Scorer::Batch(Box::new(remote::HttpReward::new(config)))),
        RewardKind::Command(config) => {
            return Ok(Scorer::Batch(Box::new(remote::CommandReward::new(config)?)));
        }
        RewardKind::Model(config) => {
            return Ok(Scorer::Batch(Box::new(model::ModelReward::new(config, context)?)));
        }
    })))
}
