//! The export stage: the weights of a stage or a file in every format asked for, each checked.

use std::path::{Path, PathBuf};

use serde_json::{Map, json};

use super::context::{Context, StageResult};
use super::loading;
use crate::error::{Error, Result};
use crate::export::{self, Format, Options, Source};
use crate::plan::ExportConfig;

/// Exports into the stage's folder.
///
/// # Errors
/// Weights that cannot be read or exported; an export that differs from them; a signal.
pub fn run(context: &Context<'_>, config: &ExportConfig, folder: &Path) -> Result<StageResult> {
    let path = loading::start_weights(context, &config.init)?
        .ok_or_else(|| Error::input("there are no weights to export"))?;
    let source = open(context, config, &path)?;
    let stem = path.file_stem().map_or("model".into(), |s| s.to_string_lossy().into_owned());
    let name = folder.file_name().map(PathBuf::from).unwrap_or_default();
    let (mut outputs, mut reports, mut metrics) = (Vec::new(), Vec::new(), Map::new());
    for &format in &config.formats {
        if let Some(signal) = context.signals.requested() {
            return Err(Error::interrupted(signal, "the export stage was stopped before it was done"));
        }
        let options = Options {
            freeze: config.options.freeze && format == Format::Torchscript,
            ..config.options.clone()
        };
        let report = export::export(format, &source, &folder.join(format.file_name(&stem)), &options)?;
        tracing::info!("{}: {}", format.name(), report.path.display());
        if let Some(check) = &report.check {
            metrics.insert(format!("{}_difference", format.name()), json!(check.largest_difference));
        }
        outputs.extend(report.files.iter().map(|file| name.join(file).to_string_lossy().into_owned()));
        reports.push(report);
    }
    let parameters = crate::model::params::count(source.model.config());
    Ok(StageResult {
        outputs,
        summary: json!({
            "parameters": {"total": parameters.0, "active": parameters.1},
            "metrics": metrics,
            "exports": reports,
            "notes": source.notes,
        }),
        ..StageResult::default()
    })
}

/// A file of ours states its architecture; the recipe's `model` is for files that do not.
fn open(context: &Context<'_>, config: &ExportConfig, path: &Path) -> Result<Source> {
    let folder = config.tokenizer.as_ref().map(|source| loading::tokenizer_folder(context, source));
    let given = loading::config_of_weights(path, config.model.as_ref())?;
    Source::open(path, given.as_ref(), folder)
}
