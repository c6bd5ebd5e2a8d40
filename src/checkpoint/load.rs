//! From a file or folder to a model, strictly: every weight must fit, and all that do not are named.
//!
//! The architecture is what the caller gives, else what the file's own metadata states, else a
//! `config.json` beside it, else what names and shapes tell. Next: `architecture`, `resolve`.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use serde_json::Value as Json;
use tch::{Device, Kind, Tensor};

use super::value::HostTensor;
use super::weight_file::weights_of_resume;
use super::{about, adapter, architecture, bridge, folder, gguf, names, pth, safetensors};
use crate::error::{Error, Place, Result};
use crate::model::{CausalLm, ModelConfig, ModelOverrides, Params, SCORE, params};

/// The record in our files, and the key in safetensors' metadata, that holds `{"config": {...}}`.
pub const METADATA: &str = "minimind.json";

/// Positions a file may ask for: a table of them is made, whatever the file's size.
const MOST_POSITIONS: i64 = 1 << 20;

/// A model and how it came to be known.
#[derive(Debug)]
pub struct LoadedModel {
    /// The model.
    pub model: CausalLm,
    /// Where it lay.
    pub path: PathBuf,
    /// What told its architecture, for the user.
    pub architecture_from: String,
    /// What had to be assumed, for the user.
    pub notes: Vec<String>,
}

/// A file's or folder's weights before they are a model.
#[derive(Debug)]
pub struct Weights {
    /// By upstream's names, prefixes taken off.
    pub tensors: HashMap<String, HostTensor>,
    /// The file's own metadata, if it has any.
    pub metadata: Option<Json>,
    /// The keys under which a checkpoint has them, where it does not hold them itself: `state_dict`.
    pub under: Option<String>,
}

fn json(path: &Path, bytes: &[u8]) -> Result<Json> {
    serde_json::from_slice(bytes)
        .map_err(|e| Error::failed("this JSON cannot be read").at(Place::file(path)).because(e))
}

pub(super) fn read_json(path: &Path) -> Result<Json> {
    json(path, &crate::files::read(path).map_err(|e| Error::io("read", path, e))?)
}

/// Reads weights of any kind we know, without building a model.
pub fn read_weights(path: &Path) -> Result<Weights> {
    let mut weights = read_stored(path)?;
    weights.tensors = names::of_language_model(weights.tensors);
    Ok(weights)
}

/// The same under the names that are stored, wrappers' parts taken out.
pub(super) fn read_stored(path: &Path) -> Result<Weights> {
    if path.is_dir() {
        return folder::read(path);
    }
    let head = crate::files::open(path).and_then(|f| {
        let mut head = Vec::new();
        std::io::Read::read_to_end(&mut std::io::Read::take(f, 9), &mut head).map(|_| head)
    });
    let head = head.map_err(|e| Error::io("read the weights", path, e))?;
    let at = |e: Error| e.at(Place::file(path));
    if head.starts_with(gguf::MAGIC) {
        return gguf::read_weights(path);
    }
    let named = path.extension().is_some_and(|e| e == "safetensors");
    if named || head.get(8) == Some(&b'{') {
        let contents = safetensors::read(path)?;
        let metadata = contents.metadata.get(METADATA).map(|text| json(path, text.as_bytes())).transpose()?;
        return Ok(Weights { tensors: names::own(contents.tensors).map_err(at)?, metadata, under: None });
    }
    let mut under = String::new();
    let (tensors, metadata) = match pth::read_either(path, METADATA)? {
        pth::Contents::Tree(value, extra) => {
            if let Some(sets) = names::several(&value) {
                let sets = sets.iter().map(|name| name.escape_debug().to_string()).collect::<Vec<_>>();
                return Err(at(Error::failed(format!(
                    "this file holds the weights of several models: {}",
                    sets.join(", ")
                ))
                .hint("in Python, save one of them alone: torch.save(torch.load(FILE)[NAME], NEW)")));
            }
            under = names::state_dict(&value).1.join(".");
            (names::tensors_of(&value).map_err(at)?, extra)
        }
        pth::Contents::Script(script) => {
            check_named(path, &script)?;
            (names::own(script.tensors).map_err(at)?, script.metadata)
        }
    };
    let metadata = metadata.map(|bytes| json(path, &bytes)).transpose()?;
    Ok(Weights { tensors, metadata, under: Some(under).filter(|keys| !keys.is_empty()) })
}

/// Whether a TorchScript program, which is read as data and never run, has its weights by name.
fn check_named(path: &Path, script: &pth::ScriptContents) -> Result<()> {
    if script.tensors.is_empty() {
        let what = match script.constants.is_empty() {
            true => "this TorchScript program holds no weights",
            false => "this TorchScript program is frozen: its weights have no names",
        };
        return Err(Error::failed(what)
            .at(Place::file(path))
            .hint("export it without --freeze, or give the weights that it was exported from"));
    }
    Ok(())
}

/// Every tensor of a file or folder, on the CPU.
pub fn named_tensors(path: &Path) -> Result<HashMap<String, Tensor>> {
    read_weights(path)?.tensors.iter().map(|(name, t)| Ok((name.clone(), bridge::to_tensor(t)?))).collect()
}

/// The architecture of weights: the config, what told it, and what was assumed.
pub fn architecture(path: &Path, weights: &Weights) -> Result<(ModelConfig, String, Vec<String>)> {
    let beside = if path.is_dir() { path.join("config.json") } else { path.with_file_name("config.json") };
    let own = weights.metadata.as_ref().and_then(|m| m.get("config"));
    let (stated, from) = if let Some(config) = own {
        (ModelOverrides::from_json(config)?, "the file's own metadata".to_owned())
    } else if let Some(config) = sibling(path) {
        (ModelOverrides::from_json(&config)?, "the weight file beside it".to_owned())
    } else if beside.is_file() {
        let stated = read_json(&beside)
            .and_then(|j| ModelOverrides::from_json(&j))
            .map_err(|e| e.at(Place::file(&beside)))?;
        (stated, beside.display().to_string())
    } else {
        (ModelOverrides::default(), "names and shapes of the weights".to_owned())
    };
    let (told, mut notes) = architecture::inferred(&weights.tensors, stated.num_attention_heads);
    if stated.num_experts_per_tok.is_some() {
        notes.retain(|note| !note.starts_with("experts"));
    }
    let config = stated.over(told).resolve().map_err(|e| {
        Error::failed("the architecture of these weights is not clear")
            .at(Place::file(path))
            .because(e.what())
            .hint("put a config.json beside them, or give --config")
    })?;
    Ok((config, from, notes))
}

/// The architecture of weights for which a recipe states `wish`, and what the user should know. The weights' names
/// and shapes are facts; what they leave open comes from the recipe, then from a `config.json` beside them. `None`
/// where nothing is open (the file states its own architecture, the `config.json` is of its folder, or it is an
/// adapter, which stands on other weights) and where the recipe states another model, such as that of another stage.
///
/// # Errors
/// Weights that cannot be read; facts and wish that no model has together.
pub fn agreed(path: &Path, wish: &ModelOverrides) -> Result<Option<(ModelConfig, Vec<String>)>> {
    let told =
        if path.is_dir() { path.join("config.json").is_file() } else { about::states_architecture(path)? };
    if told || sibling(path).is_some() {
        return Ok(None);
    }
    let weights = read_weights(path)?;
    if adapter::file::is_adapter(&weights.tensors) {
        return Ok(None);
    }
    let beside = path.with_file_name("config.json");
    // One that cannot be read is not missed where the recipe tells all.
    let beside = if beside.is_file() {
        read_json(&beside).and_then(|j| ModelOverrides::from_json(&j)).unwrap_or_default()
    } else {
        ModelOverrides::default()
    };
    let (told, mut notes) =
        architecture::inferred(&weights.tensors, wish.num_attention_heads.or(beside.num_attention_heads));
    if wish.num_experts_per_tok.or(beside.num_experts_per_tok).is_some() {
        notes.retain(|note| !note.starts_with("experts"));
    }
    let denied = architecture::denied(wish, &told);
    if denied.iter().any(|(key, _)| ["hidden_size", "num_hidden_layers"].contains(key)) {
        for (_, note) in denied {
            tracing::info!("{}: {note}", path.display());
        }
        return Ok(None);
    }
    notes.extend(denied.into_iter().map(|(_, note)| note));
    notes.extend(architecture::overruled(wish, &beside));
    // How much is dropped out is the stage's to say.
    let wish = ModelOverrides { dropout: None, ..wish.clone() };
    let config = told.over(wish).over(beside).resolve().map_err(|e| {
        Error::input("the recipe's `model` does not go with these weights")
            .at(Place::file(path))
            .because(e.what())
            .hint("state the architecture that the weights were trained with")
    })?;
    Ok(Some((config, notes)))
}

/// A resume file has no metadata of its own; the weights saved with it do.
fn sibling(path: &Path) -> Option<Json> {
    let bytes = pth::read_extra(&weights_of_resume(path)?, METADATA).ok()??;
    serde_json::from_slice::<Json>(&bytes).ok()?.get("config").cloned()
}

/// Builds the model that `path` holds; `given` wins over what the file says of itself. An adapter's file gives the
/// weights it belongs to with the adapter in them.
pub fn load_model(
    path: &Path,
    given: Option<&ModelConfig>,
    device: Device,
    kind: Kind,
) -> Result<LoadedModel> {
    load_read(read_weights(path)?, path, given, device, kind, 0)
}

/// [`load_model`] of weights that were read from `path`, below `depth` adapters.
pub(super) fn load_read(
    weights: Weights,
    path: &Path,
    given: Option<&ModelConfig>,
    device: Device,
    kind: Kind,
    depth: usize,
) -> Result<LoadedModel> {
    if adapter::file::is_adapter(&weights.tensors) {
        return adapter::file::load_with_base(path, weights, given, device, kind, depth);
    }
    refuse_reward(&weights, path)?;
    model_from(weights, path, given, device, kind)
}

/// A reward model's weights are no language model's.
pub(super) fn refuse_reward(weights: &Weights, path: &Path) -> Result<()> {
    if weights.tensors.contains_key(SCORE) {
        return Err(Error::input("this is a reward model: it scores, but does not speak")
            .at(Place::file(path))
            .hint("name a language model's weights"));
    }
    Ok(())
}

/// Files without shared storages may keep tied weights under the output layer's name alone.
pub(super) fn name_embedding(weights: &mut Weights) {
    if !weights.tensors.contains_key("model.embed_tokens.weight")
        && let Some(head) = weights.tensors.get("lm_head.weight").cloned()
    {
        weights.tensors.insert("model.embed_tokens.weight".to_owned(), head);
    }
}

/// The model of weights that were read from `path`.
pub(super) fn model_from(
    mut weights: Weights,
    path: &Path,
    given: Option<&ModelConfig>,
    device: Device,
    kind: Kind,
) -> Result<LoadedModel> {
    if weights.tensors.is_empty() {
        return Err(Error::failed("there are no weights in this file").at(Place::file(path)).hint(
            "a state dict is looked for in the file itself and under model, state_dict, model_state_dict and module",
        ));
    }
    name_embedding(&mut weights);
    let (config, architecture_from, notes) = match given {
        Some(config) => (config.clone(), "the given config".to_owned(), Vec::new()),
        None => architecture(path, &weights)?,
    };
    check(&config, &mut weights.tensors).map_err(|e| e.at(Place::file(path)))?;
    let params = Params::build(&config, |spec| {
        let saved = weights.tensors.remove(&spec.name);
        let saved = saved.ok_or_else(|| Error::failed(format!("the weights hold no `{}`", spec.name)))?;
        let own = bridge::to_tensor_as(&saved, device, kind)?;
        saved.storage().release();
        Ok(own)
    })?;
    Ok(LoadedModel { model: CausalLm::new(&config, params), path: path.to_owned(), architecture_from, notes })
}

/// Copies weights into a model, which keeps its type and device; strict as [`load_model`].
pub fn load_into(model: &CausalLm, mut tensors: HashMap<String, HostTensor>) -> Result<()> {
    check(model.config(), &mut tensors)?;
    for (name, param) in model.params().names().iter().zip(model.params().tensors()) {
        let saved = bridge::to_tensor(&tensors[name])?;
        tch::no_grad(|| param.shallow_clone().f_copy_(&saved))?;
    }
    Ok(())
}

/// A file may claim a million layers or positions: the claim must not cost more than the file.
fn plausible(config: &ModelConfig, tensors: usize) -> Result<()> {
    let experts = config.moe.as_ref().map_or((0, 0), |moe| (moe.num_experts, moe.n_shared_experts));
    for (name, claimed, most) in [
        ("num_hidden_layers", config.num_hidden_layers, tensors as i64),
        ("num_experts", experts.0, tensors as i64),
        ("n_shared_experts", experts.1, tensors as i64),
        ("max_position_embeddings", config.max_position_embeddings, MOST_POSITIONS),
    ] {
        if claimed > most {
            return Err(Error::failed("the weights do not fit the architecture")
                .because(format!("`{name}` is {claimed}, but there are {tensors} tensors and at most {MOST_POSITIONS} positions")));
        }
    }
    Ok(())
}

/// Takes out what is known to be derived, then demands the table of parameters exactly.
pub(super) fn check(config: &ModelConfig, tensors: &mut HashMap<String, HostTensor>) -> Result<()> {
    // Tables of rotary positions and the like, which older files carry.
    tensors.retain(|name, _| {
        !(name.ends_with("freqs_cos") || name.ends_with("freqs_sin") || name.ends_with("rotary_emb.inv_freq"))
    });
    let mut faults = Vec::new();
    if config.tie_word_embeddings
        && let (Some(head), Some(embedding)) =
            (tensors.remove("lm_head.weight"), tensors.get("model.embed_tokens.weight"))
        && !head.is_same(embedding)
        && head.bytes()? != embedding.bytes()?
    {
        faults.push("differs from the embedding, which the architecture ties: lm_head.weight".to_owned());
    }
    plausible(config, tensors.len())?;
    let table = params::specs(config);
    for spec in &table {
        match tensors.get(&spec.name).map(HostTensor::shape) {
            None => faults.push(format!("missing: {}", spec.name)),
            Some(shape) if shape != spec.shape => faults.push(format!(
                "misshapen: {} is {shape:?}, the architecture wants {:?}",
                spec.name, spec.shape
            )),
            Some(_) => {}
        }
    }
    let known: HashSet<&str> = table.iter().map(|s| s.name.as_str()).collect();
    let mut extra: Vec<_> = tensors.keys().filter(|name| !known.contains(name.as_str())).collect();
    extra.sort();
    faults.extend(extra.into_iter().map(|name| format!("extra: {name}")));
    if faults.is_empty() {
        return Ok(());
    }
    Err(Error::failed("the weights do not fit the architecture")
        .because(faults.join("\n         "))
        .hint("give the config they were trained with, or take another file"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_come_back_and_faults_are_all_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sft_32.pth");
        for name in ["minimind2", "minimind3-moe"] {
            let mut stated = crate::model::config::preset(name).unwrap();
            (stated.hidden_size, stated.num_hidden_layers, stated.vocab_size) = (Some(32), Some(2), Some(64));
            let config = stated.resolve().unwrap();
            let model = CausalLm::new(&config, Params::init(&config, Device::Cpu).unwrap());
            let value = crate::engine::resume::weights_value(&model, Kind::Float).unwrap();
            let meta = serde_json::json!({"config": config.to_json()}).to_string();
            for extra in [&[(METADATA, meta.as_bytes())][..], &[]] {
                pth::write(&path, &value, extra).unwrap();
                let back = load_model(&path, None, Device::Cpu, Kind::Float).unwrap();
                assert_eq!(back.model.config(), &config);
                for (a, b) in back.model.params().tensors().iter().zip(model.params().tensors()) {
                    assert!(a.equal(b));
                }
            }
            let mut tensors = names::tensors_of(&value).unwrap();
            let norm = tensors.remove("model.norm.weight").unwrap();
            tensors.insert("odd".into(), norm.clone());
            tensors.insert("model.embed_tokens.weight".into(), norm);
            tensors.remove("lm_head.weight");
            let text = load_into(&model, tensors).unwrap_err().to_string();
            for part in ["missing: model.norm.weight", "extra: odd", "misshapen: model.embed_tokens.weight"] {
                assert!(text.contains(part), "{text}");
            }
        }
    }

    #[test]
    fn the_references_models_are_loaded() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
        for (era, shape) in [("minimind2", "moe"), ("minimind3", "dense")] {
            let folder = root.join(era).join(shape);
            let loaded =
                load_model(&folder.join("weights_fp32.pth"), None, Device::Cpu, Kind::Float).unwrap();
            let config = loaded.model.config().clone();
            assert_eq!((config.era.name(), config.moe.is_some()), (era, shape == "moe"));
            assert!(loaded.architecture_from.ends_with("config.json") && loaded.notes.is_empty());
            let resume = folder.join("resume/pretrain_32_resume.pth");
            if shape == "dense" {
                let given = load_model(&resume, Some(&config), Device::Cpu, Kind::Float).unwrap();
                assert_eq!(given.model.config(), &config);
            }
        }
    }
}
