//! Math word problems: the final number of a greedy answer is compared with the row's.
//!
//! GSM8K's own rows (`question`, `answer` with `####`), or conversations with `gt` or `answer`. What a final answer is:
//! `rollout::rewards::answers`.

use serde_json::{Map, Value, json};

use super::measurement::Measurement;
use super::wilson::wilson;
use crate::data::{Tokenizer, source};
use crate::error::{Error, Result};
use crate::model::CausalLm;
use crate::rollout::rewards::{MathConfig, RewardInput, answers};
use crate::rollout::{GenerateConfig, generate_batch};
use crate::stage::greedy::chat_prompt_ids;

/// Answers that are shown, wrong ones first.
const SHOWN: usize = 10;

/// The messages up to the answer; `None` where the row has no question.
fn messages(row: &Value) -> Option<Vec<Value>> {
    if let Some(turns) = row["conversations"].as_array() {
        let end = turns.iter().rposition(|turn| turn["role"] == "user")? + 1;
        return Some(turns[..end].to_vec());
    }
    let asked = row["question"].as_str().or_else(|| row["prompt"].as_str())?;
    Some(vec![json!({"role": "user", "content": asked})])
}

/// What a row must hold.
const FORM: &str = "math wants `question` and `answer`, or `conversations` and `gt`";

/// Whether a row is a question with its answer.
///
/// # Errors
/// What is missing.
pub fn check(row: &Value) -> Result<()> {
    let asked = messages(row).ok_or_else(|| Error::input("the row has no question").hint(FORM))?;
    let input = RewardInput { prompt_messages: &asked, prompt: "", completion: "", row };
    answers::math(&input, &MathConfig::default()).map(|_| ()).map_err(|what| Error::input(what).hint(FORM))
}

/// An expected answer as a text.
fn shown_answer(value: &Value) -> String {
    match value {
        Value::String(text) => answers::final_answer(text).unwrap_or(text).to_owned(),
        Value::Array(list) => list.iter().map(shown_answer).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

/// Accuracy with its interval, and some answers, wrong ones first.
///
/// # Errors
/// Rows that cannot be read, or lack question or answer.
pub fn measure(
    model: &CausalLm,
    tokenizer: &Tokenizer,
    what: &Measurement<'_>,
) -> Result<(Map<String, Value>, Vec<Value>)> {
    let mut rows = Vec::new();
    for row in source::rows(what.data)?.take(what.limit.unwrap_or(usize::MAX)) {
        let source::SourceRow { place, row } = row?;
        let asked =
            messages(&row).ok_or_else(|| Error::input("the row has no question").at(place).hint(FORM))?;
        rows.push((row, asked));
    }
    if rows.is_empty() {
        return Err(Error::input("there is no question").hint(FORM));
    }
    let prompts = rows
        .iter()
        .map(|(_, asked)| chat_prompt_ids(tokenizer, &Value::from(asked.clone())))
        .collect::<Result<Vec<_>>>()?;
    let config = GenerateConfig::greedy(what.max_new_tokens, what.eos_token_ids);
    let outputs = generate_batch(model, &prompts, &config)?;
    let (mut right, mut shown) = (0, Vec::new());
    for ((row, asked), ids) in rows.iter().zip(outputs) {
        let got = tokenizer.decode(&ids, true)?;
        let input = RewardInput { prompt_messages: asked, prompt: "", completion: &got, row };
        let score = answers::math(&input, &MathConfig::default())
            .map_err(|what| Error::input(what).hint("math wants `answer` or `gt` in every row"))?;
        let correct = score == 1.0;
        right += usize::from(correct);
        let question = asked.last().map_or(&Value::Null, |turn| &turn["content"]);
        let expected = shown_answer(if row["gt"].is_null() { &row["answer"] } else { &row["gt"] });
        shown
            .push(json!({"question": question, "expected": expected, "got": got.trim(), "correct": correct}));
    }
    let (low, high) = wilson(right, rows.len());
    let metrics = [
        ("math_accuracy", json!(right as f64 / rows.len() as f64)),
        ("math_accuracy_low", json!(low)),
        ("math_accuracy_high", json!(high)),
        ("questions", json!(rows.len())),
    ];
    shown.sort_by_key(|answer| answer["correct"] == true);
    shown.truncate(SHOWN);
    Ok((metrics.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(), shown))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_found_in_both_forms() {
        let plain = messages(&json!({"question": "2 + 2?", "answer": "#### 4"})).unwrap();
        assert_eq!(plain, [json!({"role": "user", "content": "2 + 2?"})]);
        let turns = json!({"conversations": [{"role": "user", "content": "a"}, {"role": "assistant", "content": ""}], "gt": ["4"]});
        assert_eq!(messages(&turns).unwrap().len(), 1);
        assert_eq!(messages(&json!({"text": "a"})), None);
    }
}
