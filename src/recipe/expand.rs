//! `${NAME}`, `${NAME:-default}` and `~` in the values of a recipe.
//!
//! [`expand`] takes out what [`mask`](super::mask) put in and puts in what the caller's lookup gives. Comments and keys
//! are left alone. Next: `reader`.

use std::collections::{BTreeSet, HashMap};

use serde_yaml::Value;

use super::mask::{Masked, closing};
use super::places::{Places, Steps};
use crate::error::Error;

/// The value of a variable; `None` where it is not set.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// What stands before a path in `init: weights:FILE`.
const WEIGHTS: &str = "weights:";

/// What came of expanding a recipe.
#[derive(Debug, Default)]
pub struct Expanded {
    /// Faults, each at its place.
    pub faults: Vec<Error>,
    /// Paths of the values that have them.
    pub faulty: Vec<Steps>,
    /// Variables that were asked for and set.
    pub used: BTreeSet<String>,
    /// What a value is as a text, where it was taken for a number or a truth.
    pub texts: HashMap<Steps, Value>,
}

/// Expands every text of `value` in place. A value that reads like a number then is one; as a text it is kept in
/// [`Expanded::texts`], for keys that want one.
/// `paths` are the keys whose values are paths, in which a leading `~` is the home folder.
pub fn expand(
    value: &mut Value,
    masked: &Masked,
    places: &Places,
    paths: &[&str],
    lookup: Lookup<'_>,
) -> Expanded {
    let mut walk = Walk { masked, places, paths, lookup, found: Expanded::default() };
    walk.value(value, &mut Vec::new());
    walk.found
}

struct Walk<'a> {
    masked: &'a Masked,
    places: &'a Places,
    paths: &'a [&'a str],
    lookup: Lookup<'a>,
    found: Expanded,
}

/// What is wrong with a `${...}`, and what to do.
struct Wrong {
    nth: usize,
    /// The name it begins with.
    name: String,
    what: String,
    hint: String,
}

impl Walk<'_> {
    fn value(&mut self, value: &mut Value, path: &mut Steps) {
        match value {
            Value::String(text) => {
                let (masked, place) = (self.masked, || self.places.value(path));
                let expanded = match self.text(text) {
                    Ok(expanded) => expanded,
                    Err(Wrong { nth, name, what, hint }) => {
                        let place = masked.spot(place(), nth, &name);
                        self.found.faults.push(Error::input(what).at(place).hint(hint));
                        self.found.faulty.push(path.clone());
                        return;
                    }
                };
                let changed = expanded != masked.unmask(text);
                let whole = match self.home(&expanded, path) {
                    Ok(whole) => whole,
                    Err((what, hint)) => {
                        self.found.faults.push(Error::input(what).at(place()).hint(hint));
                        self.found.faulty.push(path.clone());
                        return;
                    }
                };
                let typed = serde_yaml::from_str::<Value>(&whole).ok();
                *value = match typed.filter(|typed| changed && (typed.is_number() || typed.is_bool())) {
                    Some(typed) => {
                        self.found.texts.insert(path.clone(), Value::String(whole));
                        typed
                    }
                    None => Value::String(whole),
                };
            }
            Value::Sequence(items) => {
                for (index, item) in items.iter_mut().enumerate() {
                    path.push(index.to_string());
                    self.value(item, path);
                    path.pop();
                }
            }
            Value::Mapping(map) => {
                for (key, item) in map.iter_mut() {
                    let Value::String(key) = key else { continue };
                    if path.is_empty() && key == "x" {
                        continue; // anything; ignored
                    }
                    path.push(key.clone());
                    let plain = self.masked.unmask(key);
                    if plain != *key {
                        let fault = Error::input(format!("the key `{plain}` is not expanded"));
                        let hint = "${NAME} stands in values alone";
                        self.found.faults.push(fault.at(self.places.key(path)).hint(hint));
                    }
                    self.value(item, path);
                    path.pop();
                }
            }
            _ => {}
        }
    }

    /// A text with its variables put in.
    fn text(&mut self, text: &str) -> Result<String, Wrong> {
        let hidden = |c| self.masked.hidden(c);
        let (dollar, open) = (hidden('$'), hidden('{'));
        let chars: Vec<char> = text.chars().collect();
        let (mut out, mut at, mut nth) = (String::with_capacity(text.len()), 0, 0);
        while at < chars.len() {
            if chars[at..].starts_with(&[dollar, dollar, open]) {
                out.push_str("${");
                at += 3;
            } else if chars[at..].starts_with(&[dollar, open]) {
                let shown: Vec<char> = chars[at..].iter().map(|c| self.masked.shown(*c)).collect();
                let end = closing(&shown, 2).ok_or_else(|| Wrong {
                    nth,
                    name: String::new(),
                    what: "`${` without its `}`".to_owned(),
                    hint: "write ${NAME}; $${ is a plain ${".to_owned(),
                })?;
                let inside: String = shown[2..end].iter().collect();
                let value = self.variable(&inside);
                out.push_str(&value.map_err(|wrong| Wrong { nth: nth + wrong.nth, ..wrong })?);
                nth += 1 + self.masked.count(&inside);
                at += end + 1;
            } else {
                out.push(self.masked.shown(chars[at]));
                at += 1;
            }
        }
        Ok(out)
    }

    /// The value of what stands between the braces: `NAME`, `NAME:-default` or `NAME-default`, as a shell reads them.
    fn variable(&mut self, inside: &str) -> Result<String, Wrong> {
        let length = inside.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(inside.len());
        let (name, rest) = inside.split_at(length);
        let wrong = |what: String, hint: String| Err(Wrong { nth: 0, name: name.to_owned(), what, hint });
        if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
            let what = format!("`${{{inside}}}` names no variable");
            return wrong(what, "a name is letters, digits and _; $${ is a plain ${".to_owned());
        }
        let (default, empty_counts) = match (rest.strip_prefix(":-"), rest.strip_prefix('-')) {
            (Some(default), _) => (Some(default), false),
            (None, Some(default)) => (Some(default), true),
            (None, None) if rest.is_empty() => (None, true),
            (None, None) => {
                let what = format!("`${{{inside}}}` is neither ${{NAME}} nor ${{NAME:-default}}");
                return wrong(what, format!("write ${{{name}}} or ${{{name}:-default}}"));
            }
        };
        let set = (self.lookup)(name).filter(|value| empty_counts || !value.is_empty());
        match (set, default) {
            (Some(value), _) => {
                self.found.used.insert(name.to_owned());
                Ok(value)
            }
            // A default may hold variables of its own.
            (None, Some(default)) => {
                self.text(&self.masked.like(default)).map_err(|wrong| Wrong { nth: wrong.nth + 1, ..wrong })
            }
            (None, None) => wrong(
                format!("the variable `{name}` is not set"),
                format!("set it (export {name}=...), or give a default: ${{{name}:-value}}"),
            ),
        }
    }

    /// `~` and `~/x` of a path as the home folder.
    fn home(&self, text: &str, path: &[String]) -> Result<String, (String, String)> {
        let key = path.iter().rev().find(|step| step.parse::<usize>().is_err());
        if !key.is_some_and(|key| self.paths.contains(&key.as_str())) {
            return Ok(text.to_owned());
        }
        let (before, file) = match text.strip_prefix(WEIGHTS) {
            Some(file) => (WEIGHTS, file),
            None => ("", text),
        };
        let Some(rest) = file.strip_prefix('~') else { return Ok(text.to_owned()) };
        if !rest.is_empty() && !rest.starts_with('/') {
            let user = file.split('/').next().unwrap_or(file);
            let what = format!("`{user}`: another user's home folder is not looked up");
            return Err((what, format!("write the folder out, or ./{file} for a file of that name")));
        }
        match (self.lookup)("HOME").filter(|home| !home.is_empty()) {
            Some(home) => Ok(format!("{before}{}{rest}", home.trim_end_matches('/'))),
            None => Err((
                "`~` is the home folder, and HOME is not set".to_owned(),
                "set HOME, or write the folder out".to_owned(),
            )),
        }
    }
}

#[cfg(test)]
#[path = "expand_tests.rs"]
mod tests;
