//! Text to ids and back, with the chat template that turns messages into text.
//!
//! Reads what Hugging Face tools write: `tokenizer.json` (or SentencePiece's `tokenizer.model`), and beside it
//! `tokenizer_config.json` (special tokens, template) and `chat_template.jinja` where they exist. Special tokens
//! are never added by `encode`: the stages say where they want them. Next: [`load`], [`template`], [`chat_row`],
//! [`stream`], [`mod@train`].

mod added_tokens;
mod assistant_spans;
pub mod builtin;
pub mod chat_row;
pub mod compare;
pub(crate) mod coverage;
pub mod eos;
mod generation_tags;
pub mod gguf;
mod jinja;
mod limits;
pub mod load;
mod loss_mask;
pub mod openai_messages;
mod sentencepiece;
pub mod stream;
pub mod template;
mod token_bytes;
pub mod train;

#[cfg(test)]
mod file_tests;
#[cfg(test)]
mod loss_mask_tests;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::Path;

use rayon::prelude::*;
use serde_json::Value;

use crate::error::{Error, Place, Result};

pub use chat_row::{remove_empty_think, render_conversation};
pub use eos::eos_token_ids;
pub use jinja::{Fault as TemplateFault, FaultKind as TemplateFaultKind, Rendered};
pub use loss_mask::MaskedTokens;
pub use stream::StreamDecoder;
pub use template::{ChatTemplate, RenderOptions, parse_kwargs};
pub use train::{Normalizer, TrainOptions, TrainReport, train, train_with};

/// A special token: its text and its id.
#[derive(Debug, Clone)]
struct Special {
    text: String,
    id: u32,
}

/// What belongs around a raw text.
#[derive(Debug, Clone, Copy)]
enum Raw {
    /// What the file's post-processor adds.
    Processor,
    /// These marks.
    Marks { bos: Option<u32>, eos: Option<u32> },
}

/// A tokenizer with its chat template.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// The configured special tokens by role (`bos_token`, `pad_token`, ...), as a template sees them.
    roles: BTreeMap<String, String>,
    /// What opens a text, where the tokenizer has such a mark.
    bos: Option<Special>,
    eos: Special,
    /// Whether the files name the end mark.
    has_eos: bool,
    pad: Special,
    raw: Raw,
    templates: Vec<(String, ChatTemplate)>,
    /// Of each template, how its answers are found.
    facts: Vec<loss_mask::TemplateFacts>,
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
    /// The ids of a text. No special token is added, but those written in the text are recognised.
    ///
    /// # Errors
    /// The library refuses the text, as with an unknown word and no token for it.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self
            .inner
            .encode_fast(text, false)
            .map_err(|error| Error::failed("the tokenizer refused a text").because(error))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The ids of a text with the special tokens that the tokenizer puts around it, as transformers' `tokenizer(text)`: for a
    /// model that continues plain text.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn encode_with_special_tokens(&self, text: &str) -> Result<Vec<u32>> {
        match self.raw {
            Raw::Marks { bos, eos } => Ok(bos.into_iter().chain(self.encode(text)?).chain(eos).collect()),
            Raw::Processor => {
                let encoding = self.inner.encode_fast(text, true);
                let encoding =
                    encoding.map_err(|error| Error::failed("the tokenizer refused a text").because(error))?;
                Ok(encoding.get_ids().to_vec())
            }
        }
    }

    /// The ids of many texts, on all cores, in the order given.
    ///
    /// # Errors
    /// As [`Self::encode`], of the first text in that order.
    pub fn encode_batch(&self, texts: &[&str]) -> Result<Vec<Vec<u32>>> {
        texts.par_iter().map(|text| self.encode(text)).collect()
    }

    /// The text of ids; bytes that are no character show as U+FFFD.
    ///
    /// # Errors
    /// The library's decoder fails.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        self.inner
            .decode(ids, skip_special)
            .map_err(|error| Error::failed("the tokenizer refused ids").because(error))
    }

    /// How many ids there are, added tokens included: the rows that an embedding needs.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The id that opens a turn or a text; a tokenizer without such a mark has none, and none is put.
    pub fn bos_id(&self) -> Option<u32> {
        self.bos.as_ref().map(|mark| mark.id)
    }

    /// What a text of no token begins with, so that there is something to go on from: the begin mark, else
    /// the end mark.
    pub fn prefix_id(&self) -> u32 {
        self.bos_id().unwrap_or(self.eos.id)
    }

    /// The id that ends a turn or a text.
    pub fn eos_id(&self) -> u32 {
        self.eos.id
    }

    /// Whether the tokenizer names its end mark; otherwise [`Self::eos_id`] is the likeliest.
    pub fn has_eos(&self) -> bool {
        self.has_eos
    }

    /// The id that fills a row.
    pub fn pad_id(&self) -> u32 {
        self.pad.id
    }

    /// The text of [`Self::bos_id`].
    pub fn bos_token(&self) -> Option<&str> {
        self.bos.as_ref().map(|mark| mark.text.as_str())
    }

    /// The text of [`Self::eos_id`].
    pub fn eos_token(&self) -> &str {
        &self.eos.text
    }

    /// The tokenizer as the text of a `tokenizer.json`, added tokens included.
    ///
    /// # Errors
    /// The library cannot write it.
    pub fn to_json(&self) -> Result<String> {
        let text = self.inner.to_string(true);
        text.map_err(|error| Error::failed("the tokenizer cannot be written").because(error))
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
    pub fn has_chat_template(&self) -> bool {
        !self.templates.is_empty()
    }

    /// The text of the chat template that conversations without tools are rendered by.
    pub fn chat_template_source(&self) -> Option<&str> {
        let default = self.templates.iter().find(|(name, _)| name == "default");
        default.or(self.templates.first()).map(|(_, template)| template.source())
    }

    /// A conversation as the text of a prompt, as transformers' `apply_chat_template`.
    ///
    /// # Errors
    /// There is no template, or it refuses the conversation.
    pub fn apply_chat_template(
        &self,
        messages: &Value,
        tools: Option<&Value>,
        options: RenderOptions,
    ) -> Result<String> {
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

    /// The texts of the added tokens.
    fn added_tokens(&self) -> Vec<String> {
        self.inner.get_added_tokens_decoder().into_values().map(|token| token.content).collect()
    }

    /// The ids of a text, and the byte range of each one in it.
    fn encode_with_offsets(&self, text: &str) -> Result<(Vec<u32>, Vec<Range<usize>>)> {
        let encoding = self
            .inner
            .encode(text, false)
            .map_err(|error| Error::failed("the tokenizer refused a text").because(error))?;
        let mut end = 0;
        let offsets = encoding.get_offsets().iter().map(|&(from, to)| {
            // Spaces that the range of a token leaves out stand before it.
            let blanks = text.get(end..from).is_some_and(|gap| gap.bytes().all(|b| b == b' '));
            let start = if blanks { end } else { from };
            end = to.max(end);
            start..to
        });
        let offsets = offsets.collect();
        Ok((encoding.get_ids().to_vec(), offsets))
    }

    /// The token of an id unless it is unknown, or special and `skip_special`.
    fn token(&self, id: u32, skip_special: bool) -> Option<String> {
        let added = self.inner.get_added_vocabulary();
        self.inner.id_to_token(id).filter(|token| !skip_special || !added.is_special_token(token))
    }
}

fn read_optional(path: &Path) -> Result<Option<Vec<u8>>> {
    match crate::files::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("read the tokenizer's configuration", path, error)),
    }
}
