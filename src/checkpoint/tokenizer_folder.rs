//! Finds the folder of the tokenizer that belongs to a model's weights.
//!
//! Next: `metadata`, in which a weight file names it; `data::tokenizer` reads it.

use std::path::{Path, PathBuf};

use super::metadata;
use crate::error::Result;

/// The files that a folder may hold its tokenizer in; the first that is there counts.
pub const TOKENIZER_FILES: [&str; 2] = ["tokenizer.json", "tokenizer.model"];

/// Where MiniMind keeps its tokenizer, from the folder of its weights: `out` beside `model`, of either year.
const UPSTREAM: [&str; 4] = ["../model", "model", "../model/minimind_tokenizer", "model/minimind_tokenizer"];

/// The file that holds the tokenizer of a folder, where there is one.
pub fn tokenizer_file(folder: &Path) -> Option<PathBuf> {
    TOKENIZER_FILES.iter().map(|name| folder.join(name)).find(|path| path.is_file())
}

/// The folder of the tokenizer that belongs to a weight file: named in its metadata, its own folder, a folder below, or
/// where upstream's layout has it.
///
/// # Errors
/// As [`metadata::read`].
pub fn find(path: &Path) -> Result<Option<PathBuf>> {
    let folder = if path.is_dir() { path } else { path.parent().unwrap_or(Path::new(".")) };
    let stated = named(path)?.map(|name| folder.join(name));
    let near = [folder.to_owned(), folder.join("tokenizer"), folder.join("tok")];
    let found = stated.into_iter().chain(near).find(|folder| tokenizer_file(folder).is_some());
    if found.is_some() {
        return Ok(found);
    }
    let found = UPSTREAM.iter().map(|near| folder.join(near)).find(|near| tokenizer_file(near).is_some());
    if let Some(found) = &found {
        tracing::info!("the tokenizer is the one in {}", found.display());
    }
    Ok(found)
}

/// The folder of the tokenizer as the weight file's metadata names it, relative to the file, whether it exists or not.
///
/// # Errors
/// As [`metadata::read`].
pub fn named(path: &Path) -> Result<Option<String>> {
    let metadata = metadata::read(path)?;
    Ok(metadata.as_ref().and_then(|metadata| metadata["tokenizer"].as_str()).map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::checkpoint::weights::METADATA;
    use crate::checkpoint::{Value, pth, safetensors};

    #[test]
    fn every_form_names_its_tokenizer() {
        let root = tempfile::tempdir().unwrap();
        let (there, folder) = (root.path().join("there"), root.path().join("a"));
        for made in [&there, &folder.join("hf")] {
            std::fs::create_dir_all(made).unwrap();
        }
        std::fs::write(there.join("tokenizer.json"), "{}").unwrap();
        let about = |name: &str| serde_json::json!({ "tokenizer": name }).to_string();
        let metadata = |name: &str| HashMap::from([(METADATA.to_owned(), about(name))]);
        let path = |name: &str| folder.join(name);
        pth::write(
            &path("a.pth"),
            &Value::dict([("w", Value::None)]),
            &[(METADATA, about("../there").as_bytes())],
        )
        .unwrap();
        safetensors::write(&path("a.safetensors"), &[], metadata("../there")).unwrap();
        // No ending, as the hubs' caches keep files.
        safetensors::write(&path("blob"), &[], metadata("../there")).unwrap();
        safetensors::write(&path("hf/model.safetensors"), &[], metadata("../../there")).unwrap();
        for name in ["a.pth", "a.safetensors", "blob", "hf"] {
            let found = find(&path(name)).unwrap().unwrap_or_else(|| panic!("{name}: none"));
            assert_eq!(found.canonicalize().unwrap(), there.canonicalize().unwrap(), "{name}");
        }
        // One that is not there, and none at all: what lies beside.
        safetensors::write(&path("a.safetensors"), &[], metadata("gone")).unwrap();
        std::fs::write(path("b.gguf"), b"GGUF\x03\0\0\0{\0\0\0\0\0\0\0").unwrap();
        for name in ["a.safetensors", "b.gguf"] {
            assert_eq!(find(&path(name)).unwrap(), None);
        }
        // Upstream's layout, then beside the weights, which wins.
        std::fs::create_dir_all(root.path().join("model")).unwrap();
        std::fs::write(root.path().join("model/tokenizer.json"), "{}").unwrap();
        for name in ["a.safetensors", "b.gguf"] {
            assert_eq!(find(&path(name)).unwrap(), Some(folder.join("../model")));
        }
        std::fs::write(path("tokenizer.json"), "{}").unwrap();
        for name in ["a.safetensors", "b.gguf"] {
            assert_eq!(find(&path(name)).unwrap(), Some(folder.clone()));
        }
    }
}
