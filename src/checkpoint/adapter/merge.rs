//! Merges an adapter into a weight file: file to file, never the same adapter twice.
//!
//! The new file's metadata lists what was merged (`merged` in `minimind.json`), so that a second merge of the same adapter
//! is refused. Upstream's files have no metadata, so nothing is known of them. Next: `apply`, the arithmetic.

use std::collections::HashMap;
use std::path::Path;

use serde_json::{Value as Json, json};
use tch::Kind;

use super::adapter_file::ADAPTER_KEY;
use super::apply::apply;
use super::detect::is_adapter;
use super::lora::Adapter;
use crate::checkpoint::architecture::architecture;
use crate::checkpoint::read::read_weights;
use crate::checkpoint::strict_check::check_fit;
use crate::checkpoint::value::Value;
use crate::checkpoint::weights::{METADATA, Weights};
use crate::checkpoint::{convert, pth, safetensors, tokenizer_folder};
use crate::error::{Error, Place, Result};
use crate::model::params;

/// Key in a file's metadata for the list of adapters that were merged into it.
pub const MERGED: &str = "merged";

/// What was done.
#[derive(Debug)]
pub struct Merged {
    /// Modules that changed.
    pub modules: usize,
    /// Element type of the new file.
    pub kind: Kind,
}

/// Adds the adapter at `adapter` to the model at `base` and writes a `.pth` or `.safetensors` in the type `kind`, by
/// default the base's own.
///
/// # Errors
/// The adapter was merged into it already, or does not fit; a file cannot be read or written.
pub fn merge(base: &Path, adapter: &Path, out: &Path, kind: Option<Kind>) -> Result<Merged> {
    let ending = out.extension().and_then(|e| e.to_str()).unwrap_or_default().to_owned();
    if !["pth", "safetensors"].contains(&ending.as_str()) {
        return Err(Error::input(format!("`{}` is no name for merged weights", out.display()))
            .hint("end it in .pth or .safetensors"));
    }
    let pairs = Adapter::read(adapter)?;
    let mut weights = read_weights(base)?;
    refuse_adapter(base, &weights)?;
    let fingerprint = pairs.fingerprint()?;
    refuse_twice(base, adapter, weights.metadata.as_ref(), &fingerprint)?;
    let config = architecture(base, &weights)?.config;
    let kind = kind.unwrap_or_else(|| weights.majority_kind());
    check_fit(&config, &mut weights.tensors).map_err(|e| e.at(Place::file(base)))?;
    if config.tie_word_embeddings {
        weights.tensors.remove("lm_head.weight");
    }
    let (config, modules) =
        apply(&pairs, &config, &mut weights.tensors, kind).map_err(|e| e.at(Place::file(adapter)))?;
    let mut tensors = Vec::new();
    for spec in params::specs(&config) {
        let missing = || Error::failed(format!("the weights hold no `{}`", spec.name)).at(Place::file(base));
        let weight = convert::to_tensor(weights.tensors.get(&spec.name).ok_or_else(missing)?)?;
        tensors.push((spec.name, convert::to_host(&weight.f_to_kind(kind)?)?));
    }
    let mut record = describe(&weights, &config.to_json(), adapter, &pairs, &fingerprint);
    if let Some(tokenizer) = tokenizer(base, adapter, out)? {
        record["tokenizer"] = tokenizer.into();
    }
    let record = record.to_string();
    if ending == "safetensors" {
        let metadata = [("format".to_owned(), "pt".to_owned()), (METADATA.to_owned(), record)];
        safetensors::write(out, &tensors, HashMap::from(metadata))?;
    } else {
        // Upstream's files name the tied output layer too; it shares the embedding's storage.
        let tied =
            tensors.first().filter(|_| config.tie_word_embeddings).map(|(_, embedding)| embedding.clone());
        tensors.extend(tied.map(|embedding| ("lm_head.weight".to_owned(), embedding)));
        let dict = Value::dict(tensors.into_iter().map(|(name, t)| (name, Value::Tensor(t))));
        pth::write(out, &dict, &[(METADATA, record.as_bytes())])?;
    }
    Ok(Merged { modules, kind })
}

/// A run whose last stage trained an adapter names that adapter's file.
fn refuse_adapter(base: &Path, weights: &Weights) -> Result<()> {
    if !is_adapter(&weights.tensors) {
        return Ok(());
    }
    let stated = weights.entry(ADAPTER_KEY).and_then(|adapter| adapter["base"].as_str());
    // Relative to the adapter's folder, as `adapter_file` reads it.
    let folder = base.parent().unwrap_or(Path::new("."));
    let hint = match stated.map(|weights| folder.join(weights)) {
        Some(weights) => format!("name the weights it was trained on: --model {}", weights.display()),
        None => "name the weights it was trained on".to_owned(),
    };
    Err(Error::input("this is an adapter, not a model").at(Place::file(base)).hint(hint))
}

/// The tokenizer of the model, else the adapter's, as the new file names it: by its full path where the base's relative
/// path would lead elsewhere from the new file.
fn tokenizer(base: &Path, adapter: &Path, out: &Path) -> Result<Option<String>> {
    let found = match tokenizer_folder::find(base)? {
        Some(folder) => Some(folder),
        None => tokenizer_folder::find(adapter)?,
    };
    let full = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let Some(found) = found.map(|folder| full(&folder)) else { return Ok(None) };
    let named = tokenizer_folder::named(base)?;
    let folder = out.parent().unwrap_or(Path::new("."));
    let same = |name: &String| full(&folder.join(name)) == found;
    Ok(Some(named.filter(same).unwrap_or_else(|| found.display().to_string())))
}

/// Refuses an adapter that the weights' metadata lists as merged.
///
/// # Errors
/// It is listed.
pub fn refuse_twice(base: &Path, adapter: &Path, metadata: Option<&Json>, fingerprint: &str) -> Result<()> {
    let list = metadata.and_then(|m| m.get(MERGED)).and_then(Json::as_array);
    let known = list.into_iter().flatten().find(|entry| entry["sha256"] == fingerprint);
    let Some(entry) = known else { return Ok(()) };
    let name = entry["adapter"].as_str().unwrap_or("an adapter");
    Err(Error::input("this adapter is in these weights already")
        .at(Place::file(base))
        .because(format!("{} was merged into these weights already, as {name}", adapter.display()))
        .hint("use the file as it is, or merge into the weights from before"))
}

/// The list of merged adapters with one more, for [`MERGED`] in a file's metadata.
pub fn record(metadata: Option<&Json>, adapter: &Path, pairs: &Adapter, fingerprint: &str) -> Json {
    let mut list = metadata.and_then(|m| m.get(MERGED)?.as_array().cloned()).unwrap_or_default();
    list.push(json!({
        "adapter": adapter.file_name().map(|n| n.to_string_lossy()),
        "sha256": fingerprint,
        "modules": pairs.pairs.len() + pairs.whole.len() + pairs.rows.len(),
    }));
    list.into()
}

/// The base's metadata with the new config and the merged adapter.
fn describe(weights: &Weights, config: &Json, adapter: &Path, pairs: &Adapter, fingerprint: &str) -> Json {
    let mut about = weights.metadata.clone().filter(Json::is_object).unwrap_or_else(|| json!({}));
    about["config"] = config.clone();
    about[MERGED] = record(weights.metadata.as_ref(), adapter, pairs, fingerprint);
    about
}
