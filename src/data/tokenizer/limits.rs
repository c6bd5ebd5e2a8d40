//! Limits on what a tokenizer's file may do to a text.
//!
//! A normaliser of forty steps that each double a letter makes a terabyte of one word, and a regular expression
//! can take longer than the sun lasts. The library has no limit on the first and stops the second in silence,
//! so both are looked for when the file is read, and refused with their name. SentencePiece's map of characters
//! is followed without looking where it leads; it is looked at here.

use base64::Engine;
use fancy_regex::Regex;
use serde_json::Value;

use crate::error::{Error, Result};

/// How many times as long a file's normaliser or decoder may make a text.
const MOST_GROWTH: f64 = 1024.0;

/// Texts that a careless expression takes exponential time over.
fn probes() -> Vec<String> {
    ["a", "A", "0", " ", "\n", "aA", "a ", "0a", "-", "'s"]
        .iter()
        .flat_map(|unit| ["", "!", "\u{0}", "한"].map(|end| unit.repeat(48) + end))
        .collect()
}

/// Looks at a `tokenizer.json`.
///
/// # Errors
/// A normaliser or decoder that multiplies texts; an expression that cannot be read or runs into its limit.
pub(super) fn check(file: &Value) -> Result<()> {
    for (part, what) in [("normalizer", "normalizer"), ("decoder", "decoder")] {
        let growth = growth(&file[part]);
        if growth > MOST_GROWTH {
            return Err(Error::input(format!(
                "its {what} can make a text more than {MOST_GROWTH} times as long (a factor of {growth:.0e})"
            ))
            .hint("a tokenizer replaces a few characters; take the file from its own source again"));
        }
    }
    for map in values(&file["normalizer"], "precompiled_charsmap") {
        let bytes = base64::engine::general_purpose::STANDARD.decode(map).ok();
        if !bytes.is_some_and(|bytes| is_charsmap(&bytes)) {
            return Err(Error::input("the map of characters in its normalizer is broken")
                .hint("copy or download the file again"));
        }
    }
    let probes = probes();
    for part in ["normalizer", "pre_tokenizer", "decoder"] {
        for pattern in values(&file[part], "Regex") {
            let refused = |why: String| {
                let shown: String = pattern.chars().take(80).flat_map(char::escape_debug).collect();
                Error::input(format!("its {part} has a regular expression that cannot be used: `{shown}`"))
                    .because(why)
            };
            let expression = Regex::new(pattern).map_err(|error| refused(error.to_string()))?;
            let stopped = probes.iter().find_map(|probe| expression.find_iter(probe).find_map(|m| m.err()));
            if let Some(error) = stopped {
                return Err(refused(format!(
                    "over a line of 50 characters it runs into its limit ({error})"
                ))
                .hint("the expression takes exponential time; write it without repeats inside repeats"));
            }
        }
    }
    Ok(())
}

/// How many times as long a part can make a text, at most.
fn growth(part: &Value) -> f64 {
    match part["type"].as_str() {
        Some("Sequence") => {
            let steps = part["normalizers"].as_array().or(part["decoders"].as_array());
            steps.into_iter().flatten().map(growth).product()
        }
        Some("Replace") => {
            let made = part["content"].as_str().map_or(0, str::len);
            let taken = part["pattern"]["String"].as_str().map_or(1, str::len).max(1);
            (made as f64 / taken as f64).max(1.0)
        }
        // It stands before each piece of a text; a text of one letter is the worst.
        Some("Prepend") => part["prepend"].as_str().map_or(1.0, |text| 1.0 + text.len() as f64),
        _ => 1.0,
    }
}

/// Every text that stands under a key in a part.
fn values<'j>(part: &'j Value, wanted: &str) -> Vec<&'j str> {
    match part {
        Value::Object(map) => map
            .iter()
            .flat_map(|(key, value)| match value {
                Value::String(text) if key == wanted => vec![text.as_str()],
                other => values(other, wanted),
            })
            .collect(),
        Value::Array(items) => items.iter().flat_map(|item| values(item, wanted)).collect(),
        _ => Vec::new(),
    }
}

/// Whether the bytes are a double-array trie, whose every step stays inside it, and the texts its leaves point to.
fn is_charsmap(bytes: &[u8]) -> bool {
    let Some((size, rest)) = bytes.split_first_chunk::<4>() else { return false };
    let Some((trie, texts)) = rest.split_at_checked(u32::from_le_bytes(*size) as usize) else { return false };
    let Ok(texts) = std::str::from_utf8(texts) else { return false };
    let units: Vec<usize> = trie
        .chunks_exact(4)
        .map(|unit| u32::from_le_bytes([unit[0], unit[1], unit[2], unit[3]]) as usize)
        .collect();
    // The top bit marks a leaf's value, which is no step.
    let steps = units.iter().enumerate().filter(|(_, unit)| *unit >> 31 == 0);
    let inside = |(at, unit): (usize, &usize)| {
        let next = at ^ ((unit >> 10) << ((unit & (1 << 9)) >> 6));
        let leaf = || units[next] & ((1 << 31) - 1);
        (next | 0xff) < units.len() && (unit >> 8 & 1 == 0 || texts.is_char_boundary(leaf()))
    };
    let short = texts.split('\0').all(|text| text.len() <= MOST_GROWTH as usize);
    short && !units.is_empty() && steps.into_iter().all(inside)
}
