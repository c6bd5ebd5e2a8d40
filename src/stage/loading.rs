//! Loads what a stage's settings refer to: tokenizer, start weights, model; checks that they fit each other.

use std::path::{Path, PathBuf};

use tch::Kind;

use super::context::Context;
use crate::checkpoint::architecture::infer_config;
use crate::checkpoint::{eos, load, resolve_model_path, tokenizer_folder};
use crate::data::{self, DataConfig, DataSource, Dataset, PreparedData, Tokenizer, Validation};
use crate::error::{Error, Result};
use crate::model::{CausalLm, ModelConfig, Params};
use crate::plan::{Init, ModelPlan, TokenizerSource};

/// The program's version.
pub const PROGRAM: &str = env!("CARGO_PKG_VERSION");

/// The folder of a stage's tokenizer.
pub fn tokenizer_folder(context: &Context<'_>, source: &TokenizerSource) -> PathBuf {
    match source {
        TokenizerSource::Stage(name) => context.plan.output.join(name),
        TokenizerSource::Folder(folder) => folder.clone(),
    }
}

/// A stage's tokenizer, if it has one.
///
/// # Errors
/// It cannot be read.
pub fn tokenizer(context: &Context<'_>, source: Option<&TokenizerSource>) -> Result<Option<Tokenizer>> {
    source.map(|source| Tokenizer::load(&tokenizer_folder(context, source))).transpose()
}

/// The weight file of a stage above.
///
/// # Errors
/// There is none.
pub fn stage_weights(context: &Context<'_>, name: &str) -> Result<PathBuf> {
    resolve_model_path(&format!("{}:{name}", context.plan.output.display()))
}

/// The file behind `init`; `None` for fresh weights.
///
/// # Errors
/// It is not there.
pub fn start_weights(context: &Context<'_>, init: &Init) -> Result<Option<PathBuf>> {
    Ok(match init {
        Init::Scratch => None,
        Init::Stage(name) => Some(stage_weights(context, name)?),
        Init::Path(path) => Some(resolve_model_path(&path.to_string_lossy())?),
    })
}

/// The ids of the tokens that end an answer: those that the start weights name, and the tokenizer's.
///
/// # Errors
/// The start weights cannot be read.
pub fn eos_token_ids(context: &Context<'_>, init: &Init, tokenizer: Option<&Tokenizer>) -> Result<Vec<u32>> {
    let named = start_weights(context, init)?.map(|path| eos::token_ids(&path)).transpose()?;
    Ok(data::tokenizer::eos_token_ids(tokenizer, &named.unwrap_or_default()))
}

/// A path as a weight file of the run names it: relative to the run's folder, so that it can be moved and reveals no
/// path of this machine; absolute where there is no relative one.
pub fn relative(context: &Context<'_>, path: &Path) -> PathBuf {
    match path.strip_prefix(&context.plan.output) {
        Ok(inside) => inside.to_path_buf(),
        Err(_) => crate::files::relative_path(&context.plan.output, path)
            .or_else(|| std::fs::canonicalize(path).ok())
            .unwrap_or_else(|| path.to_owned()),
    }
}

/// The architecture a recipe states for fresh weights, with the tokenizer's vocabulary where it leaves that open.
fn architecture(model: Option<&ModelPlan>, tokenizer: Option<&Tokenizer>) -> Option<ModelConfig> {
    let plan = model?;
    let mut config = plan.config.clone();
    if let (false, Some(tokenizer)) = (plan.vocab_size_given, tokenizer) {
        config.vocab_size = tokenizer.vocab_size() as i64;
    }
    Some(config)
}

/// Builds or loads a stage's model in fp32 on the run's device; seeds the random generator.
///
/// # Errors
/// Weights that cannot be read, or have another architecture than the recipe states.
pub fn model(
    context: &Context<'_>,
    init: &Init,
    plan: Option<&ModelPlan>,
    tokenizer: Option<&Tokenizer>,
    dropout: f64,
) -> Result<CausalLm> {
    let Some(path) = start_weights(context, init)? else {
        let mut config = architecture(plan, tokenizer).unwrap_or_else(default_model);
        config.dropout = dropout;
        tch::manual_seed(context.plan.seed as i64);
        return Ok(CausalLm::new(&config, Params::init(&config, context.device)?));
    };
    let model = load(&path, plan, context.device)?;
    tch::manual_seed(context.plan.seed as i64);
    if dropout > 0.0 {
        return Ok(model.with_dropout(dropout));
    }
    Ok(model)
}

/// Loads weights in fp32. A file of ours states its architecture; the recipe's `model` is for files that do not.
///
/// # Errors
/// They cannot be read, or have another architecture than `plan` states.
pub fn load(path: &Path, plan: Option<&ModelPlan>, device: tch::Device) -> Result<CausalLm> {
    let given = config_of_weights(path, plan)?;
    let loaded = load::load_model(path, given.as_ref(), device, Kind::Float)?;
    log_notes(path, &loaded.notes);
    Ok(loaded.model)
}

/// The architecture of weights as the recipe's `model` completes it; `None` where the file states its own.
///
/// # Errors
/// The file cannot be read, or contradicts the recipe.
pub fn config_of_weights(path: &Path, plan: Option<&ModelPlan>) -> Result<Option<ModelConfig>> {
    let Some(plan) = plan else { return Ok(None) };
    let Some((config, notes)) = infer_config(path, &plan.stated)? else { return Ok(None) };
    log_notes(path, &notes);
    Ok(Some(config))
}

/// Logs what was inferred for weights.
pub fn log_notes(path: &Path, notes: &[String]) {
    for note in notes {
        tracing::info!("{}: {note}", path.display());
    }
}

fn default_model() -> ModelConfig {
    crate::model::ModelOverrides::default().resolve().expect("the defaults are a model")
}

/// Checks that the model's embedding has a row for every id of the tokenizer.
///
/// # Errors
/// It has fewer rows.
pub fn check_vocabulary(model: &CausalLm, tokenizer: Option<&Tokenizer>) -> Result<()> {
    let Some(tokenizer) = tokenizer else { return Ok(()) };
    let (have, want) = (model.config().vocab_size, tokenizer.vocab_size() as i64);
    if want > have {
        return Err(Error::input(format!(
            "the tokenizer has {want} tokens, the model's embedding {have} rows"
        ))
        .hint("use the tokenizer the weights were trained with, or start from scratch"));
    }
    Ok(())
}

/// Warns where a tokenizer has fewer tokens than the weights at `path` have rows: most likely they were trained with
/// another one. Rows that are rounded up for the weights' own tokenizer are no reason.
///
/// # Errors
/// The weights' metadata cannot be read.
pub fn warn_of_other_tokenizer(path: &Path, tokenizer: &Tokenizer, config: &ModelConfig) -> Result<()> {
    let (have, rows) = (tokenizer.vocab_size() as i64, config.vocab_size);
    if have >= rows {
        return Ok(());
    }
    let folder = if path.is_dir() { path } else { path.parent().unwrap_or(Path::new("")) };
    let named = tokenizer_folder::named(path)?.map(|name| folder.join(name));
    // A folder with both is of one making; a fiftieth more rows than tokens is rounding.
    let beside = (path.is_dir() && (rows - have) * 50 <= rows).then(|| path.to_owned());
    for own in [named, beside].into_iter().flatten() {
        if Tokenizer::load(&own).is_ok_and(|own| own.same_vocabulary(tokenizer)) {
            return Ok(());
        }
    }
    tracing::warn!(
        "the tokenizer has {have} tokens, {} has {rows} rows: if these weights were trained with another tokenizer, all text is nonsense to them",
        path.display()
    );
    Ok(())
}

/// [`warn_of_other_tokenizer`] for a stage's start weights; those of a stage above with the same tokenizer need no check.
///
/// # Errors
/// The start weights cannot be read.
pub fn warn_of_other_tokenizer_of(
    context: &Context<'_>,
    (init, source): (&Init, Option<&TokenizerSource>),
    tokenizer: Option<&Tokenizer>,
    config: &ModelConfig,
) -> Result<()> {
    let Some(tokenizer) = tokenizer else { return Ok(()) };
    if let Init::Stage(name) = init {
        let above = context.plan.stages.iter().find(|stage| stage.name == *name);
        if above.and_then(|stage| stage.config.training()?.tokenizer.as_ref()) == source {
            return Ok(());
        }
    }
    match start_weights(context, init)? {
        Some(path) => warn_of_other_tokenizer(&path, tokenizer, config),
        None => Ok(()),
    }
}

/// Checks that the rows of token files, those for validation too, fit the model: ids within its vocabulary, lengths
/// within its positions.
///
/// # Errors
/// A row does not fit; it is named.
pub fn check_prepared(config: &ModelConfig, prepared: &PreparedData, data: &DataConfig) -> Result<()> {
    check_rows(config, &prepared.train, &data.source)?;
    match (&prepared.validation, &data.validation) {
        (Some(rows), Validation::Path(path)) => {
            check_rows(config, rows, &DataSource::Paths(vec![path.clone()]))
        }
        _ => Ok(()),
    }
}

/// [`check_prepared`] for `rows`, which come from `source`.
///
/// # Errors
/// A row does not fit; it is named.
pub fn check_rows(config: &ModelConfig, rows: &Dataset, source: &DataSource) -> Result<()> {
    if let Some((row, id)) = rows.out_of_vocab(config.vocab_size) {
        let what =
            format!("row {row} (from 0) holds token {id}; the model's vocabulary has {}", config.vocab_size);
        return Err(source.at(Error::input(what)).hint("give tokens of the model's own tokenizer"));
    }
    let most = config.max_position_embeddings;
    if let Some(width) = rows.fixed_len().filter(|width| *width as i64 > most) {
        let what = format!("the rows have {width} tokens, the model sees {most}");
        return Err(source
            .at(Error::input(what))
            .hint("cut the rows, or raise model.max_position_embeddings"));
    }
    Ok(())
}
