//! Rewards that verify: the final number, a tool call, the built-in world's answer.
//!
//! Next: `text` for parts of a completion, `rollout::number` for what equal means.

use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value;

use super::config::{JsonToolConfig, MathConfig, SyntheticReward};
use super::{RewardInput, text};
use crate::data::synthetic;
use crate::rollout::number::Number;
use crate::rollout::tools::{ToolCall, ToolCallFormat};

/// `right` where the completion's final answer is the row's, else `wrong`; with several expected answers, each
/// that occurs in the answer counts its share.
///
/// # Errors
/// A row without the expected answer, or with one of another type.
pub fn math(input: &RewardInput<'_>, config: &MathConfig) -> Result<f64, String> {
    let expected = expected_answers(input.row, config.field.as_deref())?;
    let answer = text::answer(input.completion);
    let share = match &expected[..] {
        [one] => f64::from(u8::from(same_answer(one, answer, config.tolerance))),
        many => {
            let numbers = numbers(answer);
            let found = many.iter().filter(|e| match sole_number(e) {
                Some(wanted) => numbers.iter().any(|n| n.near(wanted, config.tolerance)),
                None => answer.contains(e.as_str()),
            });
            found.count() as f64 / many.len() as f64
        }
    };
    Ok(config.wrong + share * (config.right - config.wrong))
}

/// The expected answers of a row: its `field`, else `gt`, else `answer`; each a text, a number or a list of such.
fn expected_answers(row: &Value, field: Option<&str>) -> Result<Vec<String>, String> {
    let fields: &[&str] = match &field {
        Some(field) => &[field],
        None => &["gt", "answer"],
    };
    let given = fields.iter().find_map(|f| row.get(f).filter(|v| !v.is_null()));
    let given = given.ok_or_else(|| format!("the row has no `{}`", fields.join("` and no `")))?;
    let list = given.as_array().map_or(std::slice::from_ref(given), Vec::as_slice);
    let texts = list.iter().map(|item| match item {
        Value::String(text) => Ok(final_answer(text).unwrap_or(text.trim()).to_owned()),
        Value::Number(number) => Ok(number.to_string()),
        _ => Err(format!("the row's `{}` is neither a text nor a number", fields[0])),
    });
    let texts = texts.collect::<Result<Vec<_>, _>>()?;
    if texts.is_empty() { Err(format!("the row's `{}` is an empty list", fields[0])) } else { Ok(texts) }
}

/// What a text marks as its answer: the last `\boxed{...}`, else what follows the last `####` on its line.
pub fn final_answer(text: &str) -> Option<&str> {
    if let Some(at) = text.rfind("\\boxed{") {
        let inside = &text[at + "\\boxed{".len()..];
        let mut depth = 1;
        for (i, c) in inside.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                return Some(inside[..i].trim());
            }
        }
    }
    let (_, after) = text.rsplit_once("####")?;
    Some(after.trim_start_matches('#').lines().next().unwrap_or_default().trim())
}

/// Whether a text's final answer is the expected one: as a number where the expected one is, else to the letter.
pub fn same_answer(expected: &str, said: &str, tolerance: f64) -> bool {
    let marked = final_answer(said);
    if let Some(wanted) = sole_number(expected) {
        let found = match marked {
            Some(text) => numbers(text).last().copied(),
            None => numbers(said).last().copied(),
        };
        return found.is_some_and(|n| n.near(wanted, tolerance));
    }
    let plain = |text: &str| text.chars().filter(|c| !c.is_whitespace()).collect::<String>().to_lowercase();
    plain(marked.unwrap_or(said)).trim_end_matches(['.', '。'])
        == plain(expected).trim_end_matches(['.', '。'])
}

/// The one number that a text is, units aside.
fn sole_number(text: &str) -> Option<Number> {
    match &numbers(text)[..] {
        [one] => Some(*one),
        _ => None,
    }
}

/// Every number of a text: `1,234.5`, `-3`, `3/4`, `\frac{3}{4}`, `1e6`; currency and percent signs are units.
pub fn numbers(text: &str) -> Vec<Number> {
    static FORM: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(
            r"(?x) (?P<sign>[-−])? \s? [$¥€£]? (?:
                \\[dt]?frac\{ \s* (?P<top>-?\d+) \s* \}\{ \s* (?P<bottom>\d+) \s* \}
              | (?P<plain> (?: \d{1,3}(?:,\d{3})+ | \d+ ) (?: \.\d+ )? | \.\d+ ) (?P<exp>[eE][-+]?\d+)? (?: \s?/\s? (?P<over>\d+) )?
            )",
        )
        .expect("a valid pattern")
    });
    FORM.captures_iter(text)
        .filter_map(|found| {
            let get = |name: &str| found.name(name).map(|m| m.as_str());
            let whole = found.get(0)?;
            let apart = whole.as_str().chars().nth(1).is_some_and(char::is_whitespace);
            let minus = get("sign").is_some() && !subtracts(&text[..whole.start()], apart);
            let value = if let Some(top) = get("top") {
                let size =
                    Number::parse(top.trim_start_matches('-'))?.over(Number::parse(get("bottom")?)?)?;
                if top.starts_with('-') { size.negated() } else { size }
            } else {
                let digits = get("plain")?.replace(',', "") + get("exp").unwrap_or_default();
                match get("over") {
                    Some(below) => Number::parse(&digits)?.over(Number::parse(below)?)?,
                    None => Number::parse(&digits)?,
                }
            };
            Some(if minus { value.negated() } else { value })
        })
        .collect()
}

/// Whether a minus behind `before` takes a value from another and is no sign: `5 -3`, `(a) - 3`, `x-3` and `x - 3`
/// do, `is -3` and `是-3` do not. `apart`: white space follows the minus.
fn subtracts(before: &str, apart: bool) -> bool {
    let close = before.chars().next_back();
    let value = before.trim_end().chars().next_back();
    value.is_some_and(|c| c.is_numeric() || c == ')' || (apart && c.is_alphabetic()))
        || close.is_some_and(|c| c.is_ascii_alphabetic())
}

/// `right` where the answer is the row's `answer` to the letter.
///
/// # Errors
/// A row without `answer`.
pub fn world(input: &RewardInput<'_>, config: &SyntheticReward) -> Result<f64, String> {
    let expected = input.row.get("answer").and_then(Value::as_str);
    let expected = expected.ok_or("the row has no `answer`; the built-in world's rows have")?;
    let same = synthetic::verify(expected, text::answer(input.completion));
    Ok(if same { config.right } else { config.wrong })
}

/// `right` for the expected calls in order, `valid` for others that the row's tools allow, else `wrong`.
///
/// # Errors
/// A row without the expected calls.
pub fn json_tool(
    input: &RewardInput<'_>,
    config: &JsonToolConfig,
    form: &ToolCallFormat,
) -> Result<f64, String> {
    // A row that expects nothing is an error of the data, whatever the completion is.
    let expected = expected_calls(input, &config.field)?.ok_or_else(|| {
        format!("neither the row's `{}` nor its last assistant turn holds the expected call", config.field)
    })?;
    let tools = known_tools(input);
    let calls = form.parse(input.completion, tools.as_deref().unwrap_or_default());
    if calls.is_empty() || calls.iter().any(|call| call.fault.is_some()) {
        return Ok(config.wrong);
    }
    let same = |(e, c): (&ToolCall, &ToolCall)| e.name == c.name && same_json(&e.arguments, &c.arguments);
    if expected.len() == calls.len() && expected.iter().zip(&calls).all(same) {
        return Ok(config.right);
    }
    let valid = calls.iter().all(|call| tools.as_ref().is_none_or(|tools| allows(tools, call)));
    Ok(if valid { config.valid } else { config.wrong })
}

/// JSON that may be written as a text.
fn unfolded(value: &Value) -> Option<Value> {
    match value {
        Value::String(text) => serde_json::from_str(text).ok(),
        Value::Null => None,
        other => Some(other.clone()),
    }
}

fn expected_calls(input: &RewardInput<'_>, field: &str) -> Result<Option<Vec<ToolCall>>, String> {
    let own = input.row.get(field).and_then(unfolded);
    let turns = input.row.get("conversations").and_then(Value::as_array);
    let last = || turns?.last().filter(|m| m["role"] == "assistant")?.get("tool_calls").and_then(unfolded);
    let Some(value) = own.or_else(last) else { return Ok(None) };
    let list = value.as_array().map_or(std::slice::from_ref(&value), Vec::as_slice);
    let calls: Vec<ToolCall> = list.iter().map(ToolCall::from_json).collect();
    match calls.iter().find_map(|call| call.fault.as_ref()) {
        Some(fault) => Err(format!("the row's expected call cannot be read: {fault}")),
        None => Ok(Some(calls)),
    }
}

fn known_tools(input: &RewardInput<'_>) -> Option<Vec<Value>> {
    let of = |value: &Value| value.get("tools").and_then(unfolded)?.as_array().cloned();
    of(input.row).or_else(|| input.prompt_messages.iter().find_map(of)).filter(|tools| !tools.is_empty())
}

/// Whether one of the tools has the call's name and every required argument is given.
fn allows(tools: &[Value], call: &ToolCall) -> bool {
    tools.iter().any(|tool| {
        let function = tool.get("function").unwrap_or(tool);
        let required = function["parameters"]["required"].as_array();
        function["name"] == call.name.as_str()
            && required
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .all(|key| call.arguments.get(key).is_some())
    })
}

/// Equal as JSON, numbers by value and texts without white space around them.
fn same_json(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(x), Value::Number(y)) => x == y || x.as_f64() == y.as_f64(),
        (Value::String(x), Value::String(y)) => x.trim() == y.trim(),
        (Value::Array(x), Value::Array(y)) => {
            x.len() == y.len() && x.iter().zip(y).all(|(x, y)| same_json(x, y))
        }
        (Value::Object(x), Value::Object(y)) => {
            x.len() == y.len() && x.iter().all(|(key, x)| y.get(key).is_some_and(|y| same_json(x, y)))
        }
        _ => a == b,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn scored(row: &Value, completion: &str) -> f64 {
        let input = RewardInput { prompt_messages: &[], prompt: "", completion, row };
        math(&input, &MathConfig::default()).unwrap()
    }

    #[test]
    fn final_answers_are_compared_as_numbers() {
        for (expected, said) in [
            ("18", "She makes 9 * 2 = $18 every day."),
            ("18", "so\n#### 18"),
            ("#### 1,234", "\\boxed{1234.0}"),
            ("0.5", "\\boxed{\\frac{1}{2}}"),
            ("1/2", "the share is 50 or \\boxed{0.5}"),
            ("-3", "x = -3"),
            ("-3", "The answer is -3"),
            ("-5", "It is -5 degrees."),
            ("-0.25", "I get -1/4"),
            ("-3", "答案是-3"),
            ("-4", "so (-4)"),
            ("9", "16 - 3 - 4 = 9."),
            ("42", "thinking of 7</think>\nThe answer is 42 apples"),
            ("42", "<think>\n1\n</think>\n<answer>\n42\n</answer>"),
            ("1e3", "1000"),
            ("5%", "5 %"),
            ("Paris", "\\boxed{paris.}"),
        ] {
            assert_eq!(scored(&json!({"gt": [expected]}), said), 1.0, "{expected}: {said}");
        }
        for (expected, said) in [
            ("18", "18 and then 19"),
            ("18", "#### 19 (not 18)\n18\n#### 17"),
            ("3", "10 - 3 = 7"),
            ("-3", "10 - 3"),
            ("-3", "x - 3"),
            ("-3", "x-3"),
            ("3", "The answer is -3"),
            ("18", "none"),
            ("18", ""),
            ("1", "\\boxed{"),
        ] {
            assert_eq!(scored(&json!({"gt": [expected]}), said), 0.0, "{expected}: {said}");
        }
    }

    #[test]
    fn several_answers_count_by_share_and_a_row_without_one_is_a_fault() {
        let row = json!({"gt": ["4", 9, "red"]});
        assert!((scored(&row, "4 apples, red ones") - 2.0 / 3.0).abs() < 1e-12);
        assert_eq!(scored(&json!({"answer": "2 * 36 = <<2*36=72>>72\n#### 72"}), "72"), 1.0);
        let fault = |row: &Value| {
            let input = RewardInput { prompt_messages: &[], prompt: "", completion: "1", row };
            math(&input, &MathConfig::default()).unwrap_err()
        };
        assert_eq!(fault(&json!({})), "the row has no `gt` and no `answer`");
        assert!(fault(&json!({"gt": []})).contains("empty"));
        assert!(fault(&json!({"gt": [true]})).contains("neither"));
    }

    #[test]
    fn tool_calls_need_name_and_arguments() {
        let tools =
            json!([{"type": "function", "function": {"name": "add", "parameters": {"required": ["a"]}}}]);
        let system = [json!({"role": "system", "content": "", "tools": tools.to_string()})];
        let row = json!({"tool_calls": [{"name": "add", "arguments": {"a": 1, "b": [" x "]}}]});
        let value = |said: &str| {
            let completion = format!("<tool_call>{said}</tool_call>");
            let input =
                RewardInput { prompt_messages: &system, prompt: "", completion: &completion, row: &row };
            json_tool(&input, &JsonToolConfig::default(), &ToolCallFormat::default()).unwrap()
        };
        assert_eq!(value(r#"{"name": "add", "arguments": {"b": ["x"], "a": 1.0}}"#), 1.0);
        assert_eq!(value(r#"{"name": "add", "arguments": {"a": 2}}"#), 0.25);
        assert_eq!(value(r#"{"name": "add", "arguments": {"b": 2}}"#), 0.0);
        assert_eq!(value(r#"{"name": "sub", "arguments": {"a": 2}}"#), 0.0);
        assert_eq!(value("{"), 0.0);
        let input = RewardInput {
            prompt_messages: &[],
            prompt: "",
            completion: "<tool_call>{\"name\": \"a\"}</tool_call>",
            row: &json!({}),
        };
        assert!(json_tool(&input, &JsonToolConfig::default(), &ToolCallFormat::default()).is_err());
        assert!(
            json_tool(
                &RewardInput { completion: "no call", ..input },
                &JsonToolConfig::default(),
                &ToolCallFormat::default()
            )
            .is_err()
        );
        let turns = json!({"conversations": [{"role": "assistant", "tool_calls": "[{\"name\": \"a\", \"arguments\": {}}]"}]});
        assert_eq!(
            json_tool(
                &RewardInput { row: &turns, ..input },
                &JsonToolConfig::default(),
                &ToolCallFormat::default()
            ),
            Ok(1.0)
        );
    }

    #[test]
    fn the_worlds_verifier_is_strict() {
        let row = json!({"answer": "Belmar"});
        let value = |completion: &str| {
            let input = RewardInput { prompt_messages: &[], prompt: "", completion, row: &row };
            world(&input, &SyntheticReward::default()).unwrap()
        };
        assert_eq!(
            [" Belmar\n", "hm</think>\n\nBelmar", "Belmar.", "belmar"].map(value),
            [1.0, 1.0, 0.0, 0.0]
        );
    }
}
