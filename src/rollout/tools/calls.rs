//! Tool calls out of a model's text, in the form that its chat template writes: by default
//! `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`.
//!
//! A call that cannot be read is kept with what is wrong with it, so that the model gets to know. White space between a
//! form's parts is not looked at: models differ from their own template there. Next: `call_format`, `call_scan`, `mod`.

use serde_json::{Map, Value, json};

use super::call_format::{Body, ToolCallFormat};
use super::call_scan::json_end;
use crate::rollout::rewards::text::THINK_END;

/// What Llama 3 may put before a call.
pub const PYTHON_TAG: &str = "<|python_tag|>";

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
        Self { name: name.to_owned(), arguments: without_negative_zero(arguments), fault: None }
    }

    /// The call as a message's `tool_calls` holds it.
    pub fn to_json(&self) -> Value {
        json!({"name": self.name, "arguments": self.arguments})
    }
}

impl ToolCallFormat {
    /// Every call of a text in order. What stands in the thinking part is no call. `tools` tell which arguments are text
    /// where the form does not.
    pub fn parse(&self, text: &str, tools: &[Value]) -> Vec<ToolCall> {
        let (start, end) = (self.start_marker.as_str(), self.end_marker.as_str());
        let mut rest = text;
        if start.is_empty() {
            while let Some((at, _)) = self.first_marker(without_tag(rest), &[THINK_END]) {
                rest = &without_tag(rest)[at + THINK_END.len()..];
            }
            return self.bare_call(rest).map_or_else(Vec::new, |text| self.parse_block(text, tools));
        }
        let mut calls = Vec::new();
        loop {
            let (thought, call) = (rest.find(THINK_END), rest.find(start));
            if let Some(at) = thought.filter(|at| call.is_none_or(|call| *at < call)) {
                calls.clear();
                rest = &rest[at + THINK_END.len()..];
                continue;
            }
            let Some(at) = call else { return calls };
            let inside = &rest[at + start.len()..];
            let marks = [THINK_END, if end.is_empty() { start } else { end }];
            let block = match self.first_marker(inside, &marks) {
                // A call that the model only thinks of; the loop finds the end of the thought.
                Some((at, 0)) => {
                    rest = &inside[at..];
                    continue;
                }
                Some((at, _)) => &inside[..at],
                None if end.is_empty() => inside,
                None => {
                    calls.push(ToolCall::broken("", format!("`{start}` is not closed by `{end}`")));
                    return calls;
                }
            };
            rest = inside[block.len()..].strip_prefix(end).unwrap_or_default();
            calls.extend(self.parse_block(block, tools));
        }
    }

    /// Where a call is the whole text: that text, if it may be one.
    pub fn bare_call<'a>(&self, text: &'a str) -> Option<&'a str> {
        let text = without_tag(text.trim());
        let object = text.starts_with('{');
        let value = serde_json::Deserializer::from_str(text).into_iter::<Value>().next();
        match value {
            Some(Ok(value)) => (object && value["name"].is_string()).then_some(text),
            _ => (object && text.contains("\"name\"")).then_some(text),
        }
    }

    /// The calls between two marks, at least one; a block that holds none is a broken call.
    pub fn parse_block(&self, block: &str, tools: &[Value]) -> Vec<ToolCall> {
        match &self.body {
            Body::Json { .. } => objects(block),
            Body::Named { middle } => named(block, middle.trim()),
            Body::Pairs { .. } => vec![self.pairs(block, tools)],
        }
    }

    /// A call that was cut off behind its name: what there is of its arguments as JSON text.
    pub fn parse_truncated(&self, block: &str, tools: &[Value]) -> Option<(String, String)> {
        match &self.body {
            Body::Json { .. } => cut_object(block.trim_start().trim_start_matches('[')),
            Body::Named { middle } => {
                let (name, arguments) = block.split_once(middle.trim())?;
                Some((last_word(name).to_owned(), arguments.trim_start().to_owned()))
            }
            Body::Pairs { .. } => {
                let call = self.pairs(block, tools);
                let mut whole = call.arguments.to_string();
                whole.pop();
                (!call.name.is_empty() && self.name_is_whole(block)).then_some((call.name, whole))
            }
        }
    }

    fn name_is_whole(&self, block: &str) -> bool {
        let Body::Pairs { after_name, before_key, .. } = &self.body else { return true };
        let mark = if after_name.trim().is_empty() { first_line(before_key) } else { after_name.trim() };
        self.behind_opening(block).contains(mark)
    }

    /// A block without what the form writes between its mark and the name.
    fn behind_opening<'a>(&self, block: &'a str) -> &'a str {
        let open = self.open.rsplit_once(&self.start_marker).map_or("", |(_, after)| after).trim();
        let block = block.trim_start();
        block.strip_prefix(open).unwrap_or(block)
    }

    fn pairs(&self, block: &str, tools: &[Value]) -> ToolCall {
        let Body::Pairs { after_name, before_key, middle, after_value } = &self.body else {
            return ToolCall::broken("", "the call cannot be read");
        };
        let mut rest = self.behind_opening(block);
        let stops = [after_name.trim(), before_key.trim(), self.close_tag(), "\n", "<"];
        let end = stops.iter().filter(|stop| !stop.is_empty()).filter_map(|stop| rest.find(*stop)).min();
        let name = rest[..end.unwrap_or(rest.len())].trim();
        if name.is_empty() {
            return ToolCall::broken("", "the call has no name");
        }
        let properties = properties(tools, name);
        let (key_end, value_start) = ends_of(middle);
        let value_end = ends_of(after_value).0;
        let mut arguments = Map::new();
        rest = &rest[end.unwrap_or(rest.len())..];
        while let Some((_, after)) = rest.split_once(before_key.trim()) {
            let Some((key, after)) = after.split_once(key_end) else { break };
            // Key and value stand between two tags, or between the two parts of one.
            let after = if key_end == value_start {
                after
            } else {
                after.split_once(value_start).map_or("", |(_, v)| v)
            };
            // A tag in the JSON of a value is none.
            let json = json_end(after);
            let end = after[json..].find(value_end).map(|end| json + end);
            let Some((value, after)) = end.map(|end| (&after[..end], &after[end + value_end.len()..])) else {
                let fault = Some(format!("the value of `{key}` is not closed"));
                return ToolCall { name: name.to_owned(), arguments: Value::Object(arguments), fault };
            };
            let value = value.strip_prefix('\n').unwrap_or(value);
            let value = value.strip_suffix('\n').unwrap_or(value);
            arguments.insert(key.trim().to_owned(), typed(value, properties.get(key.trim())));
            rest = after;
        }
        ToolCall { name: name.to_owned(), arguments: Value::Object(arguments), fault: None }
    }

    fn close_tag(&self) -> &str {
        first_line(&self.close)
    }
}

/// JSON with 0 in place of -0, which would be written as `-0.0`: no integer for readers that are strict.
fn without_negative_zero(value: Value) -> Value {
    match value {
        Value::Number(n) if n.as_f64().is_some_and(|n| n == 0.0 && n.is_sign_negative()) => 0.into(),
        Value::Array(list) => list.into_iter().map(without_negative_zero).collect(),
        Value::Object(map) => map.into_iter().map(|(key, v)| (key, without_negative_zero(v))).collect(),
        other => other,
    }
}

/// A bare call without what Llama 3 may put before it.
fn without_tag(text: &str) -> &str {
    let text = text.trim_start();
    text.strip_prefix(PYTHON_TAG).map_or(text, str::trim_start)
}

fn first_line(text: &str) -> &str {
    text.trim().lines().next().unwrap_or_default()
}

/// The first and the last tag of a text between two parts, the whole where it has but one.
pub(super) fn ends_of(text: &str) -> (&str, &str) {
    let text = text.trim();
    let first = text.find('>').filter(|at| *at > 0).map_or(text, |at| &text[..=at]);
    let last = text.rfind('<').map_or(text, |at| &text[at..]);
    (first, last)
}

/// What a function's parameters say of each argument.
fn properties(tools: &[Value], name: &str) -> Map<String, Value> {
    let mut functions = tools.iter().map(|tool| tool.get("function").unwrap_or(tool));
    let function = functions.find(|function| function["name"] == name);
    function.and_then(|f| f["parameters"]["properties"].as_object().cloned()).unwrap_or_default()
}

/// A value that was written as text: of the type that the tool declares, and JSON where nothing is declared.
fn typed(text: &str, schema: Option<&Value>) -> Value {
    let kinds: Vec<&str> = match schema.map(|schema| &schema["type"]) {
        Some(Value::String(kind)) => vec![kind.as_str()],
        Some(Value::Array(kinds)) => kinds.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    let known = schema.and_then(|schema| schema["enum"].as_array());
    let only = schema.is_some_and(|schema| schema["const"] == text);
    if kinds == ["string"] || only || known.is_some_and(|known| known.contains(&json!(text))) {
        return text.into();
    }
    let plain = match text.trim() {
        "True" => "true",
        "False" => "false",
        "None" => "null",
        other => other,
    };
    serde_json::from_str(plain).unwrap_or_else(|_| text.into())
}

/// JSON objects one behind the other, or in a list.
fn objects(block: &str) -> Vec<ToolCall> {
    let between = |c: char| c.is_whitespace() || ",;[]".contains(c);
    let (mut calls, mut rest) = (Vec::new(), block.trim_start_matches(between));
    while !rest.is_empty() {
        let mut values = serde_json::Deserializer::from_str(rest).into_iter::<Value>();
        match values.next() {
            Some(Ok(value)) => calls.push(ToolCall::from_json(&value)),
            Some(Err(error)) => {
                calls.push(ToolCall::broken("", format!("the call is not JSON: {error}")));
                return calls;
            }
            None => break,
        }
        let after = values.byte_offset();
        rest = rest[after..].trim_start_matches(between);
    }
    if calls.is_empty() {
        calls.push(ToolCall::broken("", "the call is not JSON: there is nothing"));
    }
    calls
}

/// Names, each before its arguments.
fn named(block: &str, middle: &str) -> Vec<ToolCall> {
    let (mut calls, mut rest) = (Vec::new(), block);
    while let Some((name, after)) = rest.split_once(middle) {
        let name = last_word(name);
        let mut values = serde_json::Deserializer::from_str(after).into_iter::<Value>();
        match values.next() {
            Some(Ok(arguments)) => {
                calls.push(ToolCall::from_json(&json!({"name": name, "arguments": arguments})));
                let end = values.byte_offset();
                rest = &after[end..];
            }
            Some(Err(error)) => {
                calls.push(ToolCall::broken(name, format!("the arguments are not JSON: {error}")));
                return calls;
            }
            None => {
                calls.push(ToolCall::broken(name, "the call has no arguments"));
                return calls;
            }
        }
    }
    if calls.is_empty() {
        calls.push(ToolCall::broken("", format!("the call has no `{middle}` behind its name")));
    }
    calls
}

fn last_word(text: &str) -> &str {
    text.trim().rsplit(|c: char| c.is_whitespace() || ">]".contains(c)).next().unwrap_or_default()
}

/// The start of `{"name": ..., "arguments": {...}}`, cut off behind its name.
fn cut_object(text: &str) -> Option<(String, String)> {
    let rest = after(after(after(text, "{")?, "\"name\"")?, ":")?;
    let mut names = serde_json::Deserializer::from_str(rest).into_iter::<String>();
    let name = names.next()?.ok()?;
    let rest = after(&rest[names.byte_offset()..], ",");
    let arguments =
        rest.and_then(|rest| after(rest, "\"arguments\"").or_else(|| after(rest, "\"parameters\"")));
    let arguments = arguments.and_then(|rest| after(rest, ":")).unwrap_or_default().trim_start().to_owned();
    (arguments.is_empty() || arguments.starts_with('{')).then_some((name, arguments))
}

/// What stands behind `mark`, where that comes next.
fn after<'a>(text: &'a str, mark: &str) -> Option<&'a str> {
    text.trim_start().strip_prefix(mark)
}

#[cfg(test)]
pub(crate) mod tests;
