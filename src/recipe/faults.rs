//! Serde's words become the user's: place, fact, allowed values, did-you-mean.
//!
//! Next: `reader`, which collects them.

use serde_yaml::Value;

use super::places::Places;
use super::stages::KINDS;
use super::upstream;
use crate::error::Error;

/// The nearest of `known`, if it is near.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|k| (strsim::damerau_levenshtein(word, k), k))
        .filter(|(distance, k)| *distance < word.len() && *distance <= (word.len().max(k.len()) / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, k)| k)
}

/// `did you mean ...`, or the list of what is allowed.
pub fn hint(word: &str, known: &[&str], label: &str) -> String {
    match nearest(word, known.iter().copied()) {
        Some(k) => format!("did you mean `{k}`?"),
        None if known.is_empty() => format!("there are no {label}"),
        None => format!("{label}: {}", known.join(", ")),
    }
}

/// The words between backticks.
pub fn ticked(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// `` in `data` of stage `sft` ``; nothing at the top.
pub fn section(path: &[String]) -> String {
    match path {
        [] => String::new(),
        [stages, _] if stages == "stages" => " in a stage".to_owned(),
        [stages, _, kind] if stages == "stages" => format!(" in stage `{kind}`"),
        [stages, _, kind, .., last] if stages == "stages" => format!(" in `{last}` of stage `{kind}`"),
        [.., last] => format!(" in `{last}`"),
    }
}

fn shown(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => "empty".to_owned(),
        Some(Value::Mapping(_)) => "a map".to_owned(),
        Some(Value::Sequence(_)) => "a list".to_owned(),
        Some(Value::String(text)) => format!("`{text}`"),
        Some(other) => format!("`{}`", serde_yaml::to_string(other).unwrap_or_default().trim()),
    }
}

fn expected(message: &str) -> String {
    let tail = message.rsplit_once("expected ").map_or(message, |(_, tail)| tail);
    let tail = tail.split(" at line ").next().unwrap_or(tail);
    match tail {
        "i64" | "u64" | "usize" => "a whole number".to_owned(),
        "f64" => "a number".to_owned(),
        "a boolean" => "true or false".to_owned(),
        "a string" => "a text".to_owned(),
        "a sequence" => "a list".to_owned(),
        _ if tail.starts_with("struct ") => "a map".to_owned(),
        _ => tail.to_owned(),
    }
}

/// One fault of serde at `path`; gives also the path to set aside.
pub fn explain(
    message: &str,
    mut path: Vec<String>,
    value: Option<&Value>,
    places: &Places,
) -> (Error, Vec<String>) {
    if let Some(explained) = super::one_key::explain(message, &path, places) {
        return explained;
    }
    let words = ticked(message);
    let first = words.first().copied().unwrap_or_default();
    if message.starts_with("unknown field") {
        if path.last().is_none_or(|last| last != first) {
            path.push(first.to_owned());
        }
        let parent = &path[..path.len() - 1];
        let what = format!("unknown key `{first}`{}", section(parent));
        let hint = upstream::key(first, parent)
            .unwrap_or_else(|| hint(first, words.get(1..).unwrap_or_default(), "keys"));
        return (Error::input(what).at(places.key(&path)).hint(hint), path);
    }
    if message.starts_with("stage kind") {
        path.truncate(2);
        let mut key = path.clone();
        key.push(first.to_owned());
        let hint = upstream::script(first).unwrap_or_else(|| hint(first, &KINDS, "kinds"));
        let fault = Error::input(format!("unknown stage kind `{first}`")).hint(hint);
        return (fault.at(places.key(&key)), path);
    }
    if message.starts_with("second key") {
        path.truncate(2);
        path.push(first.to_owned());
        let fault = Error::input(format!("a stage has one key, its kind; `{first}` is a second"))
            .at(places.key(&path))
            .hint("indent the stage's settings below its kind, and begin each stage with `- `");
        return (fault, path);
    }
    let numbered = path.last().is_some_and(|k| k.parse::<usize>().is_ok());
    let name =
        if numbered && path.len() > 1 { &path[path.len() - 2] } else { path.last().map_or("recipe", |k| k) };
    let item = if numbered { "an element of " } else { "" };
    let parent = if path.is_empty() {
        &path[..]
    } else {
        &path[..path.len() - 1 - usize::from(numbered && path.len() > 1)]
    };
    let place = places.value(&path);
    if message.starts_with("unknown variant") {
        let what = format!(
            "{item}`{name}`{} is `{first}`, expected one of: {}",
            section(parent),
            words[1..].join(", ")
        );
        return (Error::input(what).at(place).hint(hint(first, &words[1..], "allowed")), path);
    }
    if message == "stage is empty" {
        return (
            Error::input("a stage is empty").at(place).hint(format!("kinds: {}", KINDS.join(", "))),
            path,
        );
    }
    let what =
        format!("{item}`{name}`{} is {}, expected {}", section(parent), shown(value), expected(message));
    (Error::input(what).at(place), path)
}
