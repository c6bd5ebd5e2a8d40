//! What becomes of a stage that was made before: settings that only watch, more epochs, other settings, another program,
//! broken resume files. Every kind of training stage, to the bit.

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::{json, minimind, rows, signal, succeed};
use minimind::checkpoint::load::named_tensors;
use serde_json::Value;

common::needs::tests! {
    every_kind_goes_on_with_settings_that_only_watch: [],
    what_differs_is_named_and_nothing_is_lost: [],
    more_epochs_go_on_from_the_end: [],
    a_broken_resume_file_costs_one_interval: [],
    from_goes_on_after_a_stop: [],
    ranks_stop_and_go_on_together: [Gloo],
    records_of_before_are_read: [],
}

const KINDS: [&str; 11] =
    ["pretrain", "sft", "lora", "reason", "distill", "dpo", "reward", "ppo", "grpo", "spo", "agent"];

/// A recipe with a stage of every kind, all long enough to be stopped on their way.
fn recipe(folder: &Path) -> PathBuf {
    let path = folder.join("going on.yaml");
    let often = "learning_rate: 1.0e-3, log_interval: 1, save_interval: 2";
    let short = format!("batch_size: 4, max_seq_len: 96, {often}");
    let chat = format!("data: {{synthetic: {{rows: 240}}, format: chat}}, epochs: 1, {short}");
    let pairs = format!("data: {{synthetic: {{rows: 240}}, format: preference}}, epochs: 1, {short}");
    let drawn = format!(
        "init: sft, data: {{synthetic: {{rows: 40}}}}, epochs: 2, {often}, thinking_ratio: 0, heldout: {{synthetic: {{rows: 4}}}}"
    );
    let policy = format!(
        "{drawn}, max_seq_len: 96, rollout: {{max_new_tokens: 6}}, rewards: [{{regex: {{pattern: '[aeo]'}}}}, {{length: {{min: 5, max: 20}}}}]"
    );
    let text = format!(
        "name: going-on\nseed: 3\nruntime: {{device: cpu, precision: fp32, threads: 1}}\noutput: run\ntokenizer: tok\n\
         model: {{preset: minimind3, hidden_size: 64, num_hidden_layers: 1, num_attention_heads: 2, num_key_value_heads: 1}}\n\
         stages:\n\
         \x20 - tokenizer: {{name: tok, data: {{synthetic: {{rows: 200}}}}, vocab_size: 400}}\n\
         \x20 - pretrain: {{init: scratch, data: {{synthetic: {{rows: 480}}, validation: 0.05}}, epochs: 1, accumulation_steps: 2, dropout: 0.1, schedule: constant, {short}}}\n\
         \x20 - sft: {{init: pretrain, {chat}, dropout: 0.1, schedule: constant}}\n\
         \x20 - lora: {{init: sft, rank: 4, dropout: 0.1, {chat}}}\n\
         \x20 - reason: {{init: sft, marker_token_ids: [5, 6], {chat}}}\n\
         \x20 - distill: {{init: sft, teacher: sft, {chat}}}\n\
         \x20 - dpo: {{init: sft, beta: 0.5, {pairs}}}\n\
         \x20 - reward: {{init: sft, {pairs}}}\n\
         \x20 - ppo: {{{policy}, batch_size: 4, mini_batch_size: 2, accumulation_steps: 3, critic_learning_rate: 1.0e-3}}\n\
         \x20 - grpo: {{{policy}, batch_size: 2, num_generations: 3}}\n\
         \x20 - spo: {{{policy}, batch_size: 2, accumulation_steps: 2}}\n\
         \x20 - agent: {{{drawn}, batch_size: 2, num_generations: 2, max_turns: 2, rollout: {{max_new_tokens: 8}}, tools: [{{calculator: {{}}}}], rewards: [{{json_tool: {{on_error: 0}}}}, {{regex: {{pattern: '[aeo]'}}}}]}}\n"
    );
    std::fs::write(&path, text).expect("a recipe is written");
    path
}

fn run(recipe: &Path, output: &Path, more: &[&str]) -> Command {
    let mut command = minimind();
    command.arg("run").arg(recipe).arg("--output").arg(output).args(more);
    command
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs a stage alone and stops it as soon as it has a resume point and the one before it.
fn half(recipe: &Path, output: &Path, stage: &str, more: &[&str]) {
    let mut command = run(recipe, output, &[&["--only", stage], more].concat());
    let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the program starts");
    let before = output.join(format!("{stage}_64_resume.prev.pth"));
    let began = Instant::now();
    while !before.exists() {
        assert!(began.elapsed() < Duration::from_secs(300), "{stage}: no checkpoint came");
        std::thread::sleep(Duration::from_millis(2));
    }
    signal(child.id(), "TERM");
    let ended = child.wait_with_output().expect("it ends");
    assert_eq!(ended.status.code(), Some(143), "{stage} was not stopped on its way: {}", said(&ended));
}

fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-r").args([from, to]).status().expect("cp runs").success());
}

/// Every file of a folder with its bytes, the lock aside.
fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(contents(&path));
        } else if !path.ends_with(".lock") {
            let bytes = std::fs::read(&path).expect("a file");
            found.insert(path, bytes);
        }
    }
    found
}

/// Whether two weight files hold the same bits.
fn same(a: &Path, b: &Path) -> bool {
    let (a, b) = (named_tensors(a).expect("weights"), named_tensors(b).expect("weights"));
    a.len() == b.len() && a.iter().all(|(name, tensor)| b.get(name).is_some_and(|other| other.equal(tensor)))
}

/// Runs it, which must be refused with exit code 2 and leave every file as it was; what it said.
fn refused(recipe: &Path, output: &Path, more: &[&str]) -> String {
    let before = contents(output);
    let ended = run(recipe, output, more).output().expect("it starts");
    let text = said(&ended);
    assert_eq!(ended.status.code(), Some(2), "{more:?}: {text}");
    assert!(contents(output) == before, "{more:?} wrote something: {text}");
    text
}

/// A run's folder with the tokenizer and the weights that the stage under test starts from, and the whole run.
struct Ground {
    folder: tempfile::TempDir,
    recipe: PathBuf,
}

impl Ground {
    /// With these stages done.
    fn new(stages: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let recipe = recipe(folder.path());
        for stage in stages {
            succeed(&mut run(&recipe, &folder.path().join("run"), &["--only", stage]));
        }
        Self { folder, recipe }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

fn every_kind_goes_on_with_settings_that_only_watch() {
    let ground = Ground::new(&[]);
    let whole = ground.path("whole");
    succeed(&mut run(&ground.recipe, &whole, &[]));
    for kind in KINDS {
        let output = ground.path(kind);
        std::fs::create_dir(&output).expect("a folder");
        let needed: &[&str] = match kind {
            "pretrain" => &["tok"],
            "sft" => &["tok", "pretrain", "pretrain_64.pth"],
            _ => &["tok", "sft", "sft_64.pth"],
        };
        needed.iter().for_each(|name| copy(&whole.join(name), &output.join(name)));
        half(&ground.recipe, &output, kind, &[]);
        let done = rows(&output.join(kind).join("metrics.jsonl")).len();
        assert!(
            done < rows(&whole.join(kind).join("metrics.jsonl")).len(),
            "{kind} was not stopped on its way"
        );

        // What decides the result stops it before anything is written.
        let lr = format!("stages.{kind}.learning_rate=0.002");
        let text = refused(&ground.recipe, &output, &["--only", kind, "--set", &lr]);
        assert!(text.contains("learning_rate 0.001 -> 0.002"), "{kind}: {text}");
        assert!(
            text.contains("--resume force") && text.contains(&format!("--from {kind}")),
            "{kind}: {text}"
        );

        let sets: Vec<String> =
            ["log_interval=3", "save_interval=7", "eval_interval=5", "keep_last=1", "on_nan=skip"]
                .iter()
                .map(|set| format!("stages.{kind}.{set}"))
                .collect();
        let mut more = vec!["--only", kind];
        sets.iter().for_each(|set| more.extend(["--set", set]));
        let ended = succeed(&mut run(&ground.recipe, &output, &more));
        let text = said(&ended);
        assert!(
            text.contains("resumes at micro-batch") && text.contains("log_interval 1 -> 3"),
            "{kind}: {text}"
        );
        let file = format!("{kind}_64.pth");
        assert!(same(&output.join(&file), &whole.join(&file)), "{kind}: the weights differ");
        let summary = json(&output.join(kind).join("summary.json"));
        let number = |key: &str| summary[key].as_f64().expect("a number");
        assert!(number("seconds") >= number("train_seconds"), "{kind}: {summary}");
        // Done, it stays done.
        let again = succeed(&mut run(&ground.recipe, &output, &["--only", kind]));
        assert!(
            said(&again).contains(&format!("{kind}: done already, skipped (its result does not depend on")),
            "{}",
            said(&again)
        );
    }
}

fn what_differs_is_named_and_nothing_is_lost() {
    let ground = Ground::new(&["tok", "pretrain"]);
    let (recipe, output) = (&ground.recipe, ground.path("run"));
    half(recipe, &output, "sft", &[]);
    for (set, named) in [
        ("stages.sft.batch_size=5", "batch_size 4 -> 5"),
        ("stages.sft.grad_clip=0.5", "grad_clip 1.0 -> 0.5"),
        ("stages.sft.betas=[0.9, 0.95]", "betas [0.9,0.999] -> [0.9,0.95]"),
        ("stages.sft.schedule=cosine", "schedule constant -> cosine"),
        ("stages.sft.data.synthetic.rows=241", "data.synthetic.rows 240 -> 241"),
        ("stages.sft.data.shuffle=false", "data.shuffle true -> false"),
        ("seed=4", "seed 3 -> 4"),
        ("runtime.precision=bf16", "runtime.precision fp32 -> bf16"),
        ("stages.sft.epochs=0", "epochs"),
    ] {
        let text = refused(recipe, &output, &["--only", "sft", "--set", set]);
        assert!(text.contains(named), "{set}: {text}");
    }
    let must =
        refused(recipe, &output, &["--only", "sft", "--set", "stages.sft.dropout=0.2", "--resume", "must"]);
    assert!(must.contains("dropout 0.1 -> 0.2"), "{must}");

    // The first changed stage is the one that is named.
    let text = refused(
        recipe,
        &output,
        &["--set", "stages.pretrain.learning_rate=0.002", "--set", "stages.sft.learning_rate=0.002"],
    );
    assert!(text.contains("stage `pretrain` is done") && text.contains("--from pretrain"), "{text}");

    // By force it goes on; the record says so, and the same recipe is content with it afterwards.
    let other = ["--only", "sft", "--set", "stages.sft.learning_rate=0.002"];
    let copied = ground.path("forced");
    copy(&output, &copied);
    let ended = succeed(&mut run(recipe, &copied, &[&other[..], &["--resume", "force"]].concat()));
    assert!(said(&ended).contains("resumes at micro-batch"), "{}", said(&ended));
    let record = json(&copied.join("sft/done.json"));
    assert_eq!(record["forced"][0]["changes"][0], "learning_rate 0.001 -> 0.002", "{record}");
    let again = succeed(&mut run(recipe, &copied, &other));
    assert!(said(&again).contains("sft: done already, skipped"), "{}", said(&again));
    // A finished one is kept as it is.
    let before = std::fs::read(copied.join("sft_64.pth")).expect("weights");
    let third = ["--only", "sft", "--set", "stages.sft.learning_rate=0.003"];
    refused(recipe, &copied, &third);
    succeed(&mut run(recipe, &copied, &[&third[..], &["--resume", "force"]].concat()));
    assert!(std::fs::read(copied.join("sft_64.pth")).expect("weights") == before);
    succeed(&mut run(recipe, &copied, &third));

    // From the stage on everything is made anew, and what was there is kept, twice.
    let first = std::fs::read(output.join("sft_64_resume.pth")).expect("a resume file");
    let from =
        ["--set", "stages.sft.learning_rate=0.002", "--set", "stages.sft.max_steps=4", "--from", "sft"];
    let mut short: Vec<String> = from.iter().map(|s| (*s).to_owned()).collect();
    for kind in &KINDS[2..] {
        short.extend(["--set".to_owned(), format!("stages.{kind}.max_steps=1")]);
    }
    let short: Vec<&str> = short.iter().map(String::as_str).collect();
    let ended = succeed(&mut run(recipe, &output, &short));
    assert!(
        said(&ended).contains("what was there is kept as sft_64_resume.prev.pth.old"),
        "{}",
        said(&ended)
    );
    assert!(std::fs::read(output.join("sft_64_resume.pth.old")).expect("the old one") == first);
    assert!(output.join("sft.old/metrics.jsonl").exists() && output.join("sft_64.pth.old").exists());
    let second = std::fs::read(output.join("sft_64_resume.pth")).expect("a resume file");
    succeed(&mut run(recipe, &output, &short));
    assert!(std::fs::read(output.join("sft_64_resume.pth.old")).expect("the old one") == first);
    assert!(std::fs::read(output.join("sft_64_resume.pth.old2")).expect("the second") == second);
    assert!(output.join("dpo.old").is_dir() && !output.join(".from.json").exists());
}

fn more_epochs_go_on_from_the_end() {
    let ground = Ground::new(&["tok", "pretrain", "sft"]);
    let (recipe, output) = (&ground.recipe, ground.path("run"));
    let two = ["--set", "stages.pretrain.epochs=2"];
    let whole = ground.path("whole");
    std::fs::create_dir(&whole).expect("a folder");
    copy(&output.join("tok"), &whole.join("tok"));
    succeed(&mut run(recipe, &whole, &[&["--only", "pretrain"], &two[..]].concat()));
    let one = std::fs::read(output.join("pretrain_64.pth")).expect("weights");
    let old_sft = std::fs::read(output.join("sft_64.pth")).expect("weights");

    // Fewer are refused, here and after the longer run.
    let text = refused(recipe, &output, &["--only", "pretrain", "--set", "stages.pretrain.max_steps=50"]);
    assert!(text.contains("has done 114 micro-batches, and 50 are asked for"), "{text}");
    // A limit that does not bite changes nothing.
    let skipped = succeed(&mut run(
        recipe,
        &output,
        &["--only", "pretrain", "--set", "stages.pretrain.max_steps=5000"],
    ));
    assert!(said(&skipped).contains("pretrain: done already, skipped"), "{}", said(&skipped));

    let ended = succeed(&mut run(recipe, &output, &[&["--only", "pretrain"], &two[..]].concat()));
    let text = said(&ended);
    assert!(text.contains("resumes at micro-batch 114, now of 228 and not of 114"), "{text}");
    assert!(text.contains("learning rate is 1.000e-3"), "{text}");
    assert!(same(&output.join("pretrain_64.pth"), &whole.join("pretrain_64.pth")), "the weights differ");
    assert!(std::fs::read(output.join("pretrain_64.pth.old")).expect("a copy") == one);
    let steps = rows(&output.join("pretrain/metrics.jsonl")).len();
    assert_eq!(steps, rows(&whole.join("pretrain/metrics.jsonl")).len());
    refused(recipe, &output, &["--only", "pretrain"]);

    // What stands on it follows; its old files are kept.
    let ended = succeed(&mut run(recipe, &output, &[&["--only", "sft"], &two[..]].concat()));
    assert!(said(&ended).contains("what it starts from was made again"), "{}", said(&ended));
    assert!(std::fs::read(output.join("sft_64.pth.old")).expect("a copy") == old_sft);

    // Without its resume file it cannot go on, and says so.
    std::fs::remove_file(output.join("pretrain_64_resume.pth")).expect("removed");
    std::fs::remove_file(output.join("pretrain_64_resume.prev.pth")).expect("removed");
    let text = refused(recipe, &output, &["--only", "pretrain", "--set", "stages.pretrain.epochs=3"]);
    assert!(text.contains("its resume file is gone") && text.contains("--from pretrain"), "{text}");

    // One that is under way takes the new length; with the schedule's curve, which spans the new total.
    half(recipe, &output, "lora", &[]);
    let ended = succeed(&mut run(recipe, &output, &["--only", "lora", "--set", "stages.lora.epochs=2"]));
    assert!(
        said(&ended).contains("now of 120 and not of 60: the schedule is that of 120"),
        "{}",
        said(&ended)
    );
    assert_eq!(json(&output.join("lora/summary.json"))["steps"], 120);
}

fn a_broken_resume_file_costs_one_interval() {
    let ground = Ground::new(&["tok", "pretrain"]);
    let (recipe, start) = (&ground.recipe, ground.path("run"));
    let whole = ground.path("whole");
    copy(&start, &whole);
    succeed(&mut run(recipe, &whole, &["--only", "sft"]));
    half(recipe, &start, "sft", &[]);
    let resume = |output: &Path| output.join("sft_64_resume.pth");
    let bytes = std::fs::read(resume(&start)).expect("a resume file");
    let flipped = |at: usize| {
        let mut bytes = bytes.clone();
        bytes[at] ^= 1;
        bytes
    };
    let damages = [
        ("cut", bytes[..bytes.len() - 1000].to_vec()),
        ("empty", Vec::new()),
        ("head", bytes[..100].to_vec()),
        ("flip in the pickle", flipped(300)),
        ("flip in the middle", flipped(bytes.len() / 2)),
        ("flip at three quarters", flipped(bytes.len() / 4 * 3)),
    ];
    for (i, (what, damaged)) in damages.iter().enumerate() {
        let output = ground.path(&format!("damaged{i}"));
        copy(&start, &output);
        std::fs::write(resume(&output), damaged).expect("damaged");
        let ended = succeed(&mut run(recipe, &output, &["--only", "sft"]));
        let text = said(&ended);
        assert!(text.contains("the resume file before it is used"), "{what}: {text}");
        assert!(same(&output.join("sft_64.pth"), &whole.join("sft_64.pth")), "{what}: the weights differ");
        assert!(std::fs::read(output.join("sft_64_resume.pth.broken")).expect("kept") == *damaged, "{what}");
    }
    // A kill between two renames leaves the one before alone.
    let output = ground.path("gone");
    copy(&start, &output);
    std::fs::remove_file(resume(&output)).expect("removed");
    succeed(&mut run(recipe, &output, &["--only", "sft"]));
    assert!(same(&output.join("sft_64.pth"), &whole.join("sft_64.pth")));

    let output = ground.path("both");
    copy(&start, &output);
    for file in ["sft_64_resume.pth", "sft_64_resume.prev.pth"] {
        std::fs::write(output.join(file), &bytes[..bytes.len() - 1000]).expect("damaged");
    }
    let before = contents(&output);
    let ended = run(recipe, &output, &["--only", "sft"]).output().expect("it starts");
    let text = said(&ended);
    assert_eq!(ended.status.code(), Some(1), "{text}");
    assert!(contents(&output) == before, "{text}");
    // The command of the message is the one that starts over.
    let command =
        text.split('`').find(|part| part.starts_with("minimind run")).expect("a command").to_owned();
    assert!(command.ends_with("--from sft"), "{command}");
    let shorter = "--set stages.sft.max_steps=4 ".to_owned()
        + &KINDS[2..].map_join(|kind| format!("--set stages.{kind}.max_steps=1"));
    let line = command.replacen("minimind", env!("CARGO_BIN_EXE_minimind"), 1) + " " + &shorter;
    succeed(Command::new("sh").arg("-c").arg(line));
    assert!(output.join("sft_64_resume.pth.old").exists());
}

trait MapJoin {
    fn map_join(&self, word: impl Fn(&str) -> String) -> String;
}

impl MapJoin for [&str] {
    fn map_join(&self, word: impl Fn(&str) -> String) -> String {
        self.iter().map(|kind| word(kind)).collect::<Vec<_>>().join(" ")
    }
}

fn from_goes_on_after_a_stop() {
    let ground = Ground::new(&["tok", "pretrain", "sft", "lora"]);
    let (recipe, output) = (&ground.recipe, ground.path("run"));
    // What a stop in the middle of `--from pretrain` leaves: pretrain is done again, sft is not.
    std::fs::write(output.join(".from.json"), r#"{"from": "pretrain", "done": ["pretrain"]}"#)
        .expect("a note");
    let mut more = vec!["--from".to_owned(), "pretrain".to_owned()];
    KINDS[3..]
        .iter()
        .for_each(|kind| more.extend(["--set".to_owned(), format!("stages.{kind}.max_steps=1")]));
    let more: Vec<&str> = more.iter().map(String::as_str).collect();
    let ended = succeed(&mut run(recipe, &output, &more));
    let text = said(&ended);
    assert!(
        text.contains("pretrain: done already, skipped") && text.contains("sft: runs (asked for)"),
        "{text}"
    );
    assert!(!output.join(".from.json").exists());
}

fn ranks_stop_and_go_on_together() {
    let ground = Ground::new(&["tok", "pretrain"]);
    let (recipe, output) = (&ground.recipe, ground.path("run"));
    let whole = ground.path("whole");
    copy(&output, &whole);
    succeed(&mut run(recipe, &whole, &["--only", "sft", "--nproc", "2"]));
    half(recipe, &output, "sft", &["--nproc", "2"]);
    let began = Instant::now();
    let text = refused(
        recipe,
        &output,
        &["--only", "sft", "--nproc", "2", "--set", "stages.sft.learning_rate=0.002"],
    );
    assert!(
        text.contains("learning_rate 0.001 -> 0.002") && text.contains("--nproc 2 --resume force"),
        "{text}"
    );
    assert_eq!(text.matches("error: ").count(), 1, "{text}");
    println!("refused after {:.1} s", began.elapsed().as_secs_f64());
    let broken = ground.path("broken");
    copy(&output, &broken);
    std::fs::write(broken.join("sft_64_resume.pth"), "PK").expect("damaged");
    for output in [&output, &broken] {
        succeed(&mut run(
            recipe,
            output,
            &["--only", "sft", "--nproc", "2", "--set", "stages.sft.log_interval=9"],
        ));
        assert!(same(&output.join("sft_64.pth"), &whole.join("sft_64.pth")), "the weights differ");
    }
}

/// A run's record as minimind 0.1.0 left it before records had a format: hashes alone.
fn records_of_before_are_read() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let fixture = root.join("tests/fixtures/record");
    let output = tempfile::tempdir().expect("a folder");
    let go = |more: &[&str]| {
        let mut command = minimind();
        command
            .current_dir(root)
            .args(["run", "tests/fixtures/record/recipe.yaml", "--output"])
            .arg(output.path());
        command.args(more).output().expect("it starts")
    };
    let place = |record: &str, plan: bool| {
        let stage = output.path().join("pretrain");
        std::fs::create_dir_all(&stage).expect("a folder");
        std::fs::write(stage.join("done.json"), record).expect("a record");
        let _ = std::fs::remove_file(stage.join("settings.json"));
        let _ = std::fs::remove_file(output.path().join("plan.json"));
        if plan {
            std::fs::copy(fixture.join("plan.json"), output.path().join("plan.json")).expect("a plan");
        }
        std::fs::write(output.path().join("pretrain_32.pth"), "weights").expect("weights");
    };
    let record = std::fs::read_to_string(fixture.join("done.json")).expect("the record");
    let other_program = record.replace("\"program\": \"0.1.0\"", "\"program\": \"0.0.9\"");
    assert_ne!(record, other_program);
    for record in [&record, &other_program] {
        place(record, false);
        let ended = go(&[]);
        assert!(ended.status.success(), "{}", said(&ended));
        assert!(said(&ended).contains("pretrain: done already, skipped"), "{}", said(&ended));
    }
    // Without the plan only a hash is known of its settings; with it they are known by key, also the second time.
    place(&record, false);
    let ended = go(&["--set", "stages.pretrain.log_interval=7"]);
    assert_eq!(ended.status.code(), Some(2));
    assert!(said(&ended).contains("settings known by a hash alone"), "{}", said(&ended));
    place(&record, true);
    let ended = go(&["--set", "stages.pretrain.learning_rate=0.5"]);
    assert_eq!(ended.status.code(), Some(2));
    assert!(said(&ended).contains("learning_rate 0.001 -> 0.5"), "{}", said(&ended));
    for interval in ["7", "8"] {
        let ended = go(&["--set", &format!("stages.pretrain.log_interval={interval}")]);
        assert!(said(&ended).contains("pretrain: done already, skipped"), "{}", said(&ended));
    }
    // A later format or another arithmetic is a fault that names it.
    for (version, word) in
        [("format", "format of the record 9 -> "), ("arithmetic", "arithmetic version 9 -> ")]
    {
        let mut newer: Value = serde_json::from_str(&record).expect("JSON");
        newer[version] = 9.into();
        place(&newer.to_string(), false);
        let ended = go(&[]);
        assert_eq!(ended.status.code(), Some(2), "{}", said(&ended));
        assert!(said(&ended).contains(word), "{}", said(&ended));
    }
}
