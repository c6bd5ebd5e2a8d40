//! The model that is exported: its weights in fp32, and its file's metadata.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use tch::{Device, Kind};

use crate::checkpoint::{eos, load, read_weights};
use crate::data::Tokenizer;
use crate::data::tokenizer::eos_token_ids;
use crate::error::Result;
use crate::files;
use crate::model::{CausalLm, ModelConfig, Params};

/// A model to export.
#[derive(Debug)]
pub struct Source {
    /// Its file or folder.
    pub path: PathBuf,
    /// The model on the CPU in fp32, which holds every type of a weight file exactly.
    pub model: CausalLm,
    /// The type that most of its numbers are stored in.
    pub stored: Kind,
    /// Its file's metadata: recipe, stage, hashes.
    pub metadata: Map<String, Value>,
    /// Folder with its tokenizer.
    pub tokenizer: Option<PathBuf>,
    /// The ids of the tokens that end an answer.
    pub ends: Vec<u32>,
    /// What stated its architecture.
    pub architecture_from: String,
    /// What had to be assumed.
    pub notes: Vec<String>,
}

impl Source {
    /// Reads a weight file or folder. `given` wins over the architecture that it states.
    ///
    /// # Errors
    /// The weights or the tokenizer cannot be read, or the architecture is unclear.
    pub fn open(path: &Path, given: Option<&ModelConfig>, tokenizer: Option<PathBuf>) -> Result<Self> {
        let loaded = load::load_model(path, given, Device::Cpu, Kind::Float)?;
        let weights = read_weights(path)?;
        let stored = weights.majority_kind();
        let metadata = match weights.metadata {
            Some(Value::Object(metadata)) => metadata,
            _ => Map::new(),
        };
        let words = tokenizer.as_deref().map(Tokenizer::load).transpose()?;
        let ends = eos_token_ids(words.as_ref(), &eos::token_ids(path)?);
        Ok(Self {
            path: path.to_owned(),
            model: loaded.model,
            stored,
            metadata,
            tokenizer,
            ends,
            architecture_from: loaded.architecture_from,
            notes: loaded.notes,
        })
    }

    /// The same with upstream's rope scaling (YaRN) for long contexts turned on.
    pub fn with_yarn(self) -> Self {
        Self { model: self.model.with_yarn(), ..self }
    }

    /// The same model rounded to `kind`, which it then computes in.
    ///
    /// # Errors
    /// libtorch has no memory left.
    pub fn model_as(&self, kind: Kind) -> Result<CausalLm> {
        let (config, params) = (self.model.config(), self.model.params());
        let tensors = params.tensors().iter().map(|t| t.shallow_clone());
        let named = params.names().iter().cloned().zip(tensors).collect();
        Ok(CausalLm::new(config, Params::from_named(config, named, Device::Cpu, kind)?))
    }

    /// The metadata of an export at `file`: the source's, with the architecture, EOS ids, tokenizer and origin.
    pub fn describe(&self, file: &Path) -> Value {
        let mut about = self.metadata.clone();
        about.insert("config".into(), self.model.config().to_json());
        about.insert(eos::KEY.into(), eos::to_json(&self.ends));
        about.remove("tokenizer");
        // An export may go to others, whom the folders of this machine do not concern.
        if let Some(folder) = &self.tokenizer
            && let Some(way) = files::relative_path(file.parent().unwrap_or(Path::new("")), folder)
        {
            about.insert("tokenizer".into(), json!(way));
        }
        about.values_mut().for_each(strip_absolute_paths);
        about.insert("exported_from".into(), json!(self.path.file_name().map(|n| n.to_string_lossy())));
        about.insert("exported_by".into(), json!(concat!("minimind ", env!("CARGO_PKG_VERSION"))));
        Value::Object(about)
    }

    /// Whether an export to `file` will name the tokenizer that there is.
    pub fn names_tokenizer(&self, file: &Path) -> bool {
        let folder = file.parent().unwrap_or(Path::new(""));
        self.tokenizer.as_ref().is_none_or(|tokenizer| files::relative_path(folder, tokenizer).is_some())
    }
}

/// Shortens absolute paths, anywhere in the value, to their last name.
fn strip_absolute_paths(value: &mut Value) {
    match value {
        Value::String(text) if Path::new(&*text).is_absolute() => {
            *text =
                Path::new(&*text).file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
        }
        Value::Array(list) => list.iter_mut().for_each(strip_absolute_paths),
        Value::Object(map) => map.values_mut().for_each(strip_absolute_paths),
        _ => {}
    }
}
