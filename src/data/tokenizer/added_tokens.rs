//! Special and added tokens, from every file that names them, as transformers merges them.
//!
//! `tokenizer_config.json` first; where it has no `added_tokens_decoder`, `special_tokens_map.json` and
//! `added_tokens.json` count too (older folders). Ids are those that the library gives: a token of the
//! vocabulary keeps its own, others follow in the order of the file's ids.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use tokenizers::AddedToken;

use super::read_optional;
use crate::error::{Error, Place, Result};

/// The special tokens that every tokenizer may have.
const NAMED: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// What the files beside a tokenizer say about its tokens.
#[derive(Debug, Default)]
pub(super) struct TokenizerConfig {
    /// `tokenizer_config.json`, completed.
    pub(super) config: Map<String, Value>,
    /// Added tokens by the ids that the files give them.
    tokens: BTreeMap<u64, AddedToken>,
    /// Whether `add_bos_token` and `add_eos_token` count: where no `tokenizer.json` says it.
    pub(super) flags_count: bool,
}

/// Reads the files beside a tokenizer; their bytes go into `hash`.
///
/// # Errors
/// A file is not JSON, or lists something that is no token.
pub(super) fn read(folder: &Path, hash: &mut Sha256) -> Result<TokenizerConfig> {
    let mut config = object(folder, "tokenizer_config.json", hash)?.unwrap_or_default();
    let mut tokens = BTreeMap::new();
    match config.get("added_tokens_decoder") {
        Some(Value::Object(decoder)) => {
            for (id, token) in decoder {
                let at = || Error::input("`added_tokens_decoder` holds something that is no token");
                let place = || Place::file(folder.join("tokenizer_config.json"));
                let id = id.parse().map_err(|_| at().at(place()))?;
                tokens.insert(id, added(token, false).ok_or_else(|| at().at(place()))?);
            }
        }
        _ => {
            for (key, value) in object(folder, "special_tokens_map.json", hash)?.unwrap_or_default() {
                config.insert(key, value);
            }
            let special: Vec<String> = special(&config).into_iter().map(|(text, _)| text).collect();
            for (text, id) in object(folder, "added_tokens.json", hash)?.unwrap_or_default() {
                let Some(id) = id.as_u64() else {
                    return Err(Error::input(format!("the id of `{}` is no number", text.escape_debug()))
                        .at(Place::file(folder.join("added_tokens.json"))));
                };
                let special = special.contains(&text);
                tokens.insert(id, AddedToken::from(text, special));
            }
        }
    }
    fill_class_defaults(&mut config);
    Ok(TokenizerConfig { config, tokens, flags_count: false })
}

fn object(folder: &Path, name: &str, hash: &mut Sha256) -> Result<Option<Map<String, Value>>> {
    let path = folder.join(name);
    let Some(bytes) = read_optional(&path)? else { return Ok(None) };
    hash.update(&bytes);
    let value: Value = serde_json::from_slice(&bytes).map_err(|error| {
        Error::input("the tokenizer's configuration is not JSON")
            .at(Place::line_column(&path, error.line(), error.column()))
            .because(error)
    })?;
    Ok(Some(value.as_object().cloned().unwrap_or_default()))
}

/// A token as the files write one: a text, or an object with its flags.
fn added(value: &Value, special: bool) -> Option<AddedToken> {
    let (text, flags) = match value {
        Value::String(text) => (text.as_str(), &Value::Null),
        other => (other["content"].as_str()?, other),
    };
    let flag = |name: &str, default: bool| flags[name].as_bool().unwrap_or(default);
    let special = flag("special", special);
    Some(
        AddedToken::from(text, special)
            .single_word(flag("single_word", false))
            .lstrip(flag("lstrip", false))
            .rstrip(flag("rstrip", false))
            .normalized(flag("normalized", !special)),
    )
}

/// The special tokens that a configuration names, with how it writes them.
fn special(config: &Map<String, Value>) -> Vec<(String, &Value)> {
    let named = NAMED.iter().filter_map(|name| config.get(*name));
    let other = config.iter().filter(|(key, value)| {
        key.ends_with("_token") && !NAMED.contains(&key.as_str()) && !value.is_boolean()
    });
    let lists = ["extra_special_tokens", "additional_special_tokens"];
    let extra = lists.iter().filter_map(|name| config.get(*name)).flat_map(|value| match value {
        Value::Array(list) => list.iter().collect::<Vec<_>>(),
        Value::Object(map) => map.values().collect(),
        _ => Vec::new(),
    });
    named
        .chain(other.map(|(_, value)| value))
        .chain(extra)
        .filter_map(|value| Some((text_of(value)?.to_owned(), value)))
        .collect()
}

/// The text of a token that is written as one, or as an object.
fn text_of(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value["content"].as_str())
}

/// What a class of transformers takes for granted where its configuration does not say.
fn fill_class_defaults(config: &mut Map<String, Value>) {
    let class = config.get("tokenizer_class").and_then(Value::as_str).unwrap_or_default();
    let defaults: &[(&str, &str)] = match class.trim_end_matches("Fast") {
        "LlamaTokenizer" | "CodeLlamaTokenizer" | "InternLM2Tokenizer" => {
            &[("unk_token", "<unk>"), ("bos_token", "<s>"), ("eos_token", "</s>")]
        }
        "Qwen2Tokenizer" => {
            &[("unk_token", "<|endoftext|>"), ("eos_token", "<|endoftext|>"), ("pad_token", "<|endoftext|>")]
        }
        "GPT2Tokenizer" => {
            &[("unk_token", "<|endoftext|>"), ("bos_token", "<|endoftext|>"), ("eos_token", "<|endoftext|>")]
        }
        "GemmaTokenizer" => {
            &[("unk_token", "<unk>"), ("bos_token", "<bos>"), ("eos_token", "<eos>"), ("pad_token", "<pad>")]
        }
        _ => &[],
    };
    for (key, text) in defaults {
        config.entry(*key).or_insert_with(|| json!(text));
    }
}

impl TokenizerConfig {
    /// Adds the tokens that the vocabulary lacks, and sets the flags of those it has.
    ///
    /// # Errors
    /// The library refuses a token.
    pub(super) fn add_to(&self, inner: &mut tokenizers::Tokenizer) -> tokenizers::Result<()> {
        let named = special(&self.config);
        let is_named = |text: &str| named.iter().any(|(other, _)| other == text);
        let by_text = |text: &str| self.tokens.values().find(|token| token.content == text);
        let from_files: Vec<AddedToken> = self
            .tokens
            .values()
            .map(|token| token.clone().special(token.special || is_named(&token.content)))
            .collect();
        inner.add_tokens(from_files)?;
        let wanted: Vec<AddedToken> = named
            .iter()
            .filter_map(|(text, value)| match (by_text(text), value) {
                (Some(token), _) => Some(token.clone().special(true)),
                // Only a text: it is special, and matched in the text as it stands.
                (None, Value::String(text)) => {
                    let known = inner.get_added_tokens_decoder().into_values().find(|t| t.content == *text);
                    Some(known.unwrap_or_else(|| AddedToken::from(text.clone(), true)).special(true))
                }
                (None, value) => added(value, true).map(|token| token.special(true)),
            })
            .collect();
        inner.add_special_tokens(wanted)?;
        Ok(())
    }

    /// The special tokens by role, as a template sees them.
    pub(super) fn roles(&self) -> BTreeMap<String, String> {
        let named = self.config.iter().filter(|(key, _)| key.ends_with("_token"));
        let specific = self.config.get("extra_special_tokens").and_then(Value::as_object);
        let all = named.chain(specific.into_iter().flatten());
        all.filter_map(|(key, value)| Some((key.clone(), text_of(value)?.to_owned()))).collect()
    }
}

impl From<Map<String, Value>> for TokenizerConfig {
    fn from(config: Map<String, Value>) -> Self {
        Self { config, tokens: BTreeMap::new(), flags_count: true }
    }
}
