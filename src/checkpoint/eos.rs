//! End-of-sequence token ids (`eos_token_id`) as a model's files state them: a list, for many families have several.
//!
//! A Hugging Face folder states them in `generation_config.json` and `config.json`, a GGUF in its metadata keys, a file
//! of ours in its metadata. What the tokenizer and its template add: `data::tokenizer::eos`.

use std::path::Path;

use serde_json::{Value as Json, json};

use super::weights::read_json;
use super::{gguf, metadata};
use crate::error::{Error, Place, Result};

/// The key, the same in every file that has it.
pub const KEY: &str = "eos_token_id";

/// Configs of a folder, or beside a weight file, in the order that the transformers library prefers them.
const CONFIGS: [&str; 2] = ["generation_config.json", "config.json"];

/// The EOS token ids that the files of a model state, each once, the most specific file's first; empty where none does.
///
/// # Errors
/// A config cannot be read, or states something else than token ids.
pub fn token_ids(path: &Path) -> Result<Vec<u32>> {
    let mut ids = Vec::new();
    if gguf::is_gguf(path) {
        let file = gguf::open(path)?;
        let stated = gguf::EOS_KEYS.iter().filter_map(|key| u32::try_from(file.int(key)?).ok());
        stated.for_each(|id| add(&mut ids, id));
        return Ok(ids);
    }
    if let Some(metadata) = metadata::read(path)? {
        read(&metadata, &mut ids).map_err(|e| e.at(Place::file(path)))?;
    }
    let folder = if path.is_dir() { path } else { path.parent().unwrap_or(Path::new(".")) };
    for file in CONFIGS.map(|name| folder.join(name)) {
        if file.is_file() {
            let config = read_json(&file)?;
            read(&config, &mut ids).map_err(|e| e.at(Place::file(&file)))?;
            // Models of several kinds of input keep the language model's settings apart.
            read(&config["text_config"], &mut ids).map_err(|e| e.at(Place::file(&file)))?;
        }
    }
    Ok(ids)
}

/// As configs state them: one as a number, several as a list.
pub fn to_json(ids: &[u32]) -> Json {
    match ids {
        [one] => json!(one),
        several => json!(several),
    }
}

fn add(ids: &mut Vec<u32>, id: u32) {
    if !ids.contains(&id) {
        ids.push(id);
    }
}

/// Reads `eos_token_id`: a number or a list of them; null and negative numbers mean that there is none.
fn read(config: &Json, ids: &mut Vec<u32>) -> Result<()> {
    let given = match config.get(KEY) {
        None | Some(Json::Null) => return Ok(()),
        Some(Json::Array(list)) => list.as_slice(),
        Some(one) => std::slice::from_ref(one),
    };
    for value in given {
        let id = value.as_i64().ok_or_else(|| {
            Error::input(format!("`{KEY}` is {}, not a token id", config[KEY]))
                .hint("write a number, or a list of numbers")
        })?;
        if let Ok(id) = u32::try_from(id) {
            add(ids, id);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_config_of_a_folder_counts_once() {
        let root = tempfile::tempdir().unwrap();
        let write = |name: &str, value: Json| {
            std::fs::write(root.path().join(name), value.to_string()).unwrap();
        };
        let weights = root.path().join("model.pth");
        let value = crate::checkpoint::Value::dict([("w", crate::checkpoint::Value::None)]);
        crate::checkpoint::pth::write(&weights, &value, &[]).unwrap();
        assert_eq!(token_ids(root.path()).unwrap(), [0u32; 0]);
        write("config.json", json!({"eos_token_id": 2}));
        assert_eq!(token_ids(root.path()).unwrap(), [2]);
        write("generation_config.json", json!({"eos_token_id": [7, 2, 9]}));
        assert_eq!(token_ids(root.path()).unwrap(), [7, 2, 9]);
        // A file in the folder is the same model.
        assert_eq!(token_ids(&weights).unwrap(), [7, 2, 9]);
        write("generation_config.json", json!({"eos_token_id": null}));
        write("config.json", json!({"text_config": {"eos_token_id": [5, -1]}}));
        assert_eq!(token_ids(root.path()).unwrap(), [5]);
        write("config.json", json!({"eos_token_id": ["</s>"]}));
        let fault = token_ids(root.path()).unwrap_err().to_string();
        assert!(fault.contains("config.json") && fault.contains("not a token id"), "{fault}");
    }

    #[test]
    fn a_file_of_ours_names_them_in_its_record() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a.pth");
        let value = crate::checkpoint::Value::dict([("w", crate::checkpoint::Value::None)]);
        let said = json!({KEY: to_json(&[2, 5])}).to_string();
        crate::checkpoint::pth::write(
            &path,
            &value,
            &[(crate::checkpoint::weights::METADATA, said.as_bytes())],
        )
        .unwrap();
        assert_eq!(token_ids(&path).unwrap(), [2, 5]);
        assert_eq!((to_json(&[2]), to_json(&[])), (json!(2), json!([])));
    }
}
