//! The tokens that end an answer, as a model's files name them: a list, for many families have several.
//!
//! A Hugging Face folder names them in `generation_config.json` and `config.json`, a GGUF in its metadata, a file of
//! ours in its record. What the tokenizer and its template add: `data::tokenizer::ends`.

use std::path::Path;

use serde_json::{Value as Json, json};

use super::load::read_json;
use super::{about, gguf};
use crate::error::{Error, Place, Result};

/// The key, in every file that has one.
pub const KEY: &str = "eos_token_id";

/// Configs of a folder, or beside a weight file, in the order that the transformers library prefers them.
const CONFIGS: [&str; 2] = ["generation_config.json", "config.json"];

/// llama.cpp's end of a text, of a turn and of a message; all of them end an answer there.
pub const GGUF_KEYS: [&str; 3] =
    ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"];

/// The end marks that the files of a model name, each once, the most exact file's first; empty where none does.
///
/// # Errors
/// A config that cannot be read, or one that names something else than token ids.
pub fn named(path: &Path) -> Result<Vec<u32>> {
    let mut ends = Vec::new();
    if gguf::is_gguf(path) {
        let file = gguf::open(path)?;
        let ids = GGUF_KEYS.iter().filter_map(|key| u32::try_from(file.int(key)?).ok());
        ids.for_each(|id| add(&mut ends, id));
        return Ok(ends);
    }
    if let Some(said) = about::said(path)? {
        read(&said, &mut ends).map_err(|e| e.at(Place::file(path)))?;
    }
    let folder = if path.is_dir() { path } else { path.parent().unwrap_or(Path::new(".")) };
    for file in CONFIGS.map(|name| folder.join(name)) {
        if file.is_file() {
            let config = read_json(&file)?;
            read(&config, &mut ends).map_err(|e| e.at(Place::file(&file)))?;
            // Models of several kinds of input keep the language model's settings apart.
            read(&config["text_config"], &mut ends).map_err(|e| e.at(Place::file(&file)))?;
        }
    }
    Ok(ends)
}

/// As configs write them: one as a number, several as a list.
pub fn as_json(ends: &[u32]) -> Json {
    match ends {
        [one] => json!(one),
        several => json!(several),
    }
}

fn add(ends: &mut Vec<u32>, id: u32) {
    if !ends.contains(&id) {
        ends.push(id);
    }
}

/// Takes `eos_token_id`: a number or a list of them; null and negative numbers mean that there is none.
fn read(config: &Json, ends: &mut Vec<u32>) -> Result<()> {
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
            add(ends, id);
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
        assert_eq!(named(root.path()).unwrap(), [0u32; 0]);
        write("config.json", json!({"eos_token_id": 2}));
        assert_eq!(named(root.path()).unwrap(), [2]);
        write("generation_config.json", json!({"eos_token_id": [7, 2, 9]}));
        assert_eq!(named(root.path()).unwrap(), [7, 2, 9]);
        // A file in the folder is the same model.
        assert_eq!(named(&weights).unwrap(), [7, 2, 9]);
        write("generation_config.json", json!({"eos_token_id": null}));
        write("config.json", json!({"text_config": {"eos_token_id": [5, -1]}}));
        assert_eq!(named(root.path()).unwrap(), [5]);
        write("config.json", json!({"eos_token_id": ["</s>"]}));
        let fault = named(root.path()).unwrap_err().to_string();
        assert!(fault.contains("config.json") && fault.contains("not a token id"), "{fault}");
    }

    #[test]
    fn a_file_of_ours_names_them_in_its_record() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a.pth");
        let value = crate::checkpoint::Value::dict([("w", crate::checkpoint::Value::None)]);
        let said = json!({KEY: as_json(&[2, 5])}).to_string();
        crate::checkpoint::pth::write(&path, &value, &[(super::super::load::METADATA, said.as_bytes())])
            .unwrap();
        assert_eq!(named(&path).unwrap(), [2, 5]);
        assert_eq!((as_json(&[2]), as_json(&[])), (json!(2), json!([])));
    }
}
