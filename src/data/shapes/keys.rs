//! Which shape a row has, by its keys; and what is missing where it has none.
//!
//! The first rule that fits decides (the order of [`RULES`]): two answers before one, whole conversations before single turns,
//! answers before questions alone, and texts last, because data sets keep a rendered `text` beside the columns it was made of.
//! A stage that reads texts looks for those first.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{Shape, listed};
use crate::data::config::DataFormat;
use crate::data::jsonl::RowFault;

/// Keys that stand for a text, in order.
pub(super) const TEXT_KEYS: [&str; 6] = ["text", "content", "raw_content", "document", "article", "code"];
/// Keys that stand for a question without an answer.
pub(super) const QUESTION_KEYS: [&str; 5] = ["prompt", "question", "query", "problem", "instruction"];
/// Keys that hold what a right answer is, for rewards.
const ANSWER_KEYS: [&str; 6] = ["gt", "answer", "solution", "ground_truth", "final_answer", "target"];

/// The keys of each shape, and the kind of value in each.
const RULES: [(Shape, &[(&str, Kind)]); 26] = {
    use Kind::{Answer, Flag, List, Said, Texts};
    [
        (Shape::ShareGptPreference, &[("conversations", List), ("chosen", Answer), ("rejected", Answer)]),
        (Shape::ShareGptPreference, &[("messages", List), ("chosen", Answer), ("rejected", Answer)]),
        (Shape::AlpacaPreference, &[("instruction", Texts), ("chosen", Answer), ("rejected", Answer)]),
        (Shape::PromptPreference, &[("prompt", Said), ("chosen", Answer), ("rejected", Answer)]),
        (Shape::PromptPreference, &[("question", Said), ("chosen", Answer), ("rejected", Answer)]),
        (Shape::PromptPreference, &[("query", Said), ("chosen", Answer), ("rejected", Answer)]),
        (Shape::Preference, &[("chosen", List), ("rejected", List)]),
        (Shape::TextPreference, &[("chosen", Texts), ("rejected", Texts)]),
        (Shape::Unpaired, &[("prompt", Said), ("completion", Said), ("label", Flag)]),
        (Shape::Unpaired, &[("conversations", List), ("label", Flag)]),
        (Shape::Unpaired, &[("messages", List), ("label", Flag)]),
        (Shape::Conversations, &[("conversations", List)]),
        (Shape::Messages, &[("messages", List)]),
        (Shape::Messages, &[("conversation", List)]),
        (Shape::Alpaca, &[("instruction", Texts), ("output", Texts)]),
        (Shape::Alpaca, &[("instruction", Texts), ("response", Texts)]),
        (Shape::PromptCompletion, &[("prompt", Said), ("completion", Said)]),
        (Shape::PromptResponse, &[("prompt", Said), ("response", Said)]),
        (Shape::QueryResponse, &[("query", Texts), ("response", Texts)]),
        (Shape::QueryResponse, &[("question", Texts), ("response", Texts)]),
        (Shape::QuestionAnswer, &[("question", Texts), ("answer", Texts)]),
        (Shape::QuestionAnswer, &[("problem", Texts), ("solution", Texts)]),
        (Shape::QuestionAnswer, &[("problem", Texts), ("answer", Texts)]),
        (Shape::QuestionAnswer, &[("prompt", Said), ("answer", Texts)]),
        (Shape::QuestionAnswer, &[("input", Texts), ("output", Texts)]),
        (Shape::PromptResponse, &[("prompt", Said), ("output", Texts)]),
    ]
};

/// What a key must hold.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A text that is not empty, or a number.
    Texts,
    /// A list that is not empty.
    List,
    /// A text or a list of turns.
    Said,
    /// A text, a turn or a list of turns.
    Answer,
    /// True or false.
    Flag,
}

impl Kind {
    fn fits(self, value: &Value) -> bool {
        let text = value.as_str().is_some_and(|text| !text.trim().is_empty()) || value.is_number();
        let list = value.as_array().is_some_and(|list| {
            !list.is_empty() && list.iter().all(|turn| turn.is_object() || turn.is_string())
        });
        match self {
            Self::Texts => text,
            Self::List => list,
            Self::Said => text || list,
            Self::Answer => text || list || value.is_object(),
            Self::Flag => flag(value).is_some(),
        }
    }
}

/// A label as data sets write it.
pub(super) fn flag(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(flag) => Some(*flag),
        Value::Number(number) => match number.as_f64() {
            Some(1.0) => Some(true),
            Some(x) if x == 0.0 || x == -1.0 => Some(false),
            _ => None,
        },
        Value::String(text) => match text.to_lowercase().as_str() {
            "true" | "1" => Some(true),
            "false" | "0" => Some(false),
            _ => None,
        },
        _ => None,
    }
}

/// The shape of a row.
pub(super) struct Found {
    pub(super) shape: Shape,
    /// The fields that it is read from.
    pub(super) fields: Map<String, Value>,
}

/// The shape of a row, of its renamed columns first.
pub(super) fn find(
    row: &Map<String, Value>,
    columns: &BTreeMap<String, String>,
    format: DataFormat,
) -> Option<Found> {
    let given = |row: &Map<String, Value>| matched(row, format).map(|shape| (shape, row.clone()));
    let mut named = None;
    if !columns.is_empty() {
        let aside = ["system", "tools", "functions", "history", "input"];
        let kept = |key: &String| columns.contains_key(key) || aside.contains(&key.as_str());
        let own = row
            .iter()
            .filter(|(key, _)| kept(key))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        named = given(&own);
    }
    // Of a question alone the answer may stand under its standard name.
    if let Some((Shape::Prompt, _)) = named {
        named = given(row);
    }
    let (shape, fields) = named.or_else(|| given(row))?;
    Some(Found { shape, fields })
}

fn matched(row: &Map<String, Value>, format: DataFormat) -> Option<Shape> {
    let fits = |key: &str, kind: Kind| row.get(key).is_some_and(|value| kind.fits(value));
    let text = || TEXT_KEYS.iter().any(|key| fits(key, Kind::Texts)).then_some(Shape::Text);
    if matches!(format, DataFormat::Text | DataFormat::Tokens) && fits("text", Kind::Texts) {
        return Some(Shape::Text);
    }
    // Choices make a question one of multiple choice, whose answer is a letter.
    let choices = row.contains_key("choices") || row.contains_key("options");
    let rule = RULES.iter().find(|(_, keys)| keys.iter().all(|(key, kind)| fits(key, *kind)));
    match rule {
        Some((Shape::QuestionAnswer, _)) if choices && format != DataFormat::Prompts => text(),
        Some((Shape::Conversations | Shape::Messages, keys)) => {
            let from = row[keys[0].0]
                .as_array()
                .is_some_and(|turns| turns.iter().any(|turn| turn.get("from").is_some()));
            Some(match (from, keys[0].0) {
                (true, _) => Shape::ShareGpt,
                (false, "conversations") => Shape::Conversations,
                (false, _) => Shape::Messages,
            })
        }
        Some((shape, _)) => Some(*shape),
        None => {
            text().or_else(|| QUESTION_KEYS.iter().any(|key| fits(key, Kind::Said)).then_some(Shape::Prompt))
        }
    }
}

/// What a row says the right answer is: a list of texts, as rewards read `gt`.
pub(super) fn answer(row: &Map<String, Value>) -> Option<Value> {
    let nested = row.get("reward_model").and_then(|model| model.get("ground_truth"));
    let given = ANSWER_KEYS.iter().filter_map(|key| row.get(*key)).chain(nested);
    let list = given.filter(|value| !value.is_null()).find_map(|value| match value {
        Value::Array(list) if !list.is_empty() => Some(list.clone()),
        Value::String(text) if !text.trim().is_empty() => Some(vec![value.clone()]),
        Value::Number(_) => Some(vec![value.clone()]),
        _ => None,
    })?;
    // GSM8K's answers end with `#### 72`.
    let last = |value: Value| match value.as_str().and_then(|text| text.rsplit_once("####")) {
        Some((_, answer)) => answer.trim().into(),
        None => value,
    };
    Some(json!(list.into_iter().map(last).collect::<Vec<Value>>()))
}

/// The fault of a row that has no shape: its keys, and what is missing for the nearest shape.
pub(super) fn nearest(row: &Map<String, Value>, format: DataFormat) -> RowFault {
    let keys = if row.is_empty() {
        "no key".to_owned()
    } else {
        format!("the keys {}", listed(row.keys().map(String::as_str)))
    };
    let serves = |shape: Shape| match format {
        DataFormat::Preference => shape.format() == DataFormat::Preference,
        DataFormat::Text | DataFormat::Tokens => true,
        _ => shape.format() != DataFormat::Preference && shape != Shape::Unpaired,
    };
    let fits = |(key, kind): &&(&str, Kind)| row.get(*key).is_some_and(|value| kind.fits(value));
    // Most keys that fit, then fewest that are missing; the first of equals.
    let score = |keys: &[(&str, Kind)]| {
        let have = keys.iter().filter(fits).count();
        (have, usize::MAX - (keys.len() - have))
    };
    let candidates = RULES.iter().filter(|(shape, _)| serves(*shape));
    let best = candidates.rev().max_by_key(|(_, keys)| score(keys)).filter(|(_, keys)| score(keys).0 > 0);
    let hint = match format {
        DataFormat::Text | DataFormat::Tokens => "name the column of the text: data: {columns: {text: NAME}}",
        DataFormat::Preference => {
            "name the columns: data: {columns: {prompt: NAME, chosen: NAME, rejected: NAME}}"
        }
        DataFormat::Prompts | DataFormat::Agent => {
            "name the columns: data: {columns: {prompt: NAME, answer: NAME}}"
        }
        DataFormat::Chat => "name the columns: data: {columns: {prompt: NAME, response: NAME}}",
    };
    let what = match best {
        Some((shape, wanted)) => {
            let missing: Vec<&str> = wanted.iter().filter(|key| !fits(key)).map(|(key, _)| *key).collect();
            let empty = missing.iter().all(|key| row.contains_key(*key));
            let state = if empty { "is empty or of another type" } else { "is missing" };
            format!(
                "no known shape: the row has {keys}; the nearest shape is {}, but {} {state}",
                shape.name(),
                listed(missing)
            )
        }
        None => format!("no field `{}`: the row has {keys}", super::own_keys(format)[0]),
    };
    RowFault::new(what, hint)
}
