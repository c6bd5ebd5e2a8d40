//! What a weight file says of itself, read without its weights, and the tokenizer that it names.
//!
//! Next: `load`, which reads the weights.

use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::Value as Json;

use super::load::METADATA;
use super::resolve::FOLDER_WEIGHTS;
use super::{gguf, pth, safetensors};
use crate::error::{Error, Result};

/// The record `minimind.json` of a `.pth`, a `.safetensors` or a TorchScript program, or of a folder's one weight file;
/// `None` where there is none, or where it is no JSON.
pub fn said(path: &Path) -> Result<Option<Json>> {
    if path.is_dir() {
        // Like `load`: the shards of an index have no one record.
        let file = FOLDER_WEIGHTS.iter().map(|name| path.join(name)).find(|file| file.is_file());
        let file = file.filter(|file| file.extension().is_none_or(|e| e != "json"));
        return file.map_or(Ok(None), |file| said(&file));
    }
    let mut head = Vec::new();
    let read = crate::files::open(path).and_then(|file| file.take(9).read_to_end(&mut head));
    read.map_err(|e| Error::io("read the weights", path, e))?;
    if head.starts_with(gguf::MAGIC) {
        return Ok(None); // its byte 8 is a count and may be any
    }
    let named = path.extension().is_some_and(|e| e == "safetensors");
    let text = if named || head.get(8) == Some(&b'{') {
        safetensors::read(path)?.metadata.remove(METADATA).map(String::into_bytes)
    } else if head.starts_with(b"PK") {
        pth::read_record(path, METADATA)?
    } else {
        None
    };
    Ok(text.and_then(|text| serde_json::from_slice(&text).ok()))
}

/// Whether a weight file, no folder, says itself what architecture it has, so that nothing beside it is asked.
pub fn states_architecture(path: &Path) -> Result<bool> {
    Ok(gguf::is_gguf(path) || said(path)?.is_some_and(|said| said.get("config").is_some()))
}

/// The files that a folder may hold its tokenizer in; the first that is there counts.
pub const TOKENIZERS: [&str; 2] = ["tokenizer.json", "tokenizer.model"];

/// Where MiniMind keeps its tokenizer, from the folder of its weights: `out` beside `model`, of either year.
const UPSTREAM: [&str; 4] = ["../model", "model", "../model/minimind_tokenizer", "model/minimind_tokenizer"];

/// The file that holds the tokenizer of a folder, where there is one.
pub fn tokenizer_file(folder: &Path) -> Option<PathBuf> {
    TOKENIZERS.iter().map(|name| folder.join(name)).find(|path| path.is_file())
}

/// The folder of the tokenizer that belongs to a weight file: named in it, its own folder, a folder below, or where
/// upstream's layout has it.
pub fn tokenizer(path: &Path) -> Result<Option<PathBuf>> {
    let folder = if path.is_dir() { path } else { path.parent().unwrap_or(Path::new(".")) };
    let named = tokenizer_named(path)?.map(|name| folder.join(name));
    let near = [folder.to_owned(), folder.join("tokenizer"), folder.join("tok")];
    let found = named.into_iter().chain(near).find(|folder| tokenizer_file(folder).is_some());
    if found.is_some() {
        return Ok(found);
    }
    let found = UPSTREAM.iter().map(|near| folder.join(near)).find(|near| tokenizer_file(near).is_some());
    if let Some(found) = &found {
        tracing::info!("the tokenizer is the one in {}", found.display());
    }
    Ok(found)
}

/// The folder of the tokenizer as the weight file names it, there or not.
pub fn tokenizer_named(path: &Path) -> Result<Option<String>> {
    Ok(said(path)?.as_ref().and_then(|said| said["tokenizer"].as_str()).map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::checkpoint::Value;

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
            let found = tokenizer(&path(name)).unwrap().unwrap_or_else(|| panic!("{name}: none"));
            assert_eq!(found.canonicalize().unwrap(), there.canonicalize().unwrap(), "{name}");
        }
        // One that is not there, and none at all: what lies beside.
        safetensors::write(&path("a.safetensors"), &[], metadata("gone")).unwrap();
        std::fs::write(path("b.gguf"), b"GGUF\x03\0\0\0{\0\0\0\0\0\0\0").unwrap();
        for name in ["a.safetensors", "b.gguf"] {
            assert_eq!(tokenizer(&path(name)).unwrap(), None);
        }
        // Upstream's layout, then beside the weights, which wins.
        std::fs::create_dir_all(root.path().join("model")).unwrap();
        std::fs::write(root.path().join("model/tokenizer.json"), "{}").unwrap();
        for name in ["a.safetensors", "b.gguf"] {
            assert_eq!(tokenizer(&path(name)).unwrap(), Some(folder.join("../model")));
        }
        std::fs::write(path("tokenizer.json"), "{}").unwrap();
        for name in ["a.safetensors", "b.gguf"] {
            assert_eq!(tokenizer(&path(name)).unwrap(), Some(folder.clone()));
        }
    }
}
