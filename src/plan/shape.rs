//! The shape of a recipe: every key that there is, from the types that hold them.
//!
//! `recipe` checks what was written against it. Next: `schema` (the keys), `upstream` (the hints).

use std::sync::OnceLock;

use serde_json::Value;

use super::{schema, upstream};
use crate::recipe::{Hints, Shape};

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
        bound(&mut schema);
        let hints = Hints { key: upstream::key, same: upstream::same, kind: upstream::script, paths: &PATHS };
        Shape::new(schema, hints)
    })
}

/// Gives every whole number without a largest value one.
fn bound(node: &mut Value) {
    match node {
        Value::Object(map) => {
            if let Some(Value::Object(own)) = map.get_mut("properties") {
                for (key, node) in own.iter_mut() {
                    if !WIDE.contains(&key.as_str())
                        && crate::recipe::shape::types(node) == ["integer"]
                        && let Value::Object(node) = node
                    {
                        node.entry("maximum").or_insert(MOST.into());
                    }
                }
            }
            map.values_mut().for_each(bound);
        }
        Value::Array(items) => items.iter_mut().for_each(bound),
        _ => {}
    }
}
