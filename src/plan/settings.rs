//! The parts of a recipe that several stages share: model, data.
//!
//! Same rules as `resolve`: fill, check, collect faults, go on.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::resolve::{Resolver, join};
use super::schema::*;
use super::types::*;
use crate::data::RowSelection;
use crate::data::shapes::{COLUMNS, is_column};
use crate::model::Era;
use crate::model::config::{ModelOverrides, PRESETS, preset};
use crate::recipe::faults::hint;

/// Stages whose rows may share a line.
const PACKS: [&str; 5] = ["pretrain", "sft", "lora", "reason", "distill"];

impl Resolver<'_> {
    /// The architecture that the section at `base` states, with a preset's or a config file's keys under its own.
    pub(super) fn model(&mut self, base: &[String], s: &ModelSection) -> Option<ModelPlan> {
        let start = self.model_start(base, s)?;
        let all = s.stated.clone().over(start);
        let vocab_size_given = all.vocab_size.is_some();
        // The default preset is for fresh weights; others are asked what was written.
        let stated = if s.preset.is_some() || s.config.is_some() { all.clone() } else { s.stated.clone() };
        match all.resolve() {
            // Upstream's minimind2 has no head width of its own; other families' files may have one.
            Ok(config)
                if s.stated.head_dim.is_some()
                    && config.era == Era::MiniMind2
                    && config.head_dim * config.num_attention_heads != config.hidden_size =>
            {
                let (e, h, d) = (config.head_dim, config.num_attention_heads, config.hidden_size);
                self.fault(
                    &join(base, "head_dim"),
                    format!("minimind2 has no head_dim of its own: {e} x {h} heads is not hidden_size {d}"),
                    "leave head_dim out, or use era: minimind3",
                );
                None
            }
            Ok(config) => Some(ModelPlan { config, vocab_size_given, stated: Box::new(stated) }),
            // A key that was set aside may be what the others do not fit.
            Err(_) if self.recipe.aside.iter().any(|path| path.starts_with(base)) => None,
            Err(error) => {
                // The message begins with the key it is about, as a bare word.
                let key = error
                    .what()
                    .split(|c: char| !c.is_alphanumeric() && c != '_')
                    .find(|w| !w.is_empty())
                    .unwrap_or_default()
                    .to_owned();
                self.faults.push(error.at(self.recipe.places.value(&join(base, &key))));
                None
            }
        }
    }

    /// What the keys of a model are put over; `None` after a fault.
    fn model_start(&mut self, base: &[String], s: &ModelSection) -> Option<ModelOverrides> {
        let before = self.faults.len();
        let mut start = ModelOverrides::default();
        match (&s.preset, &s.config) {
            (Some(name), config) => {
                match preset(name) {
                    Some(found) => start = found,
                    None => {
                        let what = format!("unknown preset `{name}`");
                        self.fault(&join(base, "preset"), what, hint(name, &PRESETS, "presets"));
                    }
                }
                if config.is_some() {
                    let what = "a model has a preset or a config, not both";
                    self.fault(&join(base, "config"), what, "remove one of them");
                }
            }
            (None, Some(file)) => match read_config(Path::new(file)) {
                Ok(found) => start = found,
                Err(why) => {
                    let what = format!("cannot use the model config {file}: {why}");
                    self.fault(&join(base, "config"), what, "give a config.json");
                }
            },
            // Another era without a preset: its own defaults, not those of the preset of this one.
            (None, None) => {
                start = match s.stated.era {
                    Some(era) => ModelOverrides { era: Some(era), ..ModelOverrides::default() },
                    None => preset("minimind3").unwrap_or_default(),
                };
            }
        }
        (self.faults.len() == before).then_some(start)
    }

    /// The data of the stage at `stage`, whose kind decides what is left open.
    pub(super) fn data(
        &mut self,
        stage: &[String],
        section: Option<&DataSection>,
        kind: &str,
        seed: u64,
        on_bad_row: Option<OnBadRow>,
    ) -> DataConfig {
        let base = join(stage, "data");
        if section.is_none() {
            self.missing(
                stage,
                "data",
                format!("stage `{kind}` needs `data`"),
                "add data: {path: FILE} or data: {synthetic: true}",
            );
        }
        let d = section.cloned().unwrap_or_default();
        if section.is_some() {
            self.one_source(&base, &d.rows, d.mixture.is_some());
        }
        let (source, format) = match &d.mixture {
            None => self.source(&base, &d.rows, kind, seed),
            Some(_) => (self.mixture(&base, &d, kind, seed), self.data_format(&base, &d.rows, kind)),
        };
        let select = match &d.mixture {
            None => self.selection(&base, &d.rows, kind, seed),
            Some(_) => RowSelection::default(),
        };
        let validation = self.validation(&base, d.validation, &source);
        DataConfig {
            source,
            format,
            shuffle: d.shuffle.unwrap_or(true),
            validation,
            batching: match d.batching {
                Some(Batching::Pack) => self.pack(&base, kind),
                given => given.unwrap_or_default(),
            },
            on_bad_row: d.on_bad_row.or(on_bad_row).unwrap_or_default(),
            read: self.read_options(&base, &d.rows),
            select,
        }
    }

    /// The file's own names of columns.
    pub(super) fn columns(&mut self, base: &[String], rows: &RowsSection) -> BTreeMap<String, String> {
        let columns = rows.columns.clone().unwrap_or_default();
        for name in columns.keys().filter(|name| !is_column(name)) {
            let at = join(&join(base, "columns"), name);
            self.fault(&at, format!("no row has a part called `{name}`"), hint(name, &COLUMNS, "columns"));
        }
        columns
    }

    /// Where the rows of a section come from, and their shape.
    pub(super) fn source(
        &mut self,
        base: &[String],
        rows: &RowsSection,
        kind: &str,
        seed: u64,
    ) -> (DataSource, DataFormat) {
        let files = self.data_files(base, rows, kind);
        let format = self.data_format(base, rows, kind);
        let source = match rows.synthetic() {
            Some(own) => DataSource::Synthetic(synthetic_rows(own, kind, format, seed)),
            None => DataSource::Paths(files),
        };
        (source, format)
    }

    /// Rows come from one of path, paths, synthetic and mixture.
    pub(super) fn one_source(&mut self, base: &[String], d: &RowsSection, mixture: bool) {
        let synthetic = d.synthetic().is_some();
        let given = usize::from(mixture)
            + usize::from(d.path.is_some())
            + usize::from(d.paths.is_some())
            + usize::from(synthetic);
        let aside = ["path", "paths", "synthetic", "mixture"]
            .iter()
            .any(|key| self.recipe.aside.iter().any(|p| p.starts_with(&join(base, key))));
        if given != 1 && !aside {
            let what = match given {
                0 => "`data` names no rows",
                _ => "`data` takes one of path, paths, synthetic, mixture",
            };
            self.fault(base, what, "give path: FILE, paths: [FILE, ...] or synthetic: true");
        }
    }

    /// The shape of rows: as stated, else by the files' ending and the stage's kind.
    fn data_format(&mut self, base: &[String], d: &RowsSection, kind: &str) -> DataFormat {
        let tokens =
            d.path.iter().chain(d.paths.iter().flatten().flatten()).any(|f| f.ends_with(".safetensors"));
        let format = d.format.and_then(FormatName::stated).unwrap_or(match kind {
            _ if tokens => DataFormat::Tokens,
            "dpo" | "reward" => DataFormat::Preference,
            "agent" => DataFormat::Agent,
            "ppo" | "grpo" | "spo" => DataFormat::Prompts,
            "tokenizer" | "pretrain" => DataFormat::Text,
            _ => DataFormat::Chat,
        });
        let at = join(base, "format");
        if d.synthetic().is_some() && format == DataFormat::Tokens {
            self.fault(&at, "synthetic rows have no format `tokens`", "use text, chat or preference");
        }
        let pairs = matches!(kind, "dpo" | "reward");
        if format != DataFormat::Tokens && pairs != (format == DataFormat::Preference) {
            let (what, hint) = if pairs {
                ("learns from pairs of answers", "use format: preference, rows with `chosen` and `rejected`")
            } else {
                ("learns from single texts", "preferences are for dpo and reward")
            };
            self.fault(&at, format!("stage `{kind}` {what}"), hint);
        }
        format
    }

    fn validation(
        &mut self,
        base: &[String],
        given: Option<NumberOrText>,
        source: &DataSource,
    ) -> Validation {
        match given {
            None | Some(NumberOrText::Number(0.0)) => Validation::Off,
            Some(NumberOrText::Number(share)) => {
                if !(share > 0.0 && share < 1.0) {
                    self.fault(
                        &join(base, "validation"),
                        format!("`validation` is {share}"),
                        "give a share in [0, 1), or a file",
                    );
                }
                Validation::Share(share)
            }
            Some(NumberOrText::Text(word))
                if word == "heldout" && matches!(source, DataSource::Synthetic(_)) =>
            {
                Validation::Heldout
            }
            Some(NumberOrText::Text(file)) => Validation::Path(self.file(&join(base, "validation"), &file)),
        }
    }

    /// Rows can share a line where each is read once from left to right and every token's loss counts by itself.
    fn pack(&mut self, base: &[String], kind: &str) -> Batching {
        if !PACKS.contains(&kind) {
            self.fault(
                &join(base, "batching"),
                format!("stage `{kind}` cannot pack its rows"),
                format!("allowed: bucket, pad; pack is for {}", PACKS.join(", ")),
            );
        }
        Batching::Pack
    }

    /// The path of a file that must be there, or on a hub.
    pub(super) fn file(&mut self, at: &[String], file: &str) -> PathBuf {
        let path = Path::new(file);
        if path.is_file() {
            return path.to_owned();
        }
        if let Some(local) = self.on_hub(at, file) {
            return local;
        }
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let beside: Vec<String> = std::fs::read_dir(folder)
            .map(|entries| entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect())
            .unwrap_or_default();
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let near = crate::recipe::faults::nearest(&name, beside.iter().map(String::as_str));
        let what =
            if path.is_dir() { format!("{file} is a folder, not a file") } else { format!("no file {file}") };
        let hint = near.filter(|n| *n != name).map_or_else(
            || "paths count from the current folder".to_owned(),
            |n| format!("did you mean `{}`?", path.with_file_name(n).display()),
        );
        self.fault(at, what, hint);
        path.to_owned()
    }
}

/// The rows of the built-in world that a stage of `kind` gets; `seed` is the recipe's.
fn synthetic_rows(own: &SyntheticSection, kind: &str, format: DataFormat, seed: u64) -> SyntheticConfig {
    let split = if kind == "eval" { SyntheticSplit::Heldout } else { SyntheticSplit::Train };
    let task = if format == DataFormat::Agent { SyntheticTask::Tools } else { SyntheticTask::World };
    SyntheticConfig {
        task: own.task.unwrap_or(task),
        rows: own.rows,
        seed: own.seed.unwrap_or(seed),
        split: own.split.unwrap_or(split),
    }
}

fn read_config(file: &Path) -> Result<ModelOverrides, String> {
    let text = crate::files::read_to_string(file).map_err(|error| error.to_string())?;
    let value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    ModelOverrides::from_json(&value).map_err(|error| error.what().to_owned())
}
