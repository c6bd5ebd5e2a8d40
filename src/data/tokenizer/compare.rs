//! What tokenizers make of the same texts: how many tokens, of which kind, in how much time.
//!
//! Texts are told apart by language (`language`) and, run of lines by run of lines, by domain ([`Domain`]).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rayon::prelude::*;
use serde::Serialize;
use serde_json::Value;

use super::Tokenizer;
use crate::data::language::language_of;
use crate::error::Result;

/// Texts are encoded in parallel in portions of about this many bytes.
const PORTION_BYTES: usize = 8 << 20;
/// A token that is used at most so many times is rare.
pub const RARE_USES: u64 = 5;
/// Unused tokens that are named.
const NAMED: usize = 50;

/// What a line is, by its characters without white space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Domain {
    /// At least half are letters, and it is no code.
    Prose,
    /// At least one in twelve is one of `{}[]()<>=;_/\|&*#$@^~+%` or a backquote.
    Code,
    /// At least three in ten are digits.
    Numbers,
    /// Anything else.
    Other,
}

impl Domain {
    /// The domain of a line.
    pub fn of(line: &str) -> Self {
        let (mut all, mut letters, mut digits, mut marks) = (0u32, 0u32, 0u32, 0u32);
        for c in line.chars().filter(|c| !c.is_whitespace()) {
            all += 1;
            if c.is_ascii_digit() {
                digits += 1;
            } else if c.is_alphabetic() {
                letters += 1;
            } else if "{}[]()<>=;_/\\|&*#$@^~+%`".contains(c) {
                marks += 1;
            }
        }
        match () {
            () if digits * 10 >= all * 3 && digits > 0 => Self::Numbers,
            () if marks * 12 >= all && marks > 0 => Self::Code,
            () if letters * 2 >= all && letters > 0 => Self::Prose,
            () => Self::Other,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Prose => "prose",
            Self::Code => "code",
            Self::Numbers => "numbers",
            Self::Other => "other",
        }
    }
}

/// A text's runs of lines of one domain, line ends included. Blank lines belong to what is before them.
fn runs(text: &str) -> Vec<(Domain, &str)> {
    let mut found: Vec<(Domain, &str)> = Vec::new();
    let (mut start, mut end, mut now) = (0, 0, None);
    for line in text.split_inclusive('\n') {
        let domain = if line.trim().is_empty() { now } else { Some(Domain::of(line)) };
        if domain != now
            && let Some(before) = now.filter(|_| end > start)
        {
            found.push((before, &text[start..end]));
            start = end;
        }
        now = domain.or(now);
        end += line.len();
    }
    found.extend((end > start).then(|| (now.unwrap_or(Domain::Other), &text[start..])));
    found
}

/// Sizes of texts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Sizes {
    /// How many (of domains: runs of lines).
    pub texts: u64,
    /// Bytes of UTF-8.
    pub bytes: u64,
    /// Unicode characters.
    pub characters: u64,
}

impl Sizes {
    fn add(&mut self, text: &str) {
        self.texts += 1;
        self.bytes += text.len() as u64;
        self.characters += text.chars().count() as u64;
    }
}

/// What one tokenizer makes of the texts.
#[derive(Debug, Serialize)]
pub struct Found {
    /// Its name, as given.
    pub name: String,
    /// Ids, added tokens included.
    pub vocab_size: usize,
    /// Tokens of all texts.
    pub tokens: u64,
    /// Tokens by language.
    pub by_language: BTreeMap<&'static str, u64>,
    /// Tokens by domain.
    pub by_domain: BTreeMap<&'static str, u64>,
    /// Tokens that stand for unknown text.
    pub unknown: u64,
    /// Tokens that are a part of a character: of several bytes, or bytes that the vocabulary falls back on.
    pub parts: u64,
    /// Ids that no text uses; special tokens are not counted.
    pub unused: usize,
    /// Ids that are used, but at most [`RARE_USES`] times.
    pub rare: usize,
    /// Some of the unused ones, from the first id on.
    pub unused_tokens: Vec<String>,
    /// Seconds of encoding, on all threads.
    pub seconds: f64,
    /// Millions of bytes a second.
    pub mb_per_s: f64,
}

/// Texts and what tokenizers make of them.
#[derive(Debug, Serialize)]
pub struct Comparison {
    /// Threads that encode.
    pub threads: usize,
    /// All texts.
    #[serde(flatten)]
    pub all: Sizes,
    /// By language, as ISO 639-3 codes; `none` where a text has too few letters.
    pub languages: BTreeMap<&'static str, Sizes>,
    /// By domain.
    pub domains: BTreeMap<&'static str, Sizes>,
    /// The tokenizers, as given.
    pub tokenizers: Vec<Found>,
}

/// A tokenizer at work.
struct Counter<'a> {
    name: &'a str,
    tokenizer: &'a Tokenizer,
    uses: Vec<u64>,
    by_language: BTreeMap<&'static str, u64>,
    by_domain: BTreeMap<&'static str, u64>,
    time: Duration,
}

/// A text with what is known of it.
struct Piece {
    text: String,
    language: &'static str,
}

/// Encodes texts with every tokenizer, each given with its name.
///
/// # Errors
/// The first error of `texts`; a tokenizer refuses one.
pub fn compare(
    texts: impl Iterator<Item = Result<String>>,
    tokenizers: &[(String, Tokenizer)],
) -> Result<Comparison> {
    let mut found = Comparison {
        threads: rayon::current_num_threads(),
        all: Sizes::default(),
        languages: BTreeMap::new(),
        domains: BTreeMap::new(),
        tokenizers: Vec::new(),
    };
    let mut counters: Vec<_> =
        tokenizers.iter().map(|(name, tokenizer)| Counter::new(name, tokenizer)).collect();
    let (mut portion, mut bytes) = (Vec::new(), 0);
    for text in texts {
        let text = text?;
        bytes += text.len();
        portion.push(text);
        if bytes >= PORTION_BYTES {
            found.add(std::mem::take(&mut portion), &mut counters)?;
            bytes = 0;
        }
    }
    found.add(portion, &mut counters)?;
    found.tokenizers = counters.into_iter().map(|counter| counter.finish(found.all.bytes)).collect();
    Ok(found)
}

impl Comparison {
    fn add(&mut self, texts: Vec<String>, counters: &mut [Counter<'_>]) -> Result<()> {
        let piece = |text: String| Piece { language: language_of(&text).unwrap_or("none"), text };
        let pieces: Vec<_> = texts.into_par_iter().map(piece).collect();
        let mut lines = Vec::new();
        for Piece { text, language } in &pieces {
            self.all.add(text);
            self.languages.entry(language).or_default().add(text);
            let of_text = runs(text);
            of_text.iter().for_each(|(domain, run)| self.domains.entry(domain.name()).or_default().add(run));
            lines.push(of_text);
        }
        counters.iter_mut().try_for_each(|counter| counter.add(&pieces, &lines))
    }
}

impl<'a> Counter<'a> {
    fn new(name: &'a str, tokenizer: &'a Tokenizer) -> Self {
        Self {
            name,
            tokenizer,
            uses: vec![0; tokenizer.vocab_size()],
            by_language: BTreeMap::new(),
            by_domain: BTreeMap::new(),
            time: Duration::ZERO,
        }
    }

    fn add(&mut self, pieces: &[Piece], lines: &[Vec<(Domain, &str)>]) -> Result<()> {
        let texts: Vec<&str> = pieces.iter().map(|piece| piece.text.as_str()).collect();
        let start = Instant::now();
        let encoded = self.tokenizer.encode_batch(&texts)?;
        self.time += start.elapsed();
        for (piece, ids) in pieces.iter().zip(&encoded) {
            *self.by_language.entry(piece.language).or_default() += ids.len() as u64;
            for id in ids {
                if let Some(uses) = self.uses.get_mut(*id as usize) {
                    *uses += 1;
                }
            }
        }
        // A text of one domain is encoded already.
        let of_run = |(runs, ids): (&Vec<(Domain, &str)>, &Vec<u32>)| -> Result<Vec<(Domain, usize)>> {
            match runs.as_slice() {
                [(domain, _)] => Ok(vec![(*domain, ids.len())]),
                runs => runs
                    .iter()
                    .map(|(domain, run)| Ok((*domain, self.tokenizer.encode(run)?.len())))
                    .collect(),
            }
        };
        let counts: Vec<_> = lines.par_iter().zip(&encoded).map(of_run).collect::<Result<_>>()?;
        for (domain, tokens) in counts.into_iter().flatten() {
            *self.by_domain.entry(domain.name()).or_default() += tokens as u64;
        }
        Ok(())
    }

    fn finish(self, bytes: u64) -> Found {
        let known = self.tokenizer.token_bytes();
        let text = |id: usize| self.tokenizer.inner.id_to_token(id as u32).unwrap_or_default();
        let unknown =
            self.tokenizer.unknown_id().map_or(0, |id| self.uses.get(id as usize).copied().unwrap_or(0));
        let is_part = |id: usize| {
            let bytes = known[id].as_deref();
            bytes.is_some_and(|bytes| std::str::from_utf8(bytes).is_err()) || is_fallback(&text(id))
        };
        let sum =
            |is: &dyn Fn(usize) -> bool| (0..known.len()).filter(|id| is(*id)).map(|id| self.uses[id]).sum();
        // Special tokens are in no text, and an id without a token is none.
        let plain: Vec<usize> = (0..known.len()).filter(|id| known[*id].is_some()).collect();
        let unused: Vec<usize> = plain.iter().copied().filter(|id| self.uses[*id] == 0).collect();
        let seconds = self.time.as_secs_f64();
        Found {
            name: self.name.to_owned(),
            vocab_size: self.tokenizer.vocab_size(),
            tokens: self.uses.iter().sum(),
            unknown,
            parts: sum(&is_part),
            rare: plain.iter().filter(|id| (1..=RARE_USES).contains(&self.uses[**id])).count(),
            unused: unused.len(),
            unused_tokens: unused.into_iter().take(NAMED).map(text).collect(),
            by_language: self.by_language,
            by_domain: self.by_domain,
            seconds,
            mb_per_s: bytes as f64 / 1e6 / seconds.max(1e-9),
        }
    }
}

/// Whether a token is one of the bytes that a vocabulary without the character falls back on: `<0x0A>`.
fn is_fallback(token: &str) -> bool {
    let hex = token.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    hex.is_some_and(|hex| hex.len() == 2 && hex.bytes().all(|b| b.is_ascii_hexdigit()))
}

impl Tokenizer {
    /// The id that stands for text which the vocabulary has no token for; `None` where it has tokens for all.
    fn unknown_id(&self) -> Option<u32> {
        let model = serde_json::to_value(self.inner.get_model()).ok()?;
        let by_name = model["unk_token"].as_str().and_then(|token| self.inner.token_to_id(token));
        by_name.or_else(|| model.get("unk_id").and_then(Value::as_u64).map(|id| id as u32))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn lines_have_domains() {
        for (line, domain) in [
            ("The otter's hut, by the river - it is old.", Domain::Prose),
            ("你好，世界。", Domain::Prose),
            ("    return {k: v for k, v in items.items() if v}", Domain::Code),
            ("#include <stdio.h>", Domain::Code),
            ("12 + 30 = 42", Domain::Numbers),
            ("2024-05-01, 3.14", Domain::Numbers),
            ("...", Domain::Other),
            ("", Domain::Other),
        ] {
            assert_eq!(Domain::of(line), domain, "{line}");
        }
        let text = "Some words.\n\nlet x = f(y);\nlet z = g(x);\nMore words.";
        let found = runs(text);
        let want = [
            (Domain::Prose, "Some words.\n\n"),
            (Domain::Code, "let x = f(y);\nlet z = g(x);\n"),
            (Domain::Prose, "More words."),
        ];
        assert_eq!(found, want);
        assert_eq!(runs("\n\n"), [(Domain::Other, "\n\n")]);
        assert!(runs("").is_empty());
    }

    #[test]
    fn counts_are_those_of_the_ids() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokenizer");
        let load = || Tokenizer::load(&folder).unwrap();
        let texts = ["A line of words.\nlet x = f(1);\n", "你好，世界。這是一句話。", "€"];
        let tokenizer = load();
        let ids: Vec<_> = texts.iter().map(|text| tokenizer.encode(text).unwrap()).collect();
        let all = texts.iter().map(|text| Ok((*text).to_owned()));
        let found = compare(all, &[("a".to_owned(), load()), ("b".to_owned(), load())]).unwrap();
        let total: usize = ids.iter().map(Vec::len).sum();
        assert_eq!((found.all.texts, found.all.characters), (3, 31 + 12 + 1));
        assert_eq!(found.all.bytes, texts.iter().map(|text| text.len() as u64).sum::<u64>());
        for one in &found.tokenizers {
            assert_eq!((one.tokens, one.unknown), (total as u64, 0));
            assert_eq!(one.by_language.values().sum::<u64>(), one.tokens);
            assert_eq!(one.by_language["cmn"], ids[1].len() as u64);
            let mut used: Vec<_> = ids.concat();
            used.sort_unstable();
            let distinct = used.chunk_by(|a, b| a == b).count();
            let rare = used.chunk_by(|a, b| a == b).filter(|uses| uses.len() as u64 <= RARE_USES).count();
            let plain = tokenizer.token_bytes().iter().flatten().count();
            assert_eq!((one.unused, one.rare), (plain - distinct, rare));
            assert!(one.parts > 0 && one.parts < one.tokens);
        }
        assert_eq!(found.domains["code"].bytes, "let x = f(1);\n".len() as u64);
    }
}
