//! What a recipe states, as a tree of plain values, and how layers of such trees are put over each other.

use std::sync::LazyLock;

use serde_json::{Map, Number, Value};
use serde_yaml::Value as Yaml;

use super::places::Steps;

/// A checked YAML tree as JSON. Elements of lists that were set aside stay, as null.
pub fn from_yaml(value: &Yaml) -> Value {
    match value {
        Yaml::Null | Yaml::Tagged(_) => Value::Null,
        Yaml::Bool(flag) => Value::Bool(*flag),
        Yaml::String(text) => Value::String(text.clone()),
        Yaml::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(whole), _) => Value::from(whole),
            (_, Some(whole)) => Value::from(whole),
            _ => number.as_f64().and_then(Number::from_f64).map_or(Value::Null, Value::Number),
        },
        Yaml::Sequence(items) => Value::Array(items.iter().map(from_yaml).collect()),
        Yaml::Mapping(map) => {
            let entry = |(key, value): (&Yaml, &Yaml)| {
                (key.as_str().unwrap_or_default().to_owned(), from_yaml(value))
            };
            Value::Object(map.iter().map(entry).collect())
        }
    }
}

/// `base` with the values of `over` in place of its own; maps are put over each other key by key.
pub fn merge(base: &mut Map<String, Value>, over: &Map<String, Value>) {
    for (key, value) in over {
        match (base.get_mut(key), value) {
            (Some(Value::Object(own)), Value::Object(new)) => merge(own, new),
            _ => {
                base.insert(key.clone(), value.clone());
            }
        }
    }
}

/// A map of a recipe, with the way to it.
#[derive(Debug, Clone)]
pub struct Section<'a> {
    /// The keys that lead to it.
    pub path: Steps,
    /// What it states.
    pub map: &'a Map<String, Value>,
}

impl<'a> Section<'a> {
    /// The map at `path` of a tree; an empty one where it states none.
    pub fn of(tree: &'a Value, path: &[String]) -> Self {
        static NOTHING: LazyLock<Map<String, Value>> = LazyLock::new(Map::new);
        let step = |at: &'a Value, step: &String| match at {
            Value::Array(items) => items.get(step.parse::<usize>().ok()?),
            other => other.get(step),
        };
        let found = path.iter().try_fold(tree, step).and_then(Value::as_object);
        Self { path: path.to_vec(), map: found.unwrap_or(&NOTHING) }
    }

    /// The last key of its path: of a stage, a reward or a tool its kind.
    pub fn key(&self) -> &str {
        self.path.last().map_or("", String::as_str)
    }

    /// The path of one of its keys.
    pub fn at(&self, key: &str) -> Steps {
        self.path.iter().cloned().chain([key.to_owned()]).collect()
    }

    /// Whether it states `key`.
    pub fn has(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    /// The text that it states for `key`.
    pub fn text(&self, key: &str) -> Option<&'a str> {
        self.map.get(key)?.as_str()
    }

    /// The list that it states for `key`; null where an element was set aside.
    pub fn list(&self, key: &str) -> &'a [Value] {
        self.map.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }

    /// The map that it states for `key`.
    pub fn section(&self, key: &str) -> Option<Self> {
        let map = self.map.get(key)?.as_object()?;
        Some(Self { path: self.at(key), map })
    }
}
