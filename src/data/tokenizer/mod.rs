//! Text to ids and back, with the chat template that turns messages into text.
//!
//! Reads what Hugging Face tools write: `tokenizer.json`, and beside it `tokenizer_config.json` (special
//! tokens, template) and `chat_template.jinja` where they exist. Special tokens are never added by
//! `encode`: the stages say where they want them. Next: [`template`], [`labels`], [`stream`], [`mod@train`].

mod bytes;
mod generation;
pub mod gguf;
mod jinja;
pub mod labels;
mod mask;
pub(crate) mod shown;
pub mod standard;
pub mod stream;
pub mod template;
pub mod train;
mod turns;

#[cfg(test)]
mod mask_tests;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use rayon::prelude::*;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::error::{Error, Place, Result};

pub use labels::{remove_empty_think, render_conversation};
pub use mask::Masked;
pub use stream::StreamDecoder;
pub use jinja::{Fault as TemplateFault, FaultKind as TemplateFaultKind, Rendered};
pub use template::{ChatTemplate, RenderOptions, parse_kwargs};
pub use train::{TrainReport, train};

/// A special token: its text and its id.
#[derive(Debug, Clone)]
struct Special {
    text: String,
    id: u32,
}

/// A tokenizer with its chat template.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// The configured special tokens by role (`bos_token`, `pad_token`, ...), as a template sees them.
    roles: BTreeMap<String, String>,
    bos: Special,
    eos: Special,
    pad: Special,
    templates: Vec<(String, ChatTemplate)>,
    /// Of each template, how its answers are found.
    learned: Vec<mask::Learned>,
    /// Where the tokenizer was read.
    place: Option<Place>,
    byte_level: bool,
    vocab_size: usize,
    fingerprint: String,
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocab_size", &self.vocab_size)
            .field("bos", &self.bos)
            .field("eos", &self.eos)
            .field("pad", &self.pad)
            .field("fingerprint", &self.fingerprint)
            .finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// Reads the tokenizer of a folder.
    pub fn load(dir: &Path) -> Result<Self> {
        let path = dir.join("tokenizer.json");
        let config_path = dir.join("tokenizer_config.json");
        let template_path = dir.join("chat_template.jinja");
        let bytes =
            crate::files::read(&path).map_err(|error| Error::io("read the tokenizer", &path, error))?;
        let mut hash = Sha256::new();
        hash.update(&bytes);

        let mut inner = tokenizers::Tokenizer::from_bytes(&bytes).map_err(|error| {
            Error::input("this is not a tokenizer file").at(Place::file(&path)).because(error)
        })?;
        // A file may carry its own cutting and filling; both are ours to do.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|error| broken(&path, error))?;

        let mut config = Value::Null;
        if let Some(bytes) = read_optional(&config_path)? {
            hash.update(&bytes);
            config = serde_json::from_slice(&bytes).map_err(|error| {
                Error::input("the tokenizer's configuration is not JSON")
                    .at(Place::line_column(&config_path, error.line(), error.column()))
                    .because(error)
            })?;
        }
        let mut templates = Vec::new();
        if let Some(bytes) = read_optional(&template_path)? {
            hash.update(&bytes);
            let text = String::from_utf8(bytes).map_err(|error| broken(&template_path, error))?;
            templates.push(("default".to_owned(), ChatTemplate::parse(&text, &template_path)?));
        } else {
            for (name, text) in configured_templates(&config) {
                templates.push((name, ChatTemplate::parse(&text, &config_path)?));
            }
        }

        let fingerprint = crate::hash::hex(&hash.finalize());
        let mut tokenizer = Self::assemble(inner, &config, templates, fingerprint)
            .map_err(|error| error.at(Place::file(&path)))?;
        tokenizer.place = Some(Place::file(dir));
        Ok(tokenizer)
    }

    fn assemble(
        inner: tokenizers::Tokenizer,
        config: &Value,
        templates: Vec<(String, ChatTemplate)>,
        fingerprint: String,
    ) -> Result<Self> {
        let roles = configured_roles(config);
        let special = |role: &str, names: &[&str], id: u32| -> Special {
            let named = roles.get(role).map(String::as_str);
            named
                .into_iter()
                .chain(names.iter().copied())
                .find_map(|text| inner.token_to_id(text).map(|id| Special { text: text.to_owned(), id }))
                .unwrap_or_else(|| Special { text: inner.id_to_token(id).unwrap_or_default(), id })
        };
        let bos = special("bos_token", &["<|im_start|>", "<s>"], 1);
        let eos = special("eos_token", &["<|im_end|>", "</s>"], 2);
        let pad = special("pad_token", &["<|endoftext|>", "<pad>"], 0);
        // Ids may have holes; the embedding must reach the highest.
        let highest = inner.get_vocab(true).values().copied().max().map_or(0, |id| id as usize + 1);
        let byte_level = matches!(inner.get_decoder(), Some(tokenizers::DecoderWrapper::ByteLevel(_)));
        Ok(Self {
            vocab_size: highest.max(inner.get_vocab_size(true)),
            inner,
            roles,
            bos,
            eos,
            pad,
            learned: templates.iter().map(|_| mask::Learned::default()).collect(),
            templates,
            place: None,
            byte_level,
            fingerprint,
        })
    }

    /// The ids of a text; no special token is added, but those written in the text are recognised.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self
            .inner
            .encode_fast(text, false)
            .map_err(|error| Error::failed("the tokenizer refused a text").because(error))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The ids of many texts, on all cores, in the order given.
    pub fn encode_batch(&self, texts: &[&str]) -> Result<Vec<Vec<u32>>> {
        texts.par_iter().map(|text| self.encode(text)).collect()
    }

    /// The text of ids; bytes that are no character show as U+FFFD.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        self.inner
            .decode(ids, skip_special)
            .map_err(|error| Error::failed("the tokenizer refused ids").because(error))
    }

    /// How many ids there are, added tokens included: the rows that an embedding needs.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The id that opens a turn or a text.
    pub fn bos_id(&self) -> u32 {
        self.bos.id
    }

    /// The id that ends a turn or a text.
    pub fn eos_id(&self) -> u32 {
        self.eos.id
    }

    /// The id that fills a row.
    pub fn pad_id(&self) -> u32 {
        self.pad.id
    }

    /// The text of [`Self::bos_id`].
    pub fn bos_token(&self) -> &str {
        &self.bos.text
    }

    /// The text of [`Self::eos_id`].
    pub fn eos_token(&self) -> &str {
        &self.eos.text
    }

    /// The id of a token by its exact name in the vocabulary.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Whether both know the same tokens by the same ids.
    pub fn same_vocabulary(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint || self.inner.get_vocab(true) == other.inner.get_vocab(true)
    }

    /// SHA-256 (hex) over the files that were read; a checkpoint keeps it.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Whether the tokenizer brings a chat template.
    pub fn has_template(&self) -> bool {
        !self.templates.is_empty()
    }

    /// The text of the chat template that conversations without tools are rendered by.
    pub fn template_source(&self) -> Option<&str> {
        let default = self.templates.iter().find(|(name, _)| name == "default");
        default.or(self.templates.first()).map(|(_, template)| template.source())
    }

    /// The prompt of a conversation, by the tokenizer's chat template.
    pub fn render(&self, messages: &Value, tools: Option<&Value>, options: RenderOptions) -> Result<String> {
        let (_, template) = &self.templates[self.template_index(tools.is_some())?];
        template.render(messages, tools, options, &self.roles)
    }

    /// Which template renders a conversation, with or without tools.
    fn template_index(&self, tools: bool) -> Result<usize> {
        let named = |name: &str| self.templates.iter().position(|(other, _)| other == name);
        let index = tools.then(|| named("tool_use")).flatten().or_else(|| named("default"));
        index.or_else(|| (!self.templates.is_empty()).then_some(0)).ok_or_else(|| {
            Error::input("the tokenizer has no chat template").hint(
                "put a `chat_template.jinja` beside `tokenizer.json`, or a `chat_template` in `tokenizer_config.json`",
            )
        })
    }

    /// The token of an id unless it is unknown, or special and `skip_special`.
    fn token(&self, id: u32, skip_special: bool) -> Option<String> {
        let added = self.inner.get_added_vocabulary();
        self.inner.id_to_token(id).filter(|token| !skip_special || !added.is_special_token(token))
    }
}

fn broken(path: &Path, error: impl fmt::Display) -> Error {
    Error::input("this file cannot be used").at(Place::file(path)).because(error)
}

fn read_optional(path: &Path) -> Result<Option<Vec<u8>>> {
    match crate::files::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("read the tokenizer's configuration", path, error)),
    }
}

/// `chat_template` is a text, or a list of `{name, template}`.
fn configured_templates(config: &Value) -> Vec<(String, String)> {
    match &config["chat_template"] {
        Value::String(text) => vec![("default".to_owned(), text.clone())],
        Value::Array(list) => list
            .iter()
            .filter_map(|entry| {
                Some((entry["name"].as_str()?.to_owned(), entry["template"].as_str()?.to_owned()))
            })
            .collect(),
        _ => Vec::new(),
    }
}

/// Every `*_token` of the configuration; a token is a text, or an object with `content`.
fn configured_roles(config: &Value) -> BTreeMap<String, String> {
    let Some(keys) = config.as_object() else { return BTreeMap::new() };
    keys.iter()
        .filter(|(key, _)| key.ends_with("_token"))
        .filter_map(|(key, value)| {
            let text = value.as_str().or_else(|| value["content"].as_str())?;
            Some((key.clone(), text.to_owned()))
        })
        .collect()
}
