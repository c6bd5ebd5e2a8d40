//! Tokenizer folders as different hands write them, beside transformers: added tokens, begin and end marks. Training and
//! counting, beside the `tokenizers` library.

mod common;

use std::path::Path;
use std::process::Command;

use common::python::{python, script};
use common::succeed;
use minimind::data::Tokenizer;
use serde_json::{Value, json};

common::needs::tests! {
    folders_give_the_ids_that_transformers_gives: [Python("transformers")],
    training_and_counting_are_the_librarys: [Python("tokenizers")],
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

fn training_and_counting_are_the_librarys() {
    let root = tempfile::tempdir().expect("a folder");
    let at = |name: &str| root.path().join(name);
    let world = |name: &str, kind: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_minimind"));
        succeed(command.args(["data", "synth", "--rows", "300", "--kind", kind]).arg(at(name)));
    };
    world("world.jsonl", "text");
    let rows = std::fs::read_to_string(at("world.jsonl")).expect("rows");
    let mut texts: Vec<String> = rows
        .lines()
        .map(|row| {
            serde_json::from_str::<Value>(row).expect("a row")["text"].as_str().expect("a text").to_owned()
        })
        .collect();
    let odd = [
        "Cafe\u{301} au lait\n\n\tﬁne １２３",
        "你好，世界。\r\n這是一句話",
        "fn f(x: &str) -> u8 { x[0] }",
        "<|tool|> a b",
    ];
    (0..6).for_each(|_| texts.extend(odd.map(str::to_owned)));
    let all: String = texts.iter().map(|text| json!({"text": text}).to_string() + "\n").collect();
    std::fs::write(at("texts.jsonl"), all).expect("written");
    let case = |special: &[&str], min: u64, form: &str| json!({"special_tokens": special, "min_frequency": min, "normalizer": form, "vocab_size": 700});
    let cases = [
        case(&[], 0, "none"),
        case(&["<|tool|>", "<|x|>"], 4, "nfc"),
        case(&[], 2, "nfkc"),
        case(&["<|tool|>"], 0, "nfd"),
    ];
    let mut reserved = Vec::new();
    for (i, case) in cases.iter().enumerate() {
        let mut command = Command::new(env!("CARGO_BIN_EXE_minimind"));
        command.args(["tokenizer", "train", "--vocab-size", "700"]).arg("--data").arg(at("texts.jsonl"));
        command
            .arg("--out")
            .arg(at(&format!("t{i}")))
            .arg(format!("--min-frequency={}", case["min_frequency"]));
        command.args(["--normalizer", case["normalizer"].as_str().expect("a form")]);
        let special = case["special_tokens"].as_array().expect("a list");
        if !special.is_empty() {
            command
                .arg("--special-tokens")
                .args(special.iter().map(|token| token.as_str().expect("a token")));
        }
        succeed(&mut command);
        if reserved.is_empty() {
            let config = common::json(&at("t0/tokenizer.json"));
            let added = config["added_tokens"].as_array().expect("tokens");
            reserved = added.iter().map(|token| token["content"].clone()).collect();
        }
    }
    let cases: Vec<Value> = cases
        .into_iter()
        .map(|mut case| {
            case["reserved"] = json!(reserved);
            case
        })
        .collect();
    let folders = [at("t0"), at("t2")];
    let files: Vec<_> = folders.iter().map(|folder| folder.join("tokenizer.json")).collect();
    let asked = json!({"texts": texts, "cases": cases, "tokenizers": files});
    std::fs::write(at("cases.json"), asked.to_string()).expect("written");
    let mut command = Command::new(python());
    succeed(command.arg(script("train_tokenizer.py")).args([at("cases.json"), at("found.json")]));
    let found = common::json(&at("found.json"));
    for (i, theirs) in found["trained"].as_array().expect("tokenizers").iter().enumerate() {
        let ours = common::json(&at(&format!("t{i}/tokenizer.json")));
        assert_eq!(ours["model"]["vocab"], theirs["vocab"], "vocabulary of case {i}");
        assert_eq!(ours["model"]["merges"], theirs["merges"], "merges of case {i}");
        let tokenizer = Tokenizer::load(&at(&format!("t{i}"))).expect("a tokenizer");
        for (text, ids) in texts.iter().zip(theirs["ids"].as_array().expect("ids")) {
            assert_eq!(json!(tokenizer.encode(text).expect("ids")), *ids, "{text:?} of case {i}");
        }
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_minimind"));
    command
        .args(["tokenizer", "compare", "--json", "--data"])
        .arg(at("texts.jsonl"))
        .arg("--")
        .args(&folders);
    let ours: Value = serde_json::from_slice(&succeed(&mut command).stdout).expect("JSON");
    for (ours_of, theirs) in ours["tokenizers"]
        .as_array()
        .expect("a list")
        .iter()
        .zip(found["counted"].as_array().expect("a list"))
    {
        for key in ["tokens", "vocab_size", "unused", "rare"] {
            assert_eq!(ours_of[key], theirs[key], "{key} of {}", ours_of["name"]);
        }
        assert_eq!((&ours["bytes"], &ours["characters"]), (&theirs["bytes"], &theirs["characters"]));
    }
}
