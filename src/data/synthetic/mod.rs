//! A small invented world with questions whose answers can be checked, in English and Korean.
//!
//! Facts about people, towns and animals, small talk, sums and comparisons; the same seed makes the same
//! world. Held-out questions are never asked in training but follow from it: the fact is in the text
//! and was asked in other words, or the numbers were asked in the other order. Next: `world`, `asked`.

mod asked;
mod errands;
mod prose;
mod world;

use serde_json::{Value, json};

pub use asked::{Question, questions};
pub use errands::prices;

use super::config::{DataFormat, SyntheticConfig, SyntheticSplit, SyntheticTask};
use super::random::SplitMix64;

/// Part of every cache key: raise it when rows of a seed change.
pub const VERSION: u32 = 2;
/// Rows where the recipe names none.
pub const TRAIN_ROWS: usize = 12_000;
/// Held-out rows where the recipe names none.
pub const HELDOUT_ROWS: usize = 200;

/// The shape of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyntheticKind {
    /// `{"text"}`.
    Text,
    /// `{"conversations", "answer"}`.
    Chat,
    /// `{"chosen", "rejected", "answer"}`.
    Preference,
}

impl SyntheticKind {
    /// The shape that a format asks for.
    pub fn of(format: DataFormat) -> Self {
        match format {
            DataFormat::Chat | DataFormat::Prompts | DataFormat::Agent => Self::Chat,
            DataFormat::Preference => Self::Preference,
            DataFormat::Text | DataFormat::Tokens => Self::Text,
        }
    }
}

/// How many rows a configuration makes.
pub fn row_count(config: &SyntheticConfig) -> usize {
    config.rows.unwrap_or(match config.split {
        SyntheticSplit::Train => TRAIN_ROWS,
        SyntheticSplit::Heldout => HELDOUT_ROWS,
    })
}

/// Rows of the world.
pub fn rows(config: &SyntheticConfig, kind: SyntheticKind) -> Box<dyn Iterator<Item = Value> + Send> {
    let heldout = config.split == SyntheticSplit::Heldout;
    let count = row_count(config);
    let world = world::World::new(config.seed);
    let mut random = SplitMix64::new(config.seed, if heldout { 102 } else { 101 });
    if config.task == SyntheticTask::Tools {
        let random = SplitMix64::new(config.seed, if heldout { 104 } else { 103 });
        return Box::new(errands::rows(config.seed, heldout, random).take(count));
    }
    if kind == SyntheticKind::Text {
        return Box::new((0..count).map(move |_| json!({"text": prose::paragraph(&world, &mut random)})));
    }
    let mut groups: [Vec<Question>; 4] = Default::default();
    for question in questions(config.seed).into_iter().filter(|q| q.heldout == heldout) {
        groups[question.group].push(question);
    }
    let row = move |question: &Question| match kind {
        SyntheticKind::Preference => preference_row(question),
        SyntheticKind::Text | SyntheticKind::Chat => chat_row(question),
    };
    if heldout {
        // Every held-out question once before any comes again, the groups mixed.
        let mut all: Vec<Question> = groups.into_iter().flatten().collect();
        random.shuffle(&mut all);
        return Box::new((0..count).map(move |i| row(&all[i % all.len()])));
    }
    Box::new((0..count).map(move |_| {
        let group = match random.below(100) {
            0..45 => asked::FACTS,
            45..73 => asked::SUMS,
            73..92 => asked::COMPARISONS,
            _ => asked::SMALL_TALK,
        };
        row(random.pick(&groups[group]))
    }))
}

/// The right answer against a wrong one.
fn preference_row(question: &Question) -> Value {
    let turns = |answer: &str| json!([{"role": "user", "content": question.ask}, {"role": "assistant", "content": answer}]);
    json!({"chosen": turns(&question.answer), "rejected": turns(&question.wrong), "answer": question.answer})
}

fn chat_row(question: &Question) -> Value {
    json!({
        "conversations": [
            {"role": "user", "content": question.ask},
            {"role": "assistant", "content": question.answer},
        ],
        "answer": question.answer,
    })
}

/// Whether an answer is the expected one: exact after trimming.
pub fn verify(expected: &str, got: &str) -> bool {
    expected.trim() == got.trim()
}
