//! A tokenizer from the files of a folder.
//!
//! `tokenizer.json`, else SentencePiece's `tokenizer.model`; what stands beside them is in `added` and
//! the chat template. Which marks belong around a raw text is settled here too.

use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::added_tokens::{self, TokenizerConfig};
use super::sentencepiece::Model;
use super::{ChatTemplate, Raw, Special, Tokenizer, limits, loss_mask, read_optional};
use crate::checkpoint::tokenizer_folder::TOKENIZER_FILES;
pub use crate::checkpoint::tokenizer_folder::tokenizer_file as file;
use crate::error::{Error, Place, Result};

fn broken(path: &Path, error: impl fmt::Display) -> Error {
    Error::input("this file cannot be used").at(Place::file(path)).because(error)
}

/// MiniMind's marks, by the ids that its tokenizers and those trained here give them.
const MINIMIND: [(&str, u32); 3] = [("<|endoftext|>", 0), ("<|im_start|>", 1), ("<|im_end|>", 2)];

impl Tokenizer {
    /// Reads the tokenizer of a folder.
    ///
    /// # Errors
    /// No tokenizer there, or files that are broken or ask for what no tokenizer needs.
    pub fn load(dir: &Path) -> Result<Self> {
        let path = file(dir).unwrap_or_else(|| dir.join(TOKENIZER_FILES[0]));
        let at = |error: Error| error.at(Place::file(&path));
        let bytes =
            crate::files::read(&path).map_err(|error| Error::io("read the tokenizer", &path, error))?;
        let mut hash = Sha256::new();
        hash.update(&bytes);
        let mut configured = added_tokens::read(dir, &mut hash)?;
        let json = match path.extension().is_some_and(|extension| extension == "model") {
            true => {
                let model = Model::read(&bytes).map_err(at)?;
                model.complete(&mut configured.config);
                configured.flags_count = true;
                model.to_tokenizer_json(&configured.config).map_err(at)?
            }
            false => serde_json::from_slice(&bytes)
                .map_err(|error| at(Error::input("this is not a tokenizer file").because(error)))?,
        };
        limits::check(&json).map_err(at)?;
        let made = match path.extension().is_some_and(|extension| extension == "model") {
            true => tokenizers::Tokenizer::from_bytes(json.to_string()),
            false => tokenizers::Tokenizer::from_bytes(&bytes),
        };
        let mut inner =
            made.map_err(|error| at(Error::input("this is not a tokenizer file").because(error)))?;
        // A file may carry its own cutting and filling; both are ours to do.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|error| broken(&path, error))?;

        let template_path = dir.join("chat_template.jinja");
        let mut templates = Vec::new();
        if let Some(bytes) = read_optional(&template_path)? {
            hash.update(&bytes);
            let text = String::from_utf8(bytes).map_err(|error| broken(&template_path, error))?;
            templates.push(("default".to_owned(), ChatTemplate::parse(&text, &template_path)?));
        } else {
            let config_path = dir.join("tokenizer_config.json");
            for (name, text) in configured_templates(&configured.config) {
                templates.push((name, ChatTemplate::parse(&text, &config_path)?));
            }
        }
        for path in more_templates(dir) {
            let Some(bytes) = read_optional(&path)? else { continue };
            hash.update(&bytes);
            let text = String::from_utf8(bytes).map_err(|error| broken(&path, error))?;
            let name = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
            templates.push((name, ChatTemplate::parse(&text, &path)?));
        }
        let fingerprint = crate::hash::hex(&hash.finalize());
        let mut tokenizer = Self::assemble(inner, &configured, templates, fingerprint).map_err(at)?;
        tokenizer.place = Some(Place::file(dir));
        Ok(tokenizer)
    }

    /// A tokenizer from its parts.
    ///
    /// # Errors
    /// The library refuses the tokens, or there is none that can end a text.
    pub(super) fn assemble(
        mut inner: tokenizers::Tokenizer,
        configured: &TokenizerConfig,
        templates: Vec<(String, ChatTemplate)>,
        fingerprint: String,
    ) -> Result<Self> {
        configured
            .add_to(&mut inner)
            .map_err(|error| Error::input("its added tokens cannot be used").because(error))?;
        let roles = configured.roles();
        let known = |text: &str| inner.token_to_id(text).map(|id| Special { text: text.to_owned(), id });
        let role = |role: &str| roles.get(role).and_then(|text| known(text));
        let bos = role("bos_token");
        let named = role("eos_token");
        let has_eos = named.is_some();
        let pad = role("pad_token");
        // An answer must end somewhere; a text without a named end mark ends at the first of these.
        let eos = named
            .or_else(|| {
                ["<|im_end|>", "</s>", "<|eot_id|>", "<|endoftext|>"].iter().find_map(|text| known(text))
            })
            .or_else(|| pad.clone())
            .unwrap_or_else(|| Special { text: inner.id_to_token(0).unwrap_or_default(), id: 0 });
        // What fills a row is masked: any mark will do.
        let pad = pad
            .or_else(|| ["<|endoftext|>", "<pad>"].iter().find_map(|text| known(text)))
            .unwrap_or_else(|| eos.clone());
        let raw = raw(&inner, configured, bos.as_ref(), has_eos.then_some(&eos));
        // Ids may have holes; the embedding must reach the highest.
        let highest = inner.get_vocab(true).values().copied().max().map_or(0, |id| id as usize + 1);
        let byte_level = matches!(inner.get_decoder(), Some(tokenizers::DecoderWrapper::ByteLevel(_)));
        Ok(Self {
            vocab_size: highest.max(inner.get_vocab_size(true)),
            inner,
            roles,
            bos,
            eos,
            has_eos,
            pad,
            raw,
            facts: templates.iter().map(|_| loss_mask::TemplateFacts::default()).collect(),
            templates,
            place: None,
            byte_level,
            fingerprint,
        })
    }
}

/// What transformers' `tokenizer(text)` puts around a text. MiniMind's tokenizers say that nothing is added and
/// its programs then add the begin mark themselves, in training and after: so it is with them.
fn raw(
    inner: &tokenizers::Tokenizer,
    configured: &TokenizerConfig,
    bos: Option<&Special>,
    eos: Option<&Special>,
) -> Raw {
    let flag = |name: &str| configured.config.get(name).and_then(Value::as_bool);
    let class = configured.config.get("tokenizer_class").and_then(Value::as_str);
    let own_class =
        class.is_none_or(|class| matches!(class, "PreTrainedTokenizerFast" | "TokenizersBackend"));
    let own_marks = MINIMIND.iter().all(|(text, id)| inner.token_to_id(text) == Some(*id));
    let own = own_class && own_marks && bos.is_some_and(|bos| bos.id == 1);
    if own && !(configured.flags_count && configured.config.contains_key("add_bos_token")) {
        return Raw::Marks { bos: Some(1), eos: None };
    }
    // Beside a `tokenizer.json` the flags of the configuration say nothing: its post-processor does it all.
    if !configured.flags_count {
        return match inner.get_post_processor() {
            Some(_) => Raw::Processor,
            None => Raw::Marks { bos: None, eos: None },
        };
    }
    Raw::Marks {
        bos: bos.map(|mark| mark.id).filter(|_| flag("add_bos_token") == Some(true)),
        eos: eos.map(|mark| mark.id).filter(|_| flag("add_eos_token") == Some(true)),
    }
}

/// The templates for other purposes (`tool_use`, ...), each in a file of its own.
fn more_templates(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir.join("additional_chat_templates"));
    let paths = entries.into_iter().flatten().flatten().map(|entry| entry.path());
    let mut found: Vec<PathBuf> = paths.filter(|p| p.extension().is_some_and(|e| e == "jinja")).collect();
    found.sort();
    found
}

/// `chat_template` is a text, or a list of `{name, template}`.
pub(super) fn configured_templates(config: &serde_json::Map<String, Value>) -> Vec<(String, String)> {
    match config.get("chat_template") {
        Some(Value::String(text)) => vec![("default".to_owned(), text.clone())],
        Some(Value::Array(list)) => list
            .iter()
            .filter_map(|entry| {
                Some((entry["name"].as_str()?.to_owned(), entry["template"].as_str()?.to_owned()))
            })
            .collect(),
        _ => Vec::new(),
    }
}
