//! Policy optimisation through recipes with recorded rollouts, against what the reference recorded: grpo,
//! cispo, ppo, spo, dense and with experts. fp32, CPU.

mod common;

use std::collections::HashMap;
use std::path::Path;

use common::{distance_of, json, minimind, number, rows, stage_variants, succeed, weights};
use minimind::checkpoint::load::named_tensors;
use minimind::checkpoint::state_dict::tensors_of;
use minimind::checkpoint::{convert, safetensors};
use serde_json::Value;
use tch::{Device, Kind, Tensor};

/// A fixture's rollouts in the form that `rollout: {engine: replay}` reads.
fn recorded(fixture: &Path, method: &str, folder: &Path) -> std::path::PathBuf {
    let tensors = named_tensors(&fixture.join(format!("{method}_rollouts.safetensors"))).expect("rollouts");
    let facts = json(&fixture.join(format!("{method}.json")));
    let steps = facts["rewards"].as_array().expect("rewards").len();
    let stack = |name: &str| -> Option<Tensor> {
        let all: Option<Vec<_>> = (0..steps).map(|i| tensors.get(&format!("{name}_{i}"))).collect();
        Some(Tensor::stack(&all?, 0))
    };
    let ids = stack("output_ids").expect("ids");
    let completion = stack("completion_ids").expect("completions").size()[2];
    let (n, r, width) = ids.size3().expect("[N, R, P+C]");
    let flat: Vec<f64> = facts["rewards"]
        .as_array()
        .expect("rewards")
        .iter()
        .flat_map(|step| step.as_array().expect("a step").iter().map(|r| r.as_f64().expect("a number")))
        .collect();
    let mut named = vec![
        ("output_ids", ids),
        ("prompt_len", Tensor::full([n, r], width - completion, (Kind::Int64, Device::Cpu))),
        ("completion_mask", Tensor::ones([n, r, completion], (Kind::Float, Device::Cpu))),
        ("rewards", Tensor::from_slice(&flat).to_kind(Kind::Float).view([n, r])),
    ];
    named.extend(stack("old_per_token_logps").map(|old| ("old_logprobs", old)));
    let hosts: Vec<_> =
        named.iter().map(|(name, t)| ((*name).to_owned(), convert::to_host(t).expect("a tensor"))).collect();
    let path = folder.join("rollouts.safetensors");
    safetensors::write(&path, &hosts, HashMap::new()).expect("written");
    path
}

/// Runs a stage of `kind` whose own keys are `keys`; gives its rows.
fn run(fixture: &Path, method: &str, kind: &str, keys: &str, output: &Path) -> Vec<Value> {
    let rollouts = recorded(fixture, method, output);
    let facts = json(&fixture.join(format!("{method}.json")));
    let recipe = output.join("recipe-under-test.yaml");
    let text = format!(
        "name: parity\nruntime: {{device: cpu, precision: fp32, threads: 1}}\noutput: {out}\n\
         model: {{config: {config}}}\nstages:\n  - {kind}:\n      init: {fixture}/rl_policy_fp32.pth\n\
         \x20     reference: {fixture}/rl_reference_fp32.pth\n      rollout: {{engine: replay, path: {rollouts}}}\n\
         \x20     accumulation_steps: 1\n      learning_rate: {lr}\n      eos_token_id: {eos}\n      pad_token_id: {pad}\n\
         \x20     save_dtype: fp32\n{keys}",
        out = output.display(),
        config = fixture.join("rl_config.json").display(),
        fixture = fixture.display(),
        rollouts = rollouts.display(),
        lr = facts["learning_rate"],
        eos = facts["eos_token_id"],
        pad = facts["pad_token_id"],
    );
    std::fs::write(&recipe, text).expect("a recipe is written");
    succeed(minimind().arg("run").arg(&recipe));
    rows(&output.join(kind).join("metrics.jsonl"))
}

/// Every number that the reference logged, and the weights after the last step.
fn compare(fixture: &Path, method: &str, got: &[Value], output: &Path) {
    let facts = json(&fixture.join(format!("{method}.json")));
    let want = facts["steps"].as_array().expect("steps");
    assert_eq!(got.len(), want.len());
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        for (name, value) in want.as_object().expect("a row") {
            let key = if name == "learning_rate" { "lr" } else { name };
            let far = (number(got, key) - value.as_f64().expect("a number")).abs();
            let allowed = match key {
                "rho" | "baseline" => 1e-4,
                "lr" | "actor_lr" | "critic_lr" => 1e-12,
                _ => 2e-5,
            };
            assert!(far <= allowed, "{} {method}, step {i}, {key}: {value} against {got}", fixture.display());
        }
    }
    near(fixture, method, "actor.", &weights(output));
}

/// The weights after the last step; those of ppo's two models have prefixes.
fn near(fixture: &Path, method: &str, prefix: &str, ours: &HashMap<String, Tensor>) {
    let all = named_tensors(&fixture.join(format!("{method}_final.safetensors"))).expect("weights");
    let prefix = if method == "ppo" { prefix } else { "" };
    let wanted =
        all.into_iter().filter_map(|(name, t)| Some((name.strip_prefix(prefix)?.to_owned(), t))).collect();
    let (share, most) = distance_of(ours, wanted, 5e-5);
    println!("{} {method} {prefix} {share:.5} beyond 5e-5, farthest {most:.1e}", fixture.display());
    assert!(share <= 1e-3 && most <= 2e-3, "{share} {most}");
}

#[test]
fn grpo_and_cispo_follow_the_reference() {
    for method in ["grpo", "cispo"] {
        for fixture in stage_variants(&format!("{method}_rollouts.safetensors")) {
            let output = tempfile::tempdir().expect("a folder");
            let facts = json(&fixture.join(format!("{method}.json")));
            let keys = format!(
                "      loss_type: {method}\n      num_generations: {}\n      beta: {}\n      epsilon: {}\n      epsilon_high: {}\n",
                facts["num_generations"], facts["beta"], facts["epsilon"], facts["epsilon_high"]
            );
            let got = run(&fixture, method, "grpo", &keys, output.path());
            compare(&fixture, method, &got, output.path());
        }
    }
}

#[test]
fn ppo_follows_the_reference() {
    for fixture in stage_variants("ppo_rollouts.safetensors") {
        let output = tempfile::tempdir().expect("a folder");
        let facts = json(&fixture.join("ppo.json"));
        let mut keys = format!("      critic: {}/ppo_critic_fp32.pth\n", fixture.display());
        for key in [
            "critic_learning_rate",
            "clip_epsilon",
            "vf_coef",
            "kl_coef",
            "gamma",
            "lam",
            "cliprange_value",
            "ppo_update_iters",
            "early_stop_kl",
            "mini_batch_size",
        ] {
            keys += &format!("      {key}: {}\n", facts[key]);
        }
        let got = run(&fixture, "ppo", "ppo", &keys, output.path());
        compare(&fixture, "ppo", &got, output.path());
        // The resume file holds what upstream's scripts go on from.
        let file = ["ppo_16_resume.pth", "ppo_32_resume.pth", "ppo_32_moe_resume.pth"]
            .map(|name| output.path().join(name));
        let file = file.iter().find(|path| path.exists()).expect("a resume file");
        let value = minimind::checkpoint::pth::read(file).expect("it reads");
        for key in ["scheduler", "critic_optimizer", "critic_scheduler"] {
            assert!(value.get(key).is_some(), "no {key}");
        }
        let critic = tensors_of(value.get("critic_model").expect("the critic")).expect("tensors");
        let critic = critic.iter().map(|(name, t)| (name.clone(), convert::to_tensor(t).expect("a tensor")));
        near(&fixture, "ppo", "critic.", &critic.collect());
    }
}

#[test]
fn spo_follows_the_reference() {
    for fixture in stage_variants("spo_rollouts.safetensors") {
        let output = tempfile::tempdir().expect("a folder");
        let facts = json(&fixture.join("spo.json"));
        let tracker = &facts["tracker"];
        let mut keys = format!("      beta: {}\n      rho_mode: {}\n", facts["beta"], tracker["rho_mode"]);
        for (key, name) in [
            ("rho_const", "rho_const"),
            ("d_half", "D_half"),
            ("clip_lower", "clip_lower"),
            ("clip_upper", "clip_upper"),
        ] {
            keys += &format!("      {key}: {}\n", tracker[name]);
        }
        let got = run(&fixture, "spo", "spo", &keys, output.path());
        compare(&fixture, "spo", &got, output.path());
        let last = got.last().expect("a row");
        for (key, name) in [("tracker_alpha", "alpha"), ("tracker_beta", "beta")] {
            let want = number(&facts["final_tracker"], name);
            assert!((number(last, key) - want).abs() < 1e-4, "{key}: {last}");
        }
    }
}
