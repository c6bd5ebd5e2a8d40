//! Everything that is found out about the rows of some files, row by row: each is looked at on its own, on any core, and then
//! added in order.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::exact::{ExactIndex, RowHash, row_hash};
use super::lengths::{Lengths, Padding, padding};
use super::near::{NearIndex, Signature, THRESHOLD};
use super::odd::{OddCharacters, OddKind};
use super::overlap::{HeldOut, WORDS};
use super::passages::Passages;
use crate::data::jsonl::RowError;
use crate::data::language::language_of;
use crate::data::{DataFormat, RowCheck};

/// Places that are kept as examples of a finding.
const EXAMPLES: usize = 5;

/// What rows are looked at for.
#[derive(Debug, Default)]
pub struct SurveyOptions {
    /// Where rows would be cut.
    pub max_seq_len: usize,
    /// Rows of a micro-batch.
    pub batch_size: usize,
    /// What is held out.
    pub held_out: HeldOut,
}

/// What one row says of itself.
#[derive(Debug)]
pub struct Look {
    hash: RowHash,
    signature: Option<Signature>,
    odd: OddCharacters,
    language: Option<&'static str>,
    overlap: Option<usize>,
    /// Tokens, or characters without a tokenizer.
    length: u32,
    /// Of a row of tokens: how many are left in `max_seq_len`, and of these how many carry loss.
    kept: Option<(u32, u32)>,
}

impl Look {
    /// Looks at a row in MiniMind's keys.
    ///
    /// # Errors
    /// The row cannot be used; or the tokenizer cannot be used for this format.
    pub fn at(
        row: &Value,
        format: DataFormat,
        check: &RowCheck,
        options: &SurveyOptions,
    ) -> Result<Self, RowError> {
        let passages = Passages::of(row);
        let (length, kept) = match check.tokenizer() {
            None => {
                check.check(row, format)?;
                (passages.characters(), None)
            }
            Some(_) => {
                let tokens = check.encode(row, format)?;
                let split =
                    if format == DataFormat::Preference { tokens.loss_bytes } else { tokens.ids.len() };
                let (first, second) = tokens.loss_mask.split_at(split);
                let side = |loss: &[bool]| {
                    let kept = &loss[..loss.len().min(options.max_seq_len)];
                    (kept.len() as u32, kept.iter().skip(1).filter(|loss| **loss).count() as u32)
                };
                let (a, b) = (side(first), side(second));
                (tokens.ids.len(), Some((a.0 + b.0, a.1 + b.1)))
            }
        };
        let units = passages.units();
        let text: String = passages.all().flat_map(|text| [text, "\n"]).collect();
        Ok(Self {
            hash: row_hash(&passages),
            signature: Signature::of(&units),
            odd: OddCharacters::of(passages.all()),
            language: language_of(&text),
            overlap: options.held_out.overlap(&passages, &units),
            length: u32::try_from(length).unwrap_or(u32::MAX),
            kept,
        })
    }
}

/// What is known of the rows so far; about 400 bytes a row.
#[derive(Debug, Default)]
pub struct Survey {
    lengths: Vec<u32>,
    kept: Vec<u32>,
    loss_tokens: u64,
    without_loss: usize,
    exact: ExactIndex,
    near: NearIndex,
    exact_repeats: Repeats,
    near_repeats: Repeats,
    overlap: Repeats,
    held_out_seen: std::collections::HashSet<usize>,
    odd_rows: [usize; OddKind::ALL.len()],
    odd_characters: [u64; OddKind::ALL.len()],
    odd: Repeats,
    languages: BTreeMap<&'static str, usize>,
    shapes: BTreeMap<&'static str, usize>,
}

/// Rows of a finding: how many, and the first ones, each with the row that it is like.
#[derive(Debug, Default)]
struct Repeats {
    rows: usize,
    examples: Vec<(usize, usize)>,
}

impl Repeats {
    fn add(&mut self, row: usize, of: usize) {
        self.rows += 1;
        if self.examples.len() < EXAMPLES {
            self.examples.push((row, of));
        }
    }

    fn named(&self, row: &dyn Fn(usize) -> String, of: &dyn Fn(usize) -> String) -> Found {
        let example = |(a, b): &(usize, usize)| Example { row: row(*a), of: of(*b) };
        Found { rows: self.rows, examples: self.examples.iter().map(example).collect() }
    }
}

impl Survey {
    /// Takes in a row that can be used; `row` is its number over all files.
    pub fn add(&mut self, row: usize, shape: &'static str, look: Look) {
        *self.shapes.entry(shape).or_default() += 1;
        *self.languages.entry(look.language.unwrap_or("none")).or_default() += 1;
        self.lengths.push(look.length);
        if let Some((kept, loss)) = look.kept {
            self.kept.push(kept);
            self.loss_tokens += u64::from(loss);
            self.without_loss += usize::from(loss == 0);
        }
        if let Some(of) = self.exact.add(row, look.hash) {
            self.exact_repeats.add(row, of);
        } else if let Some((of, _)) = look.signature.and_then(|signature| self.near.add(row, &signature)) {
            self.near_repeats.add(row, of);
        }
        if let Some(of) = look.overlap {
            self.overlap.add(row, of);
            self.held_out_seen.insert(of);
        }
        if look.odd.any() {
            self.odd.add(row, row);
        }
        for (kind, count) in look.odd.0.iter().enumerate() {
            self.odd_rows[kind] += usize::from(*count > 0);
            self.odd_characters[kind] += u64::from(*count);
        }
    }

    /// All of it in numbers; `place` names a row, `held_out` one that is held out.
    pub fn findings(
        &self,
        options: &SurveyOptions,
        place: &dyn Fn(usize) -> String,
        held_out: &dyn Fn(usize) -> String,
    ) -> Findings {
        let counted = !self.kept.is_empty();
        let lengths = Lengths::of(if counted { "tokens" } else { "characters" }, &self.lengths);
        let tokens = counted.then(|| {
            let kept: u64 = self.kept.iter().map(|kept| u64::from(*kept)).sum();
            TokenFindings {
                max_seq_len: options.max_seq_len,
                batch_size: options.batch_size,
                rows_cut: self.kept.iter().zip(&self.lengths).filter(|(kept, length)| kept < length).count(),
                tokens_cut: lengths.total - kept,
                loss_tokens: self.loss_tokens,
                loss_share: self.loss_tokens as f64 / kept.max(1) as f64,
                rows_without_loss: self.without_loss,
                padding: padding(&self.kept, options.max_seq_len, options.batch_size),
            }
        });
        let kinds = OddKind::ALL.iter().enumerate().filter(|(kind, _)| self.odd_rows[*kind] > 0);
        let count =
            |kind: usize| OddCount { rows: self.odd_rows[kind], characters: self.odd_characters[kind] };
        let names = |counts: &BTreeMap<&'static str, usize>| {
            counts.iter().map(|(name, rows)| ((*name).to_owned(), *rows)).collect()
        };
        Findings {
            shapes: names(&self.shapes),
            lengths,
            tokens,
            exact_duplicates: self.exact_repeats.named(place, place),
            near_duplicates: self.near_repeats.named(place, place),
            near_threshold: THRESHOLD,
            overlap: (!options.held_out.is_empty()).then(|| Overlap {
                words: WORDS,
                held_out_rows: options.held_out.rows(),
                held_out_rows_seen: self.held_out_seen.len(),
                found: self.overlap.named(place, held_out),
            }),
            odd_characters: self.odd.named(place, place),
            odd_kinds: kinds.map(|(kind, name)| (name.name().to_owned(), count(kind))).collect(),
            languages: names(&self.languages),
        }
    }
}

/// A row of a finding, as file:line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Example {
    /// The row.
    pub row: String,
    /// The row that it is like; itself, where the finding is about one row.
    pub of: String,
}

/// The rows of a finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Found {
    /// How many.
    pub rows: usize,
    /// The first ones.
    pub examples: Vec<Example>,
}

/// What a tokenizer adds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TokenFindings {
    /// Where rows would be cut.
    pub max_seq_len: usize,
    /// Rows of a micro-batch.
    pub batch_size: usize,
    /// Rows that are longer.
    pub rows_cut: usize,
    /// Tokens that would be lost.
    pub tokens_cut: u64,
    /// Tokens with loss, of those that are left.
    pub loss_tokens: u64,
    /// Their share of the tokens that are left, 0..1.
    pub loss_share: f64,
    /// Rows with none.
    pub rows_without_loss: usize,
    /// What each way of batching pads.
    pub padding: Vec<Padding>,
}

/// Rows that overlap with what is held out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Overlap {
    /// Words of a run.
    pub words: u32,
    /// Rows that are held out.
    pub held_out_rows: usize,
    /// Those of them that were found, each by the first row that has it.
    pub held_out_rows_seen: usize,
    /// The rows that overlap.
    #[serde(flatten)]
    pub found: Found,
}

/// Odd characters of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct OddCount {
    /// Rows that have some.
    pub rows: usize,
    /// How many there are.
    pub characters: u64,
}

/// All that was found in the rows that can be used.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Findings {
    /// Rows by shape.
    pub shapes: BTreeMap<String, usize>,
    /// Lengths of rows.
    pub lengths: Lengths,
    /// What a tokenizer adds.
    #[serde(flatten)]
    pub tokens: Option<TokenFindings>,
    /// Rows that say the same as an earlier one.
    pub exact_duplicates: Found,
    /// Other rows that say almost the same as an earlier one.
    pub near_duplicates: Found,
    /// From which estimated Jaccard similarity on.
    pub near_threshold: f64,
    /// Overlap with what is held out, if anything is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overlap: Option<Overlap>,
    /// Rows with odd characters.
    pub odd_characters: Found,
    /// The same by kind.
    pub odd_kinds: BTreeMap<String, OddCount>,
    /// Rows by language, as ISO 639-3; `none` where none can be told.
    pub languages: BTreeMap<String, usize>,
}
