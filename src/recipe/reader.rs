//! Text to [`Recipe`], with every fault of the text.
//!
//! Text is parsed, `--set` applied, variables put in, and what comes out checked against the [`Shape`] that the caller
//! hands in. Next: `check`.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use serde_json::Value as Node;
use serde_yaml::{Mapping, Value};

use super::check::Checker;
use super::expand::{self, Lookup};
use super::mask::{Masked, mask};
use super::places::{Places, Steps};
use super::shape::Shape;
use super::tree;
use crate::error::{Error, Place, Result};

/// Bytes that no recipe needs.
const MOST_BYTES: u64 = 16 << 20;

/// Open brackets that no recipe needs, and that the parser would take minutes over.
const MOST_DEPTH: usize = 500;

/// What the user wrote.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// The file as named.
    pub path: PathBuf,
    /// Its text, with `--set` applied; variables of the environment stand in it by their names alone.
    pub text: String,
    /// What it states, checked against its shape: nothing filled in, faulty values left out.
    pub tree: serde_json::Value,
    /// Where they stand.
    pub places: Places,
    /// Paths whose values were faulty and are set aside.
    pub aside: HashSet<Steps>,
}

/// Reads a recipe; `lookup` knows the variables that it may name.
///
/// # Errors
/// Every fault of its syntax, keys and types, joined.
pub fn read(path: &Path, sets: &[String], shape: &Shape, lookup: Lookup<'_>) -> Result<Recipe> {
    let (recipe, faults) = read_all(path, sets, shape, lookup)?;
    Error::all(faults).map_or(Ok(recipe), Err)
}

/// Reads what can be read, and gives the faults beside it, so that later checks can add theirs.
///
/// # Errors
/// Where nothing can be read: no file, no YAML, no map.
pub fn read_all(
    path: &Path,
    sets: &[String],
    shape: &Shape,
    lookup: Lookup<'_>,
) -> Result<(Recipe, Vec<Error>)> {
    let bytes = crate::files::read_most(path, MOST_BYTES).map_err(|error| {
        Error::input("cannot read the recipe")
            .at(Place::file(path))
            .because(error)
            .hint("check the path, or see `minimind recipes`")
    })?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let line =
            error.as_bytes()[..error.utf8_error().valid_up_to()].iter().filter(|b| **b == b'\n').count() + 1;
        Error::input("the recipe is not UTF-8 text").at(Place::line(path, line))
    })?;
    parse_with(path, &text, sets, shape, lookup)
}

/// [`parse_with`] where no variable is set.
///
/// # Errors
/// Where nothing can be read.
pub fn parse(path: &Path, text: &str, sets: &[String], shape: &Shape) -> Result<(Recipe, Vec<Error>)> {
    parse_with(path, text, sets, shape, &|_| None)
}

/// [`read_all`] of a text that is at hand; `path` is for messages.
///
/// # Errors
/// Where nothing can be read.
pub fn parse_with(
    path: &Path,
    text: &str,
    sets: &[String],
    shape: &Shape,
    lookup: Lookup<'_>,
) -> Result<(Recipe, Vec<Error>)> {
    let written = text.strip_prefix('\u{feff}').unwrap_or(text);
    let masked = mask(written);
    let (mut value, mut places) = parse_yaml(path, &masked.text)?;
    let mut faults = Vec::new();
    lower(shape, shape.root(), &mut value, &mut Vec::new(), &mut places);
    for set in sets {
        if let Err(error) = apply(&mut value, &mut places, set, &masked) {
            faults.push(error);
        }
    }
    let kept = match sets.is_empty() {
        true => written.to_owned(),
        false => with_sets(sets, &masked.written(&value)).unwrap_or_else(|| written.to_owned()),
    };
    lower(shape, shape.root(), &mut value, &mut Vec::new(), &mut places);
    let mut expanded = expand::expand(&mut value, &masked, &places, shape.hints.paths, lookup);
    faults.append(&mut expanded.faults);
    // Names alone: a value may be a secret. What they came to stands in plan.json.
    let used: Vec<String> = expanded.used.into_iter().collect();
    let text = match used.is_empty() {
        true => kept,
        false => format!("# from the environment: {}\n{kept}", used.join(", ")),
    };
    // What has a fault already is not looked at again.
    let mut aside = HashSet::new();
    for steps in expanded.faulty {
        remove(&mut value, &steps);
        aside.insert(steps);
    }
    let mut checker = Checker::new(shape, &places, faults, aside);
    checker.texts = expanded.texts;
    checker.check(&mut value);
    let Checker { mut faults, aside, .. } = checker;
    let mut seen = HashSet::new();
    faults.retain(|fault| seen.insert(fault.to_string()));
    let tree = tree::from_yaml(&value);
    Ok((Recipe { path: path.to_owned(), text, tree, places, aside }, faults))
}

/// The tree of a text and the places of its keys: anchors and merge keys resolved, tags gone, a map at the top.
fn parse_yaml(path: &Path, text: &str) -> Result<(Value, Places)> {
    if depth(text) > MOST_DEPTH {
        return Err(Error::input("the recipe is nested too deep")
            .at(Place::file(path))
            .hint("close its brackets"));
    }
    let parsed = serde_yaml::from_str::<Value>(text);
    if let Err(error) = &parsed
        && !error.to_string().contains("duplicate")
    {
        return Err(syntax(path, text, error));
    }
    let places = Places::index(path, text).map_err(|error| {
        let place = Place::line_column(path, error.marker().line().max(1), error.marker().col() + 1);
        if error.info().contains("duplicate") {
            let key = text.lines().nth(error.marker().line().saturating_sub(1)).unwrap_or_default();
            let key: String = key.chars().skip(error.marker().col()).take_while(|c| *c != ':').collect();
            return Error::input(format!("key `{}` occurs twice in one map", key.trim()))
                .at(place)
                .hint("remove one of the two");
        }
        Error::input("the recipe is not valid YAML").at(place).because(error.info())
    })?;
    let mut value = parsed.map_err(|error| syntax(path, text, &error))?;
    if let Err(error) = value.apply_merge() {
        let place = places.merge().map_or(Place::file(path), |at| places.key(&at));
        return Err(Error::input("`<<` takes an alias of a map, or a list of such").at(place).because(error));
    }
    let value = plain(value);
    let Value::Mapping(_) = &value else {
        let what = if value.is_null() { "the recipe is empty" } else { "a recipe is a map of keys" };
        return Err(Error::input(what)
            .at(Place::line(path, 1))
            .hint("see `minimind recipes show quickstart`"));
    };
    Ok((value, places))
}

/// The text of a recipe that flags have changed.
fn with_sets(sets: &[String], value: &Value) -> Option<String> {
    let flags: String = sets.iter().map(|set| format!("# --set {}\n", set.replace('\n', " "))).collect();
    Some(flags + &serde_yaml::to_string(value).ok()?)
}

fn syntax(path: &Path, text: &str, error: &serde_yaml::Error) -> Error {
    let place = match error.location() {
        Some(at) => Place::line_column(path, at.line().max(1), at.column().max(1)),
        None => Place::file(path),
    };
    let line =
        error.location().and_then(|at| text.lines().nth(at.line().saturating_sub(1))).unwrap_or_default();
    let fault = Error::input("the recipe is not valid YAML").at(place).because(error);
    if line.chars().take_while(|c| c.is_whitespace()).any(|c| c == '\t') {
        fault.hint("indent with spaces: YAML takes no tabs")
    } else {
        fault.hint("check colons, brackets and indentation on this line and the one above")
    }
}

fn depth(text: &str) -> usize {
    let mut open = 0usize;
    let step = |c| {
        open = match c {
            '[' | '{' => open + 1,
            ']' | '}' => open.saturating_sub(1),
            _ => open,
        };
        open
    };
    text.chars().map(step).max().unwrap_or(0)
}

/// Tags go, and keys become texts.
fn plain(value: Value) -> Value {
    match value {
        Value::Tagged(tagged) => plain(tagged.value),
        Value::Sequence(items) => Value::Sequence(items.into_iter().map(plain).collect()),
        Value::Mapping(map) => {
            let key = |key: Value| match key {
                Value::String(text) => text,
                Value::Bool(flag) => flag.to_string(),
                Value::Number(number) => number.to_string(),
                Value::Null => "null".to_owned(),
                _ => "?".to_owned(),
            };
            Value::Mapping(map.into_iter().map(|(k, v)| (Value::String(key(k)), plain(v))).collect())
        }
        other => other,
    }
}

fn get<'a>(value: &'a Value, steps: &[String]) -> Option<&'a Value> {
    steps.iter().try_fold(value, |at, step| match at {
        Value::Sequence(items) => items.get(step.parse::<usize>().ok()?),
        Value::Mapping(map) => map.get(step.as_str()),
        _ => None,
    })
}

fn get_mut<'a>(value: &'a mut Value, steps: &[String]) -> Option<&'a mut Value> {
    steps.iter().try_fold(value, |at, step| match at {
        Value::Sequence(items) => items.get_mut(step.parse::<usize>().ok()?),
        Value::Mapping(map) => map.get_mut(step.as_str()),
        _ => None,
    })
}

fn remove(value: &mut Value, steps: &[String]) -> bool {
    let Some((last, parent)) = steps.split_last() else { return false };
    match get_mut(value, parent) {
        Some(Value::Mapping(map)) => map.remove(last.as_str()).is_some(),
        Some(Value::Sequence(items)) => match last.parse::<usize>().ok().and_then(|i| items.get_mut(i)) {
            Some(item) if !item.is_null() => {
                *item = Value::Null;
                true
            }
            _ => false,
        },
        _ => false,
    }
}

/// A bare text or list becomes a map where the shape says so: `data: FILE` is `data: {path: FILE}`.
fn lower(shape: &Shape, node: &Node, value: &mut Value, path: &mut Steps, places: &mut Places) {
    let (whole, part) = (shape.resolved(node), shape.branch(node, value));
    let short = match value {
        Value::String(_) => whole.pointer("/x-shorthand/string"),
        Value::Sequence(_) => whole.pointer("/x-shorthand/array"),
        _ => None,
    };
    if let Some(key) = short.and_then(Node::as_str) {
        places.lower(path, key);
        *value = Value::Mapping(Mapping::from_iter([(Value::from(key), std::mem::take(value))]));
        return;
    }
    match value {
        Value::Sequence(items) => {
            let Some(node) = part.get("items") else { return };
            for (index, item) in items.iter_mut().enumerate() {
                path.push(index.to_string());
                lower(shape, node, item, path, places);
                path.pop();
            }
        }
        Value::Mapping(map) => {
            for (key, item) in map.iter_mut() {
                let Some(key) = key.as_str() else { continue };
                let Some(node) = part.get("properties").and_then(|own| own.get(key)) else { continue };
                path.push(key.to_owned());
                lower(shape, node, item, path, places);
                path.pop();
            }
        }
        _ => {}
    }
}

/// Applies `a.b=v`; a stage goes by name, kind or number.
fn apply(value: &mut Value, places: &mut Places, set: &str, masked: &Masked) -> Result<()> {
    let (key, new) = set
        .split_once('=')
        .ok_or_else(|| Error::input(format!("--set {set}: no `=`")).hint("write --set a.b=value"))?;
    let flag = format!("--set {}", key.trim());
    let fault = |what: String| Error::input(what).at(Place::file(&flag));
    let mut steps: Steps = key.trim().split('.').map(str::to_owned).collect();
    if steps.iter().any(String::is_empty) {
        return Err(fault("the key is empty".to_owned()).hint("write --set a.b=value"));
    }
    if steps[0] == "stages" && steps.len() > 1 {
        let wanted = steps[1].clone();
        let stages = get(value, &steps[..1]).and_then(Value::as_sequence).cloned().unwrap_or_default();
        let names: Vec<(String, String)> = stages.iter().map(kind_and_name).collect();
        let index = names
            .iter()
            .position(|(_, name)| *name == wanted)
            .or_else(|| names.iter().position(|(kind, _)| *kind == wanted))
            .or_else(|| wanted.parse::<usize>().ok().filter(|i| *i < names.len()))
            .ok_or_else(|| {
                let known: Vec<&str> = names.iter().map(|(_, name)| name.as_str()).collect();
                fault(format!("no stage `{wanted}`")).hint(super::faults::hint(&wanted, &known, "stages"))
            })?;
        steps[1] = index.to_string();
        if steps.len() > 2 && steps[2] != names[index].0 {
            steps.insert(2, names[index].0.clone());
        }
    }
    let new = masked.like(new);
    let new = serde_yaml::from_str(&new).map_or_else(|_| Value::String(new.clone()), plain);
    let mut at = &mut *value;
    for (depth, step) in steps.iter().enumerate() {
        if at.is_null() {
            *at = Value::Mapping(Mapping::new());
        }
        at = match at {
            Value::Mapping(map) => map.entry(Value::String(step.clone())).or_insert(Value::Null),
            Value::Sequence(items) => step
                .parse::<usize>()
                .ok()
                .and_then(|i| items.get_mut(i))
                .ok_or_else(|| fault(format!("no element `{step}`")))?,
            _ => return Err(fault(format!("`{}` is not a map", steps[..depth].join(".")))),
        };
    }
    *at = new;
    places.set(steps, flag);
    Ok(())
}

fn kind_and_name(stage: &Value) -> (String, String) {
    let entry = stage.as_mapping().and_then(|map| map.iter().next());
    let kind = entry.and_then(|(k, _)| k.as_str()).unwrap_or_default().to_owned();
    let name = entry.and_then(|(_, v)| v.get("name")).and_then(Value::as_str).unwrap_or(&kind).to_owned();
    (kind, name)
}
