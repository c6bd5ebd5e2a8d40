//! Turns a stage's references (tokenizer, start weights, data) into files, hashes and models.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use tch::Kind;

use super::record::Inputs;
use super::runner::Context;
use crate::checkpoint::{load, resolve_model_path};
use crate::data::{DataConfig, DataSource, Tokenizer, Validation};
use crate::error::{Error, Place, Result};
use crate::hash::hex;
use crate::model::{CausalLm, ModelConfig, Params};
use crate::plan::{ChoicePlan, EvalConfig, Init, ModelPlan, StageConfig, TokenizerSource};

/// The program's own part of every hash.
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

/// A path as a weight file of the run names it: relative where it lies in the run, so that a run's folder can be
/// moved.
pub fn relative(context: &Context<'_>, path: &Path) -> PathBuf {
    match path.strip_prefix(&context.plan.output) {
        Ok(inside) => inside.to_path_buf(),
        Err(_) => std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned()),
    }
}

/// The architecture a recipe states, with the tokenizer's vocabulary where it leaves that open.
pub fn architecture(model: Option<&ModelPlan>, tokenizer: Option<&Tokenizer>) -> Option<ModelConfig> {
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
    let stated = architecture(plan, tokenizer);
    let Some(path) = start_weights(context, init)? else {
        let mut config = stated.unwrap_or_else(default_model);
        config.dropout = dropout;
        tch::manual_seed(context.plan.seed as i64);
        return Ok(CausalLm::new(&config, Params::init(&config, context.device)?));
    };
    let model = load(&path, stated.as_ref(), context.device)?;
    tch::manual_seed(context.plan.seed as i64);
    if dropout > 0.0 {
        return Ok(model.with_dropout(dropout));
    }
    Ok(model)
}

/// Loads weights in fp32. A file of ours states its architecture; `stated` is for files that do not.
pub fn load(path: &Path, stated: Option<&ModelConfig>, device: tch::Device) -> Result<CausalLm> {
    let loaded = match load::load_model(path, None, device, Kind::Float) {
        Ok(loaded) => loaded,
        Err(error) => match stated {
            Some(config) => load::load_model(path, Some(config), device, Kind::Float)?,
            None => return Err(error),
        },
    };
    for note in &loaded.notes {
        tracing::info!("{}: {note}", path.display());
    }
    Ok(loaded.model)
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

/// The stage's hash inputs: settings, tokenizer, data, start weights, program.
pub fn describe(context: &Context<'_>, config: &StageConfig) -> Result<Inputs> {
    let mut inputs = Inputs::default();
    inputs.add("program", PROGRAM);
    inputs.add("seed", context.plan.seed.to_string());
    inputs.add("precision", context.compute.name());
    inputs.add("device", crate::engine::device::name(context.device));
    let text =
        serde_json::to_string(config).map_err(|e| Error::failed("cannot describe a stage").because(e))?;
    inputs.add("settings", hex(&Sha256::digest(text.as_bytes())));
    let (data, init, source) = match config {
        StageConfig::Tokenizer(c) => (Some(&c.data), None, None),
        StageConfig::Eval(c) => (Some(&c.data), Some(&c.init), c.tokenizer.as_ref()),
        StageConfig::Export(c) => (None, Some(&c.init), c.tokenizer.as_ref()),
        StageConfig::Merge(c) => (None, c.init.as_ref(), None),
        StageConfig::Ppo(c) | StageConfig::Grpo(c) | StageConfig::Spo(c) | StageConfig::Agent(c) => {
            for (key, init) in c.others() {
                if let Some(path) = start_weights(context, init)? {
                    inputs.add(key, path_hash(&path)?);
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
        inputs.add("tokenizer", file_hash(&folder.join("tokenizer.json"))?);
    }
    if let Some(init) = init
        && let Some(path) = start_weights(context, init)?
    {
        inputs.add("start weights", path_hash(&path)?);
    }
    for (what, init) in config.also_reads() {
        if let Some(path) = start_weights(context, init)? {
            inputs.add(what, path_hash(&path)?);
        }
    }
    Ok(inputs)
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

/// Hash of a weight file, or of every file of a folder.
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
    let mut file = std::fs::File::open(path).map_err(read)?;
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
