//! `minimind chat` through a pipe: answers on stdout, the rest on stderr.

mod common;

use std::io::Write;
use std::process::{Output, Stdio};

use common::minimind;
use common::served::model;
use serde_json::Value;

fn chat(flags: &[&str], lines: &str) -> Output {
    let mut child = minimind()
        .args(["chat", "--device", "cpu", "--greedy", "--model", &model().display().to_string()])
        .args(flags)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    child.stdin.take().expect("a pipe").write_all(lines.as_bytes()).expect("lines");
    child.wait_with_output().expect("it ends")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn lines_are_answered_and_commands_are_obeyed() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("kept.jsonl");
    let lines = format!(
        "What is 2 + 3?\n/retry\n/reset\n/params max_new_tokens=2\nWhat is 2 + 3?\n/params\n/save {0}\n/reset\n/retry\n/load {0}\n/nonsense\n/quit\nnever read\n",
        file.display()
    );
    let output = chat(&[], &lines);
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{err}");
    let answers: Vec<&str> = out.lines().collect();
    assert_eq!(answers.len(), 3, "{out}");
    assert_eq!(answers[..2], ["The sum is 5."; 2]);
    assert!("The sum is 5.".starts_with(answers[2]) && answers[2].len() < 10, "{out}");
    for said in [
        "max_new_tokens=2",
        "[2 messages in",
        "nothing to answer again",
        "[2 messages from",
        "unknown command /nonsense",
    ] {
        assert!(err.contains(said), "{said}\n{err}");
    }
    let row: Value = serde_json::from_str(&std::fs::read_to_string(&file).expect("the file")).expect("JSON");
    assert_eq!(row["conversations"][1]["content"], answers[2]);
}

#[test]
fn thinking_is_kept_out_of_the_conversation() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("kept.jsonl");
    let output = chat(&["--thinking"], &format!("What is a crow?\n/save {}\n", file.display()));
    let out = text(&output.stdout);
    assert!(
        out.starts_with("A crow has wings.\n</think>") && out.trim_end().ends_with("A crow is a bird."),
        "{out}"
    );
    let row: Value = serde_json::from_str(&std::fs::read_to_string(&file).expect("the file")).expect("JSON");
    assert_eq!(row["conversations"][1]["content"], "A crow is a bird.");
}

#[test]
fn a_command_that_fails_says_so_and_the_script_goes_on() {
    for (line, said) in [
        ("/params heat=1", "no setting `heat`"),
        ("/params temperature=hot", "temperature is hot"),
        ("/load nowhere.jsonl", "cannot read the conversation"),
        ("/save", "no file is named"),
    ] {
        let output = chat(&[], &format!("{line}\nWhat is 2 + 3?\n"));
        let err = text(&output.stderr);
        assert!(output.status.success() && err.contains(said), "{line}: {err}");
        assert_eq!(text(&output.stdout).trim_end(), "The sum is 5.", "{line}");
    }
}
