//! Files that hold a low-rank adapter alone, and how one becomes a model again.
//!
//! Ours note in their metadata what the adapter's output is multiplied by and which weights it belongs to; upstream's
//! `lora_*.pth` hold the tensors only, and their scale is 1. Next: `load`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use tch::{Device, Kind, Tensor};

use super::super::bridge;
use super::super::load::{self, LoadedModel, Weights};
use super::super::value::HostTensor;
use crate::error::{Error, Place, Result};
use crate::model::{Adapter, ModelConfig, ModelOverrides};

/// The key in a file's metadata that holds `{"rank", "scale", "base"}`.
pub const METADATA: &str = "adapter";
/// How many adapters may stand on one another.
const MOST_LAYERS_OF_ADAPTERS: usize = 8;

/// An adapter that was read.
#[derive(Debug)]
pub struct AdapterFile {
    path: PathBuf,
    tensors: HashMap<String, HostTensor>,
    /// What its output is multiplied by.
    pub scale: f64,
    /// The weights it was trained on, where the file says so and they are there.
    pub base: Option<PathBuf>,
    /// The architecture it was trained in, where the file says so: its base may leave that open.
    config: Option<ModelConfig>,
}

/// Whether these are an adapter's weights and nothing else.
pub fn is_adapter(tensors: &HashMap<String, HostTensor>) -> bool {
    !tensors.is_empty() && tensors.keys().all(|name| name.contains(".lora."))
}

/// Reads an adapter's file.
///
/// # Errors
/// It holds other weights.
pub fn read(path: &Path) -> Result<AdapterFile> {
    if super::peft::is_folder(path) {
        return Err(Error::input("this is an adapter in PEFT's form, which stages do not take")
            .at(Place::file(path))
            .hint("minimind adapter convert FOLDER --out lora.pth, or minimind adapter merge, make what they take"));
    }
    from_weights(path, load::read_weights(path)?)
}

fn from_weights(path: &Path, weights: Weights) -> Result<AdapterFile> {
    if !is_adapter(&weights.tensors) {
        return Err(Error::input("this file holds no adapter").at(Place::file(path)).hint(
            "an adapter has tensors called `{module}.lora.A.weight` and `{module}.lora.B.weight` alone",
        ));
    }
    let scale = stated_scale(&weights);
    let said = weights.metadata.as_ref().and_then(|all| all.get(METADATA));
    let folder = path.parent().unwrap_or(Path::new("."));
    let base = said.and_then(|said| said.get("base")?.as_str()).map(|base| folder.join(base));
    let config = weights.metadata.as_ref().and_then(|all| all.get("config"));
    let config = config.map(|config| ModelOverrides::from_json(config)?.resolve()).transpose();
    Ok(AdapterFile {
        config: config.map_err(|e| e.at(Place::file(path)))?,
        path: path.to_owned(),
        tensors: weights.tensors,
        scale,
        base: base.filter(|b| b.exists()),
    })
}

/// What the adapter's output is multiplied by: upstream's files do not say, theirs is 1.
pub(super) fn stated_scale(weights: &Weights) -> f64 {
    let said = weights.metadata.as_ref().and_then(|all| all.get(METADATA));
    said.and_then(|said| said.get("scale")?.as_f64()).unwrap_or(1.0)
}

impl AdapterFile {
    /// The adapter for a model of this architecture, with the file's scale.
    pub fn build(&self, config: &ModelConfig, device: Device) -> Result<Adapter> {
        let tensors = self.tensors.iter().map(|(name, t)| Ok((name.clone(), bridge::to_tensor(t)?)));
        let tensors = tensors.collect::<Result<HashMap<String, Tensor>>>()?;
        let adapter =
            Adapter::from_named(config, tensors, device).map_err(|e| e.at(Place::file(&self.path)))?;
        Ok(adapter.scaled(self.scale, 0.0))
    }
}

/// The model that an adapter makes of the weights it belongs to.
pub(in crate::checkpoint) fn load_with_base(
    path: &Path,
    weights: Weights,
    given: Option<&ModelConfig>,
    device: Device,
    kind: Kind,
    depth: usize,
) -> Result<LoadedModel> {
    let file = from_weights(path, weights)?;
    let alone = |what: &str| {
        Error::input(what)
            .at(Place::file(path))
            .hint("merge it into the weights it was trained on: `- merge: {init: WEIGHTS, adapter: FILE}`")
    };
    let base =
        file.base.as_deref().ok_or_else(|| alone("this file is an adapter alone, which is no model"))?;
    if depth >= MOST_LAYERS_OF_ADAPTERS {
        return Err(alone("these adapters stand on one another without end"));
    }
    let given = given.or(file.config.as_ref());
    let mut loaded = load::load_read(load::read_weights(base)?, base, given, device, kind, depth + 1)?;
    file.build(loaded.model.config(), device)?.merge_into(loaded.model.params(), kind)?;
    loaded.notes.push(format!("an adapter on {}", base.display()));
    loaded.path = path.to_owned();
    Ok(loaded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{Value, pth};
    use crate::model::{CausalLm, Params};

    fn write(path: &Path, named: &[(String, Tensor)], said: &serde_json::Value) {
        let dict = named.iter().map(|(name, t)| (name.clone(), Value::Tensor(bridge::to_host(t).unwrap())));
        pth::write(path, &Value::dict(dict), &[(load::METADATA, said.to_string().as_bytes())]).unwrap();
    }

    #[test]
    fn an_adapter_finds_its_weights_or_says_what_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        let mut stated = crate::model::config::preset("minimind2").unwrap();
        (stated.hidden_size, stated.num_hidden_layers, stated.vocab_size) = (Some(32), Some(1), Some(48));
        let config = stated.resolve().unwrap();
        let model = CausalLm::new(&config, Params::init(&config, Device::Cpu).unwrap());
        let base = folder.path().join("sft_32.pth");
        let value = crate::engine::resume::weights_value(&model, Kind::Float).unwrap();
        let said = serde_json::json!({"config": config.to_json()}).to_string();
        pth::write(&base, &value, &[(load::METADATA, said.as_bytes())]).unwrap();

        let adapter = Adapter::fresh(&config, &[], 2, Device::Cpu).unwrap();
        let _ = adapter.tensors()[1].shallow_clone().fill_(0.5);
        let named: Vec<(String, Tensor)> = adapter
            .names()
            .iter()
            .cloned()
            .zip(adapter.tensors().iter().map(Tensor::shallow_clone))
            .collect();
        let path = folder.path().join("style_32.pth");
        write(&path, &named, &serde_json::json!({"adapter": {"scale": 2.0, "base": "sft_32.pth"}}));
        let file = read(&path).unwrap();
        assert_eq!((file.scale, file.base.as_deref()), (2.0, Some(base.as_path())));
        let loaded = load::load_model(&path, None, Device::Cpu, Kind::Float).unwrap();
        let weight = |m: &CausalLm| m.params().get("model.layers.0.self_attn.q_proj.weight");
        let want = weight(&model) + adapter.tensors()[1].matmul(&adapter.tensors()[0]) * 2.0;
        assert!((weight(&loaded.model) - want).abs().max().double_value(&[]) < 1e-6);

        let fault =
            |path: &Path| load::load_model(path, None, Device::Cpu, Kind::Float).unwrap_err().to_string();
        write(&path, &named, &serde_json::json!({"adapter": {"scale": 2.0, "base": "gone.pth"}}));
        assert!(fault(&path).contains("an adapter alone") && fault(&path).contains("merge"));
        write(&path, &named, &serde_json::json!({"adapter": {"base": "style_32.pth"}}));
        assert!(fault(&path).contains("without end"));
        assert!(read(&base).unwrap_err().to_string().contains("holds no adapter"));
    }
}
