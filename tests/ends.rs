//! The tokens that end an answer: every file that names one is obeyed, wherever answers are made, and exports keep them.

mod common;

use std::path::Path;

use common::served::Server;
use common::{json, minimind, random_folder, succeed};
use serde_json::{Value, json};

/// Greedy tokens after a prompt, and why they ended.
fn greedy(model: &Path, more: &[&str]) -> (Vec<u64>, String) {
    let mut command = minimind();
    command.args([
        "generate",
        "--ids",
        "1,50,60,70",
        "--greedy",
        "--json",
        "--max-new-tokens",
        "12",
        "--device",
        "cpu",
    ]);
    let output = succeed(command.arg("--model").arg(model).args(more));
    let value: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let ids = value["ids"].as_array().expect("ids").iter().map(|id| id.as_u64().expect("an id")).collect();
    (ids, value["finish_reason"].as_str().expect("a reason").to_owned())
}

fn state(folder: &Path, file: &str, ends: Value) {
    let path = folder.join(file);
    let mut config = json(&path);
    config["eos_token_id"] = ends;
    std::fs::write(path, config.to_string()).expect("written");
}

#[test]
fn every_mark_that_a_models_files_name_ends_its_answers() {
    let root = tempfile::tempdir().expect("a folder");
    let folder = root.path().join("model");
    random_folder(&folder, None);
    let (free, _) = greedy(&folder, &["--ignore-eos"]);
    assert_eq!(free.len(), 12);
    // A token that comes, and not before its place.
    let place = (2..12).find(|&i| !free[..i].contains(&free[i]) && free[i] != 2).expect("a new token");
    let (end, want) = (free[place], (free[..place].to_vec(), "stop".to_owned()));
    for (generation, config) in [
        (json!([2, end]), json!(2)),
        (json!(2), json!([2, end])),
        (json!(end), json!(2)),
        (Value::Null, json!(end)),
    ] {
        state(&folder, "generation_config.json", generation);
        state(&folder, "config.json", config);
        assert_eq!(greedy(&folder, &[]), want);
        assert_eq!(greedy(&folder.join("model.safetensors"), &[]), want);
    }
    state(&folder, "generation_config.json", json!([2, end]));
    state(&folder, "config.json", json!(2));

    for format in ["huggingface", "safetensors", "pth", "torchscript", "gguf"] {
        let out = root.path().join(format!("out-{format}")).join("model");
        std::fs::create_dir_all(out.parent().expect("a folder")).expect("a folder");
        let mut command = minimind();
        command.args(["export", format, "--model"]).arg(&folder).arg("--out").arg(&out);
        succeed(command.args(["--precision", "fp32"]));
        assert_eq!(greedy(&out, &[]), want, "{format}");
        match format {
            "huggingface" => {
                for file in ["config.json", "generation_config.json"] {
                    assert_eq!(json(&out.join(file))["eos_token_id"], json!([2, end]), "{file}");
                }
            }
            "gguf" => {
                let said = std::fs::read_to_string(out.with_file_name("Modelfile")).expect("a Modelfile");
                assert_eq!(said.matches("PARAMETER stop").count(), 2, "{said}");
            }
            _ => {}
        }
    }

    let server = Server::start_with(&["--model", &folder.display().to_string()]);
    let asked =
        json!({"prompt": [1, 50, 60, 70], "temperature": 0, "max_tokens": 12, "return_token_ids": true});
    let answer = server.post("/v1/completions", &asked).json();
    assert_eq!(answer["choices"][0]["finish_reason"], "stop", "{answer}");
    assert_eq!(answer["usage"]["completion_tokens"], json!(place));
}
