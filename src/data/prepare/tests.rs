//! Rows that are bad, or that have no targets.

use super::*;
use crate::data::tokenizer;

#[test]
fn a_chat_rows_tools_are_looked_at() {
    let row = |tools: &str, calls: &str| {
        serde_json::json!({"conversations": [
            {"role": "system", "content": "", "tools": tools}, {"role": "user", "content": "a"},
            {"role": "assistant", "content": "", "tool_calls": calls},
        ]})
    };
    let fault = |row| check(&row, DataFormat::Chat).err().map(|fault| format!("{fault:?}"));
    assert_eq!(fault(row("[]", "[{\"name\": \"add\", \"arguments\": {}}]")), None);
    assert!(fault(row("[", "[]")).unwrap().contains("`tools` is a string that is not JSON"));
    assert!(fault(row("[]", "{]")).unwrap().contains("`tool_calls` is a string that is not JSON"));
}

#[test]
fn rows_that_teach_nothing_are_counted_and_refused_where_none_teaches() {
    let dir = tempfile::tempdir().unwrap();
    let tok = dir.path().join("tok");
    tokenizer::train::train(std::iter::once(Ok("ab".to_owned())), 300, &tok).unwrap();
    let tokenizer = Tokenizer::load(&tok).unwrap();
    let row = |asked: &str| {
        let turns =
            serde_json::json!([{"role": "user", "content": asked}, {"role": "assistant", "content": "b"}]);
        serde_json::json!({"conversations": turns, "text": asked}).to_string()
    };
    let file = dir.path().join("rows.jsonl");
    std::fs::write(&file, row("a") + "\n" + &row(&"a".repeat(200)) + "\n").unwrap();
    let facts = |format: DataFormat, max_seq_len: usize| {
        let config = DataConfig::files(vec![file.clone()], format);
        let ctx = PrepareContext {
            tokenizer: Some(&tokenizer),
            max_seq_len,
            seed: 7,
            cache_dir: dir.path(),
            system_prompt_ratio: 0.0,
            empty_think_ratio: 0.0,
        };
        prepare(&config, &ctx).unwrap().facts
    };
    let none = facts(DataFormat::Chat, 6);
    assert_eq!((none.rows, none.rows_without_loss, none.loss_tokens), (2, 2, 0));
    let fault = none.check_targets(DataFormat::Chat, 6).unwrap_err().to_string();
    assert!(fault.contains("cut at max_seq_len 6") && fault.contains("raise"), "{fault}");
    // Rows that were not cut have another fault.
    let fault = none.check_targets(DataFormat::Chat, 600).unwrap_err().to_string();
    assert!(fault.contains("chat template") && !fault.contains("raise"), "{fault}");
    let some = facts(DataFormat::Chat, 100);
    assert_eq!(some.rows_without_loss, 1);
    assert!(some.check_targets(DataFormat::Chat, 100).is_ok());
    assert_eq!(facts(DataFormat::Chat, 400).rows_without_loss, 0);
    assert_eq!(facts(DataFormat::Text, 6).rows_without_loss, 0);
}

#[test]
fn a_row_that_the_template_refuses_is_named_or_skipped() {
    let dir = tempfile::tempdir().unwrap();
    let tok = dir.path().join("tok");
    tokenizer::train::train(std::iter::once(Ok("ab".to_owned())), 300, &tok).unwrap();
    let template = "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}";
    std::fs::write(tok.join("chat_template.jinja"), template).unwrap();
    let tokenizer = Tokenizer::load(&tok).unwrap();
    let turn = |role: &str| serde_json::json!({"role": role, "content": "a"});
    let rows = [vec![turn("user"), turn("assistant")], vec![turn("user"), turn("user"), turn("assistant")]];
    let line = |turns: &Vec<Value>| serde_json::json!({"conversations": turns}).to_string() + "\n";
    let file = dir.path().join("rows.jsonl");
    std::fs::write(&file, rows.iter().map(line).collect::<String>()).unwrap();
    let mut config = DataConfig::files(vec![file.clone()], DataFormat::Chat);
    let ctx = PrepareContext {
        tokenizer: Some(&tokenizer),
        max_seq_len: 100,
        seed: 7,
        cache_dir: dir.path(),
        // The template refuses a system prompt: none is put in front.
        system_prompt_ratio: 1.0,
        empty_think_ratio: 0.0,
    };
    let fault = prepare(&config, &ctx).unwrap_err();
    assert_eq!(fault.place().unwrap().line, Some(2));
    assert!(fault.to_string().contains("roles must alternate"), "{fault}");
    config.on_bad_row = OnBadRow::Skip;
    let facts = prepare(&config, &ctx).unwrap().facts;
    assert_eq!((facts.rows, facts.skipped_rows, facts.rows_without_loss), (1, 1, 0));
}
