//! Files that hold a low-rank adapter alone, as our stages and upstream write them.
//!
//! Ours state the scale and the base weights in their metadata; upstream's `lora_*.pth` hold the tensors only, and their
//! scale is 1. Next: `load`, which makes a model of one and its base.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use tch::{Device, Tensor};

use super::detect::{is_adapter, is_peft_folder};
use crate::checkpoint::convert;
use crate::checkpoint::host_tensor::HostTensor;
use crate::checkpoint::read::read_weights;
use crate::checkpoint::weights::Weights;
use crate::error::{Error, Place, Result};
use crate::model::{Adapter, ModelConfig, ModelOverrides};

/// The key in a file's metadata that holds `{"rank", "scale", "base"}`.
pub const ADAPTER_KEY: &str = "adapter";

/// How many adapters may be stacked on one base.
const MAX_STACKED_ADAPTERS: usize = 8;

/// An adapter that was read.
#[derive(Debug)]
pub struct AdapterFile {
    path: PathBuf,
    tensors: HashMap<String, HostTensor>,
    /// Factor of the adapter's output.
    pub scale: f64,
    /// The weights it was trained on, where the file names them and they exist.
    pub base: Option<PathBuf>,
    /// The architecture it was trained in, where the file states it: its base may leave that open.
    pub(in crate::checkpoint) config: Option<ModelConfig>,
}

/// Reads an adapter's file.
///
/// # Errors
/// The file cannot be read, holds other weights, or is PEFT's.
pub fn read(path: &Path) -> Result<AdapterFile> {
    if is_peft_folder(path) {
        return Err(Error::input("this is an adapter in PEFT's form, which stages do not take")
            .at(Place::file(path))
            .hint("minimind adapter convert FOLDER --out lora.pth, or minimind adapter merge, make what they take"));
    }
    AdapterFile::from_weights(path, read_weights(path)?)
}

/// Factor of the adapter's output as the file states it; 1 for upstream's files, which do not.
pub(super) fn stated_scale(weights: &Weights) -> f64 {
    weights.entry(ADAPTER_KEY).and_then(|stated| stated.get("scale")?.as_f64()).unwrap_or(1.0)
}

impl AdapterFile {
    /// The adapter in weights that were read from `path`.
    ///
    /// # Errors
    /// They are not an adapter's alone, or the architecture that the file states cannot be.
    pub(in crate::checkpoint) fn from_weights(path: &Path, weights: Weights) -> Result<Self> {
        if !is_adapter(&weights.tensors) {
            return Err(Error::input("this file holds no adapter").at(Place::file(path)).hint(
                "an adapter has tensors called `{module}.lora.A.weight` and `{module}.lora.B.weight` alone",
            ));
        }
        let stated = weights.entry(ADAPTER_KEY);
        let folder = path.parent().unwrap_or(Path::new("."));
        let base = stated.and_then(|stated| stated.get("base")?.as_str()).map(|base| folder.join(base));
        let config = weights.entry("config");
        let config = config.map(|config| ModelOverrides::from_json(config)?.resolve()).transpose();
        Ok(Self {
            config: config.map_err(|e| e.at(Place::file(path)))?,
            path: path.to_owned(),
            scale: stated_scale(&weights),
            tensors: weights.tensors,
            base: base.filter(|b| b.exists()),
        })
    }

    /// The weights it was trained on, for a model of both; `stacked` is the number of adapters above this one.
    ///
    /// # Errors
    /// The file names none that exist, or too many adapters are stacked.
    pub(in crate::checkpoint) fn base_weights(&self, stacked: usize) -> Result<PathBuf> {
        let fault = |what: &str| {
            Error::input(what).at(Place::file(&self.path)).hint(
                "merge it into the weights it was trained on: `- merge: {init: WEIGHTS, adapter: FILE}`",
            )
        };
        let base = self.base.clone();
        let base = base.ok_or_else(|| fault("this file is an adapter alone, which is no model"))?;
        if stacked >= MAX_STACKED_ADAPTERS {
            return Err(fault("these adapters stand on one another without end"));
        }
        Ok(base)
    }

    /// The adapter's layers for a model of this architecture on `device`, with the file's scale.
    ///
    /// # Errors
    /// Its tensors do not fit the architecture.
    pub fn build(&self, config: &ModelConfig, device: Device) -> Result<Adapter> {
        let tensors = self.tensors.iter().map(|(name, t)| Ok((name.clone(), convert::to_tensor(t)?)));
        let tensors = tensors.collect::<Result<HashMap<String, Tensor>>>()?;
        let adapter =
            Adapter::from_named(config, tensors, device).map_err(|e| e.at(Place::file(&self.path)))?;
        Ok(adapter.scaled(self.scale, 0.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::weights::METADATA;
    use crate::checkpoint::{Value, load, pth};
    use crate::model::{CausalLm, Params};
    use tch::Kind;

    fn write(path: &Path, named: &[(String, Tensor)], said: &serde_json::Value) {
        let dict = named.iter().map(|(name, t)| (name.clone(), Value::Tensor(convert::to_host(t).unwrap())));
        pth::write(path, &Value::dict(dict), &[(METADATA, said.to_string().as_bytes())]).unwrap();
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
        pth::write(&base, &value, &[(METADATA, said.as_bytes())]).unwrap();

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
