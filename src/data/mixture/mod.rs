//! Several sources mixed by weight: shares of tokens, whatever their sizes.
//!
//! Weights are shares of an epoch's tokens. An epoch ends where a part would be passed more often than its `epochs` allow.
//! Next: `order`, which rows an epoch has; `prepare`, which reads the parts; `loader`, which batches them.

pub mod order;

use std::path::Path;

use serde::Serialize;

use super::config::{DataConfig, DataFormat, DataSource, ReadOptions, Validation};
use super::dataset::Dataset;
use super::facts::DataFacts;
use super::prepare::{PrepareContext, PreparedData};
use super::selection::RowSelection;
use crate::error::Result;
use order::{PartSize, quotas};

/// One source of a mixture.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MixturePart {
    /// Its name in metrics, of no other part.
    pub name: String,
    /// Its share of the tokens, of 1; `None` where no part states one: by its own tokens times `epochs`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<f64>,
    /// The most times that an epoch of the mixture passes it.
    pub epochs: f64,
    /// Where its rows come from.
    pub source: DataSource,
    /// Their shape.
    pub format: DataFormat,
    /// How its files are read.
    #[serde(flatten)]
    pub read: ReadOptions,
    /// Which of its rows are taken.
    #[serde(flatten)]
    pub select: RowSelection,
}

impl MixturePart {
    /// The part as data of its own, with what `whole` says of all parts; no validation rows.
    pub fn config(&self, whole: &DataConfig) -> DataConfig {
        DataConfig {
            source: self.source.clone(),
            format: self.format,
            read: self.read.clone(),
            select: self.select.clone(),
            validation: Validation::Off,
            ..whole.clone()
        }
    }

    /// What the name of a part is where none is given: that of its file without endings.
    pub fn name_of(path: &Path) -> String {
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        name.split('.').find(|part| !part.is_empty()).unwrap_or("part").to_owned()
    }
}

/// One part of a dataset.
#[derive(Debug, Clone)]
pub struct Part {
    /// Its name.
    pub name: String,
    /// Its share of the tokens and the most passes of an epoch; `None`: each row once.
    pub share: Option<(Option<f64>, f64)>,
    /// Its rows.
    pub rows: Dataset,
}

/// A part of a mixture, in numbers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PartFacts {
    /// Its name.
    pub name: String,
    /// Its share of an epoch's tokens.
    pub share: f64,
    /// Its rows for training.
    pub rows: usize,
    /// Their tokens.
    pub tokens: usize,
    /// Its rows in an epoch, repetitions among them.
    pub epoch_rows: usize,
    /// Its tokens in an epoch, about.
    pub epoch_tokens: u64,
    /// How often an epoch passes it.
    pub passes: f64,
    /// What of its rows one epoch does not see, as a share.
    pub unused: f64,
}

impl PartFacts {
    /// Facts of parts: name, rows, tokens, and what decides their quota.
    pub fn of(parts: &[(String, PartSize)]) -> Vec<Self> {
        let sizes: Vec<PartSize> = parts.iter().map(|(_, size)| *size).collect();
        let quotas = quotas(&sizes);
        let tokens: Vec<f64> = sizes
            .iter()
            .zip(&quotas)
            .map(|(size, quota)| size.tokens as f64 / size.units.max(1) as f64 * *quota as f64)
            .collect();
        let total: f64 = tokens.iter().sum();
        let facts = |(((name, size), quota), tokens): (((&String, &PartSize), &usize), &f64)| {
            let passes = *quota as f64 / size.units.max(1) as f64;
            Self {
                name: name.clone(),
                share: tokens / total.max(1.0),
                rows: size.units,
                tokens: size.tokens as usize,
                epoch_rows: *quota,
                epoch_tokens: tokens.round() as u64,
                passes,
                unused: (1.0 - passes).max(0.0),
            }
        };
        parts.iter().map(|(name, size)| (name, size)).zip(&quotas).zip(&tokens).map(facts).collect()
    }

    /// A line for people.
    pub fn in_words(&self, unit: &str) -> String {
        let unused = match self.unused {
            u if u < 0.0005 => String::new(),
            u => format!("; an epoch leaves {:.1}% of it out, later epochs go on with them", 100.0 * u),
        };
        format!(
            "part {}: {:.1}% of the {unit}, {} of {} rows and {} {unit} an epoch ({:.2} passes{unused})",
            self.name,
            100.0 * self.share,
            self.epoch_rows.min(self.rows),
            self.rows,
            self.epoch_tokens,
            self.passes
        )
    }
}

/// Sizes of a dataset's parts where its rows are mixed by shares.
pub(super) fn sizes(rows: &Dataset) -> Option<Vec<(String, PartSize)>> {
    let size = |part: &Part| {
        let (weight, epochs) = part.share?;
        let tokens = (0..part.rows.len()).map(|row| part.rows.row_len(row) as u64).sum();
        Some((part.name.clone(), PartSize { units: part.rows.len(), tokens, weight, epochs }))
    };
    rows.parts()?.iter().map(size).collect()
}

/// Reads every part and lines them up; the validation rows of all parts, each once, stand apart.
///
/// # Errors
/// As [`super::prepare`] of each part.
pub(super) fn prepare(
    parts: &[MixturePart],
    config: &DataConfig,
    ctx: &PrepareContext,
    own: impl Fn(&DataConfig, &PrepareContext) -> Result<PreparedData>,
) -> Result<PreparedData> {
    let (mut train, mut held, mut facts) = (Vec::new(), Vec::new(), Vec::new());
    for part in parts {
        let mut settings = part.config(config);
        if let Validation::Share(_) = config.validation {
            settings.validation = config.validation.clone();
        }
        let prepared = own(&settings, ctx)?;
        let (name, share) = (part.name.clone(), Some((part.weight, part.epochs)));
        if let Some(rows) = prepared.validation {
            held.push(Part { name: name.clone(), share: None, rows });
        }
        train.push(Part { name, share, rows: prepared.train });
        facts.push(prepared.facts);
    }
    let train = Dataset::of_parts(train);
    let mut facts = DataFacts::sum(&facts);
    facts.parts = sizes(&train).map(|sizes| PartFacts::of(&sizes)).unwrap_or_default();
    let validation = (!held.is_empty()).then(|| Dataset::of_parts(held));
    Ok(PreparedData { train, validation, facts })
}

#[cfg(test)]
mod tests;
