//! The tokenizer inside a GGUF as ours, and a folder's `tokenizer.json` as what a GGUF holds.
//!
//! Both ways keep the rule that cuts words; llama.cpp knows rules by name, so the names here are its own
//! (`llama-vocab.cpp`), each with the `pre_tokenizer` that does the same in Hugging Face's files.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::load::configured_templates;
use super::{ChatTemplate, Tokenizer, read_optional};
use crate::checkpoint::gguf::{TokenKind, Vocabulary};
use crate::error::{Error, Place, Result};

/// Qwen2's cut: digits one by one, words with one sign before them.
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Llama 3's: digits by threes.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// `pre_tokenizer` of a rule's name.
fn cutter(pre: &str) -> Option<Value> {
    let bytes = |regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex});
    let split = |pattern: &str| {
        json!({"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false},
            bytes(false),
        ]})
    };
    Some(match pre {
        "gpt-2" => bytes(true),
        "qwen2" => split(QWEN2),
        "llama-bpe" | "llama3" | "llama-v3" => split(LLAMA3),
        "smollm" => json!({"type": "Sequence", "pretokenizers": [
            {"type": "Digits", "individual_digits": true},
            bytes(true),
        ]}),
        _ => return None,
    })
}

/// The name of a `tokenizer.json`'s rule.
fn named(tokenizer: &Value) -> Option<&'static str> {
    let plain = |value: &Value| {
        let mut value = value.clone();
        // How offsets are counted and what is left out by default changes no token.
        fn strip(value: &mut Value) {
            if let Some(object) = value.as_object_mut() {
                object.remove("trim_offsets");
                object.values_mut().for_each(strip);
            }
            value.as_array_mut().into_iter().flatten().for_each(strip);
        }
        strip(&mut value);
        value
    };
    let ours = plain(&tokenizer["pre_tokenizer"]);
    // Qwen's normalizer composes characters (NFC), which llama.cpp leaves out; composed text, the usual, is
    // the same either way. Any other normalizer changes texts.
    let composed = tokenizer["normalizer"]["type"] == "NFC";
    ["gpt-2", "qwen2", "llama-bpe", "smollm"].into_iter().find(|name| {
        cutter(name).is_some_and(|theirs| plain(&theirs) == ours)
            && (tokenizer["normalizer"].is_null() || composed && *name == "qwen2")
    })
}

/// What a GGUF holds of the tokenizer in a folder.
///
/// # Errors
/// A tokenizer that is no byte-level BPE, or cuts words by a rule llama.cpp has no name for.
pub fn vocabulary(dir: &Path) -> Result<Vocabulary> {
    let path = dir.join("tokenizer.json");
    let at = |e: Error| e.at(Place::file(&path));
    let bytes = crate::files::read(&path).map_err(|e| Error::io("read the tokenizer", &path, e))?;
    let json: Value = serde_json::from_slice(&bytes)
        .map_err(|e| at(Error::input("this is not a tokenizer file").because(e)))?;
    let foreign = |why: &str| {
        at(Error::input("this tokenizer cannot go into a GGUF").because(why.to_owned()).hint(
            "byte-level BPE with the word rules of GPT-2, Qwen2, Llama 3 or SmolLM can; so can every tokenizer trained here",
        ))
    };
    let model = &json["model"];
    if model["type"] != "BPE"
        || model["byte_fallback"] == true
        || model["ignore_merges"] == true && named(&json) != Some("llama-bpe")
    {
        return Err(foreign("it is not plain byte-level BPE"));
    }
    let pre = named(&json).ok_or_else(|| foreign("llama.cpp has no name for how it cuts words"))?;
    let (tokens, kinds) = tokens(&json).ok_or_else(|| foreign("its vocabulary has holes or strange ids"))?;
    let merges = model["merges"].as_array().into_iter().flatten().map(merge);
    let merges = merges.collect::<Option<Vec<_>>>().ok_or_else(|| foreign("a merge is not a pair"))?;

    let config_path = dir.join("tokenizer_config.json");
    let config = read_optional(&config_path)?.map(|bytes| serde_json::from_slice(&bytes)).transpose();
    let config: Value = config
        .map_err(|e| {
            Error::input("the tokenizer's configuration is not JSON").at(Place::file(&config_path)).because(e)
        })?
        .unwrap_or(Value::Null);
    let jinja = dir.join("chat_template.jinja");
    let template = match read_optional(&jinja)? {
        Some(bytes) => Some(
            String::from_utf8(bytes)
                .map_err(|e| Error::input("the template is not text").at(Place::file(&jinja)).because(e))?,
        ),
        None => configured_templates(config.as_object().unwrap_or(&serde_json::Map::new()))
            .into_iter()
            .find(|(name, _)| name == "default")
            .map(|(_, text)| text),
    };
    let tokenizer = Tokenizer::load(dir)?;
    let unknown = config["unk_token"].as_str().and_then(|text| tokenizer.token_id(text));
    Ok(Vocabulary {
        tokens,
        kinds,
        merges,
        pre: pre.to_owned(),
        bos: tokenizer.bos_id(),
        eos: Some(tokenizer.eos_id()),
        pad: Some(tokenizer.pad_id()),
        unknown,
        add_bos: config["add_bos_token"] == true,
        template,
    })
}

/// `["a", "b"]`, or `"a b"` in older files.
fn merge(value: &Value) -> Option<(String, String)> {
    match value {
        Value::Array(pair) => Some((pair.first()?.as_str()?.to_owned(), pair.get(1)?.as_str()?.to_owned())),
        Value::String(text) => text.split_once(' ').map(|(a, b)| (a.to_owned(), b.to_owned())),
        _ => None,
    }
}

/// Tokens by id and what they are; ids without a token are named as llama.cpp's converter does.
fn tokens(json: &Value) -> Option<(Vec<String>, Vec<TokenKind>)> {
    let vocab = json["model"]["vocab"].as_object()?;
    let added = json["added_tokens"].as_array().map_or(&[][..], Vec::as_slice);
    let mut all: Vec<(usize, String, TokenKind)> = Vec::new();
    for (text, id) in vocab {
        all.push((usize::try_from(id.as_u64()?).ok()?, text.clone(), TokenKind::Normal));
    }
    for token in added {
        let kind = if token["special"] == true { TokenKind::Control } else { TokenKind::UserDefined };
        all.push((usize::try_from(token["id"].as_u64()?).ok()?, token["content"].as_str()?.to_owned(), kind));
    }
    let highest = all.iter().map(|(id, ..)| *id).max()?;
    // Holes are filled; a file of a few tokens cannot claim billions of them.
    if highest > all.len().saturating_mul(4) + 4096 {
        return None;
    }
    let mut tokens: Vec<String> = (0..=highest).map(|id| format!("[PAD{id}]")).collect();
    let mut kinds = vec![TokenKind::Unused; highest + 1];
    for (id, text, kind) in all {
        (tokens[id], kinds[id]) = (text, kind);
    }
    Some((tokens, kinds))
}

/// The vocabulary as a `tokenizer.json`, words cut by the pre-tokenizer `cut`.
fn tokenizer_json(vocabulary: &Vocabulary, cut: Value) -> Value {
    let each = || vocabulary.tokens.iter().zip(&vocabulary.kinds).enumerate();
    let added: Vec<Value> = each()
        .filter(|(_, (_, kind))| matches!(kind, TokenKind::Control | TokenKind::UserDefined))
        .map(|(id, (token, kind))| {
            json!({
                "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": *kind == TokenKind::Control,
            })
        })
        .collect();
    let vocab: serde_json::Map<String, Value> =
        each().map(|(id, (token, _))| (token.clone(), json!(id))).collect();
    let merges: Vec<[&str; 2]> = vocabulary.merges.iter().map(|(a, b)| [a.as_str(), b.as_str()]).collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": cut, "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": cutter("llama-bpe") == cutter(&vocabulary.pre), "vocab": vocab, "merges": merges,
        },
    })
}

/// What a `tokenizer_config.json` would say: special tokens by role, and whether a begin mark is added.
fn tokenizer_config(vocabulary: &Vocabulary) -> Value {
    let text = |id: Option<u32>| id.and_then(|id| vocabulary.tokens.get(id as usize)).map(String::as_str);
    let mut config = json!({});
    // MiniMind's tokenizers and ours cut words as GPT-2 does; what another one wants is in the file.
    if vocabulary.pre != "gpt-2" || vocabulary.add_bos {
        config["add_bos_token"] = json!(vocabulary.add_bos);
        config["tokenizer_class"] = json!("GGUF");
    }
    for (role, id) in [
        ("bos_token", vocabulary.bos),
        ("eos_token", vocabulary.eos),
        ("pad_token", vocabulary.pad),
        ("unk_token", vocabulary.unknown),
    ] {
        if let Some(text) = text(id) {
            config[role] = json!(text);
        }
    }
    config
}

impl Tokenizer {
    /// The tokenizer in a GGUF; `file` is its path, for messages.
    ///
    /// # Errors
    /// The vocabulary is of a kind that is not read here, or broken.
    pub fn from_vocabulary(vocabulary: &Vocabulary, file: &Path) -> Result<Self> {
        let at = |e: Error| e.at(Place::file(file));
        let refused = |why: String| {
            at(Error::failed("the tokenizer in this GGUF cannot be used")
                .because(why)
                .hint("give one with --tokenizer DIR"))
        };
        let cut = cutter(&vocabulary.pre).ok_or_else(|| {
            refused(format!("its rule for cutting words is called `{}`", vocabulary.pre.escape_debug()))
        })?;
        let whole = tokenizer_json(vocabulary, cut).to_string();
        let inner =
            tokenizers::Tokenizer::from_bytes(whole.as_bytes()).map_err(|e| refused(e.to_string()))?;
        let mut templates = Vec::new();
        let mut hash = Sha256::new();
        hash.update(&whole);
        if let Some(text) = &vocabulary.template {
            hash.update(text);
            templates
                .push(("default".to_owned(), ChatTemplate::parse(text, &PathBuf::from(file)).map_err(at)?));
        }
        let fingerprint = crate::hash::hex(&hash.finalize());
        let config = tokenizer_config(vocabulary).as_object().cloned().unwrap_or_default();
        let mut tokenizer = Self::assemble(inner, &config.into(), templates, fingerprint).map_err(at)?;
        tokenizer.place = Some(Place::file(file));
        Ok(tokenizer)
    }
}
