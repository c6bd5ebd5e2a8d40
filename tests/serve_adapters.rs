//! Adapters by name over one model: served, generated with, and merged into a file they say the same; 8 bits.

mod common;

use std::path::Path;

use common::served::{Server, model};
use common::{minimind, succeed};
use minimind::checkpoint::adapter::{Adapter, LoraPair, peft};
use minimind::checkpoint::{convert, resolve_model_path};
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

const QUESTION: &str = "What is 2 + 3?";

/// A random adapter for the model of the tests, strong enough to change what it says.
fn adapter(seed: i64, scale: f64) -> Adapter {
    tch::manual_seed(seed);
    let host = |t: Tensor| convert::to_host(&t).expect("on the host");
    let random = |shape: [i64; 2]| Tensor::randn(shape, (Kind::Float, Device::Cpu));
    let pair = |layer: usize| {
        let name = format!("model.layers.{layer}.self_attn.o_proj");
        let pair = LoraPair::new(&name, host(random([4, 64]) * 0.3), host(random([64, 4]) * 0.3), scale);
        (name, pair.expect("a pair"))
    };
    Adapter { pairs: vec![pair(0), pair(1)], ..Adapter::default() }
}

fn generated(flags: &[&str]) -> String {
    let output =
        succeed(minimind().args(["generate", "--device", "cpu", "--greedy", "--json"]).args(flags).args([
            "--max-new-tokens",
            "24",
            "--prompt",
            QUESTION,
        ]));
    let value: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    value["text"].as_str().expect("text").to_owned()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

/// A file with the adapter merged into it answers as the two do apart, and as `served`; merged twice is refused.
fn merged_says(base: &str, file: &Path, merged: &Path, served: &str) {
    let (weights, tokenizer) = (resolve_model_path(base).expect("weights"), model().join("tok"));
    succeed(minimind().args([
        "adapter",
        "merge",
        "--model",
        text(&weights),
        "--adapter",
        text(file),
        "--out",
        text(merged),
    ]));
    let with = generated(&["--model", base, "--adapter", text(file)]);
    assert_eq!(
        with,
        generated(&["--model", text(merged), "--tokenizer", text(&tokenizer)]),
        "{}",
        file.display()
    );
    assert_eq!(with.trim(), served.trim(), "{}", file.display());
    let twice = minimind()
        .args(["generate", "--prompt", "x", "--model", text(merged), "--adapter", text(file)])
        .output();
    let twice = twice.expect("the program starts");
    assert_eq!(twice.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&twice.stderr).contains("is in these weights already"));
}

#[test]
fn adapters_answer_by_their_names_as_merged_files_do() {
    let folder = tempfile::tempdir().expect("a folder");
    let base = model().display().to_string();
    let (upstream, folder_of_peft) = (folder.path().join("lora_style_64.pth"), folder.path().join("terse"));
    adapter(1, 1.0).write_pth(&upstream).expect("a file");
    peft::write(&adapter(2, 2.0), None, &folder_of_peft).expect("a folder");
    let spec = format!("terse={}@plain", folder_of_peft.display());
    let server = Server::start_with(&[
        "--model",
        &format!("plain={base}"),
        "--adapter",
        text(&upstream),
        "--adapter",
        &spec,
    ]);
    let list = server.get("/v1/models").json();
    let names: Vec<&str> =
        list["data"].as_array().expect("a list").iter().filter_map(|m| m["id"].as_str()).collect();
    assert_eq!(names, ["plain", "lora_style_64", "terse"]);
    assert!(list["data"][2]["root"].as_str().expect("root").ends_with("terse on plain"), "{list}");

    let mut answers = Vec::new();
    for (name, file) in
        [("plain", None), ("lora_style_64", Some(&upstream)), ("terse", Some(&folder_of_peft))]
    {
        let body = json!({"model": name, "messages": [{"role": "user", "content": QUESTION}], "temperature": 0, "max_tokens": 24});
        let served =
            server.chat(&body)["choices"][0]["message"]["content"].as_str().expect("content").to_owned();
        if let Some(file) = file {
            merged_says(&base, file, &folder.path().join(format!("merged_{name}.pth")), &served);
        }
        answers.push(served);
    }
    assert_eq!(answers[0], "The sum is 5.");
    answers.sort();
    answers.dedup();
    assert_eq!(answers.len(), 3, "{answers:?}");
    assert_eq!(server.post("/admin/reload", &json!({"model": "terse"})).json()["reloaded"], json!(["terse"]));
}

#[test]
fn adapters_that_do_not_fit_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("wide.pth");
    let host = |shape: [i64; 2]| {
        convert::to_host(&Tensor::ones(shape, (Kind::Float, Device::Cpu))).expect("on the host")
    };
    let name = "model.layers.0.self_attn.o_proj";
    let pair = LoraPair::new(name, host([2, 32]), host([32, 2]), 1.0).expect("a pair");
    Adapter { pairs: vec![(name.to_owned(), pair)], ..Adapter::default() }.write_pth(&file).expect("a file");
    let base = model().display().to_string();
    let missing = format!("x={}@other", file.display());
    for (args, said) in [
        (
            vec!["generate", "--prompt", "x", "--model", &base, "--adapter", text(&file)],
            "does not fit these weights",
        ),
        (vec!["serve", "--port", "0", "--model", &base, "--adapter", "x=nowhere.pth"], "nowhere.pth"),
        (vec!["serve", "--port", "0", "--model", &base, "--adapter", &missing], "which is not served"),
    ] {
        let output = minimind().args(&args).output().expect("the program ends");
        let err = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.code().is_some_and(|code| code == 1 || code == 2) && err.contains(said),
            "{args:?}: {err}"
        );
    }
}

#[test]
fn eight_and_sixteen_bits_say_what_they_learnt() {
    for precision in ["int8", "bf16"] {
        let server = Server::start(&["--precision", precision]);
        let body = json!({"messages": [{"role": "user", "content": QUESTION}], "temperature": 0});
        assert_eq!(server.chat(&body)["choices"][0]["message"]["content"], "The sum is 5.", "{precision}");
    }
}
