//! A recipe becomes a plan: defaults filled (upstream's), names resolved, every number checked.
//!
//! All faults are collected; each points at the line it comes from. Next: `tuning` and
//! `evaluation` (stages of other kinds), `references` (stages and files by name), `settings` (model, runtime, data), `types`.

use std::path::{Path, PathBuf};

use super::environment;
use super::schema::*;
use super::types::*;
use crate::error::{Error, Place, Result};
use crate::recipe::{Recipe, Steps};

/// Reads a recipe file and resolves it, with the faults of both steps together.
///
/// # Errors
/// Every fault, joined.
pub fn load(path: &Path, sets: &[String]) -> Result<Plan> {
    let (recipe, faults) = crate::recipe::read_all(path, sets, super::shape(), &environment::variable)?;
    finish(&recipe, faults)
}

/// Resolves a recipe.
///
/// # Errors
/// Every fault, joined.
pub fn resolve(recipe: &Recipe) -> Result<Plan> {
    finish(recipe, Vec::new())
}

/// Resolves a recipe whose reading left `faults`.
///
/// # Errors
/// Those and the new ones, joined.
pub fn finish(recipe: &Recipe, mut faults: Vec<Error>) -> Result<Plan> {
    let root: Root = serde_json::from_value(recipe.tree.clone()).unwrap_or_else(|error| {
        let fault = Error::input("the recipe cannot be read").at(Place::file(&recipe.path));
        faults.push(fault.because(error));
        Root::default()
    });
    let mut resolver = Resolver { recipe, root: &root, faults, above: Vec::new() };
    let plan = resolver.plan();
    let mut seen = std::collections::HashSet::new();
    resolver.faults.retain(|fault| seen.insert(fault.to_string()));
    let order = |fault: &Error| {
        fault.place().map_or((usize::MAX, 0), |p| (p.line.unwrap_or(usize::MAX), p.column.unwrap_or(0)))
    };
    resolver.faults.sort_by_key(order);
    Error::all(resolver.faults).map_or(Ok(plan), Err)
}

/// No count in a recipe is larger; keeps every product of two of them in range.
const MOST: i64 = 1_000_000_000;

/// What a stage leaves that later stages may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Makes {
    Tokenizer,
    Model,
    /// An adapter, which with the weights it was trained on is a model too.
    Adapter,
    /// A reward model, which does not speak.
    Score,
}

/// A stage above, as later stages may name it.
pub(super) struct Above {
    pub(super) name: String,
    pub(super) makes: Makes,
    pub(super) tokenizer: Option<TokenizerSource>,
    pub(super) model: Option<ModelPlan>,
    pub(super) max_seq_len: usize,
}

impl Above {
    /// Whether it leaves a language model.
    pub(super) fn trains(&self) -> bool {
        matches!(self.makes, Makes::Model | Makes::Adapter)
    }
}

pub(super) struct Resolver<'a> {
    pub(super) recipe: &'a Recipe,
    /// What it states.
    pub(super) root: &'a Root,
    pub(super) faults: Vec<Error>,
    pub(super) above: Vec<Above>,
}

/// `base` with one more step.
pub(super) fn join(base: &[String], key: &str) -> Steps {
    base.iter().cloned().chain([key.to_owned()]).collect()
}

impl Resolver<'_> {
    /// A fault of the value at `path`.
    pub(super) fn fault(&mut self, path: &[String], what: impl Into<String>, hint: impl Into<String>) {
        self.faults.push(Error::input(what).at(self.recipe.places.value(path)).hint(hint));
    }

    /// A fault unless the value was set aside already for a fault of its own.
    pub(super) fn missing(
        &mut self,
        base: &[String],
        key: &str,
        what: impl Into<String>,
        hint: impl Into<String>,
    ) {
        if !self.recipe.aside.contains(&join(base, key)) {
            self.faults.push(Error::input(what).at(self.recipe.places.key(base)).hint(hint));
        }
    }

    /// A whole number of at least `least`.
    pub(super) fn whole(
        &mut self,
        base: &[String],
        key: &str,
        value: Option<i64>,
        least: i64,
    ) -> Option<usize> {
        let value = value?;
        if value < least {
            self.fault(
                &join(base, key),
                format!("`{key}` is {value}"),
                format!("give a whole number of at least {least}"),
            );
            return Some(least as usize);
        }
        let most = if matches!(key, "seed" | "max_bytes") { i64::MAX } else { MOST };
        if value > most {
            self.fault(
                &join(base, key),
                format!("`{key}` is {value}"),
                format!("give a whole number of at most {most}"),
            );
            return Some(least as usize);
        }
        Some(value as usize)
    }

    /// A number for which `fits` holds.
    pub(super) fn real(
        &mut self,
        base: &[String],
        key: &str,
        value: Option<f64>,
        range: &str,
        fits: fn(f64) -> bool,
    ) -> Option<f64> {
        let value = value?;
        if !fits(value) {
            self.fault(&join(base, key), format!("`{key}` is {value}"), format!("give a number {range}"));
        }
        Some(value)
    }

    pub(super) fn ratio(&mut self, base: &[String], key: &str, value: Option<f64>) -> Option<f64> {
        self.real(base, key, value, "between 0 and 1", |v| (0.0..=1.0).contains(&v))
    }

    fn plan(&mut self) -> Plan {
        let root = self.root;
        let stem = self.recipe.path.file_stem().map_or("recipe".into(), |s| s.to_string_lossy().into_owned());
        let name = root.name.clone().unwrap_or(stem);
        if name.is_empty() || name.contains(['/', '\\']) {
            self.fault(
                &["name".to_owned()],
                format!("`name` is `{name}`"),
                "a name is not empty and has no slash",
            );
        }
        let seed = self.whole(&[], "seed", root.seed, 0).unwrap_or(42) as u64;
        let runtime = self.runtime();
        if root.output.as_ref().is_some_and(|output| output.trim().is_empty()) {
            self.fault(&["output".to_owned()], "`output` is empty", "give a folder; `.` is the current one");
        }
        let output = root.output.clone().map_or_else(|| Path::new("checkpoints").join(&name), PathBuf::from);
        if let Some(model) = &root.model {
            self.model(&["model".to_owned()], model); // faults even where no stage uses it
        }
        let stages = root.stages.clone().unwrap_or_default();
        if stages.is_empty() {
            self.missing(
                &[],
                "stages",
                "the recipe has no stages",
                "add `stages:` with a list such as `- pretrain: {...}`",
            );
        }
        let names: Vec<String> =
            stages.iter().map(|s| s.as_ref().map_or(String::new(), |s| s.name().to_owned())).collect();
        let mut planned = Vec::new();
        for (index, stage) in stages.iter().enumerate() {
            let base: Steps = vec!["stages".to_owned(), index.to_string()];
            let Some(stage) = stage else {
                if !self.recipe.aside.contains(&base) {
                    let kinds = super::schema::KINDS.join(", ");
                    self.fault(&base, "a stage is empty", format!("give it a kind: {kinds}"));
                }
                continue;
            };
            let base = join(&base, stage.kind);
            let name = stage.name().to_owned();
            let named = join(&base, "name");
            if names[..index].contains(&name) {
                self.fault(
                    &named,
                    format!("two stages are named `{name}`"),
                    "give one of them a `name` of its own",
                );
            }
            if name.is_empty()
                || name == "scratch"
                || name.contains(['/', '\\', ':'])
                || name.starts_with('.')
            {
                self.fault(
                    &named,
                    format!("a stage cannot be named `{name}`"),
                    "use letters, digits, `-` and `_`",
                );
            }
            let config = match &stage.body {
                StageBody::Tokenizer(section) => self.tokenizer(&base, section, seed),
                StageBody::Train(section) => {
                    let config = self.train(&base, stage.kind, section, seed, &names[index..]);
                    if stage.kind == "pretrain" {
                        StageConfig::Pretrain(config)
                    } else {
                        StageConfig::Sft(config)
                    }
                }
                StageBody::Lora(section) => self.lora(&base, section, seed, &names[index..]),
                StageBody::Merge(section) => self.merge(&base, section, &names[index..]),
                StageBody::Reason(section) => self.reason(&base, section, seed, &names[index..]),
                StageBody::Distill(section) => self.distill(&base, section, seed, &names[index..]),
                StageBody::Dpo(section) => self.dpo(&base, section, seed, &names[index..]),
                StageBody::Reward(section) => self.reward(&base, section, seed, &names[index..]),
                StageBody::Eval(section) => self.eval(&base, section, seed, &names[index..]),
                StageBody::Export(section) => self.export(&base, section, &names[index..]),
                StageBody::Grpo(section) => self.grpo(&base, section, seed, &names[index..]),
                StageBody::Ppo(section) => self.ppo(&base, section, seed, &names[index..]),
                StageBody::Spo(section) => self.spo(&base, section, seed, &names[index..]),
                StageBody::Agent(section) => self.agent(&base, section, seed, &names[index..]),
            };
            self.note(&name, &config);
            planned.push(StagePlan { name, place: Some(self.recipe.places.key(&base)), config });
        }
        Plan {
            name,
            recipe: self.recipe.path.clone(),
            recipe_text: self.recipe.text.clone(),
            seed,
            output,
            runtime,
            stages: planned,
        }
    }

    fn note(&mut self, name: &str, config: &StageConfig) {
        let makes = match config {
            StageConfig::Tokenizer(_) => Makes::Tokenizer,
            StageConfig::Lora(_) => Makes::Adapter,
            StageConfig::Reward(_) => Makes::Score,
            StageConfig::Eval(_) | StageConfig::Export(_) => return,
            _ => Makes::Model,
        };
        let above = match config {
            StageConfig::Merge(c) => self.merged(name, c),
            _ => match config.training() {
                Some(c) => Above {
                    name: name.to_owned(),
                    makes,
                    tokenizer: c.tokenizer.clone(),
                    model: c.model.clone(),
                    max_seq_len: c.max_seq_len,
                },
                None => Above {
                    name: name.to_owned(),
                    makes,
                    tokenizer: Some(TokenizerSource::Stage(name.to_owned())),
                    model: None,
                    max_seq_len: 0,
                },
            },
        };
        self.above.push(above);
    }

    fn tokenizer(&mut self, base: &[String], section: &TokenizerSection, seed: u64) -> StageConfig {
        let vocab_size = self.whole(base, "vocab_size", section.vocab_size, 300).unwrap_or(6400);
        let max_bytes = self.whole(base, "max_bytes", section.max_bytes, 1).map(|v| v as u64);
        let data = self.data(base, section.data.as_ref(), "tokenizer", seed, None);
        if data.format == DataFormat::Tokens {
            self.fault(
                &join(base, "data"),
                "a tokenizer learns from text, not from tokens",
                "give a .jsonl file",
            );
        }
        StageConfig::Tokenizer(TokenizerConfig { data, vocab_size, max_bytes })
    }

    /// What every training stage has; the defaults are upstream's for the kind.
    pub(super) fn train(
        &mut self,
        base: &[String],
        kind: &str,
        s: &TrainSection,
        seed: u64,
        below: &[String],
    ) -> TrainConfig {
        let (epochs, batch, accumulation, rate, length) = match kind {
            "pretrain" => (2, 32, 8, 5e-4, 340),
            "lora" => (10, 32, 1, 1e-4, 340),
            "reason" => (1, 8, 1, 1e-6, 720),
            "distill" => (6, 32, 1, 5e-6, 340),
            "dpo" => (1, 4, 1, 4e-8, 1024),
            "reward" => (1, 8, 1, 1e-5, 1024), // ours: upstream trains none
            _ => (2, 16, 1, 1e-5, 768),
        };
        let s = &TrainSection {
            epochs: s.epochs.or(Some(epochs)),
            batch_size: s.batch_size.or(Some(batch)),
            accumulation_steps: s.accumulation_steps.or(Some(accumulation)),
            learning_rate: s.learning_rate.or(Some(rate)),
            ..s.clone()
        };
        let data = self.data(base, s.data.as_ref(), kind, seed, s.on_bad_row);
        self.train_config(base, kind, s, data, length, below)
    }

    /// What every stage with a training loop has; the kind's own defaults are in `s` already, but for the
    /// `length` of rows, which a model of fewer positions cuts.
    pub(super) fn train_config(
        &mut self,
        base: &[String],
        kind: &str,
        s: &TrainSection,
        data: DataConfig,
        length: usize,
        below: &[String],
    ) -> TrainConfig {
        let last = self.above.iter().rev().find(|a| a.trains()).map(|a| Init::Stage(a.name.clone()));
        let init = match &s.init {
            Some(init) => self.init(&join(base, "init"), init, below),
            None if kind == "pretrain" => Init::Scratch,
            None => last.unwrap_or_else(|| {
                self.missing(
                    base,
                    "init",
                    format!("stage `{kind}` needs `init`"),
                    "give a stage above, a weight file, or scratch",
                );
                Init::Scratch
            }),
        };
        let model = self.stage_model(base, s.model.as_ref(), &init);
        let tokenizer = self.tokenizer_of(base, s.tokenizer.as_deref(), &init, data.format, below);
        let positive = |v: f64| v > 0.0 && v.is_finite();
        let not_negative = |v: f64| v >= 0.0 && v.is_finite();
        let betas = match s.betas.as_deref() {
            None => (0.9, 0.999),
            Some([Some(a), Some(b)]) if (0.0..1.0).contains(a) && (0.0..1.0).contains(b) => (*a, *b),
            Some(list) => {
                if list.iter().all(Option::is_some) {
                    self.fault(
                        &join(base, "betas"),
                        "`betas` is not two numbers of 0 up to, not with, 1",
                        "for example [0.9, 0.999]",
                    );
                }
                (0.9, 0.999)
            }
        };
        let dropout = match &model {
            Some(model) if kind != "lora" => model.config.dropout,
            _ => 0.0,
        };
        // As upstream: minimind2's adapters alone are saved whole.
        let full =
            kind == "lora" && model.as_ref().is_some_and(|m| m.config.era == crate::model::Era::MiniMind2);
        let most = model.as_ref().map_or(usize::MAX, |m| m.config.max_position_embeddings as usize);
        let max_seq_len = match self.whole(base, "max_seq_len", s.max_seq_len, 2) {
            None => length.min(most),
            Some(given) => {
                self.fits_positions(base, given, model.as_ref());
                given
            }
        };
        TrainConfig {
            epochs: self.whole(base, "epochs", s.epochs, 1).unwrap_or(2),
            batch_size: self.whole(base, "batch_size", s.batch_size, 1).unwrap_or(1),
            accumulation_steps: self.whole(base, "accumulation_steps", s.accumulation_steps, 1).unwrap_or(1),
            learning_rate: self
                .real(base, "learning_rate", s.learning_rate, "above 0", positive)
                .unwrap_or(1e-5),
            max_seq_len,
            grad_clip: self
                .real(base, "grad_clip", s.grad_clip, "of at least 0", not_negative)
                .unwrap_or(1.0),
            weight_decay: self
                .real(base, "weight_decay", s.weight_decay, "of at least 0", not_negative)
                .unwrap_or(0.01),
            betas,
            eps: self.real(base, "eps", s.eps, "above 0", positive).unwrap_or(1e-8),
            schedule: match s.schedule {
                None | Some(ScheduleName::Upstream) => ScheduleKind::Upstream,
                Some(ScheduleName::Cosine) => ScheduleKind::Cosine,
                Some(ScheduleName::Linear) => ScheduleKind::Linear,
                Some(ScheduleName::Constant) => ScheduleKind::Constant,
            },
            warmup_steps: self.whole(base, "warmup_steps", s.warmup_steps, 0).unwrap_or(0),
            max_steps: self.whole(base, "max_steps", s.max_steps, 1),
            log_interval: self.whole(base, "log_interval", s.log_interval, 1).unwrap_or(100),
            save_interval: self.whole(base, "save_interval", s.save_interval, 1).unwrap_or(1000),
            eval_interval: self.whole(base, "eval_interval", s.eval_interval, 1),
            keep_last: self.whole(base, "keep_last", s.keep_last, 0).unwrap_or(0),
            save_dtype: match s.save_dtype {
                None if full => SaveDtype::Fp32,
                None | Some(SaveDtypeName::Fp16) => SaveDtype::Fp16,
                Some(SaveDtypeName::Bf16) => SaveDtype::Bf16,
                Some(SaveDtypeName::Fp32) => SaveDtype::Fp32,
            },
            on_nan: anomaly(s.on_nan, OnAnomaly::Stop),
            on_spike: anomaly(s.on_spike, OnAnomaly::Skip),
            spike_factor: self.real(base, "spike_factor", s.spike_factor, "above 1", |v| v > 1.0),
            dropout: self
                .real(base, "dropout", s.dropout, "from 0 up to, not with, 1", |v| (0.0..1.0).contains(&v))
                .unwrap_or(dropout),
            system_prompt_ratio: self
                .ratio(base, "system_prompt_ratio", s.system_prompt_ratio)
                .unwrap_or(0.2),
            empty_think_ratio: self.ratio(base, "empty_think_ratio", s.empty_think_ratio).unwrap_or(0.2),
            samples: s.samples.iter().flatten().flatten().cloned().collect(),
            eos_token_id: self.whole(base, "eos_token_id", s.eos_token_id, 0).map(|v| v as i64),
            pad_token_id: self.whole(base, "pad_token_id", s.pad_token_id, 0).map(|v| v as i64),
            init,
            model,
            tokenizer,
            data,
        }
    }
}

fn anomaly(given: Option<OnAnomalyName>, default: OnAnomaly) -> OnAnomaly {
    match given {
        None => default,
        Some(OnAnomalyName::Stop) => OnAnomaly::Stop,
        Some(OnAnomalyName::Skip) => OnAnomaly::Skip,
        Some(OnAnomalyName::Rollback) => OnAnomaly::Rollback,
    }
}
