//! What `--model` names: a file, a folder of weights, a run's folder or one of its stages.

use std::path::{Path, PathBuf};

use super::adapter::detect::{adapter_without_model, is_peft_folder_alone};
use super::pth;
use super::weight_file::{self, WeightFile};
use super::weights::{METADATA, folder_weights};
use crate::error::{Error, Place, Result};

/// The file or Hugging Face folder that `spec` names; `RUN:stage` names a stage's weights in a run's folder.
///
/// # Errors
/// There is nothing there that holds weights.
pub fn resolve_model_path(spec: &str) -> Result<PathBuf> {
    let path = Path::new(spec);
    if path.is_file() {
        return Ok(path.to_owned());
    }
    if path.is_dir() {
        if is_peft_folder_alone(path) {
            return Err(adapter_without_model(path));
        }
        if folder_weights(path).is_some() {
            return Ok(path.to_owned());
        }
        return newest(path, None);
    }
    if let Some((run, stage)) = spec.rsplit_once(':')
        && Path::new(run).is_dir()
    {
        return newest(Path::new(run), Some(stage));
    }
    Err(Error::input(format!("there is no model `{spec}`"))
        .hint("give a .pth, .safetensors or .gguf file, a folder with weights, a run's folder, or RUN:stage"))
}

fn newest(run: &Path, stage: Option<&str>) -> Result<PathBuf> {
    let read = |e| Error::io("look for weights", run, e);
    let (mut found, mut names) = (Vec::new(), Vec::new());
    for entry in std::fs::read_dir(run).map_err(read)? {
        let path = entry.map_err(read)?.path();
        let Some(name) = path.file_name().and_then(|n| n.to_str()).filter(|n| n.ends_with(".pth")) else {
            continue;
        };
        if weight_file::is_resume(&path) {
            continue;
        }
        let wanted = match stage {
            Some(stage) => WeightFile::from_path(&path).is_some_and(|file| file.stage() == stage),
            None => generates_text(&path, name),
        };
        names.push(name.to_owned());
        if wanted {
            let time = std::fs::metadata(&path).and_then(|m| m.modified()).map_err(read)?;
            found.push((time, path));
        }
    }
    found.sort();
    // A run's folder has an order, its stages'; any other only has files.
    if stage.is_none() && found.len() > 1 && !is_run(run) {
        names.sort();
        let meant = &found[found.len() - 1].1;
        return Err(Error::input(format!(
            "this folder holds {} weight files: {}",
            names.len(),
            names.join(", ")
        ))
        .at(Place::file(run))
        .hint(format!("name the one that is meant, such as {}", meant.display())));
    }
    found.pop().map(|(_, path)| path).ok_or_else(|| {
        let what = stage.map_or("no weights".to_owned(), |s| format!("no weights of a stage `{s}`"));
        Error::input(format!("this folder holds {what}"))
            .at(Place::file(run))
            .hint("a run's weights are called <stage>_<hidden>.pth")
    })
}

/// Whether a folder is one that `minimind run` writes.
fn is_run(folder: &Path) -> bool {
    folder.join("plan.json").is_file()
}

/// Whether a run's weight file is a model that generates text: a reward model is not, nor an adapter that does not name
/// its base weights.
fn generates_text(path: &Path, name: &str) -> bool {
    let metadata = pth::read_extra(path, METADATA).ok().flatten();
    match metadata.and_then(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes).ok()) {
        Some(metadata) => {
            metadata.get("head").is_none() && metadata.get("adapter").is_none_or(|a| a["base"].is_string())
        }
        None => !name.starts_with("lora"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_and_stages_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let run = folder.path();
        let spec = run.to_str().unwrap();
        assert!(resolve_model_path(spec).is_err());
        for name in ["sft_8.pth", "sft_8_resume.pth", "sft_long_8.pth", "lora_8.pth", "sft_8_resume.prev.pth"]
        {
            std::fs::write(run.join(name), "").unwrap();
        }
        assert_eq!(resolve_model_path(&format!("{spec}:sft")).unwrap(), run.join("sft_8.pth"));
        assert_eq!(resolve_model_path(&format!("{spec}:lora")).unwrap(), run.join("lora_8.pth"));
        let several = resolve_model_path(spec).unwrap_err();
        assert_eq!(several.exit_code(), 2);
        let message = several.to_string();
        assert!(
            message.contains("3 weight files: lora_8.pth, sft_8.pth, sft_long_8.pth")
                && message.contains("sft_8.pth"),
            "{message}"
        );
        std::fs::write(run.join("plan.json"), "{}").unwrap();
        let newest = resolve_model_path(spec).unwrap();
        assert!(newest == run.join("sft_8.pth") || newest == run.join("sft_long_8.pth"));
        assert!(resolve_model_path("nowhere:sft").is_err());
    }
}
