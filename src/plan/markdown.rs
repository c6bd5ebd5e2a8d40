//! `docs/recipe.md`: the reference of every key of a recipe, written from its shape.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::{Map, Value};

use super::{KINDS, shape, upstream};
use crate::recipe::shape::{one_key, types, words};

type Keys = Map<String, Value>;

/// Maps that several sections have: their keys stand in a section of their own.
const SHARED: [&str; 3] = ["runtime", "model", "data"];

/// The reference as Markdown.
pub fn markdown() -> String {
    let mut text = HEAD.to_owned();
    let root = keys_at(&[]);
    section(&mut text, "## At the top", "", &root, None);
    for key in SHARED {
        let path = if key == "data" { vec!["stages", "0", "sft", "data"] } else { vec![key] };
        let what = shape().node(&steps(&path)).map(|node| description(whole(node))).unwrap_or_default();
        section(&mut text, &format!("## `{key}`"), &what, &keys_at(&path), Some(key));
    }
    let training = keys_at(&["stages", "0", "sft"]);
    let what = "Of pretrain, sft, lora, reason, distill, dpo and reward; ppo, grpo, spo and agent have most of them, counted in steps.";
    section(&mut text, "## Stages that train", what, &training, None);
    let mut lists = BTreeMap::new();
    for kind in KINDS {
        let path = ["stages", "0", kind];
        let node = shape().node(&steps(&path)).map(|node| shape().resolved(node));
        let what = node.map(description).unwrap_or_default();
        let mut own = keys_at(&path);
        let trains = own.contains_key("learning_rate");
        if trains {
            own.retain(|key, _| !training.contains_key(key));
        }
        let more = if trains { " Beside the keys of all stages that train:" } else { "" };
        section(&mut text, &format!("## `{kind}`"), &format!("{what}{more}"), &own, Some(kind));
        for (key, node) in &own {
            let node = shape().resolved(node);
            if let Some(item) =
                node.get("items").map(|item| shape().resolved(item)).filter(|i| one_key(i).is_some())
            {
                lists.insert(key.clone(), item.clone());
            } else if let Some(keys) = node.get("properties").and_then(Value::as_object)
                && !SHARED.contains(&key.as_str())
                && !key.ends_with("_model")
            {
                section(&mut text, &format!("### `{key}` of `{kind}`"), "", keys, Some(key));
            }
        }
    }
    for (list, item) in &lists {
        let _ = writeln!(text, "## `{list}`\n\nA list of maps with one key each.\n");
        for (kind, node) in one_key(item).into_iter().flat_map(|kinds| kinds.kinds) {
            let node = shape().resolved(node);
            let keys = node.get("properties").and_then(Value::as_object).cloned().unwrap_or_default();
            section(&mut text, &format!("### `{list}: [{kind}: ...]`"), &description(node), &keys, None);
        }
    }
    text.trim_end().to_owned() + "\n"
}

const HEAD: &str = "\
# Every key of a recipe

Made by `minimind schema --markdown`; a test holds it. A key that is left out has its default; what stands in brackets in
the last column holds where there is none. Numbers are MiniMind's own where it has them.

";

fn steps(path: &[&str]) -> Vec<String> {
    path.iter().map(|step| (*step).to_owned()).collect()
}

/// A node that may be written in several ways as the map that it stands for.
fn whole(node: &Value) -> &Value {
    let node = shape().resolved(node);
    let parts = node.get("anyOf").and_then(Value::as_array).into_iter().flatten();
    parts.map(|part| shape().resolved(part)).find(|part| part.get("properties").is_some()).unwrap_or(node)
}

fn keys_at(path: &[&str]) -> Keys {
    let node = shape().node(&steps(path)).map(whole);
    node.and_then(|node| node.get("properties")?.as_object().cloned()).unwrap_or_default()
}

fn description(node: &Value) -> String {
    let text = node.get("description").and_then(Value::as_str).unwrap_or_default();
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

fn section(text: &mut String, title: &str, what: &str, keys: &Keys, within: Option<&str>) {
    let _ = writeln!(text, "{title}\n");
    if !what.is_empty() {
        let _ = writeln!(text, "{what}\n");
    }
    let _ = writeln!(text, "| key | value | default | what it does |\n| --- | --- | --- | --- |");
    for (key, node) in keys {
        let names = upstream::names_of(key, within);
        let names =
            if names.is_empty() { String::new() } else { format!(" MiniMind: `{}`.", names.join("`, `")) };
        let default = default(key, node);
        let _ = writeln!(text, "| `{key}` | {} | {default} | {}{names} |", value(node), description(node));
    }
    text.push('\n');
}

/// What may be written.
fn value(node: &Value) -> String {
    let (outer, node) = (node, shape().resolved(node));
    if let Some(words) = words(node) {
        return words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ");
    }
    if node.get("x-shorthand").is_some() {
        return "a file, a list of files, or a map".to_owned();
    }
    let bound = |key: &str| outer.get(key).or_else(|| node.get(key)).filter(|bound| bound.is_number());
    let mut text = shape().expected(node);
    if let Some(items) = node.get("items").filter(|items| one_key(shape().resolved(items)).is_none()) {
        let _ = write!(text, " of: {}", value(items));
    }
    if types(node).iter().any(|t| ["integer", "number"].contains(t)) {
        for (key, word) in [("minimum", "at least"), ("exclusiveMinimum", "above")] {
            let _ = bound(key).map(|bound| write!(text, ", {word} {bound}"));
        }
        for (key, word) in [("maximum", "at most"), ("exclusiveMaximum", "below")] {
            let told = bound(key).filter(|bound| bound.as_f64().is_some_and(|bound| bound < 1e9));
            let _ = told.map(|bound| write!(text, ", {word} {bound}"));
        }
    }
    text
}

/// What holds where a key is left out, by kind where it differs.
fn default(key: &str, node: &Value) -> String {
    let shown = |value: &Value| match value {
        Value::Null => String::new(),
        Value::Array(items) if items.is_empty() => String::new(),
        Value::String(text) => format!("`{text}`"),
        other => format!("`{other}`"),
    };
    let by_kind: Vec<(&str, String)> = KINDS
        .into_iter()
        .filter_map(|kind| {
            let keys = keys_at(&["stages", "0", kind]);
            let own = keys.get(key)?.clone();
            Some((kind, own, keys.contains_key("learning_rate")))
        })
        .filter(|(_, own, trains)| *trains && own.get("description") == node.get("description"))
        .filter_map(|(kind, own, _)| Some((kind, shown(own.get("default")?))))
        .collect();
    let own = node.get("default").map(shown).unwrap_or_default();
    if by_kind.len() < 2 || by_kind.iter().all(|(_, value)| *value == own) {
        return own;
    }
    let mut kinds: Vec<(String, Vec<&str>)> = Vec::new();
    for (kind, value) in by_kind {
        match kinds.iter_mut().find(|(other, _)| *other == value) {
            Some((_, names)) => names.push(kind),
            None => kinds.push((value, vec![kind])),
        }
    }
    kinds.iter().map(|(value, names)| format!("{}: {value}", names.join(", "))).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_reference_of_recipes_is_the_one_in_docs() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/recipe.md");
        let written = std::fs::read_to_string(file).unwrap_or_default();
        let now = super::markdown();
        assert!(
            written == now,
            "docs/recipe.md is not what `minimind schema --markdown` says: write it anew"
        );
    }
}
