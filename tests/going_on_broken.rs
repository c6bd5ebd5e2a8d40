//! What becomes of a stage that was made before, when its files are broken, when it was stopped, with several ranks, and when
//! another program made it.

mod common;

use std::path::Path;
use std::process::Command;

use common::ground::{Ground, KINDS, contents, copy, half, refused, run, said, same};
use common::{minimind, succeed};
use serde_json::Value;

common::needs::tests! {
    a_broken_resume_file_costs_one_interval: [],
    from_goes_on_after_a_stop: [],
    ranks_stop_and_go_on_together: [Gloo],
    records_of_before_are_read: [],
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
    assert!(said(&ended).contains("settings known by its hash alone"), "{}", said(&ended));
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
