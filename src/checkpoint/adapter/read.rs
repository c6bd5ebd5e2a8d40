//! Reads an adapter of any form: upstream's file, or PEFT's folder.

use std::collections::HashMap;
use std::path::Path;

use super::adapter_file::stated_scale;
use super::detect::is_peft_folder;
use super::lora::{Adapter, LoraPair, layer_order};
use super::peft;
use crate::checkpoint::host_tensor::HostTensor;
use crate::checkpoint::read::read_weights;
use crate::checkpoint::state_dict::strip_wrappers;
use crate::error::{Error, Place, Result};

impl Adapter {
    /// Reads upstream's file (`.pth`, or the same names in a `.safetensors`), or a PEFT folder.
    ///
    /// # Errors
    /// There is no adapter, A or B of a pair is missing, or PEFT's config asks for what is not computed here.
    pub fn read(path: &Path) -> Result<Self> {
        if path.is_dir() {
            return peft::read(path);
        }
        // The weight file of a PEFT folder means the folder.
        let folder = path.parent().unwrap_or(Path::new("."));
        if is_peft_folder(folder) && peft::weight_file(folder).is_ok_and(|weights| weights == path) {
            return peft::read(folder);
        }
        let weights = read_weights(path)?;
        let at = |e: Error| e.at(Place::file(path));
        let scale = stated_scale(&weights);
        if weights.tensors.keys().any(|name| name.contains(".lora_A.")) {
            return Err(Error::input("these are PEFT's weights without their config")
                .at(Place::file(path))
                .hint("name the folder that holds adapter_config.json"));
        }
        let mut halves = Halves::default();
        for (name, tensor) in weights.tensors {
            // The file may hold other weights too; only the adapter's are read.
            if let Some((module, half)) = name.split_once(".lora.") {
                halves.put(&strip_wrappers(module), half, tensor).map_err(at)?;
            }
        }
        let adapter = halves.adapter(|_| Ok(scale)).map_err(at)?;
        if adapter.pairs.is_empty() {
            return Err(Error::input("this file holds no LoRA adapter")
                .at(Place::file(path))
                .hint("an adapter's names end in .lora.A.weight and .lora.B.weight"));
        }
        Ok(adapter)
    }
}

/// A and B of each module while a file is read: either may come first.
#[derive(Default)]
struct Halves(HashMap<String, (Option<HostTensor>, Option<HostTensor>)>);

impl Halves {
    /// Adds `A.weight` or `B.weight` of a module.
    fn put(&mut self, module: &str, half: &str, tensor: HostTensor) -> Result<()> {
        let entry = self.0.entry(module.to_owned()).or_default();
        match half {
            "A.weight" => entry.0 = Some(tensor),
            "B.weight" => entry.1 = Some(tensor),
            _ => {
                return Err(Error::failed(format!("`{module}` has an unknown part `{half}` in its adapter")));
            }
        }
        Ok(())
    }

    fn adapter(self, scale: impl Fn(&str) -> Result<f64>) -> Result<Adapter> {
        let mut pairs = Vec::with_capacity(self.0.len());
        for (module, halves) in self.0 {
            let (Some(a), Some(b)) = halves else {
                return Err(Error::failed(format!("the adapter of `{module}` lacks its A or its B"))
                    .hint("copy or download the adapter again"));
            };
            let scale = scale(&module)?;
            let pair = LoraPair::new(&module, a, b, scale)?;
            pairs.push((module, pair));
        }
        pairs.sort_by(|a, b| layer_order(&a.0).cmp(&layer_order(&b.0)));
        Ok(Adapter { pairs, ..Adapter::default() })
    }
}
