//! Turns a stage's references (tokenizer, start weights, data) into files, hashes and models.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use tch::Kind;

use super::context::Context;
use super::record::Inputs;
use crate::checkpoint::{about, ends, load, resolve_model_path};
use crate::data::tokenizer::end_ids;
use crate::data::{DataConfig, DataSource, Dataset, PreparedData, Tokenizer, Validation};
use crate::error::{Error, Place, Result};
use crate::hash::hex;
use crate::model::{CausalLm, ModelConfig, Params};
use crate::plan::{ChoicePlan, EvalConfig, Init, ModelPlan, StageConfig, TokenizerSource};
use crate::rollout::rewards::RewardKind;

/// The program's version.
pub const PROGRAM: &str = env!("CARGO_PKG_VERSION");

/// Where a stage's tokenizer lies.
pub fn tokenizer_folder(context: &Context<'_>, source: &TokenizerSource) -> PathBuf {
    match source {
        TokenizerSource::Stage(name) => context.plan.output.join(name),
        TokenizerSource::Folder(folder) => folder.clone(),
    }
}

/// A stage's tokenizer, if it has one.
pub fn tokenizer(context: &Context<'_>, source: Option<&TokenizerSource>) -> Result<Option<Tokenizer>> {
    source.map(|source| Tokenizer::load(&tokenizer_folder(context, source))).transpose()
}

/// `<stage>_<hidden>[_moe].pth` of a stage above, found by the file it left.
pub fn stage_weights(context: &Context<'_>, name: &str) -> Result<PathBuf> {
    resolve_model_path(&format!("{}:{name}", context.plan.output.display()))
}

/// The file behind `init`; `None` for fresh weights.
pub fn start_weights(context: &Context<'_>, init: &Init) -> Result<Option<PathBuf>> {
    Ok(match init {
        Init::Scratch => None,
        Init::Stage(name) => Some(stage_weights(context, name)?),
        Init::Path(path) => Some(resolve_model_path(&path.to_string_lossy())?),
    })
}

/// The tokens that end an answer of a stage's model: those that its start weights name, and the tokenizer's.
pub fn ends(context: &Context<'_>, init: &Init, tokenizer: Option<&Tokenizer>) -> Result<Vec<u32>> {
    let named = start_weights(context, init)?.map(|path| ends::named(&path)).transpose()?;
    Ok(end_ids(tokenizer, &named.unwrap_or_default()))
}

/// A path as a weight file of the run names it: relative, so that a run's folder can be moved and tells nobody where
/// things lie on this machine; a full path where there is no other way.
pub fn relative(context: &Context<'_>, path: &Path) -> PathBuf {
    match path.strip_prefix(&context.plan.output) {
        Ok(inside) => inside.to_path_buf(),
        Err(_) => crate::files::way(&context.plan.output, path)
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

/// Builds or loads a stage's model in fp32 on the run's device.
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
pub fn load(path: &Path, plan: Option<&ModelPlan>, device: tch::Device) -> Result<CausalLm> {
    let given = stated(path, plan)?;
    let loaded = load::load_model(path, given.as_ref(), device, Kind::Float)?;
    say(path, &loaded.notes);
    Ok(loaded.model)
}

/// The architecture of weights as the recipe's `model` completes it; `None` where the file states its own.
pub fn stated(path: &Path, plan: Option<&ModelPlan>) -> Result<Option<ModelConfig>> {
    let Some(plan) = plan else { return Ok(None) };
    let Some((config, notes)) = load::agreed(path, &plan.stated)? else { return Ok(None) };
    say(path, &notes);
    Ok(Some(config))
}

/// What was assumed of weights.
pub fn say(path: &Path, notes: &[String]) {
    for note in notes {
        tracing::info!("{}: {note}", path.display());
    }
}

fn default_model() -> ModelConfig {
    crate::model::ModelOverrides::default().resolve().expect("the defaults are a model")
}

/// Checks that ids a tokenizer makes exist in the model.
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

/// Says that a tokenizer has fewer tokens than the weights at `path` have rows: most likely they were trained with
/// another. Rows that are rounded up beside the weights' own tokenizer are none of it.
pub fn say_smaller(path: &Path, tokenizer: &Tokenizer, config: &ModelConfig) -> Result<()> {
    let (have, rows) = (tokenizer.vocab_size() as i64, config.vocab_size);
    if have >= rows {
        return Ok(());
    }
    let folder = if path.is_dir() { path } else { path.parent().unwrap_or(Path::new("")) };
    let named = about::tokenizer_named(path)?.map(|name| folder.join(name));
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

/// [`say_smaller`] of a stage's start weights; those of a stage above with the same tokenizer are its own.
pub fn say_smaller_of(
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
        Some(path) => say_smaller(&path, tokenizer, config),
        None => Ok(()),
    }
}

/// Checks that a model reads the rows of token files, those for validation too: ids of its vocabulary, at positions
/// it has.
pub fn check_prepared(config: &ModelConfig, prepared: &PreparedData, data: &DataConfig) -> Result<()> {
    check_rows(config, &prepared.train, &data.source)?;
    match (&prepared.validation, &data.validation) {
        (Some(rows), Validation::Path(path)) => {
            check_rows(config, rows, &DataSource::Paths(vec![path.clone()]))
        }
        _ => Ok(()),
    }
}

/// The same of some rows, which come from `source`.
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

/// What a stage is made from: settings by key, and by name tokenizer, data, start weights.
pub fn describe(context: &Context<'_>, config: &StageConfig) -> Result<Inputs> {
    let mut inputs = Inputs { settings: config.record()?, ..Inputs::default() };
    inputs.add("seed", context.plan.seed.to_string());
    inputs.add("precision", context.compute.name());
    inputs.add("device", crate::engine::device::name(context.device));
    let (data, init, source) = match config {
        StageConfig::Tokenizer(c) => (Some(&c.data), None, None),
        StageConfig::Eval(c) => (Some(&c.data), Some(&c.init), c.tokenizer.as_ref()),
        StageConfig::Export(c) => (None, Some(&c.init), c.tokenizer.as_ref()),
        StageConfig::Merge(c) => (None, c.init.as_ref(), None),
        StageConfig::Ppo(c) | StageConfig::Grpo(c) | StageConfig::Spo(c) | StageConfig::Agent(c) => {
            for (key, init) in c.others() {
                if let Some(path) = start_weights(context, init)? {
                    inputs.add(key, weights_hash(&path)?);
                }
            }
            for reward in &c.rewards {
                if let RewardKind::Model(model) = &reward.kind {
                    let path = model.from.locate(&context.plan.output)?;
                    let own = about::tokenizer(&path)?;
                    let tokenizer = model.tokenizer.as_ref().or(own.as_ref());
                    let spoken = tokenizer.map(|folder| file_hash(&tokenizer_file(folder))).transpose()?;
                    let scores = format!("{} {}", weights_hash(&path)?, spoken.unwrap_or_default());
                    inputs.add(&format!("reward {}", reward.name), scores);
                }
            }
            if let Some(heldout) = &c.heldout {
                inputs.add("held-out data", data_hash(heldout)?);
            }
            (Some(&c.train.data), Some(&c.train.init), c.train.tokenizer.as_ref())
        }
        other => {
            let c = other.training();
            (c.map(|c| &c.data), c.map(|c| &c.init), c.and_then(|c| c.tokenizer.as_ref()))
        }
    };
    if let Some(data) = data {
        inputs.add("data", data_hash(data)?);
        if let StageConfig::Eval(EvalConfig { choice: ChoicePlan { shots_from: Some(path), .. }, .. }) =
            config
        {
            inputs.add("examples", path_hash(path)?);
        }
    }
    if let Some(source) = source {
        let folder = tokenizer_folder(context, source);
        inputs.add("tokenizer", file_hash(&tokenizer_file(&folder))?);
        inputs.add("chat template", template_hash(&folder)?);
    }
    if let Some(init) = init
        && let Some(path) = start_weights(context, init)?
    {
        inputs.add("start weights", weights_hash(&path)?);
    }
    // What the recipe says of weights that do not tell; of fresh ones the settings hold all.
    for (what, init, plan) in config.stated() {
        if let (Init::Path(_), Some(plan)) = (init, plan) {
            inputs.add(what, stated_alone(&format!("{:?}", plan.stated)));
        }
    }
    for (what, init) in config.also_reads() {
        if let Some(path) = start_weights(context, init)? {
            inputs.add(what, weights_hash(&path)?);
        }
    }
    Ok(inputs.seal(config))
}

/// What is set in the text of a struct: fields that hold nothing are left out, so that one more of them is no change.
pub fn stated_alone(text: &str) -> String {
    let parts = text.split(", ").map(|part| part.trim_end_matches(" }"));
    parts.filter(|part| !part.ends_with(": None")).collect::<Vec<_>>().join(", ")
}

/// Hash of the chat template of a tokenizer's folder, and of nothing else that lies there.
fn template_hash(folder: &Path) -> Result<String> {
    let mut hasher = Sha256::new();
    for name in ["chat_template.jinja", "tokenizer_config.json"] {
        let path = folder.join(name);
        let Ok(bytes) = std::fs::read(&path) else { continue };
        if name.ends_with(".jinja") {
            hasher.update(&bytes);
        } else if let Ok(config) = serde_json::from_slice::<serde_json::Value>(&bytes) {
            hasher.update(config["chat_template"].to_string());
        }
    }
    Ok(hex(&hasher.finalize()))
}

fn data_hash(data: &DataConfig) -> Result<String> {
    let mut hasher = Sha256::new();
    let mut files: Vec<&PathBuf> = match &data.source {
        DataSource::Paths(paths) => paths.iter().collect(),
        DataSource::Synthetic(_) => {
            hasher.update(format!("built-in world {}", crate::data::synthetic::VERSION));
            Vec::new()
        }
    };
    if let Validation::Path(path) = &data.validation {
        files.push(path);
    }
    for file in files {
        hasher.update(path_hash(file)?);
    }
    Ok(hex(&hasher.finalize()))
}

/// Hash of weights, with that of a `config.json` beside a file that does not state its architecture.
fn weights_hash(path: &Path) -> Result<String> {
    let (own, beside) = (path_hash(path)?, path.with_file_name("config.json"));
    if path.is_dir() || !beside.is_file() || about::states_architecture(path)? {
        return Ok(own);
    }
    Ok(format!("{own} {}", file_hash(&beside)?))
}

/// Hash of a file, or of every file of a folder.
fn path_hash(path: &Path) -> Result<String> {
    if !path.is_dir() {
        return file_hash(path);
    }
    let read = |e| Error::io("list", path, e);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(read)? {
        let file = entry.map_err(read)?.path();
        if file.is_file() {
            files.push(file);
        }
    }
    files.sort();
    let mut hasher = Sha256::new();
    for file in &files {
        hasher.update(file_hash(file)?);
    }
    Ok(hex(&hasher.finalize()))
}

/// SHA-256 of a file's bytes, read in pieces.
pub fn file_hash(path: &Path) -> Result<String> {
    use std::io::Read;
    let read = |e| Error::io("read", path, e).at(Place::file(path));
    let mut file = crate::files::open(path).map_err(read)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let n = file.read(&mut buffer).map_err(read)?;
        if n == 0 {
            return Ok(hex(&hasher.finalize()));
        }
        hasher.update(&buffer[..n]);
    }
}

/// The file that a tokenizer's folder holds it in.
fn tokenizer_file(folder: &Path) -> PathBuf {
    crate::data::tokenizer::load::file(folder).unwrap_or_else(|| folder.join("tokenizer.json"))
}
