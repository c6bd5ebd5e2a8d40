//! JSON Schemas made ready for a grammar: objects take their declared keys alone, and a schema that no finite text follows
//! is refused.
//!
//! A weak model that may add keys adds them for ever. What is declared open (`additionalProperties`) stays open, and a
//! schema that puts objects together from parts (`allOf` and the like) is left as it is. Next: `grammar`.

use serde_json::{Value, json};

/// Keys with which a schema describes an object in more than one place.
const COMPOSED: [&str; 7] =
    ["allOf", "if", "not", "dependentSchemas", "dependentRequired", "unevaluatedProperties", "propertyNames"];

/// Steps after which a schema is taken to end: real ones take some tens.
const MAX_STEPS: usize = 10_000;

/// The schema with declared keys only.
pub fn closed(schema: &Value) -> Value {
    let mut schema = schema.clone();
    if !composed(&schema) {
        close(&mut schema);
    }
    schema
}

fn composed(schema: &Value) -> bool {
    match schema {
        Value::Object(map) => {
            map.iter().any(|(key, value)| COMPOSED.contains(&key.as_str()) || composed(value))
        }
        Value::Array(list) => list.iter().any(composed),
        _ => false,
    }
}

fn close(schema: &mut Value) {
    let Some(map) = schema.as_object_mut() else { return };
    let names: Vec<String> = map
        .get("properties")
        .and_then(Value::as_object)
        .map(|p| p.keys().cloned().collect())
        .unwrap_or_default();
    let required = map.get("required").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let declared =
        required.iter().filter_map(Value::as_str).all(|name| names.iter().any(|known| known == name));
    let open = ["additionalProperties", "patternProperties", "$ref", "anyOf", "oneOf"];
    if !names.is_empty() && declared && !open.iter().any(|key| map.contains_key(*key)) {
        map.insert("additionalProperties".into(), json!(false));
    }
    let alone = names.is_empty();
    for (key, value) in map.iter_mut() {
        match key.as_str() {
            "properties" | "$defs" | "definitions" | "patternProperties" => {
                value.as_object_mut().into_iter().flat_map(|map| map.values_mut()).for_each(close);
            }
            "items" | "additionalProperties" => close(value),
            "prefixItems" => value.as_array_mut().into_iter().flatten().for_each(close),
            // A branch next to keys of the object's own describes those too.
            "anyOf" | "oneOf" if alone => value.as_array_mut().into_iter().flatten().for_each(close),
            _ => {}
        }
    }
}

/// Whether some finite value follows the schema; false where it demands itself again and again.
pub fn is_finite(schema: &Value) -> bool {
    Walk { root: schema, open: Vec::new(), steps: 0 }.ends(schema)
}

struct Walk<'a> {
    root: &'a Value,
    /// References that are being followed.
    open: Vec<&'a str>,
    steps: usize,
}

impl<'a> Walk<'a> {
    fn ends(&mut self, schema: &'a Value) -> bool {
        self.steps += 1;
        let Some(map) = schema.as_object().filter(|_| self.steps < MAX_STEPS) else { return true };
        if let Some(name) = map.get("$ref").and_then(Value::as_str) {
            if self.open.contains(&name) {
                return false;
            }
            let target = name.strip_prefix('#').and_then(|path| self.root.pointer(path));
            // One that leads elsewhere is the engine's to refuse.
            let Some(target) = target else { return true };
            self.open.push(name);
            let ends = self.ends(target);
            self.open.pop();
            return ends;
        }
        if map.contains_key("const") || map.contains_key("enum") {
            return true;
        }
        for key in ["anyOf", "oneOf"] {
            if let Some(list) = map.get(key).and_then(Value::as_array)
                && !list.is_empty()
                && !list.iter().any(|branch| self.ends(branch))
            {
                return false;
            }
        }
        if let Some(list) = map.get("allOf").and_then(Value::as_array)
            && !list.iter().all(|part| self.ends(part))
        {
            return false;
        }
        let kinds: Vec<&str> = match map.get("type") {
            Some(Value::String(kind)) => vec![kind],
            Some(Value::Array(kinds)) => kinds.iter().filter_map(Value::as_str).collect(),
            _ if map.contains_key("properties") => vec!["object"],
            _ => return true,
        };
        kinds.is_empty()
            || kinds.iter().any(|kind| match *kind {
                "object" => {
                    let required =
                        map.get("required").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
                    let properties = map.get("properties");
                    required.iter().filter_map(Value::as_str).all(|name| {
                        properties.and_then(|p| p.get(name)).is_none_or(|schema| self.ends(schema))
                    })
                }
                "array" => {
                    let least = map.get("minItems").and_then(Value::as_u64).unwrap_or(0);
                    least == 0 || map.get("items").is_none_or(|items| self.ends(items))
                }
                _ => true,
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_take_their_declared_keys() {
        let inner = json!({"type": "object", "properties": {"x": {"type": "integer"}}});
        let got = closed(
            &json!({"properties": {"a": inner, "b": {"type": "array", "items": inner}}, "$defs": {"c": inner}}),
        );
        let shut = json!(false);
        assert_eq!(got["additionalProperties"], shut);
        for place in ["/properties/a", "/properties/b/items", "/$defs/c"] {
            assert_eq!(got.pointer(place).unwrap()["additionalProperties"], shut, "{place}");
        }
        // What is declared open, demands other keys, has none, or is put together from parts.
        for same in [
            json!({"properties": {"a": {}}, "additionalProperties": true}),
            json!({"properties": {"a": {}}, "required": ["b"]}),
            json!({"type": "object"}),
            json!({"properties": {"a": {}}, "patternProperties": {"^x": {}}}),
            json!({"allOf": [{"properties": {"a": {}}}, {"properties": {"b": {}}}]}),
            json!({"properties": {"a": {}}, "anyOf": [{"required": ["a"]}]}),
            json!(true),
        ] {
            assert_eq!(closed(&same), same);
        }
    }

    #[test]
    fn a_schema_without_an_end_is_seen() {
        let list = json!({"type": "object", "properties": {"next": {"$ref": "#"}}, "required": ["next"]});
        for endless in [
            json!({"$ref": "#"}),
            list.clone(),
            json!({"$ref": "#/$defs/a", "$defs": {"a": {"type": "array", "items": {"$ref": "#/$defs/a"}, "minItems": 1}}}),
            json!({"anyOf": [{"$ref": "#"}, list]}),
        ] {
            assert!(!is_finite(&endless), "{endless}");
        }
        for fine in [
            json!({"type": "object", "properties": {"next": {"$ref": "#"}}}),
            json!({"type": "object", "properties": {"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}, "required": ["next"]}),
            json!({"type": "array", "items": {"$ref": "#"}}),
            json!({"type": ["object", "null"], "properties": {"a": {"$ref": "#"}}, "required": ["a"]}),
            json!({"$ref": "https://example.org/x"}),
            json!({}),
        ] {
            assert!(is_finite(&fine), "{fine}");
        }
    }
}
