//! The messages and tools of a chat request: checked, and put into the form that templates read.

use serde_json::{Value, json};

use super::fields::Fields;
use crate::data::tokenizer::openai_messages::part_text;
use crate::serve::error::ApiError;

/// What the model may or must call: OpenAI's `tool_choice`.
#[derive(Debug, Clone, PartialEq)]
pub enum ToolChoice {
    /// No tool.
    None,
    /// Any tool, or none.
    Auto,
    /// Some tool, and nothing else.
    Required,
    /// This tool, and nothing else.
    Named(String),
}

/// The tools of a request.
#[derive(Debug, Clone)]
pub struct Tools {
    /// OpenAI's tool objects, as the template shows them; empty for none.
    pub list: Vec<Value>,
    /// What may or must be called.
    pub choice: ToolChoice,
    /// Whether one answer may hold several calls (`parallel_tool_calls`).
    pub parallel: bool,
}

/// The messages, checked and otherwise as they came: `data::tokenizer::openai_messages` gives them the template's form.
/// `template` is the text of the chat template: roles that it names are taken too.
///
/// # Errors
/// 400, naming the message and its field.
pub fn messages(fields: &Fields, template: &str) -> Result<Vec<Value>, ApiError> {
    let list =
        fields.list("messages")?.ok_or_else(|| ApiError::param("messages", "`messages` is missing"))?;
    if list.is_empty() {
        return Err(ApiError::param("messages", "`messages` is empty: give at least one"));
    }
    list.iter().enumerate().map(|(i, value)| message(i, value, template)).collect()
}

fn message(index: usize, value: &Value, template: &str) -> Result<Value, ApiError> {
    let at = |field: &str| format!("messages[{index}]{field}");
    let fault = |field: &str, what: &str| ApiError::param(at(field), format!("`{}` {what}", at(field)));
    let Value::Object(map) = value else { return Err(fault("", "must be an object")) };
    let Some(role) = map.get("role").and_then(Value::as_str) else {
        return Err(fault(".role", "is missing: system, developer, user, assistant or tool"));
    };
    let known =
        |role: &str| ['\'', '"'].iter().any(|quote| template.contains(&format!("{quote}{role}{quote}")));
    let has_content = match map.get("content") {
        None | Some(Value::Null) => false,
        Some(Value::String(_)) => true,
        Some(Value::Array(parts)) if parts.iter().all(|part| part_text(part).is_some()) => true,
        Some(Value::Array(_)) => {
            return Err(fault(
                ".content",
                "holds a part that is not text; this model reads `{\"type\": \"text\", \"text\": ...}` alone",
            ));
        }
        Some(_) => return Err(fault(".content", "must be a string or an array of text parts")),
    };
    let mut out = map.clone();
    let mut may_lack_content = false;
    match role {
        // A template that does not know the newer name knows the older one.
        "developer" if !known(role) => drop(out.insert("role".into(), "system".into())),
        "system" | "developer" | "user" | "tool" => {}
        "assistant" => {
            let calls = map.get("tool_calls").filter(|calls| !calls.is_null());
            if calls.is_some_and(|calls| !are_calls(calls)) {
                let form = "must be an array of `{id, type, function: {name, arguments}}`";
                return Err(fault(".tool_calls", form));
            }
            let given = |name: &str| map.get(name).is_some_and(Value::is_string);
            may_lack_content = calls.is_some_and(|calls| *calls != json!([]))
                || ["refusal", "reasoning_content", "reasoning", "thinking"].into_iter().any(given);
        }
        other if known(other) => {}
        other => {
            let shown: String = other.chars().take(40).collect();
            return Err(fault(
                ".role",
                &format!("is `{shown}`: use system, developer, user, assistant or tool"),
            ));
        }
    }
    if !has_content && !may_lack_content {
        return Err(fault(".content", "is missing"));
    }
    Ok(Value::Object(out))
}

/// Whether these are tool calls: each with a name, and arguments that are an object or text.
fn are_calls(value: &Value) -> bool {
    let call = |call: &Value| {
        let function = &call["function"];
        let arguments = &function["arguments"];
        function["name"].is_string()
            && (arguments.is_string() || arguments.is_object() || arguments.is_null())
    };
    value.as_array().is_some_and(|calls| calls.iter().all(call))
}

/// The tools of a request and which of them may be called.
///
/// # Errors
/// 400, naming the field.
pub fn tools(fields: &Fields) -> Result<Tools, ApiError> {
    let given = fields.list("tools")?.cloned().unwrap_or_default();
    for (i, tool) in given.iter().enumerate() {
        let function = &tool["function"];
        let sound = tool["type"] == "function"
            && function["name"].as_str().is_some_and(is_name)
            && (function["parameters"].is_object() || function["parameters"].is_null());
        if !sound {
            return Err(ApiError::param(
                format!("tools[{i}]"),
                format!(
                    "`tools[{i}]` must be `{{type: \"function\", function: {{name, description, parameters}}}}` with a name of letters, digits, `_` and `-`"
                ),
            ));
        }
    }
    let choice = choice(fields, &given)?;
    let parallel = fields.flag("parallel_tool_calls")?.unwrap_or(true);
    let list = if choice == ToolChoice::None { Vec::new() } else { given };
    Ok(Tools { list, choice, parallel })
}

fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 64
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

fn choice(fields: &Fields, tools: &[Value]) -> Result<ToolChoice, ApiError> {
    let fault = |what: &str| Err(ApiError::param("tool_choice", format!("`tool_choice` {what}")));
    let choice = match fields.get("tool_choice") {
        None if tools.is_empty() => ToolChoice::None,
        None => ToolChoice::Auto,
        Some(Value::String(word)) => match word.as_str() {
            "none" => ToolChoice::None,
            "auto" if tools.is_empty() => ToolChoice::None,
            "auto" => ToolChoice::Auto,
            "required" => ToolChoice::Required,
            _ => return fault("must be none, auto, required, or an object that names a function"),
        },
        Some(Value::Object(map)) => match map.get("function").and_then(|f| f["name"].as_str()) {
            Some(name) => ToolChoice::Named(name.to_owned()),
            None => return fault("must be `{type: \"function\", function: {name}}`"),
        },
        Some(_) => return fault("must be a string or an object"),
    };
    match &choice {
        ToolChoice::Required if tools.is_empty() => fault("is required, but there are no tools"),
        ToolChoice::Named(name) if tools.iter().all(|t| t["function"]["name"] != **name) => {
            fault(&format!("names `{name}`, which is not among the tools"))
        }
        _ => Ok(choice),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(value: Value) -> Fields {
        Fields::read(value.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn messages_take_the_templates_form() {
        let f = of(json!({"messages": [
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "name": "x"},
            {"role": "assistant", "content": null, "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "add", "arguments": "{\"a\": 1}"}}]},
            {"role": "tool", "tool_call_id": "1", "content": "3"},
        ]}));
        let got = messages(&f, "").unwrap();
        assert_eq!(got[0], json!({"role": "system", "content": "Be brief."}));
        let given = f.list("messages").unwrap().unwrap();
        assert_eq!(got[1..], given[1..], "every field is kept");
        // A template that names a role is asked for it.
        let template = "{% if m.role == 'developer' or m.role == \"ipython\" %}";
        assert_eq!(messages(&f, template).unwrap()[0]["role"], "developer");
        let other = of(json!({"messages": [{"role": "ipython", "content": "3"}]}));
        assert!(messages(&other, template).is_ok() && messages(&other, "").is_err());
        // Null content beside what an assistant may say instead.
        for more in [
            json!({"tool_calls": [{"function": {"name": "f"}}]}),
            json!({"refusal": "no"}),
            json!({"reasoning": "hm"}),
        ] {
            let mut said = json!({"role": "assistant", "content": null});
            said.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            assert!(messages(&of(json!({"messages": [said]})), "").is_ok(), "{said}");
        }
    }

    #[test]
    fn faults_name_the_message() {
        for (list, param) in [
            (json!([]), "messages"),
            (json!("hi"), "messages"),
            (json!([{"role": "king", "content": "x"}]), "messages[0].role"),
            (json!([{"content": "x"}]), "messages[0].role"),
            (json!([{"role": "user"}]), "messages[0].content"),
            (json!([{"role": "user", "content": 3}]), "messages[0].content"),
            (json!([{"role": "user", "content": [{"type": "image_url"}]}]), "messages[0].content"),
            (json!([{"role": "user", "content": "x"}, 1]), "messages[1]"),
            (json!([{"role": "assistant", "tool_calls": [{}]}]), "messages[0].tool_calls"),
            (json!([{"role": "assistant", "content": null, "tool_calls": []}]), "messages[0].content"),
        ] {
            let fault = messages(&of(json!({"messages": list})), "").unwrap_err().body();
            assert_eq!(fault["error"]["param"], param, "{list}");
        }
    }

    #[test]
    fn a_choice_must_be_among_the_tools() {
        let tool = json!({"type": "function", "function": {"name": "add", "parameters": {}}});
        let read = |choice: Value| tools(&of(json!({"tools": [tool], "tool_choice": choice})));
        assert_eq!(read(json!("auto")).unwrap().choice, ToolChoice::Auto);
        assert!(read(json!("none")).unwrap().list.is_empty());
        let named = |name: &str| json!({"type": "function", "function": {"name": name}});
        assert_eq!(read(named("add")).unwrap().choice, ToolChoice::Named("add".into()));
        assert!(read(named("sub")).is_err() && read(json!("all")).is_err() && read(json!(1)).is_err());
        assert!(tools(&of(json!({"tool_choice": "required"}))).is_err());
        assert!(tools(&of(json!({"tools": [{"type": "x"}]}))).is_err());
        assert_eq!(tools(&of(json!({}))).unwrap().choice, ToolChoice::None);
    }
}
