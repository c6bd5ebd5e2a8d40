//! Multiple-choice questions out of the files that benchmarks come in.
//!
//! Known shapes, told apart by their fields: C-Eval and CMMLU (csv or jsonl with columns question, A, B, ..., answer),
//! ARC and OpenBookQA (`choices: {text, label}` and `answerKey`), PIQA (`goal`, `sol1`, `sol2`), HellaSwag (`ctx`,
//! `endings`), and plain `{"question", "choices", "answer"}`. Prompts are lm-evaluation-harness's, so that figures can be laid
//! side by side. Not here: scoring (`stage::choice`).

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::config::ReadOptions;
use super::jsonl::{self, RowFault};
use super::reader::{self, FileKind};
use crate::error::{Error, Place, Result};

/// A question with its answers.
#[derive(Debug, Clone, PartialEq)]
pub struct ChoiceItem {
    /// What stands before the answer.
    pub prompt: String,
    /// What may follow.
    pub choices: Vec<String>,
    /// Which is right.
    pub answer: usize,
}

/// The questions of one file.
#[derive(Debug, Clone)]
pub struct Subject {
    /// The file's name without its ending.
    pub name: String,
    /// The questions.
    pub items: Vec<ChoiceItem>,
}

/// Letters name answers in exams.
const LETTERS: [&str; 10] = ["A", "B", "C", "D", "E", "F", "G", "H", "I", "J"];
const FORM: &str = "known shapes: question, A, B, C, D, answer; question, choices, answer; question, choices {text, label}, answerKey; \
                    goal, sol1, sol2, label; ctx, endings, label";

/// The files of rows that a path names: itself, or those of a folder in order.
///
/// # Errors
/// A folder without such files, a path that is not there.
pub fn files(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let read = |e| Error::io("list", path, e);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path).map_err(read)? {
        let file = entry.map_err(read)?.path();
        let holds_rows = |kind| !matches!(kind, FileKind::Text | FileKind::Markdown);
        if FileKind::by_name(&file).is_some_and(holds_rows) {
            found.push(file);
        }
    }
    found.sort();
    if found.is_empty() {
        let what = "the folder holds no file of questions, such as .csv, .jsonl or .parquet";
        return Err(Error::input(what).at(Place::file(path)));
    }
    Ok(found)
}

/// Whether a path is a folder of questions, or a file whose first row is one.
pub fn is_multiple_choice(path: &Path) -> bool {
    if path.is_dir() {
        return files(path).is_ok_and(|files| files.first().is_some_and(|file| is_multiple_choice(file)));
    }
    let first = || {
        let line = reader::open(path, &ReadOptions::default()).ok()?.next()?.ok()?;
        jsonl::parse(&line.bytes).ok()?.as_object().cloned()
    };
    path.extension().is_none_or(|e| e != "safetensors") && first().is_some_and(|row| item(&row).is_ok())
}

/// Reads a file of questions.
///
/// # Errors
/// The first row that is no question, at its line.
pub fn read(path: &Path) -> Result<Subject> {
    let rows = rows(path)?;
    let mut items = Vec::with_capacity(rows.len());
    for (line, row) in rows {
        items.push(item(&row).map_err(|fault| fault.at(path, line))?);
    }
    if items.is_empty() {
        return Err(Error::input("the file holds no question").at(Place::file(path)).hint(FORM));
    }
    Ok(Subject { name: FileKind::stem(path), items })
}

type Rows = Vec<(usize, Map<String, Value>)>;

fn rows(path: &Path) -> Result<Rows> {
    let mut rows = Vec::new();
    for line in reader::open(path, &ReadOptions::default())? {
        let line = line?;
        match jsonl::parse(&line.bytes).map_err(|fault| fault.at(path, line.number))? {
            Value::Object(map) => rows.push((line.number, map)),
            _ => unreachable!("a parsed line is an object"),
        }
    }
    Ok(rows)
}

/// A field by its name, whatever its case.
fn field<'a>(row: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    row.get(name)
        .or_else(|| row.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value))
}

fn text(row: &Map<String, Value>, name: &str) -> Option<String> {
    match field(row, name)? {
        Value::String(text) => Some(text.trim().to_owned()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

fn texts(value: &Value) -> Option<Vec<String>> {
    value.as_array()?.iter().map(|v| v.as_str().map(|t| t.trim().to_owned())).collect()
}

/// The right answer's place: a number from 0, a label, or a letter.
fn place(answer: &str, labels: &[String], count: usize) -> Result<usize, RowFault> {
    let found = labels
        .iter()
        .position(|label| label.eq_ignore_ascii_case(answer))
        .or_else(|| answer.parse().ok().filter(|at| *at < count))
        .or_else(|| {
            LETTERS.iter().position(|letter| letter.eq_ignore_ascii_case(answer)).filter(|at| *at < count)
        });
    found.ok_or_else(|| {
        RowFault::new(
            format!("the answer `{answer}` names none of the {count} choices"),
            "give its letter, its label, or its number from 0",
        )
    })
}

fn item(row: &Map<String, Value>) -> Result<ChoiceItem, RowFault> {
    let none = || RowFault::new("no question of a known shape", FORM);
    let answer = || {
        let named = ["answer", "answerKey", "label", "gold"].iter().find_map(|name| text(row, name));
        named.ok_or_else(|| RowFault::new("no field `answer`, `answerKey` or `label`", FORM))
    };
    if let Some(found) = hellaswag(row).or_else(|| piqa(row)) {
        let at = place(&answer()?, &[], found.choices.len())?;
        return Ok(ChoiceItem { answer: at, ..found });
    }
    // ARC's own files keep stem and choices below `question`.
    let nested = field(row, "question").and_then(Value::as_object);
    let question = match nested {
        Some(inner) => text(inner, "stem"),
        None => text(row, "question").or_else(|| text(row, "question_stem")),
    };
    let question = question.ok_or_else(none)?;
    let given = nested
        .and_then(|inner| inner.get("choices"))
        .or_else(|| field(row, "choices"))
        .or_else(|| field(row, "options"));
    if let Some(given) = given {
        let (choices, labels) = labelled(given).ok_or_else(none)?;
        let answer = place(&answer()?, &labels, choices.len())?;
        // OpenBookQA's stems are sentences to be ended; the others are questions.
        let prompt = if field(row, "question_stem").is_some() {
            question
        } else {
            format!("Question: {question}\nAnswer:")
        };
        return several(ChoiceItem { prompt, choices, answer });
    }
    let choices: Vec<String> = LETTERS
        .iter()
        .map_while(|letter| row.get(*letter).map(|_| text(row, letter).unwrap_or_default()))
        .collect();
    if choices.is_empty() {
        return Err(none());
    }
    let letters: Vec<String> = LETTERS[..choices.len()].iter().map(|l| (*l).to_owned()).collect();
    let answer = place(&answer()?, &letters, choices.len())?;
    let listed: String =
        letters.iter().zip(&choices).map(|(letter, choice)| format!("{letter}. {choice}\n")).collect();
    several(ChoiceItem { prompt: format!("{question}\n{listed}答案："), choices: letters, answer })
}

fn several(item: ChoiceItem) -> Result<ChoiceItem, RowFault> {
    match item.choices.len() {
        0 | 1 => Err(RowFault::new("a question needs at least two choices", FORM)),
        _ => Ok(item),
    }
}

/// `[text, ...]`, `[{text, label}, ...]` or `{text: [...], label: [...]}`, as texts and labels.
fn labelled(given: &Value) -> Option<(Vec<String>, Vec<String>)> {
    if let Some(map) = given.as_object() {
        return Some((texts(map.get("text")?)?, map.get("label").and_then(texts).unwrap_or_default()));
    }
    if let Some(plain) = texts(given) {
        return Some((plain, Vec::new()));
    }
    let part = |key: &str| {
        let each = |choice: &Value| choice.get(key)?.as_str().map(|t| t.trim().to_owned());
        given.as_array()?.iter().map(each).collect::<Option<Vec<String>>>()
    };
    Some((part("text")?, part("label")?))
}

fn piqa(row: &Map<String, Value>) -> Option<ChoiceItem> {
    let (goal, first, second) = (text(row, "goal")?, text(row, "sol1")?, text(row, "sol2")?);
    Some(ChoiceItem { prompt: format!("Question: {goal}\nAnswer:"), choices: vec![first, second], answer: 0 })
}

fn hellaswag(row: &Map<String, Value>) -> Option<ChoiceItem> {
    let endings = texts(field(row, "endings")?)?;
    let context = match (text(row, "ctx_a"), text(row, "ctx_b")) {
        (Some(a), Some(b)) => format!("{a} {}", capitalised(&b)),
        _ => text(row, "ctx")?,
    };
    let whole = text(row, "activity_label").map_or(context.clone(), |label| format!("{label}: {context}"));
    let choices = endings.iter().map(|ending| wikihow(ending)).collect();
    Some(ChoiceItem { prompt: wikihow(&whole), choices, answer: 0 })
}

/// Python's `str.capitalize()`: the first letter large, the others small.
fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| {
        first.to_uppercase().collect::<String>() + &chars.as_str().to_lowercase()
    })
}

/// Takes out what is left of WikiHow's mark-up, as the harness does.
fn wikihow(text: &str) -> String {
    let text = text.trim().replace(" [title]", ". ");
    let mut out = String::new();
    let mut rest = text.as_str();
    while let Some((before, after)) = rest.split_once('[') {
        out.push_str(before);
        match after.split_once(']') {
            Some((_, next)) => rest = next,
            None => {
                out.push('[');
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out.replace("  ", " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(name: &str, text: &str) -> Result<ChoiceItem> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        read(&path).map(|subject| subject.items[0].clone())
    }

    #[test]
    fn every_known_shape_is_read() {
        let exam = "Sky?\nA. red\nB. blue, or so\nC. x\nD. y\n答案：";
        for (name, text) in [
            ("cmmlu.csv", ",Question,A,B,C,D,Answer\n0,Sky?,red,\"blue, or so\",x,y,B\n"),
            (
                "ceval.csv",
                "\u{feff}id,question,A,B,C,D,answer,explanation\n0,Sky?,red,\"blue, or so\",x,y,B,why\n",
            ),
            (
                "ceval.jsonl",
                r#"{"question": "Sky?", "A": "red", "B": "blue, or so", "C": "x", "D": "y", "answer": "B"}"#,
            ),
        ] {
            let item = one(name, text).unwrap();
            assert_eq!((item.prompt.as_str(), item.answer), (exam, 1), "{name}");
            assert_eq!(item.choices, ["A", "B", "C", "D"]);
        }
        for text in [
            r#"{"question": "Sky?", "choices": ["red", "blue"], "answer": 1}"#,
            r#"{"question": "Sky?", "choices": {"text": ["red", "blue"], "label": ["1", "2"]}, "answerKey": "2"}"#,
            r#"{"question": {"stem": "Sky?", "choices": [{"text": "red", "label": "A"}, {"text": "blue", "label": "B"}]}, "answerKey": "B"}"#,
            r#"{"goal": "Sky?", "sol1": "red", "sol2": "blue", "label": 1}"#,
        ] {
            let item = one("a.jsonl", text).unwrap();
            let expected = ChoiceItem {
                prompt: "Question: Sky?\nAnswer:".into(),
                choices: vec!["red".into(), "blue".into()],
                answer: 1,
            };
            assert_eq!(item, expected, "{text}");
        }
        let open = one(
            "o.jsonl",
            r#"{"question_stem": "The sky is", "choices": {"text": ["red", "blue"], "label": ["A", "B"]}, "answerKey": "B"}"#,
        );
        assert_eq!(open.unwrap().prompt, "The sky is");
        let swag = one(
            "h.jsonl",
            r#"{"ctx_a": "[header] A man [title] sits.", "ctx_b": "he", "ctx": "?", "activity_label": "Rest", "endings": ["sleeps [step] well.", "flies."], "label": "0"}"#,
        )
        .unwrap();
        assert_eq!((swag.prompt.as_str(), swag.answer), ("Rest: A man. sits. He", 0));
        assert_eq!(swag.choices[0], "sleeps well.");
    }

    #[test]
    fn rows_that_are_no_question_are_named() {
        let fault = |text: &str| one("x.jsonl", text).unwrap_err().to_string();
        assert!(fault(r#"{"text": "a"}"#).contains("x.jsonl:1: no question of a known shape"));
        assert!(
            fault(r#"{"question": "a", "A": "1", "B": "2", "answer": "E"}"#).contains("names none of the 2")
        );
        assert!(fault(r#"{"question": "a", "A": "1", "B": "2"}"#).contains("no field `answer`"));
        assert!(fault(r#"{"question": "a", "choices": ["1"], "answer": 0}"#).contains("at least two"));
        assert!(fault("").contains("no question"));
        assert!(one("x.csv", "question,A,B,answer\n1,2\n").unwrap_err().to_string().contains("not csv"));
    }
}
