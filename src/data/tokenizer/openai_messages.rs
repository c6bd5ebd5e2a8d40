//! Messages as clients of OpenAI's interface send them, rendered as a chat template wants them.
//!
//! Every field of a message reaches the template. What families read in different ways is settled by asking the template
//! itself: the arguments of a tool call come as an object (as JSON text where the template adds them to text), content in
//! parts stays a list only where the template reads lists, and content that is null is missing, or empty
//! where the template can do nothing without.

use serde_json::{Map, Value, json};

use super::{RenderOptions, Tokenizer};
use crate::error::{Error, Result};

/// Put behind the message that is continued; the prompt ends where it comes out (as the transformers library does).
const END_MARK: &str = "CONTINUE_FINAL_MESSAGE_TAG ";

/// Names that a message's thinking goes by, the one that most templates read first.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

impl Tokenizer {
    /// The prompt of messages in OpenAI's form; `continued` ends it right behind the last message's content, so that the
    /// model goes on with that message.
    ///
    /// # Errors
    /// The template refuses the conversation, or the message to go on from does not come out of it.
    pub fn render_chat(
        &self,
        messages: &[Value],
        tools: Option<&Value>,
        options: &RenderOptions,
        continued: bool,
    ) -> Result<String> {
        let mut messages: Vec<Value> =
            messages.iter().map(|message| self.normalize_message(message)).collect();
        if continued {
            mark_end(&mut messages)?;
        }
        let text = self.render_null(&messages, tools, options).or_else(|error| {
            // Some templates add a call's arguments to text.
            let (arguments_as_text, any) = arguments_as_text(&messages);
            let again = if any { self.render_null(&arguments_as_text, tools, options).ok() } else { None };
            again.ok_or(error)
        })?;
        if !continued {
            return Ok(text);
        }
        let at = text.rfind(END_MARK.trim_end()).ok_or_else(|| {
            Error::input(
                "the last message cannot be continued: its content does not come out of the chat template",
            )
        })?;
        let cut = &text[..at];
        // Where the template takes white space off a content's end, what stood before it goes too.
        Ok(if text[at..].starts_with(END_MARK) { cut } else { cut.trim_end() }.to_owned())
    }

    /// Renders content that is null as missing, or as empty where the template can do nothing with that.
    fn render_null(
        &self,
        messages: &[Value],
        tools: Option<&Value>,
        options: &RenderOptions,
    ) -> Result<String> {
        let given = self.apply_chat_template(&Value::from(messages.to_vec()), tools, options.clone());
        if messages.iter().all(|message| !message["content"].is_null()) {
            return given;
        }
        let mut filled = messages.to_vec();
        for message in filled.iter_mut().filter(|message| message["content"].is_null()) {
            message["content"] = "".into();
        }
        match (given, self.apply_chat_template(&Value::from(filled), tools, options.clone())) {
            // Python's `None` is no text that a model should read.
            (Ok(given), Ok(empty)) if given.replace("None", "") == empty.replace("None", "") => Ok(empty),
            (Err(_), Ok(empty)) => Ok(empty),
            (given, _) => given,
        }
    }

    /// A message as templates read it.
    fn normalize_message(&self, message: &Value) -> Value {
        let mut message = message.clone();
        let Some(fields) = message.as_object_mut() else { return message };
        // Clients send every field they know; null is none of them, and neither is a list of no calls.
        fields.retain(|name, value| name == "content" || !value.is_null());
        if fields.get("tool_calls").and_then(Value::as_array).is_some_and(Vec::is_empty) {
            fields.remove("tool_calls");
        }
        if let Some(calls) = fields.get_mut("tool_calls").and_then(Value::as_array_mut) {
            calls.iter_mut().for_each(parse_arguments);
        }
        if let Some(thought) = REASONING.iter().find_map(|name| fields.get(*name)).cloned() {
            fields.insert(REASONING[0].into(), thought.clone());
            fields.entry(REASONING[1]).or_insert(thought);
        }
        let role = fields.get("role").and_then(Value::as_str).unwrap_or_default().to_owned();
        if let Some(Value::Array(parts)) = fields.get("content")
            && !self.reads_parts(&role)
        {
            let texts: Vec<&str> = parts.iter().filter_map(part_text).collect();
            let joined = texts.join("\n");
            fields.insert("content".into(), joined.into());
        }
        message
    }

    /// Whether the template reads a content of several parts in a message of this role.
    fn reads_parts(&self, role: &str) -> bool {
        let parts = json!([{"type": "text", "text": "Part7a"}, {"type": "text", "text": "Part7b"}]);
        let (user, probe) =
            (json!({"role": "user", "content": "Question7"}), json!({"role": role, "content": parts}));
        let messages = match role {
            "user" => json!([probe]),
            "system" | "developer" => json!([probe, user]),
            "tool" => {
                let call = json!({"id": "call70000", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}});
                let mut probe = probe;
                (probe["tool_call_id"], probe["name"]) = ("call70000".into(), "f".into());
                json!([user, {"role": "assistant", "content": "", "tool_calls": [call]}, probe])
            }
            _ => json!([user, probe]),
        };
        let Ok(text) = self.apply_chat_template(&messages, None, RenderOptions::default()) else {
            return false;
        };
        // A list that is printed as such shows its keys between the two.
        let between = text.split_once("Part7a").and_then(|(_, rest)| rest.split_once("Part7b"));
        between.is_some_and(|(between, _)| !between.contains("text"))
    }
}

/// The text of a part, in the forms that clients send.
pub fn part_text(part: &Value) -> Option<&str> {
    match part["type"].as_str() {
        Some("text" | "input_text" | "output_text") => part["text"].as_str(),
        Some("refusal") => part["refusal"].as_str(),
        _ => part.as_str(),
    }
}

/// Arguments that are JSON in a text become what they state; nothing at all states no argument.
pub(super) fn parse_arguments(call: &mut Value) {
    let inner = if call["function"].is_object() { &mut call["function"] } else { call };
    let Some(function) = inner.as_object_mut() else { return };
    let arguments = function.entry("arguments").or_insert(Value::Null);
    match arguments {
        Value::Null => *arguments = Map::new().into(),
        Value::String(text) if text.trim().is_empty() => *arguments = Map::new().into(),
        Value::String(text) => {
            if let Ok(value) = serde_json::from_str(text) {
                *arguments = value;
            }
        }
        _ => {}
    }
}

/// The messages with all arguments as JSON text, and whether there are any.
fn arguments_as_text(messages: &[Value]) -> (Vec<Value>, bool) {
    let (mut messages, mut any) = (messages.to_vec(), false);
    let calls = messages.iter_mut().filter_map(|message| message.get_mut("tool_calls")?.as_array_mut());
    for call in calls.flatten() {
        let inner = if call["function"].is_object() { &mut call["function"] } else { call };
        if let Some(arguments) = inner.get_mut("arguments").filter(|given| !given.is_string()) {
            *arguments = arguments.to_string().into();
            any = true;
        }
    }
    (messages, any)
}

/// Marks the end of the last message's content.
fn mark_end(messages: &mut [Value]) -> Result<()> {
    let fault = || Error::input("the last message cannot be continued: it has no text");
    let content = &mut messages.last_mut().ok_or_else(fault)?["content"];
    let text = match content {
        Value::Array(parts) => {
            parts.iter_mut().rev().find_map(|part| part.get_mut("text")).ok_or_else(fault)?
        }
        content => content,
    };
    let said = text.as_str().ok_or_else(fault)?;
    *text = format!("{said}{END_MARK}").into();
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use std::path::Path;

    use super::*;

    /// Upstream's vocabulary with another template.
    pub(crate) fn tokenizer(template: &str) -> Tokenizer {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokenizer/tokenizer.json");
        let folder = tempfile::tempdir().unwrap();
        std::fs::copy(from, folder.path().join("tokenizer.json")).unwrap();
        std::fs::write(folder.path().join("chat_template.jinja"), template).unwrap();
        Tokenizer::load(folder.path()).unwrap()
    }

    fn render(template: &str, messages: Value) -> Result<String> {
        tokenizer(template).render_chat(messages.as_array().unwrap(), None, &RenderOptions::default(), false)
    }

    fn called(arguments: Value) -> Value {
        json!([{"role": "assistant", "content": null, "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "f", "arguments": arguments}}]}])
    }

    const CALL: &str = "{% for m in messages %}{% for c in m.tool_calls %}{{ c.id }}:{{ c.function.arguments | tojson }}{% endfor %}{% endfor %}";

    #[test]
    fn arguments_are_objects_and_text_where_the_template_wants_text() {
        assert_eq!(
            render(CALL, called(json!("{\"b\": 1, \"a\": \"é\"}"))).unwrap(),
            "c1:{\"b\": 1, \"a\": \"é\"}"
        );
        assert_eq!(render(CALL, called(json!({"b": [1]}))).unwrap(), "c1:{\"b\": [1]}");
        assert_eq!(render(CALL, called(json!(""))).unwrap(), "c1:{}");
        assert_eq!(render(CALL, called(json!("no json"))).unwrap(), "c1:\"no json\"");
        let adds = "{% for m in messages %}{% for c in m.tool_calls %}{{ '```' + c.function.arguments + '```' }}{% endfor %}{% endfor %}";
        assert_eq!(render(adds, called(json!("{\"b\": 1}"))).unwrap(), "```{\"b\":1}```");
        // Neither form helps: the template's own sentence stays.
        let refuses = "{{ raise_exception('not today') }}";
        assert!(render(refuses, called(json!("{}"))).unwrap_err().to_string().contains("not today"));
    }

    #[test]
    fn every_field_arrives_and_null_is_none() {
        let template = "{% for m in messages %}{{ m.name }}|{{ m.tool_call_id }}|{{ m.refusal is defined }}|{{ m.mood }}|{{ m.thinking }}{% endfor %}";
        let message = json!([{"role": "tool", "content": "3", "name": "f", "tool_call_id": "abc", "refusal": null,
                              "mood": "calm", "reasoning": "hm"}]);
        assert_eq!(render(template, message).unwrap(), "f|abc|False|calm|hm");
        let calls = "{% for m in messages %}{{ 'tool_calls' in m }}{% endfor %}";
        assert_eq!(
            render(calls, json!([{"role": "assistant", "content": "x", "tool_calls": []}])).unwrap(),
            "False"
        );
    }

    #[test]
    fn no_content_is_missing_for_those_who_ask_and_empty_for_the_others() {
        let silent = called(json!({}));
        for (template, text) in [
            ("{% for m in messages %}{{ m.role + m.content }}{% endfor %}", "assistant"),
            ("{% for m in messages %}[{{ m.content }}]{% endfor %}", "[]"),
            (
                "{% for m in messages %}{{ 'said' if m.content is defined else 'nothing' }}{% endfor %}",
                "nothing",
            ),
        ] {
            assert_eq!(render(template, silent.clone()).unwrap(), text, "{template}");
        }
    }

    #[test]
    fn parts_are_a_list_where_the_template_reads_one() {
        let parts = json!([{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]);
        for (template, text) in [
            ("{% for m in messages %}{{ '<' + m.content + '>' }}{% endfor %}", "<a\nb>"),
            ("{% for m in messages %}{{ m.content | trim }}{% endfor %}", "a\nb"),
            (
                "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}{{ p.text }},{% endfor %}{% endif %}{% endfor %}",
                "a,b,",
            ),
        ] {
            assert_eq!(render(template, parts.clone()).unwrap(), text, "{template}");
        }
    }

    #[test]
    fn a_message_is_continued_where_its_content_ends() {
        let chatml = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}";
        let trims = "{% for m in messages %}{{ m.role + ': ' + m.content | trim + '\n' }}{% endfor %}";
        let go_on = |template: &str, content: Value| {
            let messages =
                [json!({"role": "user", "content": "a"}), json!({"role": "assistant", "content": content})];
            tokenizer(template).render_chat(&messages, None, &RenderOptions::default(), true)
        };
        let open = "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n";
        assert_eq!(go_on(chatml, json!("Once ")).unwrap(), format!("{open}Once "));
        assert_eq!(go_on(chatml, json!("")).unwrap(), open);
        assert_eq!(go_on(trims, json!("Once ")).unwrap(), "user: a\nassistant: Once");
        assert!(go_on(chatml, Value::Null).is_err());
        assert!(go_on("nothing", json!("a")).unwrap_err().to_string().contains("does not come out"));
    }
}
