//! What a row says: its texts in order, and which of them ask.

use serde_json::Value;

use super::units::Units;

/// Keys that hold the question of a benchmark's row.
const ASKED: [&str; 14] = [
    "question",
    "query",
    "prompt",
    "problem",
    "instruction",
    "input",
    "goal",
    "sentence",
    "ctx",
    "context",
    "passage",
    "premise",
    "story",
    "content",
];

/// The texts of a row.
#[derive(Debug, Clone, Default)]
pub struct Passages<'a> {
    /// All but system prompts, in order.
    pub said: Vec<&'a str>,
    /// System prompts.
    pub system: Vec<&'a str>,
    /// Those of `said` that ask: a user's turns, a text itself.
    pub asked: Vec<&'a str>,
    /// Who says each of `said`, and what the row holds beside: two rows that differ here alone are not repeats.
    beside: Vec<String>,
}

impl<'a> Passages<'a> {
    /// The texts of a row in MiniMind's keys; of any other row those under names that benchmarks use.
    pub fn of(row: &'a Value) -> Self {
        let mut found = Self::default();
        if let Some(text) = row["text"].as_str() {
            found.ask(text);
        }
        for side in ["conversations", "chosen", "rejected"] {
            for turn in row[side].as_array().into_iter().flatten() {
                found.turn(turn);
            }
        }
        if found.said.is_empty() && found.system.is_empty() {
            for key in ASKED {
                if let Some(text) = row[key].as_str() {
                    found.ask(text);
                }
            }
        }
        for key in ["tools", "functions", "gt", "label"] {
            if let Some(value) = row.get(key).filter(|value| !value.is_null()) {
                found.beside.push(value.to_string());
            }
        }
        found
    }

    fn ask(&mut self, text: &'a str) {
        self.said.push(text);
        self.asked.push(text);
    }

    fn turn(&mut self, turn: &'a Value) {
        let role = turn["role"].as_str().unwrap_or_default();
        self.beside.push(role.to_owned());
        for key in ["reasoning_content", "content"] {
            match turn[key].as_str() {
                Some(text) if role == "system" => self.system.push(text),
                Some(text) if role == "user" => self.ask(text),
                Some(text) => self.said.push(text),
                None => {}
            }
        }
        for key in ["tool_calls", "tools", "functions"] {
            match turn.get(key) {
                Some(Value::String(text)) if !text.is_empty() => self.said.push(text),
                Some(value) if !value.is_null() => self.beside.push(value.to_string()),
                _ => {}
            }
        }
    }

    /// Every text.
    pub fn all(&self) -> impl Iterator<Item = &'a str> + '_ {
        self.system.iter().chain(&self.said).copied()
    }

    /// Every text and whatever else makes a row another one.
    pub(super) fn whole(&self) -> impl Iterator<Item = &str> {
        self.all().chain(self.beside.iter().map(String::as_str))
    }

    /// What is said, as units; system prompts, which many rows share, are left out.
    pub fn units(&self) -> Units {
        Units::of(self.said.iter().copied())
    }

    /// Characters of all texts.
    pub fn characters(&self) -> usize {
        self.all().map(|text| text.chars().count()).sum()
    }
}
