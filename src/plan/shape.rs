//! The shape of a recipe: every key that there is, from the types that hold them.
//!
//! `recipe` checks what was written against it. Next: `schema` (the keys), `upstream` (the hints).

use std::sync::OnceLock;

use serde_json::{Map, Value, json};

use super::{KINDS, schema, upstream};
use crate::recipe::{Hints, Shape, tree};

/// What holds for the keys of each kind of stage.
const DEFAULTS: &str = include_str!("defaults.yaml");

/// No count in a recipe is larger; keeps every product of two of them in range.
const MOST: i64 = 1_000_000_000;

/// Keys whose whole numbers are no counts.
const WIDE: [&str; 2] = ["seed", "max_bytes"];

/// Keys whose values are paths.
const PATHS: [&str; 16] = [
    "output",
    "tokenizer",
    "config",
    "init",
    "from",
    "adapter",
    "reference",
    "teacher",
    "critic",
    "data",
    "heldout",
    "path",
    "paths",
    "validation",
    "shots_from",
    "file",
];

/// The shape of every recipe.
pub fn shape() -> &'static Shape {
    static SHAPE: OnceLock<Shape> = OnceLock::new();
    SHAPE.get_or_init(|| {
        let mut schema = schemars::schema_for!(schema::Root).to_value();
        complete(&mut schema);
        let defaults = defaults();
        for kind in KINDS {
            let node = stage(&schema, kind, &defaults[kind]);
            schema["$defs"]["Stage"]["properties"][kind] = node;
        }
        let hints = Hints { key: upstream::key, same: upstream::same, kind: upstream::script, paths: &PATHS };
        Shape::new(schema, hints)
    })
}

/// Completes the nodes of a schema: whole numbers have a largest value, maps no other keys than those named, words all their
/// aliases; no key is required, since what is left out is filled in or a fault of its own.
fn complete(node: &mut Value) {
    match node {
        Value::Object(map) => {
            if map.get("required").is_some_and(Value::is_array) {
                map.remove("required");
            }
            if let Some(Value::Object(own)) = map.get_mut("properties") {
                own.iter_mut()
                    .filter(|(key, _)| !WIDE.contains(&key.as_str()))
                    .for_each(|(_, node)| bound(node));
                if map.get("type").is_some_and(|kind| kind == "object") {
                    map.entry("additionalProperties").or_insert(false.into());
                }
            }
            if let Some(Value::Array(words)) = map.get_mut("oneOf") {
                *words = std::mem::take(words).into_iter().flat_map(with_aliases).collect();
            }
            // A default that says nothing is none, and others are values of recipes, not nodes.
            if map.get("default").is_some_and(|value| value.is_null() || value == "") {
                map.remove("default");
            }
            map.iter_mut().filter(|(key, _)| *key != "default").for_each(|(_, node)| complete(node));
        }
        Value::Array(items) => items.iter_mut().for_each(complete),
        _ => {}
    }
}

/// Gives a whole number without a largest value one.
fn bound(node: &mut Value) {
    if crate::recipe::shape::types(node) == ["integer"]
        && let Value::Object(node) = node
    {
        node.entry("maximum").or_insert(MOST.into());
    }
}

/// A word, and the words that mean the same.
fn with_aliases(mut word: Value) -> Vec<Value> {
    let aliases = word.as_object_mut().and_then(|word| word.remove("x-aliases"));
    let same =
        |alias: &Value| json!({"description": "The same by another name.", "type": "string", "const": alias});
    let aliases: Vec<Value> =
        aliases.as_ref().and_then(Value::as_array).into_iter().flatten().map(same).collect();
    std::iter::once(word).chain(aliases).collect()
}

/// `defaults.yaml`, by kind.
fn defaults() -> Value {
    let text = serde_yaml::from_str(DEFAULTS).unwrap_or_default();
    tree::from_yaml(&text)
}

/// What a stage of a kind may hold: the keys of its type, its name, and the defaults of the kind.
fn stage(schema: &Value, kind: &str, defaults: &Value) -> Value {
    let mut node = target(schema, &schema["$defs"]["Stage"]["properties"][kind]).clone();
    if let Some(Value::Object(own)) = node.get_mut("properties") {
        let name = json!({"type": "string", "description": "The stage's name (its kind)."});
        let others = std::mem::take(own);
        own.insert("name".to_owned(), name);
        own.extend(others);
    }
    set_defaults(schema, &mut node, defaults);
    node
}

/// A node where it stands; what it refers to, where it is a reference.
fn target<'a>(schema: &'a Value, node: &'a Value) -> &'a Value {
    let parts = || node.get("anyOf").and_then(Value::as_array).into_iter().flatten();
    let reference = node.get("$ref").or_else(|| parts().find_map(|part| part.get("$ref")));
    let found = reference.and_then(Value::as_str).and_then(|r| schema.pointer(r.trim_start_matches('#')));
    found.unwrap_or(node)
}

/// Writes defaults beside the keys of a node; maps go into the nodes below.
fn set_defaults(schema: &Value, node: &mut Value, defaults: &Value) {
    for (key, value) in defaults.as_object().into_iter().flatten() {
        let Some(Value::Object(own)) = node.get_mut("properties").and_then(|own| own.get_mut(key)) else {
            continue;
        };
        if value.is_object() {
            let mut below = target(schema, &Value::Object(own.clone())).clone();
            set_defaults(schema, &mut below, value);
            if let (Value::Object(below), Some(description)) = (&mut below, own.get("description")) {
                below.insert("description".to_owned(), description.clone());
            }
            *own = below.as_object().cloned().unwrap_or_else(Map::new);
        } else {
            own.insert("default".to_owned(), value.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn defaults_are_such_as_a_recipe_may_state() {
        let defaults = defaults();
        for (kind, own) in defaults.as_object().unwrap() {
            assert!(KINDS.contains(&kind.as_str()), "{kind} is no kind");
            let text = json!({"stages": [{kind: own}]}).to_string();
            let (_, faults) = crate::recipe::reader::parse(Path::new("d.yaml"), &text, &[], shape()).unwrap();
            assert!(faults.is_empty(), "{faults:?}");
            for (key, value) in own.as_object().unwrap().iter().filter(|(_, value)| !value.is_object()) {
                let path = ["stages", "0", kind].map(str::to_owned);
                assert_eq!(shape().defaults(&path).get(key), Some(value), "{kind}.{key}");
            }
        }
    }
}
