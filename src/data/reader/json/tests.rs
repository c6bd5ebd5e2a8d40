//! Every form of a JSON file, and what is wrong with others.

use super::*;
use std::io::{BufReader, Cursor};

/// Rows of a text, read in chunks of a few bytes; a fault ends them.
fn rows(text: &str) -> Vec<String> {
    let read = |capacity: usize| {
        let reader = BufReader::with_capacity(capacity, Cursor::new(text.as_bytes().to_vec()));
        let options = ReadOptions {
            columns: [("conversations".to_owned(), "dialog".to_owned())].into(),
            ..Default::default()
        };
        let rows = JsonRows::new(Path::new("a.json"), Box::new(reader), &options);
        let text = |row: Result<Line>| match row {
            Ok(line) => format!("{} {}", line.number, String::from_utf8_lossy(&line.bytes)),
            Err(error) => error.to_string().lines().next().unwrap_or_default().to_owned(),
        };
        rows.map(text).collect::<Vec<_>>()
    };
    let whole = read(1 << 16);
    assert_eq!(read(1), whole, "{text}");
    assert_eq!(read(3), whole, "{text}");
    whole
}

#[test]
fn every_form_of_file_gives_its_rows() {
    let two = [r#"1 {"a":1}"#, r#"2 {"a":2}"#];
    for text in [
        r#"[{"a":1},{"a":2}]"#,
        r#" [ {"a":1} , {"a":2} ] "#,
        "{\"a\":1}\n{\"a\":2}\n",
        r#"{"a":1}{"a":2}"#,
        r#"{"version": "1", "n": [1, 2], "data": [{"a":1},{"a":2}], "more": {"x": []}}"#,
        r#"[{"a":1}] [{"a":2}]"#,
    ] {
        assert_eq!(rows(text), two, "{text}");
    }
    let pretty = "{\n  \"text\": \"x ]\\\" {\\\\\",\n\t\"b\": [\n{\"c\": 1}\n]\n}\n";
    assert_eq!(rows(pretty), ["1 {\"text\":\"x ]\\\" {\\\\\", \"b\": [ {\"c\": 1} ] }"]);
    // Rows whose own lists hold objects are no wrappers.
    let chat = r#"{"id": 1, "conversations": [{"role": "user"}]}"#;
    assert_eq!(rows(chat).len(), 1);
    assert!(rows(chat)[0].ends_with(r#""conversations":[{"role": "user"}]}"#), "{:?}", rows(chat));
    assert_eq!(rows(r#"{"dialog": [{"role": "user"}]}"#).len(), 1);
    assert_eq!(rows("").len() + rows(" \n").len() + rows("[]").len(), 0);
    assert_eq!(rows("7 \"a\" nul"), ["1 7", "2 \"a\"", "3 nul"]);
}

#[test]
fn what_is_wrong_is_said_at_its_row() {
    for (text, fault) in [
        (r#"[{"a":1}"#, "a.json:2: not JSON: the list does not end"),
        (r#"[{"a":1} {"a":2}]"#, "a.json:2: not JSON: a comma is wanted"),
        (r#"[{"a":1},]"#, "a.json:2: not JSON: a value is wanted"),
        (r#"{"a":1},{"a":2}"#, "a.json:2: not JSON: a value is wanted"),
        (r#"{"a":[{}],"b":[{}]}"#, "two lists of rows: `a` and `b`"),
        (r#"{"a":[{}]} 1"#, "behind the object"),
        (r#"{"a":[{}]"#, "an object does not end"),
        (r#"{"a":[{}],,"#, "a key is wanted"),
        ("]", "a value is wanted"),
    ] {
        let all = rows(text);
        assert!(all.last().is_some_and(|last| last.contains(fault)), "{text}: {all:?}");
    }
    for cut in [r#"{"a": "b"#, r#"{"a""#, r#"{"a":"#, "{", r#"{"a": ]"#, r#"{"a" 1}"#, r#"[{"a": 1"#] {
        let first = rows(cut).remove(0);
        assert!(serde_json::from_str::<serde_json::Value>(&first[2..]).is_err(), "{cut}: {first}");
    }
}
