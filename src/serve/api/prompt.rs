//! From a chat request to its prompt: messages and tools through the model's chat template, with the variables that the
//! request sets for the template itself. `/v1/chat/completions` and `/tokenize` share it.
//!
//! Names and meaning are vLLM's: `chat_template_kwargs`, `add_generation_prompt`, `continue_final_message`, `documents`,
//! `reasoning_effort`. Next: [`super::messages`], `data::tokenizer::openai_messages`.

use serde_json::{Map, Value};

use super::fields::Fields;
use super::messages::{self, Tools};
use crate::data::Tokenizer;
use crate::data::tokenizer::RenderOptions;
use crate::error::Error;
use crate::serve::error::ApiError;

/// What `chat_template_kwargs` cannot replace: fields of the request itself, and what only a server may set.
const RESERVED: [&str; 4] = ["messages", "tools", "chat_template", "tokenize"];

/// A chat request's prompt.
#[derive(Debug)]
pub struct Prompt {
    /// The text that is tokenised.
    pub text: String,
    /// The tools it shows.
    pub tools: Tools,
    /// Whether it ends inside a think block.
    pub thinking: bool,
    /// Whether the answer continues the last message.
    pub continued: bool,
}

impl Prompt {
    /// Renders a request's messages; `may_think`: whether a think block may be opened for the answer.
    ///
    /// # Errors
    /// 400 for a field that is wrong, and for what the template itself refuses.
    pub fn read(fields: &Fields, tokenizer: &Tokenizer, may_think: bool) -> Result<Self, ApiError> {
        let Some(template) = tokenizer.chat_template_source() else {
            let message = "this model has no chat template; use /v1/completions";
            return Err(ApiError::param("model", message));
        };
        let list = messages::messages(fields, template)?;
        let tools = messages::tools(fields)?;
        let kwargs = kwargs(fields)?;
        let flag = |name: &str| match kwargs.get(name) {
            Some(value) => Ok(value.as_bool()),
            None => fields.flag(name),
        };
        let continued = flag("continue_final_message")?.unwrap_or(false);
        let add_generation_prompt = flag("add_generation_prompt")?;
        if continued && add_generation_prompt == Some(true) {
            let message = "`continue_final_message` and `add_generation_prompt` cannot both be true";
            return Err(ApiError::param("continue_final_message", message));
        }
        let wanted =
            ["open_thinking", "enable_thinking"].iter().find_map(|name| kwargs.get(*name)?.as_bool());
        let wanted = fields.flag("open_thinking")?.or(wanted).unwrap_or(false);
        let options = RenderOptions {
            add_generation_prompt: !continued && add_generation_prompt.unwrap_or(true),
            open_thinking: wanted && may_think,
            kwargs: without(kwargs, &["add_generation_prompt", "continue_final_message", "open_thinking"]),
        };
        let offered = (!tools.list.is_empty()).then(|| Value::from(tools.list.clone()));
        let text =
            tokenizer.render_chat(&list, offered.as_ref(), &options, continued).map_err(template_error)?;
        let thinking = text.trim_end().ends_with("<think>") || continued && ends_in_thought(&list);
        Ok(Self { text, tools, thinking, continued })
    }
}

/// Whether the message to continue is still inside a think block.
fn ends_in_thought(list: &[Value]) -> bool {
    let text = list.last().and_then(|message| message["content"].as_str()).unwrap_or_default();
    text.rsplit_once("<think>").is_some_and(|(_, after)| !after.contains("</think>"))
}

fn without(mut kwargs: Map<String, Value>, names: &[&str]) -> Map<String, Value> {
    kwargs.retain(|name, _| !names.contains(&name.as_str()));
    kwargs
}

/// Variables for the template: `chat_template_kwargs`, and the fields that are passed on by their own name.
fn kwargs(fields: &Fields) -> Result<Map<String, Value>, ApiError> {
    if fields.get("chat_template").is_some() {
        let message = "a request brings no chat template here; this server renders with the model's own";
        return Err(ApiError::param("chat_template", message));
    }
    let mut kwargs = fields.object("chat_template_kwargs")?.cloned().unwrap_or_default();
    if let Some(name) = RESERVED.into_iter().find(|name| kwargs.contains_key(*name)) {
        let message = format!("`chat_template_kwargs` cannot hold `{name}`");
        return Err(ApiError::param("chat_template_kwargs", message));
    }
    if let Some(list) = fields.list("documents")? {
        if !list.iter().all(Value::is_object) {
            return Err(ApiError::param("documents", "`documents` must be objects, as `{title, text}`"));
        }
        kwargs.entry("documents").or_insert_with(|| list.clone().into());
    }
    if let Some(effort) = fields.text("reasoning_effort")? {
        kwargs.entry("reasoning_effort").or_insert_with(|| effort.into());
    }
    Ok(kwargs)
}

/// The error that the template raised, for the client and for the log.
fn template_error(error: Error) -> ApiError {
    let sentence = error.cause().map(raised_text).filter(|text| !text.is_empty());
    let message = match sentence {
        Some(sentence) => format!("{}: {sentence}", error.what()),
        None => error.what().to_owned(),
    };
    tracing::warn!("{message}");
    ApiError::param("messages", message)
}

/// What `raise_exception` was given, without what the engine puts around it.
fn raised_text(cause: &str) -> &str {
    let first = cause.strip_prefix("invalid operation: ").unwrap_or(cause);
    match first.rsplit_once(" (in ") {
        Some((sentence, place)) if place.ends_with(')') => sentence,
        _ => first,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::data::tokenizer::openai_messages::tests::tokenizer;

    const CHATML: &str = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}\
        {% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% if enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{{ reasoning_effort }}{% endif %}{{ documents | length if documents }}";

    fn read(template: &str, more: Value) -> Result<Prompt, ApiError> {
        let mut body = json!({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b <think> c"}]});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        Prompt::read(&Fields::read(body.to_string().as_bytes()).unwrap(), &tokenizer(template), true)
    }

    #[test]
    fn a_request_speaks_to_the_template() {
        let text = |more: Value| read(CHATML, more).unwrap().text;
        let turns = "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb <think> c<|im_end|>\n";
        let open = "<|im_start|>assistant\n";
        assert_eq!(text(json!({})), format!("{turns}{open}"));
        let quiet = json!({"chat_template_kwargs": {"enable_thinking": false, "reasoning_effort": "low"}});
        assert_eq!(text(quiet), format!("{turns}{open}<think>\n\n</think>\n\nlow"));
        assert_eq!(text(json!({"reasoning_effort": "high"})), format!("{turns}{open}high"));
        assert_eq!(text(json!({"add_generation_prompt": false, "documents": [{}, {}]})), format!("{turns}2"));
        assert_eq!(text(json!({"chat_template_kwargs": {"add_generation_prompt": false}})), turns);
        for alone in [json!({}), json!({"add_generation_prompt": false})] {
            let mut more = alone;
            more["continue_final_message"] = true.into();
            let prompt = read(CHATML, more).unwrap();
            assert_eq!(prompt.text, turns.strip_suffix("<|im_end|>\n").unwrap());
            assert!(prompt.thinking);
        }
    }

    #[test]
    fn faults_are_named() {
        let refuses = "{{ raise_exception('Conversation roles must alternate') }}";
        for (template, more, param, says) in [
            (
                CHATML,
                json!({"continue_final_message": true, "add_generation_prompt": true}),
                "continue_final_message",
                "both",
            ),
            (CHATML, json!({"chat_template_kwargs": []}), "chat_template_kwargs", "object"),
            (CHATML, json!({"chat_template_kwargs": {"messages": []}}), "chat_template_kwargs", "`messages`"),
            (CHATML, json!({"chat_template": "x"}), "chat_template", "own"),
            (CHATML, json!({"documents": ["x"]}), "documents", "objects"),
            (CHATML, json!({"add_generation_prompt": "yes"}), "add_generation_prompt", "true or false"),
            (refuses, json!({}), "messages", ": Conversation roles must alternate"),
        ] {
            let body = read(template, more).unwrap_err().body();
            assert_eq!(body["error"]["param"], param, "{body}");
            assert!(body["error"]["message"].as_str().unwrap().contains(says), "{body}");
        }
        assert_eq!(raised_text("invalid operation: no (not now) (in chat:3)"), "no (not now)");
    }
}
