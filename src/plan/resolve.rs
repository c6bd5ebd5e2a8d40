//! A recipe becomes a plan: defaults filled (upstream's), names resolved, every number checked.
//!
//! All faults are collected; each points at the line it comes from. Next: `kinds` (the stages), `references` (stages and
//! files by name), `settings` (model, data), `types`.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::environment;
use super::schema::*;
use super::types::*;
use crate::error::{Error, Place, Result};
use crate::recipe::{Recipe, Section, Steps, tree};

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
pub fn finish(recipe: &Recipe, faults: Vec<Error>) -> Result<Plan> {
    let mut resolver = Resolver { recipe, faults, above: Vec::new(), below: Vec::new(), seed: 0 };
    let plan = resolver.plan();
    let mut seen = std::collections::HashSet::new();
    resolver.faults.retain(|fault| seen.insert(fault.to_string()));
    let order = |fault: &Error| {
        fault.place().map_or((usize::MAX, 0), |p| (p.line.unwrap_or(usize::MAX), p.column.unwrap_or(0)))
    };
    resolver.faults.sort_by_key(order);
    match (Error::all(resolver.faults), plan) {
        (None, Some(plan)) => Ok(plan),
        (Some(fault), _) => Err(fault),
        (None, None) => Err(Error::failed("the recipe cannot be resolved").at(Place::file(&recipe.path))),
    }
}

/// What a stage leaves that later stages may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Makes {
    Tokenizer,
    Model,
    /// An adapter, which with the weights it was trained on is a model too.
    Adapter,
    /// A reward model, which cannot generate text.
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
    pub(super) faults: Vec<Error>,
    /// The stages before the one at hand, as far as they leave something.
    pub(super) above: Vec<Above>,
    /// The names of the one at hand and of those after it.
    pub(super) below: Vec<String>,
    /// The recipe's seed.
    pub(super) seed: u64,
}

/// `base` with one more step.
pub(super) fn join(base: &[String], key: &str) -> Steps {
    base.iter().cloned().chain([key.to_owned()]).collect()
}

/// What a stage says of rows that cannot be used, for data that do not say it themselves.
pub(super) fn on_bad_row(s: &Section<'_>) -> Option<OnBadRow> {
    serde_json::from_value(s.map.get("on_bad_row")?.clone()).ok()
}

impl<'a> Resolver<'a> {
    /// The map that the recipe states at `path`.
    pub(super) fn section(&self, path: &[String]) -> Section<'a> {
        Section::of(&self.recipe.tree, path)
    }

    /// The keys at the top of the recipe.
    pub(super) fn top(&self) -> Section<'a> {
        self.section(&[])
    }

    /// What holds for a key of a section that the recipe leaves out.
    pub(super) fn default(&self, s: &Section<'_>, key: &str) -> Option<Value> {
        super::shape().defaults(&s.path).remove(key)
    }

    /// The settings of a section, as far as `T` has them: what is written over what is `computed` over the defaults.
    ///
    /// `None`, with a fault, where no `T` can be made of them, which is the shape's fault and not the recipe's.
    pub(super) fn read<T: DeserializeOwned>(
        &mut self,
        s: &Section<'_>,
        computed: &[(String, Value)],
    ) -> Option<T> {
        let mut all = super::shape().defaults(&s.path);
        all.extend(computed.iter().cloned());
        tree::merge(&mut all, s.map);
        let mut all = Value::Object(all);
        if let Some(node) = super::shape().node(&s.path) {
            super::shape().drop_set_aside(node, &mut all);
        }
        self.deserialize(s, all)
    }

    /// A section as it is written, nothing filled in.
    pub(super) fn written<T: DeserializeOwned>(&mut self, s: &Section<'_>) -> Option<T> {
        self.deserialize(s, Value::Object(s.map.clone()))
    }

    fn deserialize<T: DeserializeOwned>(&mut self, s: &Section<'_>, value: Value) -> Option<T> {
        let read = serde_json::from_value(value);
        read.map_err(|error| {
            let fault = Error::input(format!("`{}` cannot be read", s.key())).because(error);
            self.faults.push(fault.at(self.recipe.places.key(&s.path)));
        })
        .ok()
    }

    /// The model that a section describes.
    pub(super) fn model_of(&mut self, s: &Section<'_>) -> Option<ModelPlan> {
        let written: ModelSection = self.written(s)?;
        self.model(&s.path, &written)
    }

    /// The data of a stage.
    pub(super) fn stage_data(&mut self, s: &Section<'_>) -> DataConfig {
        let written = s.section("data").and_then(|data| self.written::<DataSection>(&data));
        self.data(&s.path, written.as_ref(), s.key(), self.seed, on_bad_row(s))
    }

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

    fn plan(&mut self) -> Option<Plan> {
        let top = self.top();
        let root: Root = self.read(&top, &[])?;
        self.seed = root.seed;
        let name = self.name(&root);
        let runtime = self.runtime();
        if root.output.as_ref().is_some_and(|output| output.trim().is_empty()) {
            self.fault(&top.at("output"), "`output` is empty", "give a folder; `.` is the current one");
        }
        let output = root.output.map_or_else(|| Path::new("checkpoints").join(&name), PathBuf::from);
        if let Some(model) = top.section("model") {
            self.model_of(&model); // faults even where no stage uses it
        }
        if root.stages.is_empty() && top.list("stages").is_empty() {
            self.missing(
                &[],
                "stages",
                "the recipe has no stages",
                "add `stages:` with a list such as `- pretrain: {...}`",
            );
        }
        let stages = self.stages();
        Some(Plan {
            name,
            recipe: self.recipe.path.clone(),
            recipe_text: self.recipe.text.clone(),
            seed: root.seed,
            output,
            runtime: runtime?,
            stages,
        })
    }

    /// The run's name: the recipe's, else its file's.
    fn name(&mut self, root: &Root) -> String {
        let stem = self.recipe.path.file_stem().map_or("recipe".into(), |s| s.to_string_lossy().into_owned());
        let name = root.name.clone().unwrap_or(stem);
        if name.is_empty() || name.contains(['/', '\\']) {
            let what = format!("`name` is `{name}`");
            self.fault(&["name".to_owned()], what, "a name is not empty and has no slash");
        }
        name
    }

    fn stages(&mut self) -> Vec<StagePlan> {
        let elements = self.top().list("stages");
        let kind = |element: &Value| element.as_object().and_then(|map| map.keys().next().cloned());
        let bodies: Vec<Option<Section<'_>>> = elements
            .iter()
            .enumerate()
            .map(|(index, element)| {
                Some(self.section(&["stages".to_owned(), index.to_string(), kind(element)?]))
            })
            .collect();
        let named =
            |s: &Option<Section<'_>>| s.as_ref().map_or("", |s| s.text("name").unwrap_or(s.key())).to_owned();
        let names: Vec<String> = bodies.iter().map(named).collect();
        let mut planned = Vec::new();
        for (index, s) in bodies.iter().enumerate() {
            let Some(s) = s else { continue }; // set aside, its fault is told
            let name = names[index].clone();
            self.check_name(s, &names[..index], &name);
            self.below = names[index..].to_vec();
            let Some(config) = self.stage(s) else { continue };
            self.note(&name, &config);
            planned.push(StagePlan { name, place: Some(self.recipe.places.key(&s.path)), config });
        }
        planned
    }

    /// A stage's name names its folder, and no other stage.
    fn check_name(&mut self, s: &Section<'_>, before: &[String], name: &str) {
        if before.iter().any(|other| other == name) {
            let what = format!("two stages are named `{name}`");
            self.fault(&s.at("name"), what, "give one of them a `name` of its own");
        }
        if name.is_empty() || name == "scratch" || name.contains(['/', '\\', ':']) || name.starts_with('.') {
            let what = format!("a stage cannot be named `{name}`");
            self.fault(&s.at("name"), what, "use letters, digits, `-` and `_`");
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
}
