//! `minimind schema`: every key, type and word of an enumeration at every path. Descriptions, ranges and defaults are free
//! to become more precise, `null` (a key left empty) is not compared, and keys may be added with a record of their own.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

use super::common::succeed;
use super::{overwrites, program, recorded, records};

/// What a path of recipes may hold: types, words, keys.
type Facts = BTreeMap<String, BTreeSet<String>>;

fn walk(node: &Value, root: &Value, path: &str, facts: &mut Facts) {
    assert!(path.len() < 300, "the schema has no end at {path}");
    if let Some(target) = node["$ref"].as_str() {
        let pointer = target.strip_prefix('#').expect("a reference within the schema");
        walk(root.pointer(pointer).expect("what is referred to"), root, path, facts);
    }
    for list in ["anyOf", "oneOf", "allOf"] {
        for part in node[list].as_array().into_iter().flatten() {
            walk(part, root, path, facts);
        }
    }
    let mut found = BTreeSet::new();
    match &node["type"] {
        Value::String(kind) => drop(found.insert(kind.clone())),
        Value::Array(kinds) => found.extend(kinds.iter().filter_map(|k| Some(k.as_str()?.to_owned()))),
        _ => (),
    }
    found.remove("null");
    let words = node["enum"].as_array().into_iter().flatten().chain(node.get("const"));
    found.extend(words.filter(|word| !word.is_null()).map(Value::to_string));
    for key in node["required"].as_array().into_iter().flatten() {
        found.insert(format!("needs {key}"));
    }
    if node["maxProperties"] == 1 && node["minProperties"] == 1 {
        found.insert("one key".to_owned());
    }
    match &node["additionalProperties"] {
        Value::Bool(false) => drop(found.insert("no other keys".to_owned())),
        Value::Object(_) => walk(&node["additionalProperties"], root, &format!("{path}.*"), facts),
        _ => (),
    }
    facts.entry(path.to_owned()).or_default().extend(found);
    for (key, value) in node["properties"].as_object().into_iter().flatten() {
        walk(value, root, &format!("{path}.{key}"), facts);
    }
    if node["items"].is_object() {
        walk(&node["items"], root, &format!("{path}[]"), facts);
    }
}

/// A line a path.
fn lines(mut command: Command) -> String {
    let output = succeed(command.arg("schema"));
    let schema: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let mut facts = Facts::new();
    walk(&schema, &schema, "", &mut facts);
    assert!(facts.len() > 500, "only {} paths were found", facts.len());
    facts
        .iter()
        .map(|(path, facts)| format!("{path}: {}\n", facts.iter().cloned().collect::<Vec<_>>().join(" | ")))
        .collect()
}

#[test]
fn every_key_type_and_word_of_the_schema_stays() {
    let file = records().join("schema.txt");
    let before = recorded(&file, lines);
    let now = lines(program());
    let of = |text: &str| text.lines().map(str::to_owned).collect::<BTreeSet<_>>();
    let (old, new) = (of(&before), of(&now));
    let gone: Vec<&String> = old.difference(&new).collect();
    assert!(gone.is_empty(), "paths that are gone or changed:\n{gone:#?}");
    let more: Vec<&String> = new.difference(&old).collect();
    if !more.is_empty() {
        assert!(overwrites(), "paths that have no record (MINIMIND_FREEZE=overwrite adds them):\n{more:#?}");
        std::fs::write(file, now).expect("a record is written");
    }
}
