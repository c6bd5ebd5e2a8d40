//! What a recipe states, as a tree of plain values, and how layers of such trees are put over each other.

use serde_json::{Map, Number, Value};
use serde_yaml::Value as Yaml;

/// A checked YAML tree as JSON. Keys without a value go; elements of lists stay, as null.
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
                (!value.is_null()).then(|| (key.as_str().unwrap_or_default().to_owned(), from_yaml(value)))
            };
            Value::Object(map.iter().filter_map(entry).collect())
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
