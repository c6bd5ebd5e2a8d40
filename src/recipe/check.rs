//! Checks a recipe's tree against its [`Shape`]: unknown keys, wrong types, ranges and words, each fault at its place.
//!
//! All faults are found in one walk. A faulty value is set aside, so that what comes later is checked without it; an
//! element of a list becomes null rather than going, so that places after it stay right. Next: `faults` (the words).

use std::collections::{HashMap, HashSet};

use serde_json::Value;
use serde_yaml::{Mapping, Value as Yaml};

use super::faults::{hint, range_hint, section, shown};
use super::places::{Places, Steps};
use super::shape::{OneKey, Shape, is_a, one_key, types, words};
use crate::error::Error;

/// No recipe has more faults than this worth reading.
const MOST_FAULTS: usize = 200;

/// Checks `tree` and takes its faulty values out.
pub struct Checker<'a> {
    /// What a recipe may hold.
    pub shape: &'a Shape,
    /// Where its keys stand.
    pub places: &'a Places,
    /// Values of the environment that read like numbers, as texts: for keys that want one.
    pub texts: HashMap<Steps, Yaml>,
    /// The faults found.
    pub faults: Vec<Error>,
    /// Paths whose values are set aside.
    pub aside: HashSet<Steps>,
    /// Faults of ranges, which come after those of types and words.
    ranges: Vec<Error>,
}

impl<'a> Checker<'a> {
    /// A checker that has found `faults` and set `aside` what has them.
    pub fn new(shape: &'a Shape, places: &'a Places, faults: Vec<Error>, aside: HashSet<Steps>) -> Self {
        Self { shape, places, texts: HashMap::new(), faults, aside, ranges: Vec::new() }
    }

    /// Checks the whole recipe.
    pub fn check(&mut self, tree: &mut Yaml) {
        let shape = self.shape;
        self.value(tree, shape.root(), &mut Vec::new());
        self.faults.append(&mut self.ranges);
    }

    fn fault(&mut self, fault: Error) {
        if self.faults.len() < MOST_FAULTS {
            self.faults.push(fault);
        }
    }

    /// Whether the value at `path` may stay.
    fn value(&mut self, value: &mut Yaml, node: &Value, path: &mut Steps) -> bool {
        if value.is_null() {
            return true; // as if the key were not there
        }
        let shape = self.shape;
        let mut part = shape.branch(node, value);
        if !is_one_of(value, part)
            && let Some(text) = self.texts.remove(path)
        {
            *value = text;
            part = shape.branch(node, value);
        }
        if let Some(words) = words(part) {
            return self.word(value, &words, path);
        }
        if !is_one_of(value, part) {
            let expected = shape.expected(node);
            return self.wrong(value, &expected, path);
        }
        match value {
            Yaml::Number(_) => self.range(value, part, path),
            Yaml::Sequence(items) => self.list(items, part, path),
            Yaml::Mapping(map) => match one_key(part) {
                Some(kinds) => self.one_key(map, &kinds, path),
                None => self.map(map, part, path),
            },
            _ => true,
        }
    }

    fn wrong(&mut self, value: &Yaml, expected: &str, path: &[String]) -> bool {
        let what = format!("{} is {}, expected {expected}", named(path), shown(value));
        self.fault(Error::input(what).at(self.places.value(path)));
        false
    }

    fn word(&mut self, value: &Yaml, words: &[&str], path: &[String]) -> bool {
        let Yaml::String(word) = value else {
            return self.wrong(value, &format!("one of: {}", words.join(", ")), path);
        };
        if words.contains(&word.as_str()) {
            return true;
        }
        let what = format!("{} is `{word}`, expected one of: {}", named(path), words.join(", "));
        self.fault(Error::input(what).at(self.places.value(path)).hint(hint(word, words, "allowed")));
        false
    }

    fn range(&mut self, value: &Yaml, node: &Value, path: &[String]) -> bool {
        let Some(hint) = range_hint(value, node) else { return true };
        let key = path.last().map_or("recipe", String::as_str);
        let what = match path {
            [.., list, at] if is_index(at) => format!("an element of `{list}` is {}", plain(value)),
            _ => format!("`{key}` is {}", plain(value)),
        };
        if self.ranges.len() < MOST_FAULTS {
            self.ranges.push(Error::input(what).at(self.places.value(path)).hint(hint));
        }
        false
    }

    fn list(&mut self, items: &mut [Yaml], node: &Value, path: &mut Steps) -> bool {
        let least = node.get("minItems").and_then(Value::as_u64);
        let most = node.get("maxItems").and_then(Value::as_u64);
        let Some(item) = node.get("items") else { return true };
        if let (Some(size), true) = (least, least == most) {
            // A tuple is faulty as a whole, but for an element of another type.
            let wrong: Vec<usize> = (0..items.len()).filter(|at| !is_one_of(&items[*at], item)).collect();
            for at in &wrong {
                path.push(at.to_string());
                self.wrong(&items[*at], &self.shape.expected(item), path);
                path.pop();
            }
            if !wrong.is_empty() {
                return false;
            }
            let fits = |value: &Yaml| is_one_of(value, item) && range_hint(value, item).is_none();
            if items.len() as u64 == size && items.iter().all(fits) {
                return true;
            }
            let range = range_hint(&Yaml::from(f64::NAN), item).unwrap_or_default();
            let range = range.strip_prefix("give a number ").unwrap_or_default();
            let what = format!("`{}` is not a list of {size} numbers {range}", last(path));
            let fault = Error::input(what).at(self.places.value(path));
            self.fault(match node.get("default").and_then(Value::as_array) {
                Some(usual) => {
                    let usual: Vec<String> = usual.iter().map(Value::to_string).collect();
                    fault.hint(format!("for example [{}]", usual.join(", ")))
                }
                None => fault,
            });
            return false;
        }
        let kinds = one_key(self.shape.resolved(item));
        for (index, value) in items.iter_mut().enumerate() {
            path.push(index.to_string());
            let stays = match &kinds {
                Some(kinds) if value.is_null() => self.empty(kinds, path),
                _ => self.value(value, item, path),
            };
            if !stays {
                *value = Yaml::Null;
                self.aside.insert(path.clone());
            }
            path.pop();
        }
        true
    }

    fn map(&mut self, map: &mut Mapping, node: &Value, path: &mut Steps) -> bool {
        let own = node.get("properties").and_then(Value::as_object);
        let others = node.get("additionalProperties").filter(|node| node.is_object());
        if own.is_none() && others.is_none() {
            return true; // anything
        }
        self.rename_aliases(map, node, path);
        let keys: Vec<String> = map.keys().filter_map(|key| key.as_str().map(str::to_owned)).collect();
        for key in keys {
            path.push(key.clone());
            let known = own.and_then(|own| own.get(&key));
            let empty = map.get(key.as_str()).is_some_and(Yaml::is_null);
            let stays = match known.or(others) {
                // A key of ours without a value is as one that is not there; a name of the user's wants one.
                Some(_) if empty && known.is_some() => {
                    map.remove(key.as_str());
                    true
                }
                Some(node) if empty => self.wrong(&Yaml::Null, &self.shape.expected(node), path),
                Some(node) => map.get_mut(key.as_str()).is_none_or(|value| self.value(value, node, path)),
                None => self.unknown(&key, own, path),
            };
            if !stays {
                map.remove(key.as_str());
                if let Some(known) = (self.shape.hints.same)(&key) {
                    let parent = &path[..path.len() - 1];
                    self.aside.insert(parent.iter().cloned().chain([known.to_owned()]).collect());
                }
                self.aside.insert(path.clone());
            }
            path.pop();
        }
        true
    }

    /// A key by another of its names gets its own.
    fn rename_aliases(&mut self, map: &mut Mapping, node: &Value, path: &mut Steps) {
        let Some(own) = node.get("properties").and_then(Value::as_object) else { return };
        for (key, node) in own {
            let aliases = node.get("x-aliases").and_then(Value::as_array);
            for alias in aliases.into_iter().flatten().filter_map(Value::as_str) {
                path.push(alias.to_owned());
                if let Some(mut value) = map.remove(alias) {
                    if map.contains_key(key.as_str()) {
                        let parent = &path[..path.len() - 1];
                        let what = format!("`{alias}` and `{key}` are one key{}", section(parent));
                        let place = self.places.key(parent);
                        self.fault(Error::input(what).at(place).hint("remove one of the two"));
                    } else if self.value(&mut value, node, path) {
                        map.insert(key.as_str().into(), value);
                    } else {
                        self.aside.insert(path.clone());
                    }
                }
                path.pop();
            }
        }
    }

    fn unknown(&mut self, key: &str, own: Option<&serde_json::Map<String, Value>>, path: &[String]) -> bool {
        let parent = &path[..path.len() - 1];
        let known: Vec<&str> = own.into_iter().flat_map(|own| own.keys().map(String::as_str)).collect();
        let hint = (self.shape.hints.key)(key, parent).unwrap_or_else(|| hint(key, &known, "keys"));
        let what = format!("unknown key `{key}`{}", section(parent));
        self.fault(Error::input(what).at(self.places.key(path)).hint(hint));
        false
    }

    fn empty(&mut self, kinds: &OneKey<'_>, path: &[String]) -> bool {
        let fault = Error::input(format!("a {} is empty", kinds.label)).at(self.places.value(path));
        self.fault(fault.hint(format!("{}: {}", kinds.plural(), kinds.names().join(", "))));
        false
    }

    fn one_key(&mut self, map: &mut Mapping, kinds: &OneKey<'_>, path: &mut Steps) -> bool {
        let keys: Vec<String> = map.keys().filter_map(|key| key.as_str().map(str::to_owned)).collect();
        let Some((kind, others)) = keys.split_first() else { return self.empty(kinds, path) };
        let label = kinds.label;
        path.push(kind.clone());
        let Some(node) = kinds.kinds.get(kind) else {
            let what = match label {
                "stage" => format!("unknown stage kind `{kind}`"),
                _ => format!("unknown {label} `{kind}`"),
            };
            let known = match label {
                "stage" => (self.shape.hints.kind)(kind),
                _ => None,
            };
            let hint = known.unwrap_or_else(|| hint(kind, &kinds.names(), &kinds.plural()));
            self.fault(Error::input(what).at(self.places.key(path)).hint(hint));
            path.pop();
            return false;
        };
        let body = map.entry(kind.as_str().into()).or_insert(Yaml::Null);
        if body.is_null() {
            *body = Yaml::Mapping(Mapping::new());
        }
        let stays = self.value(body, node, path);
        path.pop();
        for second in others {
            path.push(second.clone());
            let what = format!("a {label} has one key, its kind; `{second}` is a second");
            let fix = match label {
                "stage" => {
                    "indent the stage's settings below its kind, and begin each stage with `- `".to_owned()
                }
                _ => format!("write its settings below the kind: `- {kind}: {{...}}`"),
            };
            self.fault(Error::input(what).at(self.places.key(path)).hint(fix));
            map.remove(second.as_str());
            self.aside.insert(path.clone());
            path.pop();
        }
        stays
    }
}

/// Whether a value is of a type that `node` allows; a node without types allows all.
fn is_one_of(value: &Yaml, node: &Value) -> bool {
    let types = types(node);
    (types.is_empty() && node.get("anyOf").is_none()) || types.iter().any(|name| is_a(value, name))
}

fn is_index(step: &str) -> bool {
    step.parse::<usize>().is_ok()
}

fn last(path: &[String]) -> &str {
    path.last().map_or("recipe", String::as_str)
}

/// `` `epochs` in stage `sft` ``, or an element of a list.
fn named(path: &[String]) -> String {
    match path {
        [parent @ .., list, at] if is_index(at) => format!("an element of `{list}`{}", section(parent)),
        [parent @ .., key] => format!("`{key}`{}", section(parent)),
        [] => "`recipe`".to_owned(),
    }
}

/// A number as it is shown in a fault of range.
fn plain(value: &Yaml) -> String {
    match value.as_i64() {
        Some(whole) => whole.to_string(),
        None => value.as_f64().map_or_else(String::new, |real| real.to_string()),
    }
}
