//! Tool calls out of a model's text: `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`.
//!
//! A call that cannot be read is kept with what is wrong with it, so that the model can be told. Next: `mod`.

use serde_json::{Map, Value, json};

use crate::rollout::rewards::text::THINK_END;

const OPEN: &str = "<tool_call>";
const CLOSE: &str = "</tool_call>";

/// One call.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolCall {
    /// The tool; empty where it could not be read.
    pub name: String,
    /// Its arguments: an object.
    pub arguments: Value,
    /// What is wrong with the block, for the model.
    pub fault: Option<String>,
}

impl ToolCall {
    fn broken(name: &str, fault: impl Into<String>) -> Self {
        Self { name: name.to_owned(), arguments: Value::Object(Map::new()), fault: Some(fault.into()) }
    }

    /// Reads `{"name", "arguments"}`, or OpenAI's `{"function": {...}}`; arguments may be a JSON text.
    pub fn from_json(value: &Value) -> Self {
        let call = value.get("function").filter(|f| f.is_object()).unwrap_or(value);
        let Some(name) = call.get("name").and_then(Value::as_str).filter(|name| !name.is_empty()) else {
            return Self::broken("", "the call has no `name`");
        };
        let arguments = match call.get("arguments").or_else(|| call.get("parameters")) {
            None | Some(Value::Null) => json!({}),
            Some(Value::String(text)) if text.trim().is_empty() => json!({}),
            Some(Value::String(text)) => match serde_json::from_str(text) {
                Ok(value) => value,
                Err(error) => return Self::broken(name, format!("`arguments` is not JSON: {error}")),
            },
            Some(other) => other.clone(),
        };
        if !arguments.is_object() {
            return Self::broken(name, "`arguments` is not an object");
        }
        Self { name: name.to_owned(), arguments, fault: None }
    }

    /// The call as a message's `tool_calls` holds it.
    pub fn to_json(&self) -> Value {
        json!({"name": self.name, "arguments": self.arguments})
    }
}

/// Every call of a text in order. What stands in the thinking part is no call.
pub fn parse_tool_calls(text: &str) -> Vec<ToolCall> {
    let mut rest = text.rsplit_once(THINK_END).map_or(text, |(_, after)| after);
    let mut calls = Vec::new();
    while let Some((_, after)) = rest.split_once(OPEN) {
        let Some((block, next)) = after.split_once(CLOSE) else {
            calls.push(ToolCall::broken("", format!("`{OPEN}` is not closed by `{CLOSE}`")));
            break;
        };
        rest = next;
        calls.push(match serde_json::from_str::<Value>(block.trim()) {
            Ok(value) => ToolCall::from_json(&value),
            Err(error) => ToolCall::broken("", format!("the call is not JSON: {error}")),
        });
    }
    calls
}

/// The text around the calls, stripped: what a user reads.
pub fn without_tool_calls(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(OPEN) {
        out.push_str(before);
        rest = after.split_once(CLOSE).map_or("", |(_, next)| next);
    }
    out.push_str(rest);
    out.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_read_in_order() {
        let text = "Let me see.\n<tool_call>\n{\"name\": \"a\", \"arguments\": {\"x\": 1}}\n</tool_call>\n\
                    <tool_call>{\"function\": {\"name\": \"b\", \"arguments\": \"{\\\"y\\\": [2]}\"}}</tool_call> done";
        let calls = parse_tool_calls(text);
        assert_eq!(calls[0], ToolCall { name: "a".into(), arguments: json!({"x": 1}), fault: None });
        assert_eq!(calls[1], ToolCall { name: "b".into(), arguments: json!({"y": [2]}), fault: None });
        assert_eq!(calls.len(), 2);
        assert_eq!(without_tool_calls(text), "Let me see.\n\n done");
        assert!(parse_tool_calls("<tool_call>{\"name\": \"a\"}</tool_call></think> no").is_empty());
    }

    #[test]
    fn broken_calls_say_what_is_wrong() {
        let fault = |text: &str| parse_tool_calls(text)[0].fault.clone().unwrap();
        assert!(fault("<tool_call>{\"name\": \"a\"}").contains("not closed"));
        assert!(fault("<tool_call>{name: a}</tool_call>").contains("not JSON"));
        assert!(fault("<tool_call>[1]</tool_call>").contains("no `name`"));
        assert!(
            fault("<tool_call>{\"name\": \"a\", \"arguments\": 3}</tool_call>").contains("not an object")
        );
        assert!(fault("<tool_call>{\"name\": \"a\", \"arguments\": \"{\"}</tool_call>").contains("not JSON"));
        assert!(parse_tool_calls("none").is_empty());
    }
}
