//! Tokenizer folders as different hands write them, beside transformers: added tokens, begin and end marks.

mod common;

use std::path::Path;
use std::process::Command;

use common::python::{python, script};
use common::succeed;
use minimind::data::Tokenizer;
use serde_json::{Value, json};

common::needs::tests! {
    folders_give_the_ids_that_transformers_gives: [Python("transformers")],
}

fn folders_give_the_ids_that_transformers_gives() {
    let python = python();
    let root = tempfile::tempdir().expect("a folder");
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let mut command = Command::new(&python);
    command
        .arg(script("tokenizer_files.py"))
        .args([fixtures.join("tokenizer"), fixtures.join("sentencepiece")]);
    print!("{}", String::from_utf8_lossy(&succeed(command.arg(root.path())).stdout));
    let expected = common::json(&root.path().join("expected.json"));
    let cases = expected.as_object().expect("cases");
    assert!(cases.len() >= 10, "{} cases", cases.len());
    let mut wrong = Vec::new();
    for (name, case) in cases {
        let tokenizer = Tokenizer::load(&root.path().join(name)).expect("a tokenizer");
        let mut hold = |what: &str, ours: Value, theirs: &Value| {
            if ours != *theirs {
                wrong.push(format!("{name}: {what}: ours {ours}, theirs {theirs}"));
            }
        };
        hold("begin mark", json!(tokenizer.bos_id()), &case["bos"]);
        hold("end mark", json!(tokenizer.has_eos().then(|| tokenizer.eos_id())), &case["eos"]);
        hold("size", json!(tokenizer.vocab_size()), &case["size"]);
        for row in case["rows"].as_array().expect("rows") {
            let text = row["text"].as_str().expect("a text");
            let ids = tokenizer.encode(text).expect("ids");
            hold(text, json!(ids), &row["ids"]);
            hold(
                &format!("{text} raw"),
                json!(tokenizer.encode_with_special_tokens(text).expect("ids")),
                &row["raw"],
            );
            hold(
                &format!("{text} decoded"),
                json!(tokenizer.decode(&ids, false).expect("text")),
                &row["decoded"],
            );
            hold(&format!("{text} bare"), json!(tokenizer.decode(&ids, true).expect("text")), &row["bare"]);
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
