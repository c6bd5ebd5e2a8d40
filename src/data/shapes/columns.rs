//! `columns: {prompt: Frage, response: Antwort}`: a file's own names of columns.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::listed;
use crate::data::jsonl::RowFault;

/// What a column may be called in `columns`: the keys of all shapes.
pub const COLUMNS: [&str; 20] = [
    "text",
    "conversations",
    "messages",
    "instruction",
    "input",
    "output",
    "system",
    "history",
    "prompt",
    "completion",
    "response",
    "question",
    "answer",
    "query",
    "chosen",
    "rejected",
    "label",
    "tools",
    "gt",
    "solution",
];

/// Whether `columns` may name this.
pub fn is_column(name: &str) -> bool {
    COLUMNS.contains(&name)
}

/// The row with its columns under their standard names.
///
/// # Errors
/// The row has none of the columns that are named.
pub(super) fn rename<'a>(
    row: &'a Map<String, Value>,
    columns: &BTreeMap<String, String>,
) -> Result<Cow<'a, Map<String, Value>>, RowFault> {
    if columns.is_empty() {
        return Ok(Cow::Borrowed(row));
    }
    let mut renamed = row.clone();
    // All are taken out before one is put in, so that two names may be exchanged.
    let taken: Vec<(&String, Value)> =
        columns.iter().filter_map(|(to, from)| Some((to, row.get(from)?.clone()))).collect();
    if taken.is_empty() {
        return Err(RowFault::new(
            format!(
                "the row has no column {}; its keys are {}",
                listed(columns.values().map(String::as_str)),
                listed(row.keys().map(String::as_str))
            ),
            "`columns` maps a standard name to the file's own: columns: {prompt: NAME, response: NAME}",
        ));
    }
    columns.values().for_each(|from| drop(renamed.remove(from)));
    renamed.extend(taken.into_iter().map(|(to, value)| (to.clone(), value)));
    Ok(Cow::Owned(renamed))
}
