//! The tokenizer's files of a Hugging Face folder: what `AutoTokenizer` needs, from whatever the source had.
//!
//! `tokenizer.json` is copied byte for byte. `tokenizer_config.json` keeps the source's keys and gains what
//! is missing; the chat template is in it and, for newer readers, in `chat_template.jinja`.

use std::path::Path;

use serde_json::{Value, json};

use crate::atomic;
use crate::data::Tokenizer;
use crate::data::tokenizer::eos_token_ids;
use crate::error::{Error, Place, Result};

/// Special token ids of `config.json` and `generation_config.json`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecialIds {
    /// BOS: begins a chat turn.
    pub bos: Option<u32>,
    /// EOS: each of them ends a turn.
    pub ends: Vec<u32>,
    /// The id that pads a batch (`pad_token_id`).
    pub pad: u32,
}

impl Default for SpecialIds {
    /// MiniMind's, of both eras.
    fn default() -> Self {
        Self { bos: Some(1), ends: vec![2], pad: 0 }
    }
}

/// Copies the tokenizer of `from` to `to`; `positions` is the model's longest sequence.
///
/// # Errors
/// The tokenizer cannot be read, or the disk fails.
pub fn write(from: &Path, to: &Path, positions: i64) -> Result<SpecialIds> {
    let tokenizer = Tokenizer::load(from)?;
    std::fs::create_dir_all(to).map_err(|e| Error::io("create the folder", to, e))?;
    let read = |name: &str| -> Result<Option<Vec<u8>>> {
        let path = from.join(name);
        match crate::files::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io("read the tokenizer", &path, e)),
        }
    };
    if !from.join("tokenizer.json").is_file() {
        // SentencePiece's file alone: the same as the library reads it.
        atomic::write_bytes(&to.join("tokenizer.json"), tokenizer.to_json()?.as_bytes())?;
    }
    for name in ["tokenizer.json", "special_tokens_map.json", "added_tokens.json"] {
        if let Some(bytes) = read(name)? {
            atomic::write_bytes(&to.join(name), &bytes)?;
        }
    }
    let mut config = match read("tokenizer_config.json")? {
        Some(bytes) => serde_json::from_slice(&bytes).map_err(|e| {
            Error::input("this JSON cannot be read")
                .at(Place::file(from.join("tokenizer_config.json")))
                .because(e)
        })?,
        None => json!({}),
    };
    complete(&mut config, &tokenizer, positions);
    let own = read("chat_template.jinja")?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    if let Some(template) = own.or_else(|| config["chat_template"].as_str().map(str::to_owned)) {
        atomic::write_bytes(&to.join("chat_template.jinja"), template.as_bytes())?;
        config["chat_template"] = template.into();
    }
    write_json(&to.join("tokenizer_config.json"), &config)?;
    let ends = eos_token_ids(Some(&tokenizer), &[]);
    Ok(SpecialIds { bos: tokenizer.bos_id(), ends, pad: tokenizer.pad_id() })
}

/// Adds what a reader needs and the source does not state.
fn complete(config: &mut Value, tokenizer: &Tokenizer, positions: i64) {
    if !config.is_object() {
        *config = json!({});
    }
    let pad = tokenizer.decode(&[tokenizer.pad_id()], false).unwrap_or_default();
    let defaults = json!({
        "bos_token": tokenizer.bos_token(),
        "eos_token": tokenizer.eos_token(),
        "pad_token": pad,
        "add_bos_token": false,
        "add_eos_token": false,
        "clean_up_tokenization_spaces": false,
        "model_max_length": positions,
        "tokenizer_class": "PreTrainedTokenizerFast",
    });
    for (key, value) in defaults.as_object().into_iter().flatten() {
        if config[key].is_null() && value.as_str() != Some("") {
            config[key] = value.clone();
        }
    }
}

/// Writes indented JSON.
///
/// # Errors
/// A file cannot be written, or read back.
pub(super) fn write_json(path: &Path, value: &Value) -> Result<()> {
    let mut text = serde_json::to_string_pretty(value)
        .map_err(|e| Error::failed("cannot write JSON").at(Place::file(path)).because(e))?;
    text.push('\n');
    atomic::write_bytes(path, text.as_bytes())
}
