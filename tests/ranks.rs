//! Several processes train as one: the same numbers, the same bits after a kill, no rank left waiting.

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use common::{distance, ended, minimind, number, rows, signal, succeed, wait_for, weight_file, weights};
use minimind::engine::Ranks;
use tch::Tensor;

common::needs::tests! {
    two_and_three_ranks_learn_what_one_does: [Gloo],
    a_killed_rank_ends_the_others_and_the_run_goes_on_to_the_same_bits: [Gloo],
    a_second_ctrl_c_ends_every_rank_at_once: [Gloo],
    every_kind_of_training_runs_with_ranks: [Gloo],
    torchrun_starts_ranks_and_starts_them_again: [Gloo, Python("torch.distributed.run")],
    replicas_that_came_apart_are_found: [Gloo],
    rank_with_weights_of_its_own: [Parent("replicas_that_came_apart_are_found")],
    gradients_are_added_up_whatever_a_rank_lacks: [Gloo],
    rank_with_gradients_of_its_own: [Parent("gradients_are_added_up_whatever_a_rank_lacks")],
}

/// A recipe of one stage over a small model.
fn recipe(folder: &Path, more: &str, stages: &str) -> PathBuf {
    let text = format!(
        "name: ranks\nseed: 7\nruntime: {{device: cpu, precision: fp32, threads: 1}}\ntokenizer: tok\n\
         model: {{preset: minimind3, hidden_size: 64, num_hidden_layers: 2, num_attention_heads: 4, num_key_value_heads: 2{more}}}\n\
         stages:\n  - tokenizer: {{name: tok, data: {{synthetic: {{rows: 300}}, format: text}}, vocab_size: 400}}\n{stages}"
    );
    let path = folder.join("ranks.yaml");
    std::fs::write(&path, text).expect("a recipe is written");
    path
}

/// 38 micro-batches an epoch, so that windows of 4 and of 6 end short.
const PRETRAIN: &str = "  - pretrain: {init: scratch, data: {synthetic: {rows: 330}, format: text, validation: 0.1}, epochs: 2, \
                        batch_size: 8, accumulation_steps: 2, learning_rate: 1.0e-3, max_seq_len: 48, log_interval: 4, save_interval: 12}\n";

fn run(recipe: &Path, output: &Path, more: &[&str]) -> Command {
    let mut command = minimind();
    command.arg("run").arg(recipe).arg("--output").arg(output).args(more);
    command
}

fn two_and_three_ranks_learn_what_one_does() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    // Dense; experts, of which some see no token of a rank, with the optimizer's state spread. Ranks add up in another
    // order: a last bit sends a token to another expert on some processors, which moves norms by a ten-thousandth; a
    // gradient that is not added up, or added up twice, moves them by a tenth and more.
    for (kind, more, set) in [("dense", "", "false"), ("moe", ", use_moe: true", "true")] {
        let recipe = recipe(folder.path(), more, PRETRAIN);
        for ranks in ["2", "3"] {
            let (one, many) = (at(&format!("{kind}-1-{ranks}")), at(&format!("{kind}-{ranks}")));
            let window = ranks.parse::<u32>().expect("a number") * 2;
            succeed(&mut run(
                &recipe,
                &one,
                &["--set", &format!("stages.pretrain.accumulation_steps={window}")],
            ));
            let spread = format!("runtime.shard_optimizer={set}");
            succeed(&mut run(&recipe, &many, &["--nproc", ranks, "--set", &spread]));
            let (want, got) = (metrics(&one), metrics(&many));
            // Rows fall on whole turns.
            let both: Vec<_> = want
                .iter()
                .flat_map(|w| got.iter().filter(|g| g["step"] == w["step"]).map(move |g| (w, g)))
                .collect();
            assert!(both.len() >= 7, "{} rows of {} and {}", both.len(), want.len(), got.len());
            for (want, got) in both {
                assert_eq!(want["lr"], got["lr"]);
                for key in ["grad_norm", "val_loss"] {
                    if want.get(key).is_some() && got.get(key).is_some() {
                        let (a, b) = (number(want, key), number(got, key));
                        let within = if kind == "moe" { 2e-3 } else { 1e-6 };
                        assert!(
                            (a - b).abs() < within * a.max(1.0),
                            "{kind}, {ranks} ranks, {key}: {a} and {b}"
                        );
                    }
                }
            }
            let last = |rows: &[serde_json::Value], key: &str| number(rows.last().expect("a row"), key);
            assert_eq!(last(&want, "tokens"), last(&got, "tokens"));
            // AdamW makes more of a last bit where a gradient is nearly nothing.
            let (beyond, most) = distance(&weights(&many), &weight_file(&one), 1e-6);
            println!(
                "{kind}, {ranks} ranks: {:.3}% of the weights differ by more than 1e-6, most by {most:.1e}",
                beyond * 100.0
            );
            let (farthest, share) = if kind == "moe" { (2e-3, 0.5) } else { (2e-4, 0.01) };
            assert!(most < farthest && beyond < share, "{kind}, {ranks} ranks: {beyond} {most}");
        }
    }
}

fn metrics(output: &Path) -> Vec<serde_json::Value> {
    rows(&output.join("pretrain/metrics.jsonl"))
}

/// The processes that `parent` started, in the order of their ranks.
fn children(parent: u32) -> Vec<u32> {
    let text = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
    text.split_whitespace().map(|id| id.parse().expect("a number")).collect()
}

/// Starts a run with two ranks and, once it has a checkpoint, sends a signal: to rank 1, or to the launcher.
fn interrupted(recipe: &Path, output: &Path, to_rank: bool, name: &str) -> Output {
    let child = run(recipe, output, &["--nproc", "2"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let child = child.expect("the program starts");
    wait_for(&output.join("pretrain_64_resume.pth"));
    let process = if to_rank { children(child.id())[1] } else { child.id() };
    signal(process, name);
    ended(child)
}

fn a_killed_rank_ends_the_others_and_the_run_goes_on_to_the_same_bits() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    // Long enough that the signal comes on its way.
    let recipe = recipe(folder.path(), ", dropout: 0.1", &PRETRAIN.replace("epochs: 2", "epochs: 20"));
    succeed(&mut run(&recipe, &at("whole"), &["--nproc", "2"]));
    let whole = std::fs::read(weight_file(&at("whole"))).expect("weights");

    let killed = interrupted(&recipe, &at("killed"), true, "KILL");
    let said = String::from_utf8_lossy(&killed.stderr).into_owned();
    assert_eq!(killed.status.code(), Some(1), "{said}");
    assert!(said.contains("rank 1 was killed") && said.contains("the same command resumes"), "{said}");
    // With one rank, as a check that any number can go on; then with two, to the same bits.
    copy(&at("killed"), &at("other"));
    succeed(&mut run(&recipe, &at("other"), &["--resume", "must"]));
    succeed(&mut run(&recipe, &at("killed"), &["--nproc", "2", "--resume", "must"]));
    assert!(
        std::fs::read(weight_file(&at("killed"))).expect("weights") == whole,
        "the bits differ after a kill"
    );
    let (there, here) = (metrics(&at("whole")), metrics(&at("other")));
    let loss = |rows: &[serde_json::Value]| number(rows.last().expect("a row"), "val_loss");
    // It makes twice as many updates, each of half as much.
    assert!(loss(&here) < loss(&there) + 0.3, "{} and {}", loss(&there), loss(&here));

    let stopped = interrupted(&recipe, &at("stopped"), false, "TERM");
    let said = String::from_utf8_lossy(&stopped.stderr).into_owned();
    assert_eq!(stopped.status.code(), Some(143), "{said}");
    assert!(said.contains("saved at micro-batch"), "{said}");
    succeed(&mut run(&recipe, &at("stopped"), &["--nproc", "2", "--resume", "must"]));
    assert!(
        std::fs::read(weight_file(&at("stopped"))).expect("weights") == whole,
        "the bits differ after a stop"
    );
}

fn a_second_ctrl_c_ends_every_rank_at_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let recipe = recipe(folder.path(), "", &PRETRAIN.replace("epochs: 2", "epochs: 200"));
    let output = folder.path().join("run");
    let mut launcher = run(&recipe, &output, &["--nproc", "2"]);
    let mut launcher =
        launcher.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program starts");
    wait_for(&output.join("pretrain_64_resume.pth"));
    let ranks = children(launcher.id());
    assert_eq!(ranks.len(), 2);
    // Stopped ranks cannot save, so that only the second signal can end them.
    ranks.iter().for_each(|rank| signal(*rank, "STOP"));
    signal(launcher.id(), "INT");
    std::thread::sleep(Duration::from_millis(500));
    assert!(
        launcher.try_wait().expect("it is watched").is_none(),
        "the first signal waits for the ranks to save"
    );
    signal(launcher.id(), "INT");
    assert!(!ended(launcher).status.success());
    for rank in ranks {
        assert!(!Path::new(&format!("/proc/{rank}")).exists(), "rank {rank} is left");
    }
}

fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-r").args([from, to]).status().expect("cp runs").success());
}

fn every_kind_of_training_runs_with_ranks() {
    let folder = tempfile::tempdir().expect("a folder");
    let policy = "init: sft, data: {synthetic: {rows: 24}}, epochs: 1, max_seq_len: 96, thinking_ratio: 0, log_interval: 1, save_interval: 4, \
                  heldout: {synthetic: {split: heldout, rows: 8}}, rollout: {max_new_tokens: 6}, rewards: [{regex: {pattern: '[aeiou]', found: 1, missing: -1}}]";
    let chat = "data: {synthetic: {rows: 40}, format: chat}, epochs: 1, batch_size: 4, max_seq_len: 96";
    let pairs =
        "data: {synthetic: {rows: 24}, format: preference}, epochs: 1, batch_size: 4, max_seq_len: 96";
    let stages = format!(
        "  - sft: {{init: scratch, {chat}, learning_rate: 1.0e-3}}\n  - lora: {{init: sft, {chat}}}\n\
         \x20 - distill: {{init: sft, teacher: sft, {chat}}}\n  - dpo: {{init: sft, {pairs}}}\n  - reward: {{init: sft, {pairs}}}\n\
         \x20 - grpo: {{{policy}, batch_size: 2, num_generations: 4}}\n\
         \x20 - ppo: {{{policy}, batch_size: 4, mini_batch_size: 2, early_stop_kl: 0.00001}}\n\
         \x20 - spo: {{{policy}, batch_size: 4}}\n  - eval: {{from: sft, data: {{synthetic: {{split: heldout, rows: 8}}, format: chat}}, max_seq_len: 96}}\n"
    );
    let recipe = recipe(folder.path(), "", &stages);
    let output = folder.path().join("run");
    succeed(&mut run(&recipe, &output, &["--nproc", "2"]));
    for stage in ["sft", "lora", "distill", "dpo", "reward", "grpo", "ppo", "spo", "eval"] {
        assert!(output.join(stage).join("done.json").exists(), "{stage} is not done");
    }
    // On-policy, two ranks draw what one draws over two micro-batches.
    let one = folder.path().join("one");
    succeed(&mut run(&recipe, &one, &["--only", "tok"]));
    copy(&output.join("sft"), &one.join("sft"));
    copy(&output.join("sft_64.pth"), &one.join("sft_64.pth"));
    succeed(&mut run(&recipe, &one, &["--only", "grpo", "--set", "stages.grpo.accumulation_steps=2"]));
    let last = |output: &Path| {
        let rows = rows(&output.join("grpo/metrics.jsonl"));
        let row = rows.last().expect("a row").clone();
        (rows.len(), number(&row, "heldout_reward"), number(&row, "grad_norm"))
    };
    let ((_, reward, norm), (_, reward_of_one, norm_of_one)) = (last(&output), last(&one));
    assert_eq!(reward, reward_of_one);
    assert!((norm - norm_of_one).abs() < 1e-3 * norm_of_one.max(1.0), "{norm} and {norm_of_one}");
}

fn torchrun_starts_ranks_and_starts_them_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let recipe = recipe(folder.path(), "", &PRETRAIN.replace("epochs: 2", "epochs: 8"));
    let output = folder.path().join("torchrun");
    let mut command = Command::new(common::python::python());
    command.args([
        "-m",
        "torch.distributed.run",
        "--no-python",
        "--nproc-per-node",
        "2",
        "--max-restarts",
        "1",
    ]);
    command.args(["--master-addr", "127.0.0.1", "--master-port", &free_port().to_string()]);
    command.arg(env!("CARGO_BIN_EXE_minimind")).arg("run").arg(&recipe).arg("--output").arg(&output);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("torchrun starts");
    wait_for(&output.join("pretrain_64_resume.pth"));
    let workers = children(child.id());
    assert!(workers.len() >= 2, "torchrun has {workers:?}");
    signal(workers[1], "KILL");
    let launched = ended(child);
    let said = String::from_utf8_lossy(&launched.stderr).into_owned();
    assert!(launched.status.success(), "{said}");
    succeed(&mut run(&recipe, &folder.path().join("own"), &["--nproc", "2"]));
    let read = |name: &str| std::fs::read(weight_file(&folder.path().join(name))).expect("weights");
    assert!(read("torchrun") == read("own"), "the launchers give different bits");
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    listener.local_addr().expect("its address").port()
}

/// Runs the ignored test `name` of this file in two processes, as two ranks.
fn as_two(name: &str) {
    let port = free_port().to_string();
    let start = |rank: &str| {
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.args(["--exact", name, "--ignored", "--nocapture"]);
        command
            .env("RANK", rank)
            .env("WORLD_SIZE", "2")
            .env("MASTER_ADDR", "127.0.0.1")
            .env("MASTER_PORT", &port);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts")
    };
    let children = [start("0"), start("1")];
    for child in children {
        let output = ended(child);
        let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        assert!(output.status.success() && said[0].contains("1 passed"), "{}\n{}", said[0], said[1]);
    }
}

fn replicas_that_came_apart_are_found() {
    as_two("rank_with_weights_of_its_own");
}

fn rank_with_weights_of_its_own() {
    let ranks = Ranks::init(&minimind::plan::environment::variable).expect("they meet");
    let same = Tensor::from_slice(&[1f32, 2.0]);
    ranks.check_same(&[same.shallow_clone()]).expect("the same");
    let own = Tensor::from_slice(&[1f32, 2.0 + ranks.rank() as f32 * 1e-6]);
    let fault = ranks.check_same(&[same, own]).expect_err("they differ").to_string();
    assert!(fault.contains("different weights (1 tensors of 2)"), "{fault}");
}

fn gradients_are_added_up_whatever_a_rank_lacks() {
    as_two("rank_with_gradients_of_its_own");
}

fn rank_with_gradients_of_its_own() {
    let ranks = Ranks::init(&minimind::plan::environment::variable).expect("they meet");
    let mine = ranks.rank() as f64 + 1.0;
    let params: Vec<Tensor> = (0..3)
        .map(|i| Tensor::full([2, 3], i as f64, tch::kind::FLOAT_CPU).set_requires_grad(true))
        .collect();
    let mut gradients = ranks.gradient_reducer(&params).expect("it is made").expect("there are two");
    let sums = || params.iter().map(|p| p.grad().sum(tch::Kind::Float).double_value(&[])).collect::<Vec<_>>();
    // Leaving on the way back; the last parameter takes no part, the first only on rank 0.
    gradients.arm().expect("armed");
    let loss =
        &params[1] * mine + if ranks.is_rank0() { params[0].shallow_clone() } else { Tensor::from(0f32) };
    loss.sum(tch::Kind::Float).backward();
    gradients.finish().expect("shared");
    assert_eq!(sums(), [6.0, 18.0, 0.0]);
    // Gathered at the end, on top of what is there.
    (&params[2] * mine).sum(tch::Kind::Float).backward();
    gradients.finish().expect("shared");
    assert_eq!(sums(), [12.0, 36.0, 18.0]);
    // Sent too early: an objective that goes back twice after it said that it would not.
    gradients.arm().expect("armed");
    for _ in 0..2 {
        params.iter().map(|p| p.sum(tch::Kind::Float)).sum::<Tensor>().backward();
    }
    let fault = gradients.finish().expect_err("a gradient came late").to_string();
    assert!(fault.contains("changed after it had been sent"), "{fault}");
}
