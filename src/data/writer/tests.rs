//! Rows of anything, written and read back.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::data::config::ReadOptions;
use crate::data::reader;

fn rows(values: &[Value]) -> impl Iterator<Item = Result<OutRow>> + use<> {
    let place = |i| Place::line("rows", i + 1);
    let texts: Vec<_> = values.iter().map(Value::to_string).collect();
    texts.into_iter().enumerate().map(move |(i, text)| Ok(OutRow { place: place(i), bytes: text.into() }))
}

fn read(path: &Path, split: Option<TextSplit>) -> Vec<Value> {
    let options = ReadOptions { split, ..ReadOptions::default() };
    let lines = reader::open(path, &options).unwrap();
    lines.map(|line| serde_json::from_slice(&line.unwrap().bytes).unwrap()).collect()
}

#[test]
fn every_packing_holds_the_rows() {
    let folder = tempfile::tempdir().unwrap();
    let values: Vec<_> = (0..500).map(|i| json!({"text": format!("row {i}: Grüße\n世界"), "n": i})).collect();
    for ending in ["", ".gz", ".zst", ".xz", ".bz2"] {
        let path = folder.path().join(format!("new/a.jsonl{ending}"));
        let written = write(&path, rows(&values), &WriteOptions::default()).unwrap();
        assert_eq!(written, Written { rows: 500, notes: Vec::new() });
        assert_eq!(read(&path, None), values, "{ending}");
        assert!(ending.is_empty() || std::fs::metadata(&path).unwrap().len() < 10_000, "{ending}");
    }
}

#[test]
fn files_that_are_there_stay_and_faults_leave_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.jsonl");
    let row = [json!({"text": "a"})];
    write(&path, rows(&row), &WriteOptions::default()).unwrap();
    let error = write(&path, rows(&[]), &WriteOptions::default()).unwrap_err();
    assert_eq!((error.exit_code(), error.hint_text()), (2, Some("--force replaces it")));
    write(&path, rows(&[]), &WriteOptions { replace: true, ..WriteOptions::default() }).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"");
    for name in ["b.jsonl", "b.json", "b.csv", "b.parquet", "b.arrow.gz", "b.txt"] {
        let stop = std::iter::once(Err(Error::input("no")));
        let error = write(&folder.path().join(name), rows(&row).chain(stop), &WriteOptions::default());
        assert_eq!(error.unwrap_err().what(), "no");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    for (name, word) in [("a.docx", "what kind"), ("a.parquet.gz", "inside"), ("a.gz", "what kind")] {
        let error = write(&folder.path().join(name), rows(&row), &WriteOptions::default()).unwrap_err();
        assert!(error.exit_code() == 2 && error.what().contains(word), "{error}");
    }
}

#[test]
fn text_files_hold_only_what_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.txt");
    let put = |texts: &[&str], split: Option<TextSplit>| {
        let values: Vec<_> = texts.iter().map(|text| json!({"text": text})).collect();
        let options = WriteOptions { split, replace: true };
        write(&path, rows(&values), &options).map(|_| std::fs::read_to_string(&path).unwrap())
    };
    let marker = |text: &str| Some(TextSplit::Marker(text.to_owned()));
    assert_eq!(put(&["a\n\nb\n"], None).unwrap(), "a\n\nb\n");
    assert_eq!(put(&["a", "b"], Some(TextSplit::Line)).unwrap(), "a\nb\n");
    assert_eq!(put(&["a\nx", "b"], Some(TextSplit::Paragraph)).unwrap(), "a\nx\n\nb\n");
    assert_eq!(put(&["a\n\n", "b"], marker("<|end|>")).unwrap(), "a\n<|end|>\nb\n");
    for (texts, split, word) in [
        (&["a", "b"][..], None, "second text"),
        (&["a\nb"], Some(TextSplit::Line), "several lines"),
        (&["a\n\nb"], Some(TextSplit::Paragraph), "empty line"),
        (&["a\n \nb"], Some(TextSplit::Paragraph), "empty line"),
        (&["a<|end|>"], marker("<|end|>"), "marker"),
        (&[" "], Some(TextSplit::Line), "empty text"),
    ] {
        let error = put(texts, split).unwrap_err();
        assert!(error.what().contains(word) && error.place().is_some(), "{error}");
    }
    let chat = [json!({"conversations": [], "id": 1})];
    let error = write(&folder.path().join("b.txt"), rows(&chat), &WriteOptions::default()).unwrap_err();
    assert!(error.what().contains("conversations, id"), "{error}");
    let more = [json!({"text": "a", "id": 1})];
    let written = write(&folder.path().join("c.txt"), rows(&more), &WriteOptions::default()).unwrap();
    assert_eq!(written.notes, ["a text file holds text alone; left out: `id`"]);
}

/// A value without the nulls of objects, whole numbers that are exact as fractions as those.
fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(object) => {
            let kept = object.iter().filter(|(_, value)| !value.is_null());
            kept.map(|(key, value)| (key.clone(), without_nulls(value))).collect()
        }
        Value::Array(items) => items.iter().map(without_nulls).collect(),
        Value::Number(number) => match number.as_f64() {
            Some(same) if same.abs() < 9e15 => json!(same),
            _ => value.clone(),
        },
        other => other.clone(),
    }
}

/// What a table's cells are read as: `rest` is a column that no shape knows, whose cells may be lists and objects.
fn as_cells(rows: &[Value]) -> Vec<Value> {
    let mut names: Vec<&String> = Vec::new();
    for name in rows.iter().flat_map(|row| row.as_object().unwrap().keys()) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let cell = |name: &str, value: &Value| match value {
        Value::Null => json!(""),
        Value::Array(_) | Value::Object(_) if name == "text" => json!(value.to_string()),
        Value::Array(_) | Value::Object(_) => value.clone(),
        Value::String(text) => {
            let trimmed = text.trim_ascii();
            let looks = name != "text" && (trimmed.starts_with('[') || trimmed.starts_with('{'));
            match serde_json::from_str(trimmed) {
                Ok(value) if looks => value,
                _ => json!(text),
            }
        }
        other => json!(other.to_string()),
    };
    rows.iter()
        .map(|row| names.iter().map(|name| ((*name).clone(), cell(name, &row[name.as_str()]))).collect())
        .collect()
}

fn value(depth: u32) -> BoxedStrategy<Value> {
    let number = prop_oneof![
        any::<i64>().prop_map(|n| json!(n)),
        (-9i64..9).prop_map(|n| json!(n)),
        any::<u64>().prop_map(|n| json!(n)),
        proptest::num::f64::NORMAL.prop_map(|n| json!(n)),
    ];
    let text = prop_oneof![
        "[a-z \"',\t\n\r\\\\{}\\[\\]:0-9äß世🚀]{0,12}",
        Just("[1, 2]".to_owned()),
        Just("007".to_owned()),
        Just("null".to_owned())
    ];
    let leaf = prop_oneof![
        1 => Just(Value::Null),
        1 => any::<bool>().prop_map(Value::from),
        2 => number,
        4 => text.prop_map(Value::from),
    ];
    if depth == 0 {
        return leaf.boxed();
    }
    prop_oneof![
        3 => leaf,
        1 => proptest::collection::vec(value(depth - 1), 0..4).prop_map(Value::from),
        1 => object(depth - 1),
    ]
    .boxed()
}

fn object(depth: u32) -> impl Strategy<Value = Value> {
    let key = prop_oneof!["[a-c]", Just("Über \"x\"".to_owned()), Just("role".to_owned())];
    proptest::collection::vec((key, value(depth)), 0..4).prop_map(|pairs| pairs.into_iter().collect())
}

/// Rows as data sets have them, each column of one kind, and rows of anything.
fn some_rows() -> impl Strategy<Value = Vec<Value>> {
    let turn = ("[a-z]{1,5}", "[^\u{0}-\u{8}\u{feff}]{0,20}")
        .prop_map(|(role, content)| json!({"role": role, "content": content}));
    let tidy = (proptest::collection::vec(turn, 1..4), any::<i32>(), any::<Option<bool>>())
        .prop_map(|(turns, n, flag)| json!({"conversations": turns, "n": n, "flag": flag}));
    let any_row = (value(0), value(3), value(2))
        .prop_map(|(text, rest, id)| json!({"text": text, "rest": rest, "n1": id}));
    prop_oneof![proptest::collection::vec(tidy, 1..8), proptest::collection::vec(any_row, 1..8),]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn rows_come_back_from_every_kind(values in some_rows()) {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a.jsonl", "a.json.gz", "a.csv", "a.tsv.zst", "a.parquet", "a.arrow", "a.arrow.bz2", "a.ndjson.xz"] {
            let path = folder.path().join(name);
            let written = write(&path, rows(&values), &WriteOptions::default()).unwrap();
            prop_assert_eq!(written.rows, values.len());
            let found = read(&path, None);
            match name {
                "a.csv" | "a.tsv.zst" => prop_assert_eq!(&found, &as_cells(&values), "{}", name),
                "a.parquet" | "a.arrow" | "a.arrow.bz2" => {
                    let (found, want): (Vec<_>, Vec<_>) =
                        (found.iter().map(without_nulls).collect(), values.iter().map(without_nulls).collect());
                    prop_assert_eq!(found, want, "{}", name);
                }
                _ => prop_assert_eq!(&found, &values, "{}", name),
            }
        }
    }
}

#[test]
fn columns_of_several_kinds_are_json_and_said() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    let many = |i: usize| -> Value { (0..100).map(|k| (format!("k{}", i * 100 + k), json!(k))).collect() };
    let values: Vec<_> = (0..4)
        .map(|i| json!({"tools": if i == 0 { json!("text") } else { json!([i]) }, "n": [1, 2.5], "many": many(i), "none": null}))
        .collect();
    let written = write(&path, rows(&values), &WriteOptions::default()).unwrap();
    let note = "values of several kinds, and objects that have no or too many keys, are written as JSON text: `tools`, `many`";
    assert_eq!(written.notes, [note]);
    let found = read(&path, None);
    assert_eq!(found[0]["tools"], "text");
    assert_eq!(found[3]["tools"], json!([3]));
    assert_eq!(found[2]["many"], values[2]["many"]);
    assert_eq!((&found[1]["n"], found[1].get("none")), (&json!([1.0, 2.5]), None));
    for empty in [vec![], vec![json!({})]] {
        let error =
            write(&folder.path().join("b.parquet"), rows(&empty), &WriteOptions::default()).unwrap_err();
        assert!(error.what().contains("no column"), "{error}");
    }
}
