//! Trains a byte-level BPE tokenizer and writes it as Hugging Face folders are.
//!
//! The layout is upstream's: 36 reserved ids, the 256 bytes, then merges. Words are counted on all cores
//! while the texts stream by, so memory follows the number of distinct words, not the corpus.

use std::collections::HashMap;
use std::path::Path;

use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::normalizers::{NFC, NFD, NFKC, NFKD, NormalizerWrapper};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{
    AddedToken, NormalizedString, Normalizer as _, OffsetReferential, OffsetType, PreTokenizedString,
    PreTokenizer,
};

use super::ChatTemplate;
use crate::atomic;
use crate::error::{Error, Result};

/// Our chat template.
pub(super) const CHAT_TEMPLATE: &str = include_str!("chat_template.jinja");

/// The reserved ids from 0 on; those before [`PLAIN_FROM`] are special (hidden by `skip_special`).
pub(super) const RESERVED: [&str; 36] = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<|audio_start|>",
    "<|audio_end|>",
    "<|audio_pad|>",
    "<tts_pad>",
    "<tts_text_bos>",
    "<tts_text_eod>",
    "<tts_text_bos_single>",
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
    "<think>",
    "</think>",
    "<|buffer1|>",
    "<|buffer2|>",
    "<|buffer3|>",
    "<|buffer4|>",
    "<|buffer5|>",
    "<|buffer6|>",
    "<|buffer7|>",
    "<|buffer8|>",
    "<|buffer9|>",
];
pub(super) const PLAIN_FROM: usize = 21;

/// The smallest vocabulary: the reserved ids and every byte.
pub const MIN_VOCAB_SIZE: usize = RESERVED.len() + 256;

/// A line end, as the byte-level alphabet writes it. No merge crosses one: words are split by what follows them, so a
/// blank line would be one token at a prompt's end and two before an answer's first letter, and a model that learned
/// the one would not know the other.
const LINE_END: char = 'Ċ';

/// Texts are counted in parallel in portions of about this many bytes.
const PORTION_BYTES: usize = 8 << 20;

/// The chat template that every tokenizer trained here carries.
///
/// # Errors
/// It cannot be parsed, which would be a mistake of this program.
pub fn template() -> Result<ChatTemplate> {
    ChatTemplate::parse(CHAT_TEMPLATE, Path::new("chat_template.jinja"))
}

/// A rendered text with line ends for the reserved tokens, which no merge may reach into.
pub fn without_reserved(text: String) -> String {
    RESERVED
        .iter()
        .fold(text, |text, token| if text.contains(token) { text.replace(token, "\n") } else { text })
}

/// What came of a training.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrainReport {
    /// The size reached; less than asked where the corpus has too few pairs to merge.
    pub vocab_size: usize,
    /// Texts read.
    pub texts: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// How characters that look alike become one before anything else (Unicode's normal forms).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Normalizer {
    /// Text stays as it is.
    #[default]
    None,
    /// Marks join their letters.
    Nfc,
    /// Letters and their marks apart.
    Nfd,
    /// As `nfc`, and full-width letters, ligatures and the like become plain ones.
    Nfkc,
    /// As `nfd`, and the same.
    Nfkd,
}

impl Normalizer {
    /// Whether text stays as it is.
    pub fn is_none(&self) -> bool {
        *self == Self::None
    }

    fn wrapper(self) -> Option<NormalizerWrapper> {
        match self {
            Self::None => None,
            Self::Nfc => Some(NFC.into()),
            Self::Nfd => Some(NFD.into()),
            Self::Nfkc => Some(NFKC.into()),
            Self::Nfkd => Some(NFKD.into()),
        }
    }
}

/// What a training may choose.
#[derive(Debug, Clone, Default)]
pub struct TrainOptions {
    /// Entries, the reserved ones included.
    pub vocab_size: usize,
    /// Special tokens whose ids come after the reserved ones.
    pub special_tokens: Vec<String>,
    /// Pairs that come fewer times are not merged.
    pub min_frequency: u64,
    /// What is done to texts first, here and by the tokenizer.
    pub normalizer: Normalizer,
}

impl TrainOptions {
    /// The reserved tokens and those added to them, in the order of their ids, each with whether it is special.
    ///
    /// # Errors
    /// One is empty or there already; `vocab_size` has no room for them and the bytes.
    fn reserved(&self) -> Result<Vec<(&str, bool)>> {
        let mut all: Vec<_> =
            RESERVED.iter().enumerate().map(|(id, text)| (*text, id < PLAIN_FROM)).collect();
        for token in &self.special_tokens {
            if token.trim().is_empty() || all.iter().any(|(text, _)| text == token) {
                return Err(Error::input(format!("special token `{token}` is empty or there already")).hint(
                    "name each once; `<|im_end|>`, `<think>` and the other reserved ones are always there",
                ));
            }
            all.push((token, true));
        }
        let least = all.len() + 256;
        if self.vocab_size < least {
            return Err(Error::input(format!("vocab_size {} is too small", self.vocab_size))
                .because(format!("{} reserved ids and 256 bytes come before any merge", all.len()))
                .hint(format!("use {least} or more; 6400 is usual")));
        }
        Ok(all)
    }
}

/// Trains a byte-level BPE tokenizer on `texts` and writes `tokenizer.json` and `tokenizer_config.json` into `out`.
///
/// # Errors
/// As [`train_with`].
pub fn train(
    texts: impl Iterator<Item = Result<String>>,
    vocab_size: usize,
    out: &Path,
) -> Result<TrainReport> {
    train_with(texts, &TrainOptions { vocab_size, ..TrainOptions::default() }, out)
}

/// The same with every choice.
///
/// # Errors
/// The first error of `texts`, `vocab_size` is below the reserved tokens and bytes, a special token is there already, or the
/// folder cannot be written.
pub fn train_with(
    texts: impl Iterator<Item = Result<String>>,
    options: &TrainOptions,
    out: &Path,
) -> Result<TrainReport> {
    let reserved = options.reserved()?;
    let normalizer = options.normalizer.wrapper();
    let (words, texts, bytes) = count_all(texts, normalizer.as_ref())?;
    if texts == 0 {
        return Err(Error::input("there is no text to train the tokenizer on").hint("check the data files"));
    }

    let token = |(text, special): &(&str, bool)| AddedToken::from(*text, *special).normalized(false);
    let tokens: Vec<_> = reserved.iter().map(token).collect();
    let trainer = BpeTrainer::builder()
        .vocab_size(options.vocab_size)
        .min_frequency(options.min_frequency)
        .show_progress(false)
        .special_tokens(tokens.clone())
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    let mut model = BPE::default();
    let words = words.into_iter().map(|(word, count)| (word.into(), count)).collect();
    trainer.do_train(&words, &mut model).map_err(failed)?;

    let mut tokenizer = tokenizers::Tokenizer::new(model);
    tokenizer.with_normalizer(normalizer).map_err(failed)?;
    tokenizer.with_pre_tokenizer(Some(ByteLevel::new(false, true, true)));
    tokenizer.with_decoder(Some(ByteLevel::default()));
    tokenizer.add_tokens(tokens).map_err(failed)?;

    std::fs::create_dir_all(out).map_err(|error| Error::io("make the folder", out, error))?;
    atomic::write_bytes(&out.join("tokenizer.json"), tokenizer.to_string(true).map_err(failed)?.as_bytes())?;
    let config = serde_json::to_string_pretty(&config(&reserved)).map_err(failed)?;
    atomic::write_bytes(&out.join("tokenizer_config.json"), (config + "\n").as_bytes())?;
    Ok(TrainReport { vocab_size: tokenizer.get_vocab_size(true), texts, bytes })
}

fn failed(error: impl std::fmt::Display) -> Error {
    Error::failed("the tokenizer could not be trained").because(error)
}

type Counts = HashMap<String, u64>;

fn count_all(
    texts: impl Iterator<Item = Result<String>>,
    normalizer: Option<&NormalizerWrapper>,
) -> Result<(Counts, usize, u64)> {
    let mut counts = Counts::new();
    let (mut portion, mut portion_bytes) = (Vec::new(), 0);
    let (mut count, mut bytes) = (0, 0);
    for text in texts {
        let text = text?;
        count += 1;
        bytes += text.len() as u64;
        portion_bytes += text.len();
        portion.push(text);
        if portion_bytes >= PORTION_BYTES {
            merge(&mut counts, count_portion(&portion, normalizer)?);
            portion.clear();
            portion_bytes = 0;
        }
    }
    merge(&mut counts, count_portion(&portion, normalizer)?);
    Ok((counts, count, bytes))
}

fn count_portion(texts: &[String], normalizer: Option<&NormalizerWrapper>) -> Result<Counts> {
    texts.par_iter().try_fold(Counts::new, |counts, text| count_text(counts, text, normalizer)).try_reduce(
        Counts::new,
        |mut left, right| {
            merge(&mut left, right);
            Ok(left)
        },
    )
}

fn count_text(mut counts: Counts, text: &str, normalizer: Option<&NormalizerWrapper>) -> Result<Counts> {
    let mut text = NormalizedString::from(text);
    if let Some(normalizer) = normalizer {
        normalizer.normalize(&mut text).map_err(failed)?;
    }
    let mut pieces = PreTokenizedString::from(text);
    ByteLevel::new(false, true, true).pre_tokenize(&mut pieces).map_err(failed)?;
    let splits = pieces.get_splits(OffsetReferential::Original, OffsetType::Byte);
    for word in splits.iter().flat_map(|(word, _, _)| word.split(LINE_END)).filter(|word| !word.is_empty()) {
        match counts.get_mut(word) {
            Some(count) => *count += 1,
            None => {
                counts.insert(word.to_owned(), 1);
            }
        }
    }
    Ok(counts)
}

fn merge(into: &mut Counts, from: Counts) {
    for (word, count) in from {
        *into.entry(word).or_default() += count;
    }
}

/// `tokenizer_config.json`, by the reserved tokens and whether each is special.
fn config(reserved: &[(&str, bool)]) -> Value {
    let entry = |(id, (text, special)): (usize, &(&str, bool))| {
        let token = json!({
            "content": text, "lstrip": false, "normalized": false, "rstrip": false,
            "single_word": false, "special": special,
        });
        (id.to_string(), token)
    };
    let decoder: Map<String, Value> = reserved.iter().enumerate().map(entry).collect();
    let special: Vec<&str> =
        reserved[1..].iter().filter(|(_, special)| *special).map(|(text, _)| *text).collect();
    json!({
        "add_bos_token": false,
        "add_eos_token": false,
        "add_prefix_space": false,
        "added_tokens_decoder": decoder,
        "additional_special_tokens": special,
        "bos_token": RESERVED[1],
        "eos_token": RESERVED[2],
        "pad_token": RESERVED[0],
        "unk_token": RESERVED[0],
        "clean_up_tokenization_spaces": false,
        "spaces_between_special_tokens": false,
        "model_max_length": 131_072,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "chat_template": CHAT_TEMPLATE,
    })
}
