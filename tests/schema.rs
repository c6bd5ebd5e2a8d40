//! The schema and the reader know the same keys: at every path of `minimind schema` a key that nobody knows is answered with
//! the list of those that there are, and it is the schema's.

mod common;

use std::collections::BTreeSet;

use common::{minimind, succeed};
use serde_json::{Value, json};

const STRANGER: &str = "qqqqqqqqqqqqqqqq";

/// A map of the schema: how a recipe gets there, and its keys.
struct Place {
    path: Vec<String>,
    keys: BTreeSet<String>,
    one_key: bool,
}

fn resolve<'a>(node: &'a Value, root: &'a Value) -> Vec<&'a Value> {
    if let Some(target) = node["$ref"].as_str() {
        return resolve(root.pointer(&target[1..]).expect("what is referred to"), root);
    }
    let parts =
        ["anyOf", "oneOf", "allOf"].iter().flat_map(|list| node[*list].as_array().into_iter().flatten());
    let parts: Vec<&Value> = parts.flat_map(|part| resolve(part, root)).collect();
    if parts.is_empty() { vec![node] } else { parts }
}

/// Every map below `node`; each key has a description and says what it takes.
fn walk(node: &Value, root: &Value, path: &[String], found: &mut Vec<Place>) {
    let deeper = |step: &str| path.iter().cloned().chain([step.to_owned()]).collect::<Vec<_>>();
    for part in resolve(node, root) {
        if let Some(keys) = part["properties"].as_object() {
            let one_key = part["maxProperties"] == 1;
            found.push(Place { path: path.to_vec(), keys: keys.keys().cloned().collect(), one_key });
            for (key, value) in keys {
                let told = resolve(value, root).iter().any(|part| part["description"].is_string());
                assert!(told || value["description"].is_string(), "{path:?}.{key} has no description");
                walk(value, root, &deeper(key), found);
            }
        }
        if part["items"].is_object() {
            walk(&part["items"], root, &deeper("[]"), found);
        }
    }
}

/// A recipe that holds the strange key at a path and nothing else.
fn recipe(path: &[String]) -> Value {
    path.iter().rev().fold(json!({STRANGER: 1}), |inner, step| match step.as_str() {
        "[]" => json!([inner]),
        key => json!({key: inner}),
    })
}

#[test]
fn the_reader_knows_the_keys_of_the_schema_and_no_others() {
    let schema: Value =
        serde_json::from_slice(&succeed(minimind().arg("schema")).stdout).expect("the schema is JSON");
    let mut places = Vec::new();
    walk(&schema, &schema, &[], &mut places);
    assert!(places.len() > 100, "only {} maps", places.len());
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = minimind();
    command.arg("validate").current_dir(folder.path());
    for (i, place) in places.iter().enumerate() {
        let name = format!("{i}.yaml");
        let text = serde_json::to_string(&recipe(&place.path)).expect("JSON is YAML");
        std::fs::write(folder.path().join(&name), text).expect("a recipe");
        command.arg(name);
    }
    let output = command.output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let mut lines = said.lines().peekable();
    let mut answers = vec![None; places.len()];
    while let Some(line) = lines.next() {
        let Some(number) = line.strip_prefix("error: ").and_then(|l| l.split_once(".yaml:")) else {
            continue;
        };
        let Some(hint) = lines.peek().filter(|_| line.contains(&format!("`{STRANGER}`"))) else { continue };
        let (_, list) = hint.strip_prefix("hint: ").and_then(|h| h.split_once(": ")).expect("a list of keys");
        let keys: BTreeSet<String> = list.split(", ").map(str::to_owned).collect();
        answers[number.0.parse::<usize>().expect("a number")] = Some(keys);
    }
    for (place, answer) in places.iter().zip(answers) {
        let keys =
            answer.unwrap_or_else(|| panic!("nothing is said of a strange key at {:?}\n{said}", place.path));
        let kind = if place.one_key { "kinds" } else { "keys" };
        assert_eq!(keys, place.keys, "{kind} of {:?}", place.path);
    }
}
