//! SentencePiece's `tokenizer.model` as a tokenizer of the `tokenizers` library.
//!
//! Folders of Llama 2's time have only this file. The conversion is transformers' own
//! (`SpmConverter.build_tokenizer_from_spm_proto`): BPE with its merges in the order of the scores, or unigram;
//! byte fallback, the dummy prefix, user-defined pieces that stay whole. The file is a protocol buffer of few
//! fields, read here by hand.

use std::collections::{HashMap, HashSet};

use base64::Engine;
use serde_json::{Map, Value, json};

use crate::error::{Error, Result};

/// The piece that stands for a space.
const SPACE: &str = "\u{2581}";
/// Longer pieces are no pieces.
const MAX_PIECE_BYTES: usize = 4096;

/// `SentencePiece.Type`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

#[derive(Debug, Clone)]
struct Piece {
    text: String,
    score: f32,
    kind: Kind,
}

/// What a `tokenizer.model` holds.
#[derive(Debug)]
pub(super) struct Model {
    pieces: Vec<Piece>,
    /// 1 unigram, 2 BPE.
    model_type: u64,
    byte_fallback: bool,
    suffix: bool,
    /// Id and text of the unknown, begin, end and padding piece.
    marks: [(i32, String); 4],
    charsmap: Vec<u8>,
    add_dummy_prefix: bool,
    remove_extra_whitespaces: bool,
    escape_whitespaces: bool,
}

/// A field of a message: its number and what it holds.
enum Field<'b> {
    Number(u64),
    Fixed(u32),
    Bytes(&'b [u8]),
    Other,
}

/// The fields of a message; `None` where the bytes are none.
struct Fields<'b>(&'b [u8]);

impl<'b> Fields<'b> {
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..70).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, count: usize) -> Option<&'b [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    /// The next field; the outer `None` is the end, the inner one a broken message.
    fn next(&mut self) -> Option<Option<(u64, Field<'b>)>> {
        if self.0.is_empty() {
            return None;
        }
        Some(self.read())
    }

    fn read(&mut self) -> Option<(u64, Field<'b>)> {
        let key = self.varint()?;
        let field = match key & 7 {
            0 => Field::Number(self.varint()?),
            1 => self.take(8).map(|_| Field::Other)?,
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                Field::Bytes(self.take(length)?)
            }
            5 => Field::Fixed(u32::from_le_bytes(self.take(4)?.try_into().ok()?)),
            _ => return None,
        };
        Some((key >> 3, field))
    }
}

impl Model {
    /// Reads the bytes of a `tokenizer.model`.
    ///
    /// # Errors
    /// They are no SentencePiece model.
    pub(super) fn read(bytes: &[u8]) -> Result<Self> {
        Self::parse(bytes)
            .filter(|model| !model.pieces.is_empty())
            .ok_or_else(|| Error::input("this is not a SentencePiece model"))
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let mark = |id, text: &str| (id, text.to_owned());
        let mut model = Self {
            pieces: Vec::new(),
            model_type: 1,
            byte_fallback: false,
            suffix: false,
            marks: [mark(0, "<unk>"), mark(1, "<s>"), mark(2, "</s>"), mark(-1, "<pad>")],
            charsmap: Vec::new(),
            add_dummy_prefix: true,
            remove_extra_whitespaces: true,
            escape_whitespaces: true,
        };
        let mut fields = Fields(bytes);
        while let Some(field) = fields.next() {
            match field? {
                (1, Field::Bytes(bytes)) => model.pieces.push(Piece::parse(bytes)?),
                (2, Field::Bytes(bytes)) => model.trainer(bytes)?,
                (3, Field::Bytes(bytes)) => model.normalizer(bytes)?,
                _ => {}
            }
        }
        Some(model)
    }

    fn trainer(&mut self, bytes: &[u8]) -> Option<()> {
        let mut fields = Fields(bytes);
        while let Some(field) = fields.next() {
            match field? {
                (3, Field::Number(kind)) => self.model_type = kind,
                (24, Field::Number(flag)) => self.suffix = flag != 0,
                (35, Field::Number(flag)) => self.byte_fallback = flag != 0,
                (number @ 40..=43, Field::Number(id)) => self.marks[number as usize - 40].0 = id as i32,
                (number @ 45..=48, Field::Bytes(text)) => {
                    self.marks[number as usize - 45].1 = String::from_utf8(text.to_vec()).ok()?;
                }
                _ => {}
            }
        }
        Some(())
    }

    fn normalizer(&mut self, bytes: &[u8]) -> Option<()> {
        let mut fields = Fields(bytes);
        while let Some(field) = fields.next() {
            match field? {
                (2, Field::Bytes(map)) => self.charsmap = map.to_vec(),
                (3, Field::Number(flag)) => self.add_dummy_prefix = flag != 0,
                (4, Field::Number(flag)) => self.remove_extra_whitespaces = flag != 0,
                (5, Field::Number(flag)) => self.escape_whitespaces = flag != 0,
                _ => {}
            }
        }
        Some(())
    }

    /// Says in a configuration what the model says and the configuration does not.
    pub(super) fn complete(&self, config: &mut Map<String, Value>) {
        for (role, (id, text)) in ["unk_token", "bos_token", "eos_token"].iter().zip(&self.marks) {
            if *id >= 0 {
                config.entry(*role).or_insert_with(|| json!(text));
            }
        }
    }

    /// The same as a `tokenizer.json`.
    ///
    /// # Errors
    /// A kind of model that the library does not know, or pieces that are none.
    pub(super) fn to_tokenizer_json(&self, config: &Map<String, Value>) -> Result<Value> {
        if self.suffix || !matches!(self.model_type, 1 | 2) {
            let what = if self.suffix { "puts spaces behind words" } else { "is neither BPE nor unigram" };
            return Err(Error::input(format!("this SentencePiece model {what}"))
                .hint("give a tokenizer.json: transformers writes one with save_pretrained"));
        }
        if let Some(piece) =
            self.pieces.iter().find(|p| !p.score.is_finite() || p.text.len() > MAX_PIECE_BYTES)
        {
            let shown: String = piece.text.chars().take(40).flat_map(char::escape_debug).collect();
            return Err(Error::input(format!("the piece `{shown}` of this SentencePiece model is none")));
        }
        let names = self.names(config);
        let user_defined: Vec<&String> = self.of_kind(Kind::UserDefined).map(|id| &names[id]).collect();
        let model = match self.model_type {
            2 => self.bpe(&names, !user_defined.is_empty()),
            _ => json!({
                "type": "Unigram", "unk_id": self.marks[0].0.max(0), "byte_fallback": self.byte_fallback,
                "vocab": names.iter().zip(&self.pieces).map(|(name, p)| json!([name, p.score])).collect::<Value>(),
            }),
        };
        let added: Vec<Value> = self
            .of_kind(Kind::Control)
            .chain(self.of_kind(Kind::Unknown))
            .map(|id| {
                json!({
                    "id": id, "content": names[id], "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false, "special": true,
                })
            })
            .collect();
        let class = config.get("tokenizer_class").and_then(Value::as_str).unwrap_or_default();
        let llama = matches!(class.trim_end_matches("Fast"), "LlamaTokenizer" | "CodeLlamaTokenizer");
        let legacy = config.get("legacy").and_then(Value::as_bool).unwrap_or(!llama);
        Ok(json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
            "normalizer": {"type": "Sequence", "normalizers": self.normalizers(legacy)},
            "pre_tokenizer": self.pre_tokenizer(legacy, user_defined),
            "post_processor": null,
            "decoder": {"type": "Sequence", "decoders": self.decoders()},
            "model": model,
        }))
    }

    fn of_kind(&self, kind: Kind) -> impl Iterator<Item = usize> + '_ {
        self.pieces.iter().enumerate().filter(move |(_, piece)| piece.kind == kind).map(|(id, _)| id)
    }

    /// The pieces' texts; `added_tokens_decoder` gives placeholders of a BPE their names.
    fn names(&self, config: &Map<String, Value>) -> Vec<String> {
        let mut names: Vec<String> = self.pieces.iter().map(|piece| piece.text.clone()).collect();
        let Some(decoder) = config.get("added_tokens_decoder").and_then(Value::as_object) else {
            return names;
        };
        let given: HashMap<usize, &str> = decoder
            .iter()
            .filter_map(|(id, token)| {
                let text = token.as_str().or_else(|| token["content"].as_str())?;
                Some((id.parse().ok()?, text))
            })
            .collect();
        if self.model_type != 2 {
            return names;
        }
        let kept: HashSet<String> = names
            .iter()
            .enumerate()
            .filter(|(id, _)| !given.contains_key(id))
            .map(|(_, n)| n.clone())
            .collect();
        for (id, text) in given {
            if id < names.len() && !kept.contains(text) {
                text.clone_into(&mut names[id]);
            }
        }
        names
    }

    /// A BPE whose merges are all pairs that make a piece, best score first.
    fn bpe(&self, names: &[String], ignore_merges: bool) -> Value {
        let normal: HashMap<&str, usize> =
            self.of_kind(Kind::Normal).map(|id| (names[id].as_str(), id)).collect();
        let mut merges: Vec<(f32, usize, &str, &str)> = Vec::new();
        for (text, id) in &normal {
            for (at, _) in text.char_indices().skip(1) {
                let (left, right) = text.split_at(at);
                if normal.contains_key(left) && normal.contains_key(right) {
                    merges.push((-self.pieces[*id].score, *id, left, right));
                }
            }
        }
        merges.sort_by(|a, b| a.0.total_cmp(&b.0).then_with(|| (a.1, a.2, a.3).cmp(&(b.1, b.2, b.3))));
        let vocab: Map<String, Value> =
            names.iter().enumerate().map(|(id, name)| (name.clone(), json!(id))).collect();
        json!({
            "type": "BPE", "dropout": null, "unk_token": self.marks[0].1, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": self.byte_fallback,
            "ignore_merges": ignore_merges, "vocab": vocab,
            "merges": merges.into_iter().map(|(.., left, right)| json!([left, right])).collect::<Value>(),
        })
    }

    fn normalizers(&self, legacy: bool) -> Vec<Value> {
        let replace = |pattern: Value, content: &str| json!({"type": "Replace", "pattern": pattern, "content": content});
        let mut steps = Vec::new();
        if !self.charsmap.is_empty() {
            let map = base64::engine::general_purpose::STANDARD.encode(&self.charsmap);
            steps.push(json!({"type": "Precompiled", "precompiled_charsmap": map}));
        }
        if self.remove_extra_whitespaces {
            steps.push(replace(json!({"Regex": r"\A +| +\z"}), ""));
            steps.push(replace(json!({"Regex": " {2,}"}), " "));
        }
        if self.escape_whitespaces {
            steps.push(replace(json!({"String": " "}), SPACE));
        }
        if self.add_dummy_prefix && legacy {
            // The step that puts the prefix in front leaves it out where the text has one; SentencePiece does not.
            steps.push(replace(json!({"Regex": format!(r"\A{SPACE}")}), &SPACE.repeat(2)));
        }
        steps
    }

    fn pre_tokenizer(&self, legacy: bool, mut user_defined: Vec<&String>) -> Value {
        let mut steps = Vec::new();
        if self.add_dummy_prefix {
            let scheme = if legacy { "always" } else { "first" };
            steps.push(
                json!({"type": "Metaspace", "replacement": SPACE, "prepend_scheme": scheme, "split": false}),
            );
        }
        if !user_defined.is_empty() {
            user_defined.sort_by_key(|text| std::cmp::Reverse(text.chars().count()));
            let pattern: Vec<String> = user_defined.into_iter().map(|text| regex::escape(text)).collect();
            steps.push(json!({
                "type": "Split", "pattern": {"Regex": pattern.join("|")}, "behavior": "Isolated", "invert": false,
            }));
        }
        if steps.is_empty() { Value::Null } else { json!({"type": "Sequence", "pretokenizers": steps}) }
    }

    fn decoders(&self) -> Vec<Value> {
        let mut steps = vec![json!({"type": "Replace", "pattern": {"String": SPACE}, "content": " "})];
        if self.byte_fallback {
            steps.push(json!({"type": "ByteFallback"}));
        }
        if self.add_dummy_prefix || self.byte_fallback {
            steps.push(json!({"type": "Fuse"}));
        }
        if self.add_dummy_prefix {
            steps.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        }
        steps
    }
}

impl Piece {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let mut piece = Self { text: String::new(), score: 0.0, kind: Kind::Normal };
        let mut fields = Fields(bytes);
        while let Some(field) = fields.next() {
            match field? {
                (1, Field::Bytes(text)) => piece.text = String::from_utf8(text.to_vec()).ok()?,
                (2, Field::Fixed(bits)) => piece.score = f32::from_bits(bits),
                (3, Field::Number(kind)) => {
                    piece.kind = match kind {
                        1 => Kind::Normal,
                        2 => Kind::Unknown,
                        3 => Kind::Control,
                        4 => Kind::UserDefined,
                        5 => Kind::Unused,
                        6 => Kind::Byte,
                        _ => return None,
                    }
                }
                _ => {}
            }
        }
        Some(piece)
    }
}
