//! Policy optimisation where the reference's recordings do not reach: early stops and minibatches of ppo,
//! accumulation, padding at the left, rows without an end, spo's clamp, sizes that do not fit.

mod common;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use common::{distance_of, json, minimind, number, rows, succeed, weights};
use minimind::checkpoint::load::named_tensors;
use minimind::checkpoint::{convert, safetensors};
use serde_json::Value;
use tch::{Device, Kind, Tensor};

/// N steps of R rows, P prompt and C completion tokens of a vocabulary of 512; id 2 ends, id 0 fills.
struct Rollouts {
    ids: Tensor,
    prompt_len: Tensor,
    old: Tensor,
    rewards: Tensor,
    completion: i64,
}

fn rollouts(n: i64, r: i64, seed: i64) -> Rollouts {
    let (p, c) = (5, 6);
    tch::manual_seed(seed);
    let ids = Tensor::randint_low(3, 512, [n, r, p + c], (Kind::Int64, Device::Cpu));
    // Every second row ends before its last token; the others have no end.
    for row in (0..r).step_by(2) {
        let _ = ids.narrow(1, row, 1).narrow(2, p + 3, c - 3).fill_(2);
    }
    Rollouts {
        ids,
        prompt_len: Tensor::full([n, r], p, (Kind::Int64, Device::Cpu)),
        old: Tensor::randn([n, r, c], (Kind::Float, Device::Cpu)) * 0.1 - 6.2,
        rewards: Tensor::randn([n, r], (Kind::Float, Device::Cpu)),
        completion: c,
    }
}

impl Rollouts {
    fn write(&self, folder: &Path) -> PathBuf {
        let (n, r, _) = self.ids.size3().expect("[N, R, T]");
        let mask = Tensor::ones([n, r, self.completion], (Kind::Float, Device::Cpu));
        let named = [
            ("output_ids", &self.ids),
            ("prompt_len", &self.prompt_len),
            ("completion_mask", &mask),
            ("old_logprobs", &self.old),
            ("rewards", &self.rewards),
        ];
        let hosts: Vec<_> =
            named.iter().map(|(k, t)| ((*k).to_owned(), convert::to_host(t).expect("a tensor"))).collect();
        let path = folder.join("rollouts.safetensors");
        safetensors::write(&path, &hosts, HashMap::new()).expect("written");
        path
    }
}

fn start() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/minimind3/dense/weights_fp32.pth")
}

fn recipe(folder: &Path, kind: &str, keys: &str, rollouts: &Rollouts) -> PathBuf {
    let path = folder.join("recipe-under-test.yaml");
    let text = format!(
        "name: policy\nseed: 4\nruntime: {{device: cpu, precision: fp32, threads: 1}}\noutput: {}\nstages:\n\
         \x20 - {kind}:\n      init: {}\n      rollout: {{engine: replay, path: {}}}\n      learning_rate: 1.0e-3\n\
         \x20     save_dtype: fp32\n{keys}",
        folder.display(),
        start().display(),
        rollouts.write(folder).display(),
    );
    std::fs::write(&path, text).expect("a recipe is written");
    path
}

struct Ran {
    rows: Vec<Value>,
    summary: Value,
    weights: HashMap<String, Tensor>,
}

fn run(kind: &str, keys: &str, rollouts: &Rollouts) -> Ran {
    let folder = tempfile::tempdir().expect("a folder");
    succeed(minimind().arg("run").arg(recipe(folder.path(), kind, keys, rollouts)));
    let own = folder.path().join(kind);
    Ran {
        rows: rows(&own.join("metrics.jsonl")),
        summary: json(&own.join("summary.json")),
        weights: weights(folder.path()),
    }
}

fn farthest(a: &HashMap<String, Tensor>, b: HashMap<String, Tensor>) -> f64 {
    distance_of(a, b, 1.0).1
}

#[test]
fn ppo_stops_early_and_its_optimizers_step_all_the_same() {
    let mut data = rollouts(2, 4, 1);
    data.old = &data.old * 0.0; // far from any policy: the first minibatch is beyond every bound
    let keys = "      critic_learning_rate: 1.0e-3\n      mini_batch_size: 2\n      ppo_update_iters: 3\n      kl_coef: 0\n";
    let ran = run("ppo", keys, &data);
    // Two minibatches of the first pass step with nothing in hand, the other two passes are left out.
    assert_eq!(ran.summary["updates"], 4);
    assert!(ran.rows.iter().all(|row| number(row, "early_stopped") == 1.0));
    // All that moves the weights is their decay, at the rates of four updates out of twelve.
    let rate = |t: f64| 1e-3 * (0.1 + 0.45 * (1.0 + (std::f64::consts::PI * t / 12.0).cos()));
    let shrunk: f64 = (0..4).map(|t| 1.0 - rate(f64::from(t)) * 0.01).product();
    assert!((number(&ran.rows[1], "lr") - rate(4.0)).abs() < 1e-12);
    let expected =
        named_tensors(&start()).expect("weights").into_iter().map(|(k, t)| (k, t * shrunk)).collect();
    let far = farthest(&ran.weights, expected);
    assert!(far < 1e-6, "{far}");
}

#[test]
fn ppo_goes_over_minibatches_in_a_seeded_order() {
    let data = rollouts(2, 4, 2);
    let keys = "      mini_batch_size: 2\n      early_stop_kl: 1000.0\n      critic_learning_rate: 1.0e-3\n";
    let (first, second) = (run("ppo", keys, &data), run("ppo", keys, &data));
    assert_eq!(first.summary["updates"], 8);
    assert_eq!(number(&first.rows[0], "early_stopped"), 0.0);
    assert_eq!(farthest(&first.weights, second.weights), 0.0);
    // Four passes' worth of gradients in one update: accumulation counts minibatches.
    let gathered = run("ppo", &format!("{keys}      accumulation_steps: 4\n"), &data);
    assert_eq!(gathered.summary["updates"], 2);
    assert!(farthest(&gathered.weights, first.weights) > 1e-5);
}

#[test]
fn accumulated_steps_are_one_large_step() {
    let apart = rollouts(2, 4, 3);
    let together = Rollouts {
        ids: apart.ids.view([1, 8, -1]),
        prompt_len: apart.prompt_len.view([1, 8]),
        old: apart.old.view([1, 8, -1]),
        rewards: apart.rewards.view([1, 8]),
        completion: apart.completion,
    };
    for loss_type in ["grpo", "cispo"] {
        let keys = format!("      loss_type: {loss_type}\n      num_generations: 4\n");
        let one = run("grpo", &keys, &together);
        let two = run("grpo", &format!("{keys}      accumulation_steps: 2\n"), &apart);
        assert_eq!((one.summary["updates"].as_u64(), two.summary["updates"].as_u64()), (Some(1), Some(1)));
        let norms = (number(&one.rows[0], "grad_norm"), number(&two.rows[1], "grad_norm"));
        assert!((norms.0 - norms.1).abs() < 1e-5 * norms.0 && norms.0 > 1e-3, "{norms:?}");
        assert!(two.rows[0].get("grad_norm").is_none(), "nothing was updated yet");
    }
}

#[test]
fn padding_at_the_left_changes_nothing() {
    let plain = rollouts(1, 4, 5);
    let (n, r, _) = plain.ids.size3().expect("[N, R, T]");
    let padded = Rollouts {
        ids: Tensor::cat(
            &[Tensor::zeros([n, r, 3], (Kind::Int64, Device::Cpu)), plain.ids.shallow_clone()],
            2,
        ),
        prompt_len: plain.prompt_len.shallow_clone(), // counts the prompt alone
        old: plain.old.shallow_clone(),
        rewards: plain.rewards.shallow_clone(),
        completion: plain.completion,
    };
    for (kind, keys) in [
        ("grpo", "      num_generations: 4\n      loss_type: grpo\n"),
        ("ppo", "      critic_learning_rate: 1.0e-3\n"),
    ] {
        let (a, b) = (run(kind, keys, &plain), run(kind, keys, &padded));
        for key in ["loss", "grad_norm", "avg_response_len"] {
            let (a, b) = (number(&a.rows[0], key), number(&b.rows[0], key));
            assert!((a - b).abs() <= 1e-5 * a.abs().max(1.0), "{kind} {key}: {a} {b}");
        }
    }
}

#[test]
fn spo_clamps_and_rows_without_an_end_count_whole() {
    let mut data = rollouts(1, 4, 6);
    data.rewards = Tensor::from_slice(&[100f32, 100.0, -100.0, 100.0]).view([1, 4]);
    let ran = run("spo", "      accumulation_steps: 1\n", &data);
    assert_eq!(number(&ran.rows[0], "advantages_mean"), 2.5);
    // Two rows end with their fourth token, two have all six.
    assert_eq!(number(&ran.rows[0], "avg_response_len"), 5.0);
}

#[test]
fn sizes_that_do_not_fit_are_named_with_the_fix() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = rollouts(1, 4, 7);
    let refuse = |kind: &str, keys: &str, command: &str, words: &[&str]| {
        let output = minimind()
            .arg(command)
            .arg(recipe(folder.path(), kind, keys, &data))
            .output()
            .expect("it starts");
        let text =
            String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(2), "{text}");
        for word in words {
            assert!(text.contains(word), "{word}: {text}");
        }
    };
    refuse(
        "grpo",
        "      num_generations: 1\n",
        "validate",
        &["recipe-under-test.yaml:11:24", "`num_generations` is 1", "spo or ppo"],
    );
    refuse("grpo", "      num_generations: 3\n", "run", &["4 rows", "`num_generations` 3"]);
    refuse("ppo", "      mini_batch_size: 3\n", "run", &["4 rows", "`mini_batch_size` 3"]);
    refuse("grpo", "      clip_higher: 0.3\n", "validate", &["loss_type: grpo"]);
    refuse("spo", "      clip_lower: 0.97\n", "validate", &["above `clip_upper` 0.96"]);
    refuse("grpo", "      data: {synthetic: true}\n", "validate", &["need no `data`"]);
    // A reference that is wider than the policy.
    let other = "      num_generations: 4\n      reference: OTHER\n"
        .replace("OTHER", &wide(folder.path()).display().to_string());
    refuse("grpo", &other, "run", &["the reference has", "width 64"]);
}

/// Ids that the policy has no row for, in rollouts and in rows of tokens, as text would never hold them.
#[test]
fn tokens_that_the_vocabulary_has_not_are_named() {
    let refused = |path: &Path, words: &[&str]| {
        let output = minimind().arg("run").arg(path).output().expect("it starts");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(words.iter().all(|word| text.contains(word)), "{text}");
    };
    for stray in [512, -1] {
        let folder = tempfile::tempdir().expect("a folder");
        let data = rollouts(2, 4, 7);
        let _ = data.ids.get(1).get(2).narrow(0, 6, 1).fill_(stray);
        let path = recipe(folder.path(), "grpo", "      num_generations: 4\n", &data);
        refused(&path, &["step 2", &format!("token {stray}"), "512"]);

        let ids = Tensor::randint_low(3, 512, [4, 8], (Kind::Int64, Device::Cpu));
        let _ = ids.get(3).narrow(0, 7, 1).fill_(stray);
        let host = convert::to_host(&ids).expect("a tensor");
        let tokens = folder.path().join("tokens.safetensors");
        safetensors::write(&tokens, &[("input_ids".to_owned(), host)], HashMap::new()).expect("written");
        let text = format!(
            "runtime: {{device: cpu}}\noutput: {}\nstages:\n  - pretrain: {{init: {}, data: {{path: {}, format: tokens}}}}\n",
            folder.path().join("out").display(),
            start().display(),
            tokens.display()
        );
        std::fs::write(&path, text).expect("a recipe is written");
        refused(&path, &["tokens.safetensors", "row 3", &format!("token {stray}"), "512"]);
    }
}

/// A reward model that a stage above trained scores a later stage's completions with its own tokenizer, and the KL
/// guard sees the policy go away from its start.
#[test]
fn a_reward_stage_serves_a_later_one_and_the_kl_guard_stops() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("r.yaml");
    let text = |guards: &str| {
        format!(
            "name: r\nseed: 3\nruntime: {{device: cpu, precision: fp32, threads: 1}}\noutput: {out}\ntokenizer: tok\n\
             model: {{hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, num_key_value_heads: 1}}\nstages:\n\
             \x20 - tokenizer: {{name: tok, data: {{synthetic: {{rows: 200}}}}, vocab_size: 400}}\n\
             \x20 - pretrain: {{data: {{synthetic: {{rows: 64}}}}, max_steps: 2, batch_size: 8, max_seq_len: 64, learning_rate: 1.0e-3}}\n\
             \x20 - reward: {{init: pretrain, data: {{synthetic: {{rows: 64}}}}, max_steps: 4, batch_size: 8, max_seq_len: 128, learning_rate: 1.0e-3}}\n\
             \x20 - grpo: {{init: pretrain, data: {{synthetic: true}}, rewards: [{{model: {{from: reward}}}}], num_generations: 4, beta: 0.02,\n\
             \x20     rollout: {{max_new_tokens: 8}}, max_seq_len: 128, max_steps: 12, learning_rate: 2.0e-2{guards}}}\n",
            out = folder.path().join("out").display(),
        )
    };
    std::fs::write(&path, text("")).expect("a recipe is written");
    succeed(minimind().arg("run").arg(&path));
    let told = rows(&folder.path().join("out/grpo/metrics.jsonl"));
    assert_eq!(told.len(), 12);
    assert!(told.iter().any(|row| number(row, "reward_model") != 0.0), "{told:?}");
    let farthest = told.iter().map(|row| number(row, "kl_ref").abs()).fold(0.0, f64::max);
    assert!(farthest > 0.01, "the policy did not move: {farthest}");
    std::fs::write(&path, text(", guards: {kl_above: 0.002, on_kl: stop, window: 2}"))
        .expect("a recipe is written");
    // A guard watches: a stage that is done does not run again for it.
    let stopped = minimind().arg("run").arg(&path).args(["--from", "grpo"]).output().expect("it starts");
    let said = String::from_utf8_lossy(&stopped.stderr).into_owned();
    assert_eq!(stopped.status.code(), Some(1), "{said}");
    assert!(said.contains("the KL to the reference is"), "{said}");
}

/// Fresh weights of another width, by a run that hardly trains.
fn wide(folder: &Path) -> PathBuf {
    let ids = Tensor::randint_low(3, 512, [4, 8], (Kind::Int64, Device::Cpu));
    let hosts =
        ["input_ids", "labels"].map(|name| (name.to_owned(), convert::to_host(&ids).expect("a tensor")));
    let data = folder.join("tokens.safetensors");
    safetensors::write(&data, &hosts, HashMap::new()).expect("written");
    let path = folder.join("wide.yaml");
    let output = folder.join("wide");
    let text = format!(
        "name: wide\nruntime: {{device: cpu}}\noutput: {}\n\
         model: {{hidden_size: 64, num_hidden_layers: 2, num_attention_heads: 4, num_key_value_heads: 2, vocab_size: 512}}\n\
         stages:\n  - pretrain: {{init: scratch, epochs: 1, data: {{path: {}, format: tokens}}}}\n",
        output.display(),
        data.display()
    );
    std::fs::write(&path, text).expect("a recipe is written");
    succeed(minimind().arg("run").arg(&path));
    output.join("pretrain_64.pth")
}
