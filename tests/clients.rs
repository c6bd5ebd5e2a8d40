//! Real clients against our server: the official `openai` package, the curl calls that docs/serve.md shows, and
//! lm-evaluation-harness (`pip install lm_eval[api]`).

mod common;

use std::path::Path;
use std::process::Command;

use common::python::{lm_eval, python};
use common::served::{SCRIPT, Server, model, shared};
use common::{minimind, succeed};
use minimind::checkpoint::load::load_model;
use minimind::model::Mask;
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

common::needs::tests! {
    the_official_python_client_is_served: [Python("openai")],
    the_calls_of_the_documentation_work: [Program("curl")],
    the_evaluation_harness_measures_what_we_do: [LmEval],
}

fn the_official_python_client_is_served() {
    let server = shared();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/openai_client.py");
    let url = format!("http://{}/v1", server.address);
    let output = succeed(Command::new(python()).args([script, &url, SCRIPT]));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("16 checks passed"), "{text}");
}

fn the_calls_of_the_documentation_work() {
    let server = shared();
    let mut calls = 0;
    for page in ["docs/serve.md", "README.md"] {
        let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(page)).expect("a page");
        for block in text.split("```").skip(1).step_by(2).filter(|b| b.contains("curl ")) {
            let script = block
                .trim_start_matches(|c: char| c != '\n')
                .replace("localhost:8998", &server.address)
                .replace("quickstart", "run");
            for call in script.split("\ncurl ").skip(1) {
                let output = succeed(
                    Command::new("sh")
                        .args(["-c", &format!("curl --silent --show-error --fail-with-body {call}")]),
                );
                assert!(!output.stdout.is_empty(), "{call}");
                calls += 1;
            }
        }
    }
    assert!(calls >= 8, "only {calls} calls are shown");
}

/// Log-probability of `continuation` behind `context`, and whether each of its tokens is the likeliest.
fn likelihood(server: &Server, context: &str, continuation: &str) -> (f64, bool) {
    let ids = |text: &str| -> Vec<i64> {
        serde_json::from_value(server.post("/tokenize", &json!({"prompt": text})).json()["tokens"].clone())
            .expect("ids")
    };
    let (whole, start) = (ids(&format!("{context}{continuation}")), ids(context).len());
    let path = minimind::checkpoint::resolve_model_path(&model().display().to_string()).expect("weights");
    let loaded = load_model(&path, None, Device::Cpu, Kind::Float).expect("a model");
    let (hidden, _) =
        tch::no_grad(|| loaded.model.hidden(&Tensor::from_slice(&whole).view([1, -1]), Mask::Causal, false));
    let rows = loaded.model.logits(&hidden).squeeze_dim(0).log_softmax(-1, Kind::Float);
    let places = start..whole.len();
    let sum = places.clone().map(|i| rows.double_value(&[i as i64 - 1, whole[i]])).sum();
    (
        sum,
        places
            .into_iter()
            .all(|i| rows.select(0, i as i64 - 1).argmax(-1, false).int64_value(&[]) == whole[i]),
    )
}

fn the_evaluation_harness_measures_what_we_do() {
    let server = shared();
    let folder = tempfile::tempdir().expect("a folder");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/lm_eval_client.py");
    let url = format!("http://{}/v1/completions", server.address);
    let output = succeed(Command::new(lm_eval()).arg(script).arg(&url).arg(folder.path()));
    let text = String::from_utf8_lossy(&output.stdout);
    let result: Value = serde_json::from_str(text.lines().last().expect("a line")).expect("JSON");
    let choices = result["choices"].as_array().expect("choices");
    assert_eq!(choices.len(), 3 * 33, "{result}");
    for choice in choices {
        let (context, continuation) = (choice[0].as_str().expect("text"), choice[1].as_str().expect("text"));
        let (want, greedy) = likelihood(&server, context, continuation);
        let got = choice[2].as_f64().expect("a number");
        assert!((got - want).abs() < 1e-3 * want.abs().max(1.0), "{choice} {want}");
        assert_eq!(choice[3], greedy, "{choice}");
    }
    let eval = minimind()
        .args(["eval", "--device", "cpu", "--json", "--model", &model().display().to_string(), "--data"])
        .arg(folder.path().join("rows.jsonl"))
        .output();
    let eval: Value = serde_json::from_slice(&eval.expect("the program starts").stdout).expect("JSON");
    let (ours, theirs) =
        (eval["metrics"]["accuracy"].as_f64().expect("accuracy"), result["acc"].as_f64().expect("acc"));
    assert!((ours - theirs).abs() < 1e-9, "minimind eval: {ours}, the harness: {theirs}");
    println!("accuracy {ours:.3} on both sides, {} likelihoods", choices.len());
}
