//! Training on a mixture: columns of each part, the same bits after a stop, the same numbers with ranks.

mod common;

use std::path::{Path, PathBuf};

use common::ground::{half, refused, run, said, same};
use common::{number, rows, succeed};
use serde_json::{Value, json};

common::needs::tests! {
    parts_have_columns_and_a_stopped_run_goes_on_to_the_same_bits: [],
    two_ranks_have_the_numbers_of_one: [Gloo],
}

/// A recipe over two files, one of texts and one of chats.
fn recipe(folder: &Path, more: &str) -> PathBuf {
    let write = |name: &str, rows: Vec<Value>| {
        let lines: Vec<String> = rows.iter().map(|row| row.to_string() + "\n").collect();
        std::fs::write(folder.join(name), lines.concat()).expect("a file is written");
    };
    let words = |i: usize| "la lo lu ".repeat(1 + i % 7) + &i.to_string();
    write("texts.jsonl", (0..300).map(|i| json!({"text": words(i)})).collect());
    let chat = |i: usize| {
        let turns =
            json!([{"role": "user", "content": words(i)}, {"role": "assistant", "content": words(i * 3)}]);
        json!({"conversations": turns})
    };
    write("chats.jsonl", (0..60).map(chat).collect());
    let path = folder.join("mixture.yaml");
    let at = |name: &str| folder.join(name).display().to_string();
    let (texts, chats) = (at("texts.jsonl"), at("chats.jsonl"));
    let text = format!(
        "name: mixture\nseed: 3\nruntime: {{device: cpu, precision: fp32, threads: 1}}\ntokenizer: tok\n\
         model: {{preset: minimind3, hidden_size: 64, num_hidden_layers: 1, num_attention_heads: 2, num_key_value_heads: 1}}\n\
         stages:\n\
         \x20 - tokenizer: {{name: tok, data: {{mixture: [{{path: {texts}}}, {{path: {chats}}}]}}, vocab_size: 300}}\n\
         \x20 - pretrain: {{init: scratch, epochs: 2, batch_size: 4, max_seq_len: 64, learning_rate: 1.0e-3, dropout: 0.1, \
         schedule: constant, {more}, data: {{validation: 0.1, mixture: [{{path: {texts}, weight: 3}}, \
         {{path: {chats}, format: chat, name: talk, weight: 1, epochs: 4}}]}}}}\n"
    );
    std::fs::write(&path, text).expect("a recipe is written");
    path
}

/// The rows without what is measured in time.
fn timeless(output: &Path) -> Vec<Value> {
    let mut all = rows(&output.join("pretrain/metrics.jsonl"));
    for row in &mut all {
        let row = row.as_object_mut().expect("an object");
        row.retain(|key, _| !["tokens_per_s", "elapsed_s"].contains(&key.as_str()) && !key.ends_with("_mb"));
    }
    all
}

fn parts_have_columns_and_a_stopped_run_goes_on_to_the_same_bits() {
    let folder = tempfile::tempdir().expect("a folder");
    let recipe = recipe(folder.path(), "log_interval: 3, save_interval: 2");
    let (whole, cut) = (folder.path().join("whole"), folder.path().join("cut"));
    let told = said(&succeed(&mut run(&recipe, &whole, &[])));
    assert!(told.contains("part texts: 75.") && told.contains("part talk: 2"), "{told}");
    let last = timeless(&whole).pop().expect("a row");
    let tokens = ["texts", "talk"].map(|name| number(&last, &format!("tokens/{name}")));
    assert_eq!(tokens.iter().sum::<f64>(), number(&last, "tokens"), "{last}");
    assert!((tokens[0] / tokens.iter().sum::<f64>() - 0.75).abs() < 0.01, "{last}");
    for name in ["loss/texts", "loss/talk", "val_loss/texts", "val_loss/talk"] {
        let shown =
            timeless(&whole).iter().filter(|row| row[name].as_f64().is_some_and(|loss| loss > 0.0)).count();
        assert!(shown > 5, "{name}: {shown} rows");
    }

    succeed(&mut run(&recipe, &cut, &["--only", "tok"]));
    half(&recipe, &cut, "pretrain", &[]);
    let weight = ["--set", "stages.pretrain.data.mixture.0.weight=2"];
    let text = refused(&recipe, &cut, &weight);
    assert!(text.contains("data.mixture.0.weight 0.75 -> 0.6666"), "{text}");
    let told = said(&succeed(&mut run(&recipe, &cut, &[])));
    assert!(told.contains("resumes at micro-batch"), "{told}");
    assert!(same(&whole.join("pretrain_64.pth"), &cut.join("pretrain_64.pth")), "the weights differ");
    assert_eq!(timeless(&whole), timeless(&cut));
}

fn two_ranks_have_the_numbers_of_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let recipe = recipe(folder.path(), "log_interval: 4, save_interval: 100");
    let (one, two) = (folder.path().join("one"), folder.path().join("two"));
    let none = "stages.pretrain.dropout=0";
    succeed(&mut run(&recipe, &one, &["--set", none, "--set", "stages.pretrain.accumulation_steps=4"]));
    succeed(&mut run(
        &recipe,
        &two,
        &["--set", none, "--set", "stages.pretrain.accumulation_steps=2", "--nproc", "2"],
    ));
    let (want, got) = (timeless(&one), timeless(&two));
    // Losses are over what came since the row before: only where that is the same.
    let mut compared = 0;
    for pair in want.windows(2) {
        let same = |other: &&[Value]| [0, 1].iter().all(|i| pair[*i]["step"] == other[*i]["step"]);
        let Some(other) = got.windows(2).find(same) else { continue };
        let (want, got) = (&pair[1], &other[1]);
        for name in ["tokens/texts", "tokens/talk", "loss/texts", "loss/talk", "val_loss/talk"] {
            let (Some(a), Some(b)) = (want[name].as_f64(), got[name].as_f64()) else { continue };
            assert!((a - b).abs() < 1e-4 * a, "{name}: {a} and {b}\n{want}\n{got}");
            compared += 1;
        }
    }
    assert!(compared > 20, "{compared} of {} and {} rows", want.len(), got.len());
}
