//! Whether all that a conversation says is in what the template makes of it.
//!
//! Templates pass over what they do not know: a role, a system prompt, tools. Such a row would teach an answer without
//! its question. A part is there if other words in its place change the text; for the parts that a template shows of
//! any conversation, as a probe tells, finding the words is enough. Next: [`super::loss_mask`].

use serde_json::{Value, json};

use super::chat_row::{is_truthy, template_fault};
use crate::data::jsonl::RowFault;
use crate::error::Result;

/// Renders messages and tools, with or without the opening of an answer at the end.
pub(crate) type Render<'a> = dyn Fn(&[Value], Option<&Value>, bool) -> Result<String> + 'a;

/// Stands in the place of what a message says; no text holds it.
pub(super) const PLACEHOLDER: &str = "\u{fdd2}";

const PROBE: &str = "zorvex";

/// Which parts of a conversation a template renders whatever they say.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TemplateCoverage {
    /// A system prompt before a question and an answer.
    pub(crate) system: bool,
    tools: bool,
    calls: bool,
    results: bool,
}

/// A tool as OpenAI describes one.
pub(super) fn tool(name: &str) -> Value {
    let properties = json!({"x": {"type": "integer"}});
    let parameters = json!({"type": "object", "properties": properties, "required": ["x"]});
    json!({"type": "function", "function": {"name": name, "description": "adds", "parameters": parameters}})
}

/// A question, a call, its result and an answer.
pub(super) fn tool_turns(name: &str, result: &str) -> Vec<Value> {
    let function = json!({"name": name, "arguments": {"x": 1}});
    vec![
        json!({"role": "user", "content": "one?"}),
        json!({"role": "assistant", "content": "", "tool_calls": [
            {"id": "call00001", "type": "function", "function": function}]}),
        json!({"role": "tool", "content": result, "name": name, "tool_call_id": "call00001"}),
        json!({"role": "assistant", "content": "two"}),
    ]
}

impl TemplateCoverage {
    /// Finds out by rendering conversations with a word that no template holds.
    pub(crate) fn probe(render: &Render) -> Self {
        let turn = |role: &str, text: &str| json!({"role": role, "content": text});
        let (user, answer) = (turn("user", "one?"), turn("assistant", "two"));
        let has = |messages: &[Value], tools: Option<&Value>, words: &str| {
            render(messages, tools, false).is_ok_and(|text| text.contains(words))
        };
        let tools = json!([tool(PROBE)]);
        let (name, result) = (format!("{PROBE}_call"), format!("{PROBE}_result"));
        let calls = tool_turns(&name, &result);
        Self {
            system: has(&[turn("system", PROBE), user.clone(), answer.clone()], None, PROBE),
            tools: has(&[user, answer], Some(&tools), PROBE),
            calls: has(&calls, Some(&tools), &name),
            results: has(&calls, Some(&tools), &result),
        }
    }

    /// Checks that `text`, the rendering of `messages`, holds every part of them; `field` is their name in faults.
    ///
    /// # Errors
    /// The first part that the template drops.
    pub(crate) fn check(
        &self,
        render: &Render,
        (field, messages): (&str, &[Value]),
        tools: Option<&Value>,
        text: &str,
    ) -> Result<(), RowFault> {
        // Where other words change nothing, the template passes over them. One that refuses the other words has read
        // them.
        let passed_over = |i: usize, change: &dyn Fn(&mut Value)| {
            let mut others = messages.to_vec();
            change(&mut others[i]);
            render(&others, tools, false).is_ok_and(|other| other == text)
        };
        let mut from = 0;
        let mut found = |words: &str| match text[from..].find(words) {
            Some(at) => {
                from += at + words.len();
                true
            }
            None => false,
        };
        for (i, message) in messages.iter().enumerate() {
            let role = message["role"].as_str().unwrap_or_default();
            let known = match role {
                "user" | "assistant" => true,
                "system" => i == 0 && self.system,
                "tool" => self.results,
                _ => false,
            };
            if let Some(words) = message["content"].as_str().map(words).filter(|words| !words.is_empty())
                && !(known && found(words))
                && passed_over(i, &|message| message["content"] = json!(PLACEHOLDER))
            {
                return Err(RowFault::new(
                    format!(
                        "the chat template drops `{field}[{i}]`, a turn of `{role}`: its text is not in the prompt"
                    ),
                    "name the role as the template does (system, user, assistant, tool), remove the turn, or set \
                     data.on_bad_row: skip; `minimind data show --tokenizer` shows what a model reads",
                ));
            }
            for key in ["tool_calls", "function_call"] {
                let Some(calls) = message.get(key).filter(|calls| is_truthy(calls)) else { continue };
                let seen = self.calls && names(calls).all(&mut found);
                if !seen && passed_over(i, &|message| _ = message.as_object_mut().map(|m| m.remove(key))) {
                    return Err(RowFault::new(
                        format!(
                            "the chat template drops `{field}[{i}].{key}`: the calls are not in the prompt"
                        ),
                        "use a template that knows tools, or set data.on_bad_row: skip",
                    ));
                }
            }
        }
        if let Some(given) = tools.filter(|tools| is_truthy(tools)) {
            let seen = self.tools && names(given).all(|name| text.contains(name));
            if !seen && render(messages, None, false).is_ok_and(|other| other == text) {
                return Err(RowFault::new(
                    "the chat template shows no tools, and the row has some",
                    "use a template that knows tools, remove `tools`, or set data.on_bad_row: skip",
                ));
            }
        }
        Ok(())
    }

    /// Renders a conversation and [checks](Self::check) that all of it is there.
    ///
    /// # Errors
    /// The template refuses the conversation (with the template's own words), or drops a part.
    pub(crate) fn render_checked(
        &self,
        render: &Render,
        turns: (&str, &[Value]),
        tools: Option<&Value>,
    ) -> Result<String, RowFault> {
        let text = render(turns.1, tools, false).map_err(|error| template_fault(&error))?;
        self.check(render, turns, tools, &text)?;
        Ok(text)
    }
}

/// What of a message stays in any template: templates trim texts, and move or drop thoughts.
fn words(content: &str) -> &str {
    let said = content.rsplit("</think>").next().unwrap_or_default().trim();
    if said.is_empty() { content.trim() } else { said }
}

/// The names of tools, or of calls.
fn names(list: &Value) -> impl Iterator<Item = &str> {
    let one = list.as_object().map(|_| list);
    let each = list.as_array().into_iter().flatten().chain(one);
    each.map(|tool| tool.get("function").unwrap_or(tool)["name"].as_str().unwrap_or("\u{fdd3}"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use super::super::{ChatTemplate, RenderOptions, train};
    use super::*;

    fn fault(template: &ChatTemplate, messages: Value, tools: Value) -> Option<String> {
        let render = |messages: &[Value], tools: Option<&Value>, prompt: bool| {
            let options = RenderOptions { add_generation_prompt: prompt, ..RenderOptions::default() };
            template.render(&Value::from(messages), tools, options, &BTreeMap::new())
        };
        let shown = TemplateCoverage::probe(&render);
        let tools = Some(&tools).filter(|tools| !tools.is_null());
        let list = messages.as_array().unwrap();
        shown.render_checked(&render, ("conversations", list), tools).err().map(|fault| fault.what)
    }

    fn asked(role: &str, text: &str) -> Value {
        json!([{"role": role, "content": text}, {"role": "assistant", "content": "b"}])
    }

    #[test]
    fn what_a_template_drops_is_named() {
        let ours = train::template().unwrap();
        for role in ["human", "User", "function", "developer", "observation", "USER"] {
            let fault = fault(&ours, asked(role, "a"), Value::Null).unwrap();
            assert!(fault.contains("`conversations[0]`") && fault.contains(role), "{fault}");
        }
        for role in ["user", "system"] {
            assert_eq!(fault(&ours, asked(role, "a"), json!([tool("add")])), None);
        }
        assert_eq!(fault(&ours, json!(tool_turns("add", "\"3\"\n")), json!([tool("add")])), None);
        let plain = "{% for m in messages %}{{ m.role }}: {{ m.content | trim }}\n{% endfor %}{# tool_calls, tools #}";
        let plain = ChatTemplate::parse(plain, Path::new("t")).unwrap();
        // Any role is shown here; tools and calls are not.
        assert_eq!(fault(&plain, asked("human", " a "), Value::Null), None);
        assert!(fault(&plain, asked("user", "a"), json!([tool("add")])).unwrap().contains("no tools"));
        assert!(
            fault(&plain, json!(tool_turns("add", "3")), Value::Null).unwrap().contains("[1].tool_calls")
        );
    }

    #[test]
    fn thoughts_that_go_on_purpose_are_no_fault() {
        let source = "{% for m in messages %}{% if m.role == 'assistant' %}{% set c = m.content.split('</think>')[-1].lstrip() %}\
                      {{ '<a>' + c }}{% elif m.role == 'user' %}{{ '<u>' + m.content }}{% endif %}{% endfor %}";
        let template = ChatTemplate::parse(source, Path::new("t")).unwrap();
        let turns =
            |said: &str| json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": said}]);
        assert_eq!(fault(&template, turns("<think>\nx\n</think>\n\nb"), Value::Null), None);
        assert_eq!(fault(&template, turns("<think>\nx\n</think>"), Value::Null), None);
        assert_eq!(fault(&template, turns(""), Value::Null), None);
        assert!(fault(&template, asked("system", "be brief"), Value::Null).is_some());
    }
}
