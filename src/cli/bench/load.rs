//! `minimind bench load`: weights from a file into a model, beside a plain copy of as many bytes.

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::json;
use tch::{Device, Kind};

use super::median;
use crate::checkpoint::{METADATA, load_model, pth, resolve_model_path};
use crate::engine::memory::measure_peak;
use crate::engine::resume::weights_value;
use crate::error::{Error, Result};
use crate::model::CausalLm;

/// Times and memory of loading a model.
#[derive(Debug)]
pub struct Loaded {
    /// Bytes of the model in fp32.
    pub bytes: u64,
    /// Seconds of a load from the system's cache.
    pub seconds: f64,
    /// Seconds of a copy of as many bytes, measured in turns with it.
    pub copy_seconds: f64,
    /// Most memory that the first load added; `None` where the system does not tell.
    pub added_bytes: Option<f64>,
}

/// Loads the model `name`, or without a name a `.pth` of `model`'s weights in a temporary folder; reports medians of
/// `repeat` loads.
///
/// # Errors
/// `name` is no model, or the temporary folder has no room for the weights.
pub fn load(name: Option<&str>, model: &CausalLm, repeat: u16) -> Result<Loaded> {
    let folder = tempfile::tempdir().map_err(|e| Error::io("make a folder in", &std::env::temp_dir(), e))?;
    let path = match name {
        Some(name) => resolve_model_path(name)?,
        None => written(model, folder.path())?,
    };
    let bytes: u64 = model.params().tensors().iter().map(|t| t.numel() as u64 * 4).sum();
    let source = vec![1u8; bytes as usize];
    let (mut seconds, mut copies) = (Vec::new(), Vec::new());
    // The first brings the file into the system's cache; later ones take memory that it gave back.
    let ((), before) = measure_peak(Device::Cpu, || ());
    let (loaded, peak) = measure_peak(Device::Cpu, || load_model(&path, None, Device::Cpu, Kind::Float));
    drop(loaded?);
    let added_bytes = before.zip(peak).map(|(before, peak)| (peak - before) * 1e6);
    for _ in 0..repeat {
        let clock = Instant::now();
        drop(black_box(source.clone()));
        copies.push(clock.elapsed().as_secs_f64());
        let clock = Instant::now();
        let loaded = load_model(&path, None, Device::Cpu, Kind::Float)?;
        seconds.push(clock.elapsed().as_secs_f64());
        drop(loaded);
    }
    Ok(Loaded { bytes, seconds: median(seconds), copy_seconds: median(copies), added_bytes })
}

fn written(model: &CausalLm, folder: &Path) -> Result<PathBuf> {
    let path = folder.join("weights.pth");
    let about = json!({"config": model.config().to_json()}).to_string();
    pth::write(&path, &weights_value(model, Kind::Float)?, &[(METADATA, about.as_bytes())])?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Params, config};

    #[test]
    fn what_loading_takes_is_measured() {
        let mut stated = config::preset("minimind3").unwrap();
        (stated.hidden_size, stated.num_hidden_layers) = (Some(64), Some(1));
        let config = stated.resolve().unwrap();
        let model = CausalLm::new(&config, Params::init(&config, Device::Cpu).unwrap());
        let made = load(None, &model, 2).unwrap();
        assert_eq!(made.bytes, 4 * crate::model::params::count(&config).0);
        assert!(made.seconds > 0.0 && made.copy_seconds > 0.0);
        assert!(load(Some("no such file.pth"), &model, 1).is_err());
    }
}
