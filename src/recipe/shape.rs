//! What a recipe may hold, as its owner hands it in: a JSON Schema and the hints for words it does not know.
//!
//! The schema is the single declaration of keys, types, ranges, words and defaults. Beside the standard keywords three of
//! our own are read: `x-aliases` (other names of a key), `x-shorthand` (the key that a bare text or list stands for) and
//! `x-label` (what an element of a list of one-key maps is called). Next: `check`, which walks a recipe against it.

use serde_json::{Map, Value};
use serde_yaml::Value as Yaml;

/// Hints for words that a recipe does not know.
#[derive(Debug, Clone, Copy)]
pub struct Hints {
    /// For an unknown key below a path.
    pub key: fn(&str, &[String]) -> Option<String>,
    /// The known key that an unknown one stands for: what is written under it is not missing.
    pub same: fn(&str) -> Option<&'static str>,
    /// For an unknown kind of stage.
    pub kind: fn(&str) -> Option<String>,
    /// Keys whose values are paths, in which a leading `~` is the home folder.
    pub paths: &'static [&'static str],
}

/// The shape of recipes.
#[derive(Debug, Clone)]
pub struct Shape {
    schema: Value,
    /// What to say about unknown words.
    pub hints: Hints,
}

/// A map with exactly one of several keys: a stage, a reward, a tool.
pub struct OneKey<'a> {
    /// What such a map is called.
    pub label: &'a str,
    /// What it holds, by key.
    pub kinds: &'a Map<String, Value>,
}

impl OneKey<'_> {
    /// What the key may be.
    pub fn names(&self) -> Vec<&str> {
        self.kinds.keys().map(String::as_str).collect()
    }

    /// What the kinds are called together.
    pub fn plural(&self) -> String {
        if self.label == "stage" { "kinds".to_owned() } else { format!("{}s", self.label) }
    }
}

impl Shape {
    /// A shape from the JSON Schema of a whole recipe.
    pub fn new(schema: Value, hints: Hints) -> Self {
        Self { schema, hints }
    }

    /// The schema of the whole recipe.
    pub fn root(&self) -> &Value {
        &self.schema
    }

    /// A node with its references followed and the null of an optional value left out.
    pub fn resolved<'a>(&'a self, node: &'a Value) -> &'a Value {
        let mut node = node;
        for _ in 0..32 {
            if let Some(target) = node.get("$ref").and_then(Value::as_str) {
                node = self.schema.pointer(target.trim_start_matches('#')).unwrap_or(&Value::Null);
            } else if let [only] = branches(node)[..] {
                node = only;
            } else {
                break;
            }
        }
        node
    }

    /// The part of a node that a value of this type is checked against; the node itself where it has no parts.
    pub fn branch<'a>(&'a self, node: &'a Value, value: &Yaml) -> &'a Value {
        let node = self.resolved(node);
        let fits = |branch: &&Value| types(branch).iter().any(|t| is_a(value, t));
        match words(node) {
            Some(_) => node,
            None => branches(node).into_iter().map(|b| self.resolved(b)).find(fits).unwrap_or(node),
        }
    }

    /// The schema of the value at `path`; `None` where the recipe has no such key.
    pub fn node(&self, path: &[String]) -> Option<&Value> {
        path.iter().try_fold(&self.schema, |at, step| {
            let at = self.resolved(at);
            let all = std::iter::once(at).chain(branches(at).into_iter().map(|b| self.resolved(b)));
            all.into_iter().find_map(|node| match step.parse::<usize>() {
                Ok(_) => node.get("items"),
                Err(_) => node.get("properties")?.get(step),
            })
        })
    }

    /// What holds for the keys of the map at `path` that are not written.
    pub fn defaults(&self, path: &[String]) -> Map<String, Value> {
        let node = self.node(path).map(|node| self.resolved(node));
        let map = node.into_iter().flat_map(|node| std::iter::once(node).chain(branches(node)));
        let own = map.filter_map(|node| self.resolved(node).get("properties")?.as_object()).flatten();
        let stated = |node: &Value| node.get("default").filter(|default| !default.is_null()).cloned();
        own.filter_map(|(key, node)| Some((key.clone(), stated(node)?))).collect()
    }

    /// Takes the elements that were set aside, and are null, out of the lists of a checked value. What the shape leaves
    /// free keeps its nulls: there they are the user's.
    pub fn drop_set_aside(&self, node: &Value, value: &mut Value) {
        let node = self.resolved(node);
        let parts: Vec<&Value> =
            std::iter::once(node).chain(branches(node).into_iter().map(|b| self.resolved(b))).collect();
        match value {
            Value::Array(items) => {
                let Some(node) = parts.iter().find_map(|part| part.get("items")) else { return };
                items.retain(|item| !item.is_null());
                items.iter_mut().for_each(|item| self.drop_set_aside(node, item));
            }
            Value::Object(map) => {
                let own = |key: &str| parts.iter().find_map(|part| part.get("properties")?.get(key));
                let others = || {
                    parts.iter().find_map(|part| part.get("additionalProperties")).filter(|n| n.is_object())
                };
                for (key, value) in map {
                    if let Some(node) = own(key).or_else(others) {
                        self.drop_set_aside(node, value);
                    }
                }
            }
            _ => {}
        }
    }

    /// What a value must be, in words.
    pub fn expected(&self, node: &Value) -> String {
        let node = self.resolved(node);
        if let Some(words) = words(node) {
            return format!("one of: {}", words.join(", "));
        }
        if let Some(one) = one_key(node) {
            return format!("a map with one key, the {}'s kind", one.label);
        }
        let mut all: Vec<&str> = branches(node)
            .into_iter()
            .map(|b| self.resolved(b))
            .chain([node])
            .flat_map(types)
            .map(|t| match t {
                "integer" => "a whole number",
                "number" => "a number",
                "boolean" => "true or false",
                "string" => "a text",
                "array" => "a list",
                _ => "a map",
            })
            .collect();
        all.dedup();
        match all.split_last() {
            Some((last, before)) if !before.is_empty() => format!("{} or {last}", before.join(", ")),
            _ => all.join(""),
        }
    }
}

/// The parts of a node of which a value is one, null left out.
fn branches(node: &Value) -> Vec<&Value> {
    let parts = ["anyOf", "oneOf"].iter().find_map(|key| node.get(*key)?.as_array());
    parts.into_iter().flatten().filter(|part| part.get("type").is_none_or(|t| t != "null")).collect()
}

/// The types that a node allows, null left out.
pub fn types(node: &Value) -> Vec<&str> {
    let types = match node.get("type") {
        Some(Value::String(one)) => vec![one.as_str()],
        Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    types.into_iter().filter(|t| *t != "null").collect()
}

/// The words that a node allows, where it is a closed set of them.
pub fn words(node: &Value) -> Option<Vec<&str>> {
    if let Some(words) = node.get("enum").and_then(Value::as_array) {
        return Some(words.iter().filter_map(Value::as_str).collect());
    }
    let parts = branches(node);
    let mut all = Vec::new();
    for part in &parts {
        match part.get("const").and_then(Value::as_str) {
            Some(word) => all.push(word),
            None => all.extend(part.get("enum")?.as_array()?.iter().filter_map(Value::as_str)),
        }
    }
    (!all.is_empty()).then_some(all)
}

/// The kinds of a map with one key.
pub fn one_key(node: &Value) -> Option<OneKey<'_>> {
    let label = node.get("x-label")?.as_str()?;
    Some(OneKey { label, kinds: node.get("properties")?.as_object()? })
}

/// Whether a value is of a type of JSON Schema's.
pub fn is_a(value: &Yaml, name: &str) -> bool {
    match value {
        Yaml::Bool(_) => name == "boolean",
        Yaml::Number(number) => name == "number" || (name == "integer" && number.as_i64().is_some()),
        Yaml::String(_) => name == "string",
        Yaml::Sequence(_) => name == "array",
        Yaml::Mapping(_) => name == "object",
        Yaml::Null => name == "null",
        Yaml::Tagged(_) => false,
    }
}
