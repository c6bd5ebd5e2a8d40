//! Prompts: where they end, what they show, and rows that cannot be asked.

use super::*;
use crate::data::{SyntheticSplit, tokenizer};
use std::path::Path;

fn small_tokenizer(folder: &Path) -> Tokenizer {
    let text = "What is the price of honey? user assistant system think tools 0123456789";
    tokenizer::train(std::iter::repeat_n(Ok(text.to_owned()), 4), 400, folder).unwrap();
    Tokenizer::load(folder).unwrap()
}

fn options() -> PromptOptions {
    PromptOptions { max_tokens: 1000, seed: 3, thinking_ratio: 0.5, system_prompt_ratio: 0.0, tools: None }
}

fn file(folder: &Path, rows: &[&str]) -> DataConfig {
    let path = folder.join("rows.jsonl");
    std::fs::write(&path, rows.join("\n")).unwrap();
    DataConfig::files(vec![path], DataFormat::Prompts)
}

#[test]
fn prompts_end_where_the_assistant_answers() {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = small_tokenizer(folder.path());
    let config = file(
        folder.path(),
        &[
            r#"{"conversations": [{"role": "user", "content": "one"}, {"role": "assistant", "content": "empty"}]}"#,
            r#"{"prompt": "two", "answer": "2"}"#,
            r#"{"conversations": [{"role": "user", "content": "three"}]}"#,
        ],
    );
    let (prompts, held) = Prompts::load(&config, &tokenizer, &options()).unwrap();
    assert!(held.is_none() && prompts.len() == 3);
    let (mut open, mut closed) = (0, 0);
    for epoch in 0..20 {
        for (index, word) in ["one", "two", "three"].iter().enumerate() {
            let prompt = prompts.get(&tokenizer, index, epoch).unwrap();
            assert_eq!(prompt.messages.last().unwrap()["content"], *word);
            assert_eq!(tokenizer.encode(&prompt.text).unwrap(), prompt.ids);
            assert_eq!(prompt.text.ends_with("assistant\n<think>\n"), prompt.thinking, "{}", prompt.text);
            assert_eq!(prompt.text, prompts.get(&tokenizer, index, epoch).unwrap().text);
            if prompt.thinking { open += 1 } else { closed += 1 }
        }
    }
    assert!(open > 15 && closed > 15, "{open} opened, {closed} not");
    assert_eq!(prompts.get(&tokenizer, 1, 0).unwrap().row.row["answer"], "2");
}

#[test]
fn rows_that_cannot_be_asked_are_named_at_their_line() {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = small_tokenizer(folder.path());
    let long = format!(r#"{{"prompt": "{}"}}"#, "word ".repeat(700));
    let rows = [
        r#"{"prompt": "good"}"#,
        "{",
        r#"{"text": "x"}"#,
        r#"{"conversations": [{"role": "assistant", "content": "x"}]}"#,
        &long,
    ];
    let mut config = file(folder.path(), &rows);
    let text = Prompts::load(&config, &tokenizer, &options()).unwrap_err().to_string();
    for part in [
        "rows.jsonl:2: not JSON",
        "rows.jsonl:3: the row is of shape text, which has no question",
        "rows.jsonl:4: no user turn",
        "rows.jsonl:5: the prompt has",
        "on_bad_row: skip",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    config.on_bad_row = OnBadRow::Skip;
    let (prompts, _) = Prompts::load(&config, &tokenizer, &options()).unwrap();
    assert_eq!((prompts.len(), prompts.skipped), (1, 4));
    config.format = DataFormat::Agent;
    config.on_bad_row = OnBadRow::Error;
    assert!(Prompts::load(&config, &tokenizer, &options()).unwrap_err().to_string().contains("no list `gt`"));
}

#[test]
fn the_built_in_world_asks_with_answers_and_with_tools() {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = small_tokenizer(folder.path());
    let mut config = DataConfig::files(Vec::new(), DataFormat::Prompts);
    config.source = DataSource::Synthetic(SyntheticConfig {
        rows: Some(40),
        seed: 5,
        split: SyntheticSplit::Train,
        task: SyntheticTask::World,
    });
    config.validation = Validation::Share(0.25);
    let (train, held) = Prompts::load(&config, &tokenizer, &options()).unwrap();
    assert_eq!((train.len(), held.unwrap().len()), (30, 10));
    let prompt = train.get(&tokenizer, 0, 0).unwrap();
    assert!(prompt.row.row["answer"].is_string() && prompt.messages.last().unwrap()["role"] == "user");
    config.format = DataFormat::Agent;
    let (tasks, _) = Prompts::load(&config, &tokenizer, &options()).unwrap();
    let prompt = tasks.get(&tokenizer, 0, 0).unwrap();
    assert!(prompt.text.contains("<tools>") && prompt.tools.is_some(), "{}", prompt.text);
    assert!(prompt.row.row["gt"][0].is_string() && prompt.messages.len() == 2);
    let mut order = tasks.order(1, true);
    assert_ne!(order, tasks.order(2, true));
    order.sort_unstable();
    assert_eq!(order, tasks.order(0, false));
}
