//! MiniMind's two tokenizers, which the program carries: their 6400 ids are those of the released weights.
//!
//! The merges are upstream's data (`assets/tokenizers/NOTICE.md`); ids follow from them: the special tokens, the 256
//! bytes, then a token a merge. The chat templates are our own text and render the same prompts. Files are written into
//! a folder like any other tokenizer's, so that everything that reads folders reads these.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

use super::train;
use crate::atomic;
use crate::checkpoint::{read_weights, resolve_model_path, tokenizer_folder};
use crate::error::{Error, Result};

/// Entries of both.
pub const VOCAB_SIZE: usize = 6400;

/// One of MiniMind's two tokenizers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BuiltinTokenizer {
    /// Of 2025.
    MiniMind2,
    /// Of 2026.
    MiniMind3,
}

impl BuiltinTokenizer {
    /// Both.
    pub const ALL: [Self; 2] = [Self::MiniMind2, Self::MiniMind3];

    /// The name by which a recipe or `--tokenizer` asks for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::MiniMind2 => "minimind2",
            Self::MiniMind3 => "minimind3",
        }
    }

    /// The tokenizer of a name; a folder that is there wins over it.
    pub fn named(name: &Path) -> Option<Self> {
        let asked = Self::ALL.into_iter().find(|standard| name == Path::new(standard.name()));
        asked.filter(|_| !name.exists())
    }

    /// The tokenizer for weights that come without one: `rows` are their embedding's, `norms` whether queries and keys are
    /// normed, as minimind3's are. Logs which one is used; `None` where the vocabulary is another.
    ///
    /// # Errors
    /// The weight file cannot be read.
    pub fn for_weights(path: &Path, rows: i64, norms: bool) -> Result<Option<Self>> {
        if rows != VOCAB_SIZE as i64 {
            return Ok(None);
        }
        let standard = match tokenizer_folder::named(path)? {
            // A tokenizer of its own that is not there any more: MiniMind's would read it as other text.
            Some(named) => match Self::ALL.into_iter().find(|s| Path::new(&named).ends_with(s.name())) {
                Some(standard) => standard,
                None => return Ok(None),
            },
            None if norms => Self::MiniMind3,
            None => Self::MiniMind2,
        };
        tracing::info!(
            "no tokenizer lies beside {}; its {VOCAB_SIZE} rows are taken for {}'s: the tokenizer is the one this program carries",
            path.display(),
            standard.name()
        );
        Ok(Some(standard))
    }

    fn merges(self) -> impl Iterator<Item = (&'static str, &'static str)> {
        let text = match self {
            Self::MiniMind2 => include_str!("../../../assets/tokenizers/minimind2.merges"),
            Self::MiniMind3 => include_str!("../../../assets/tokenizers/minimind3.merges"),
        };
        text.lines().filter_map(|line| line.split_once(' '))
    }

    /// Tokens before the bytes, each with whether it is special.
    fn reserved(self) -> Vec<(&'static str, bool)> {
        let all = train::RESERVED.iter().enumerate().map(|(id, text)| (*text, id < train::PLAIN_FROM));
        match self {
            Self::MiniMind2 => all.take(3).collect(),
            Self::MiniMind3 => all.collect(),
        }
    }

    /// `tokenizer.json`.
    fn tokenizer(self) -> Value {
        let mut alphabet: Vec<String> = ByteLevel::alphabet().into_iter().map(String::from).collect();
        alphabet.sort();
        let reserved = self.reserved();
        let words = reserved.iter().map(|(text, _)| (*text).to_owned());
        let words = words.chain(alphabet).chain(self.merges().map(|(left, right)| format!("{left}{right}")));
        let vocab: Map<String, Value> = words.enumerate().map(|(id, word)| (word, json!(id))).collect();
        let added: Vec<Value> =
            reserved.iter().enumerate().map(|(id, (text, special))| token(id, text, *special)).collect();
        let merges: Vec<[&str; 2]> = self.merges().map(|(left, right)| [left, right]).collect();
        let level = |prefix: bool| json!({"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": true, "use_regex": true});
        json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": added,
            "normalizer": null,
            "pre_tokenizer": level(false),
            "post_processor": null,
            "decoder": level(true),
            "model": {
                "type": "BPE",
                "dropout": null,
                "unk_token": null,
                "continuing_subword_prefix": null,
                "end_of_word_suffix": null,
                "fuse_unk": false,
                "byte_fallback": false,
                "ignore_merges": false,
                "vocab": vocab,
                "merges": merges,
            },
        })
    }

    /// `tokenizer_config.json`.
    fn config(self) -> Value {
        let reserved = self.reserved();
        let decoder: Map<String, Value> = reserved
            .iter()
            .enumerate()
            .map(|(id, (text, special))| {
                let mut token = token(id, text, *special);
                token.as_object_mut().map(|token| token.shift_remove("id"));
                (id.to_string(), token)
            })
            .collect();
        let additional: Vec<&str> = match self {
            Self::MiniMind2 => Vec::new(),
            Self::MiniMind3 => {
                reserved[1..].iter().filter(|(_, special)| *special).map(|(text, _)| *text).collect()
            }
        };
        let (length, template) = match self {
            Self::MiniMind2 => (32_768, include_str!("minimind2_template.jinja")),
            Self::MiniMind3 => (131_072, train::CHAT_TEMPLATE),
        };
        json!({
            "add_bos_token": false,
            "add_eos_token": false,
            "add_prefix_space": false,
            "added_tokens_decoder": decoder,
            "additional_special_tokens": additional,
            "bos_token": reserved[1].0,
            "eos_token": reserved[2].0,
            "pad_token": reserved[0].0,
            "unk_token": reserved[0].0,
            "clean_up_tokenization_spaces": false,
            "spaces_between_special_tokens": false,
            "model_max_length": length,
            "tokenizer_class": "PreTrainedTokenizerFast",
            "chat_template": template,
        })
    }

    /// The tokenizer's folder below `cache`, written if it is not there yet; if it cannot be written there, below the system's
    /// temporary folder.
    ///
    /// # Errors
    /// Neither folder can be written.
    pub fn folder(self, cache: &Path) -> Result<PathBuf> {
        let files = [("tokenizer_config.json", self.config()), ("tokenizer.json", self.tokenizer())];
        let write = |below: &Path| -> Result<PathBuf> {
            let folder = below.join("tokenizers").join(self.name());
            for (name, value) in &files {
                let path = folder.join(name);
                let text = value.to_string();
                if std::fs::read(&path).is_ok_and(|there| there == text.as_bytes()) {
                    continue;
                }
                std::fs::create_dir_all(&folder).map_err(|e| Error::io("make the folder", &folder, e))?;
                atomic::write_bytes(&path, text.as_bytes())?;
            }
            Ok(folder)
        };
        write(cache).or_else(|_| write(&std::env::temp_dir().join("minimind")))
    }
}

/// The folder of the tokenizer that goes with the weights that `--model` or `init` names, MiniMind's below `cache` if
/// there is no other; `None` where none is known.
///
/// # Errors
/// There are no such weights, or they cannot be read.
pub fn for_path(weights: &str, cache: &Path) -> Result<Option<PathBuf>> {
    let path = resolve_model_path(weights)?;
    if let Some(folder) = tokenizer_folder::find(&path)? {
        return Ok(Some(folder));
    }
    let tensors = read_weights(&path)?.tensors;
    let embedding = tensors.get("model.embed_tokens.weight").or_else(|| tensors.get("lm_head.weight"));
    let rows = embedding.and_then(|tensor| tensor.shape().first().copied()).unwrap_or(0);
    let norms = tensors.keys().any(|name| name.ends_with("self_attn.q_norm.weight"));
    BuiltinTokenizer::for_weights(&path, rows, norms)?.map(|standard| standard.folder(cache)).transpose()
}

fn token(id: usize, text: &str, special: bool) -> Value {
    json!({
        "id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
        "special": special,
    })
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;
    use crate::data::Tokenizer;
    use crate::data::tokenizer::RenderOptions;

    fn load(standard: BuiltinTokenizer) -> Tokenizer {
        let folder = tempfile::tempdir().unwrap();
        Tokenizer::load(&standard.folder(folder.path()).unwrap()).unwrap()
    }

    /// Golden values: `scripts/golden/standard_tokenizers.py`, from upstream's own `tokenizer.json`.
    #[test]
    fn ids_and_texts_are_upstreams() {
        for (standard, vocabulary, ids) in GOLDEN {
            let value = standard.tokenizer();
            let vocab = value["model"]["vocab"].as_object().unwrap();
            assert_eq!(
                (vocab.len(), value["model"]["merges"].as_array().unwrap().len()),
                (VOCAB_SIZE, 6400 - 256 - standard.reserved().len())
            );
            let lines: String = vocab.keys().map(|word| format!("{word}\n")).collect();
            assert_eq!(crate::hash::hex(&Sha256::digest(lines)), vocabulary, "{standard:?}");
            let tokenizer = load(standard);
            assert_eq!((tokenizer.bos_id(), tokenizer.eos_id(), tokenizer.pad_id()), (Some(1), 2, 0));
            let made = tokenizer.encode("<|im_start|>user\n你好，world! 1+1=2 안녕 🙂<|im_end|>\n").unwrap();
            assert_eq!(made, ids, "{standard:?}");
        }
    }

    #[test]
    fn both_speak_as_recorded() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/standard_tokenizers");
        for standard in BuiltinTokenizer::ALL {
            let tokenizer = load(standard);
            let bytes = std::fs::read(folder.join(standard.name()).with_extension("json")).unwrap();
            let recorded: Value = serde_json::from_slice(&bytes).unwrap();
            let (prompts, encodings) =
                (recorded["prompts"].as_array().unwrap(), recorded["encodings"].as_array().unwrap());
            assert!(prompts.len() > 10 && encodings.len() > 20, "{standard:?}");
            for case in prompts {
                let flag = |key: &str| case[key].as_bool().unwrap_or(false);
                let options = RenderOptions {
                    add_generation_prompt: flag("add_generation_prompt"),
                    open_thinking: flag("open_thinking"),
                    ..RenderOptions::default()
                };
                let tools = Some(&case["tools"]).filter(|tools| !tools.is_null());
                assert_eq!(
                    tokenizer.apply_chat_template(&case["messages"], tools, options).unwrap(),
                    case["rendered"]
                );
            }
            for case in encodings {
                let ids: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
                assert_eq!(tokenizer.encode(case["text"].as_str().unwrap()).unwrap(), ids);
                assert_eq!(tokenizer.decode(&ids, true).unwrap(), case["decoded_skip_special"]);
            }
        }
    }

    #[test]
    fn a_folder_that_is_there_wins_over_the_name() {
        assert_eq!(BuiltinTokenizer::named(Path::new("minimind3")), Some(BuiltinTokenizer::MiniMind3));
        assert_eq!(BuiltinTokenizer::named(Path::new("tests")), None);
        let cache = tempfile::tempdir().unwrap();
        let folder = BuiltinTokenizer::MiniMind2.folder(cache.path()).unwrap();
        assert_eq!(BuiltinTokenizer::named(&folder), None);
        // What was cut short is made whole.
        std::fs::write(folder.join("tokenizer.json"), "{").unwrap();
        assert!(Tokenizer::load(&BuiltinTokenizer::MiniMind2.folder(cache.path()).unwrap()).is_ok());
    }

    const GOLDEN: [(BuiltinTokenizer, &str, &[u32]); 2] = [
        (
            BuiltinTokenizer::MiniMind2,
            "155e9c5573e0dacb15968f2efcc9070b5a2d54f5ff1173bb07ccf8cd1fd344a0",
            &[
                1, 320, 275, 201, 5134, 270, 1839, 512, 3, 730, 13, 19, 31, 20, 5191, 246, 233, 170, 230,
                246, 223, 175, 256, 250, 227, 2, 201,
            ],
        ),
        (
            BuiltinTokenizer::MiniMind3,
            "98ac04969032496a816268b0f05ae3b6597f53e33039a94ea6806a29defb11c7",
            &[
                1, 832, 311, 234, 1968, 294, 2429, 674, 36, 482, 46, 52, 64, 53, 2095, 279, 266, 203, 263,
                279, 256, 4544, 283, 260, 2, 234,
            ],
        ),
    ];
}
