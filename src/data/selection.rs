//! Which rows of a source are taken: the first ones, those that a filter lets through, a random sample of these.
//!
//! In this order. What the filter leaves out is counted by reason. Next: `prepare`.

use std::collections::BTreeMap;

use regex::Regex;
use serde::Serialize;
use serde_json::Value;

use super::language;
use super::random::SplitMix64;
use crate::error::{Error, Result};

/// Which rows are taken.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct RowSelection {
    /// The first rows alone, as many; bad ones count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// What a row must be like.
    #[serde(skip_serializing_if = "RowFilter::is_default")]
    pub filter: RowFilter,
    /// Rows drawn at random of those that are left.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sample: Option<Sample>,
}

/// Rows drawn at random.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Sample {
    /// How many; below 1 a share.
    pub rows: f64,
    /// Seed of the draw.
    pub seed: u64,
}

/// What a row must be like.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct RowFilter {
    /// Fewest tokens, before the row is cut.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_tokens: Option<usize>,
    /// Most tokens, before the row is cut.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<usize>,
    /// A pattern that its text must hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub regex: Option<String>,
    /// The languages it may be in, by ISO 639-3; empty: any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub language: Vec<String>,
}

impl RowFilter {
    /// Whether every row passes.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Whether it counts tokens, for which it needs a tokenizer.
    pub fn counts_tokens(&self) -> bool {
        self.min_tokens.is_some() || self.max_tokens.is_some()
    }
}

/// Why a filter leaves a row out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Fewer tokens than `min_tokens`.
    MinTokens,
    /// More tokens than `max_tokens`.
    MaxTokens,
    /// `regex` is nowhere in its text.
    Regex,
    /// Another language.
    Language,
}

impl Reason {
    /// All of them, in the order of [`Filtered`].
    pub const ALL: [Self; 4] = [Self::MinTokens, Self::MaxTokens, Self::Regex, Self::Language];

    /// The key of the recipe.
    pub fn name(self) -> &'static str {
        ["min_tokens", "max_tokens", "regex", "language"][self as usize]
    }
}

/// Rows left out by reason, in the order of [`Reason::ALL`].
pub type Filtered = [u32; 4];

/// Counts by the name of the reason, those above 0.
pub fn by_reason(filtered: Filtered) -> BTreeMap<String, usize> {
    let all = Reason::ALL.into_iter().zip(filtered).filter(|(_, n)| *n > 0);
    all.map(|(reason, n)| (reason.name().to_owned(), n as usize)).collect()
}

/// A filter ready for use.
#[derive(Debug)]
pub struct Filter {
    rule: RowFilter,
    regex: Option<Regex>,
}

impl Filter {
    /// Compiles a filter.
    ///
    /// # Errors
    /// `regex` is no pattern.
    pub fn new(rule: &RowFilter) -> Result<Self> {
        let compile = |text: &String| {
            Regex::new(text).map_err(|e| {
                Error::input(format!("`regex` is no pattern: {}", e.to_string().replace('\n', " ")))
                    .hint("a pattern of Rust's regex crate, such as `^[A-Z]`; it has no look-around")
            })
        };
        Ok(Self { rule: rule.clone(), regex: rule.regex.as_ref().map(compile).transpose()? })
    }

    /// Why a row, in MiniMind's keys, is left out for its text; `None` where it passes.
    pub fn by_text(&self, row: &Value) -> Option<Reason> {
        if self.regex.is_none() && self.rule.language.is_empty() {
            return None;
        }
        let text = text_of(row);
        if self.regex.as_ref().is_some_and(|regex| !regex.is_match(&text)) {
            return Some(Reason::Regex);
        }
        let wanted = |code: &str| self.rule.language.iter().any(|own| own == code);
        let other = !self.rule.language.is_empty() && !language::language_of(&text).is_some_and(wanted);
        other.then_some(Reason::Language)
    }

    /// At how many tokens a row must be cut at the least, so that [`Self::by_tokens`] can tell; 0: it does not matter.
    pub fn tokens_needed(&self) -> usize {
        let most = self.rule.max_tokens.map_or(0, |most| most.saturating_add(1));
        most.max(self.rule.min_tokens.unwrap_or(0))
    }

    /// Why a row of so many tokens is left out; `None` where it passes.
    pub fn by_tokens(&self, tokens: usize) -> Option<Reason> {
        if self.rule.min_tokens.is_some_and(|least| tokens < least) {
            return Some(Reason::MinTokens);
        }
        self.rule.max_tokens.is_some_and(|most| tokens > most).then_some(Reason::MaxTokens)
    }
}

/// All that a row says, turn after turn.
pub fn text_of(row: &Value) -> String {
    let mut texts = Vec::new();
    let keys = ["text", "prompt", "conversations", "chosen", "rejected"];
    keys.iter().filter_map(|key| row.get(key)).for_each(|value| add_texts(value, &mut texts));
    texts.join("\n")
}

fn add_texts<'a>(value: &'a Value, texts: &mut Vec<&'a str>) {
    match value {
        Value::String(text) => texts.push(text),
        Value::Array(turns) => turns.iter().for_each(|turn| add_texts(turn, texts)),
        Value::Object(turn) => turn.get("content").into_iter().for_each(|value| add_texts(value, texts)),
        _ => {}
    }
}

/// The places of a sample of `rows` rows, in order; `None` where all are taken.
pub fn sampled(sample: Option<Sample>, rows: usize) -> Option<Vec<u32>> {
    let Sample { rows: wanted, seed } = sample?;
    let count = match wanted {
        share if share < 1.0 => ((rows as f64 * share).round() as usize).max(1),
        count => count as usize,
    };
    if count >= rows {
        return None;
    }
    let mut order: Vec<u32> = (0..rows as u32).collect();
    SplitMix64::new(seed, 13).shuffle(&mut order);
    order.truncate(count);
    order.sort_unstable();
    Some(order)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rows_are_left_out_for_text_and_tokens() {
        let rule = RowFilter {
            min_tokens: Some(3),
            max_tokens: Some(5),
            regex: Some("(?i)cat".to_owned()),
            language: vec!["eng".to_owned()],
        };
        let filter = Filter::new(&rule).unwrap();
        let turn =
            |text: &str| json!({"conversations": [{"role": "user", "content": "Hi"}, {"content": text}]});
        assert_eq!(filter.by_text(&turn("There is no such animal in the house.")), Some(Reason::Regex));
        assert_eq!(filter.by_text(&turn("The Cat that sat on the mat was happy with the weather.")), None);
        let german =
            json!({"text": "Die Katze, englisch cat, sitzt nicht auf der Matte, sondern auf dem Dach."});
        assert_eq!(filter.by_text(&german), Some(Reason::Language));
        let by = [2, 3, 5, 6].map(|n| filter.by_tokens(n));
        assert_eq!(by, [Some(Reason::MinTokens), None, None, Some(Reason::MaxTokens)]);
        assert_eq!(filter.tokens_needed(), 6);
        assert!(Filter::new(&RowFilter { regex: Some("(".to_owned()), ..RowFilter::default() }).is_err());
    }

    #[test]
    fn samples_are_seeded_and_as_large_as_asked() {
        let draw = |wanted: f64, rows, seed| sampled(Some(Sample { rows: wanted, seed }), rows);
        assert_eq!((sampled(None, 10), draw(10.0, 10, 1)), (None, None));
        let three = draw(3.0, 1000, 1).unwrap();
        assert_eq!((three.len(), draw(3.0, 1000, 1)), (3, Some(three.clone())));
        assert_ne!(draw(3.0, 1000, 2), Some(three));
        assert_eq!(draw(0.25, 1000, 1).unwrap().len(), 250);
        assert_eq!(draw(0.01, 10, 1).unwrap().len(), 1);
    }
}
