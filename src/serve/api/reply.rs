//! The JSON of answers: what all of them repeat, and the choices of chats, whole or as the deltas of a stream.

use serde_json::{Map, Value, json};

use super::logprobs::chat_logprobs;
use super::output_parser::{OutputParser, OutputPart};
use crate::data::Tokenizer;
use crate::serve::engine::handle::now_secs;
use crate::serve::engine::output::{ChoiceUpdate, Usage};

/// What every chunk of an answer repeats: OpenAI's `id`, `object`, `created`, `model`, `system_fingerprint`.
#[derive(Debug, Clone)]
pub struct ResponseHead {
    id: String,
    object: &'static str,
    created: u64,
    model: String,
    /// Whether a stream ends with the numbers of tokens.
    stream_usage: bool,
}

impl ResponseHead {
    /// A fresh id behind `prefix`.
    pub fn new(prefix: &str, object: &'static str, model: String) -> Self {
        let id = format!("{prefix}-{:032x}", rand::random::<u128>());
        Self { id, object, created: now_secs(), model, stream_usage: false }
    }

    /// Whether a stream ends with the numbers of tokens (`stream_options.include_usage`).
    pub fn with_stream_usage(self, stream_usage: bool) -> Self {
        Self { stream_usage, ..self }
    }

    fn with(&self, choices: Value, usage: Option<Value>) -> Value {
        let mut value = json!({
            "id": self.id, "object": self.object, "created": self.created, "model": self.model,
            "system_fingerprint": concat!("minimind-", env!("CARGO_PKG_VERSION")),
        });
        // Put in rather than written above: the macro copies, and log-probabilities are large.
        value["choices"] = choices;
        if let Some(usage) = usage {
            value["usage"] = usage;
        }
        value
    }

    /// An answer in one piece.
    pub fn whole(&self, choices: Vec<Value>, usage: Usage) -> Value {
        self.with(choices.into(), Some(usage_json(usage)))
    }

    /// A chunk of a stream; where usage is asked for, it is null until the end.
    pub fn chunk(&self, choice: Value) -> Value {
        self.with(json!([choice]), self.stream_usage.then_some(Value::Null))
    }

    /// The chunk that ends a stream with the numbers of tokens, where they are asked for.
    pub fn usage_chunk(&self, usage: Usage) -> Option<Value> {
        self.stream_usage.then(|| self.with(json!([]), Some(usage_json(usage))))
    }
}

fn usage_json(usage: Usage) -> Value {
    json!({
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    })
}

/// Builds one chat choice from its updates.
#[derive(Debug, Clone)]
pub struct ChoiceBuilder {
    parser: OutputParser,
    parallel_calls: bool,
    with_logprobs: bool,
    content: String,
    reasoning: String,
    calls: Vec<Value>,
    logprobs: Vec<Value>,
    finish: Option<&'static str>,
}

/// What an update brought.
struct Parsed {
    parts: Vec<OutputPart>,
    logprobs: Option<Value>,
    finish: Option<&'static str>,
}

impl ChoiceBuilder {
    /// A choice at its start, whose text `parser` takes apart.
    pub fn new(parser: OutputParser) -> Self {
        Self {
            parser,
            parallel_calls: true,
            with_logprobs: false,
            content: String::new(),
            reasoning: String::new(),
            calls: Vec::new(),
            logprobs: Vec::new(),
            finish: None,
        }
    }

    /// Whether the choice may hold several tool calls; else it ends with the first.
    pub fn with_parallel_calls(self, parallel_calls: bool) -> Self {
        Self { parallel_calls, ..self }
    }

    /// Whether the choice lists log-probabilities.
    pub fn with_logprobs(self, with_logprobs: bool) -> Self {
        Self { with_logprobs, ..self }
    }

    fn parse(&mut self, tokenizer: &Tokenizer, update: ChoiceUpdate) -> Parsed {
        let (delta, mut finish) = match update {
            ChoiceUpdate::Prompt(_) => return Parsed { parts: Vec::new(), logprobs: None, finish: None },
            ChoiceUpdate::Delta(delta) => (delta, None),
            ChoiceUpdate::End(delta, reason) => (delta, Some(reason)),
        };
        let mut parts = self.parser.push(&delta.text);
        // By the limit, or by a stop string in a forced call.
        let mut broken = false;
        let first_call = parts.iter().position(|part| matches!(part, OutputPart::Call(_)));
        if let Some(at) = first_call.filter(|_| !self.parallel_calls) {
            parts.truncate(at + 1);
            finish = Some("stop");
        } else if let Some(reason) = finish {
            let last = self.parser.finish(reason == "length");
            broken =
                last.iter().any(|part| matches!(part, OutputPart::Call(call) if !is_json(&call.arguments)));
            parts.extend(last);
        }
        if !self.parallel_calls {
            // Those of a list come together.
            let mut calls = self.calls.len();
            parts
                .retain(|part| !matches!(part, OutputPart::Call(_)) || std::mem::replace(&mut calls, 1) == 0);
        }
        for part in &parts {
            match part {
                OutputPart::Reasoning(text) => self.reasoning.push_str(text),
                OutputPart::Content(text) => self.content.push_str(text),
                OutputPart::Call(call) => self.calls.push(json!({
                    "id": call_id(self.parser.has_short_call_ids()),
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                })),
            }
        }
        if finish == Some("stop") && !self.calls.is_empty() && !broken {
            finish = Some("tool_calls");
        }
        self.finish = finish;
        let logprobs =
            (self.with_logprobs && !delta.tokens.is_empty()).then(|| chat_logprobs(tokenizer, &delta.tokens));
        Parsed { parts, logprobs, finish }
    }

    /// Takes an update; returns whether the choice ended with it.
    pub fn push(&mut self, tokenizer: &Tokenizer, update: ChoiceUpdate) -> bool {
        let parsed = self.parse(tokenizer, update);
        if let Some(Value::Array(entries)) = parsed.logprobs.map(|mut l| l["content"].take()) {
            self.logprobs.extend(entries);
        }
        parsed.finish.is_some()
    }

    /// The choice in one piece.
    pub fn choice(self, index: usize) -> Value {
        let mut message = Map::new();
        message.insert("role".into(), "assistant".into());
        let has_no_text = self.content.is_empty() && !self.calls.is_empty();
        message.insert("content".into(), if has_no_text { Value::Null } else { self.content.into() });
        message.insert("refusal".into(), Value::Null);
        if !self.reasoning.is_empty() {
            message.insert("reasoning_content".into(), self.reasoning.into());
        }
        if !self.calls.is_empty() {
            message.insert("tool_calls".into(), self.calls.into());
        }
        let mut choice = json!({
            "index": index, "message": message, "logprobs": null, "finish_reason": self.finish.unwrap_or("stop"),
        });
        if self.with_logprobs {
            choice["logprobs"] = json!({"content": null, "refusal": null});
            choice["logprobs"]["content"] = self.logprobs.into();
        }
        choice
    }

    /// The first chunk of a choice: its role, and no text.
    pub fn opening(index: usize) -> Value {
        delta(index, json!({"role": "assistant", "content": ""}), None, None)
    }

    /// Takes an update; returns the choices of the chunks it makes, and whether the choice ended with it.
    pub fn deltas(
        &mut self,
        tokenizer: &Tokenizer,
        index: usize,
        update: ChoiceUpdate,
    ) -> (Vec<Value>, bool) {
        let mut call_index = self.calls.len();
        let mut parsed = self.parse(tokenizer, update);
        let mut logprobs = parsed.logprobs.take();
        let mut deltas = Vec::new();
        for part in parsed.parts {
            match part {
                OutputPart::Reasoning(text) => deltas.push(json!({"reasoning_content": text})),
                OutputPart::Content(text) => deltas.push(json!({"content": text})),
                OutputPart::Call(_) => {
                    let mut call = self.calls[call_index].clone();
                    call["index"] = call_index.into();
                    let arguments = call["function"]["arguments"].take();
                    call["function"]["arguments"] = "".into();
                    deltas.push(json!({"tool_calls": [call]}));
                    let rest = json!({"index": call_index, "function": {"arguments": arguments}});
                    deltas.push(json!({"tool_calls": [rest]}));
                    call_index += 1;
                }
            }
        }
        if deltas.is_empty() && logprobs.is_some() {
            deltas.push(json!({"content": ""}));
        }
        let mut chunks: Vec<Value> =
            deltas.into_iter().map(|d| delta(index, d, logprobs.take(), None)).collect();
        if let Some(reason) = parsed.finish {
            chunks.push(delta(index, json!({}), None, Some(reason)));
        }
        (chunks, parsed.finish.is_some())
    }
}

/// A fresh id of a call; some families' templates take nine letters and digits alone.
fn call_id(short: bool) -> String {
    match short {
        true => format!("{:09x}", rand::random::<u64>() >> 28),
        false => format!("call_{:024x}", rand::random::<u128>() >> 32),
    }
}

fn is_json(text: &str) -> bool {
    serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok()
}

fn delta(index: usize, delta: Value, logprobs: Option<Value>, finish: Option<&str>) -> Value {
    json!({"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::api::output_parser::{ToolCallMode, ToolSyntax};
    use crate::serve::engine::detokenizer::TextDelta;

    fn delta_of(text: &str) -> TextDelta {
        TextDelta { text: text.to_owned(), tokens: Vec::new() }
    }

    #[test]
    fn a_stream_of_deltas_equals_the_whole_answer() {
        let folder = tempfile::tempdir().unwrap();
        let texts = ["some text"].into_iter().map(|t| Ok(t.to_owned()));
        crate::data::tokenizer::train(texts, 292, folder.path()).unwrap();
        let tokenizer = Tokenizer::load(folder.path()).unwrap();
        let text =
            "hm</think>\n\nI ask.\n<tool_call>{\"name\": \"add\", \"arguments\": {\"a\": 1}}</tool_call>";
        for parallel in [true, false] {
            let start = || {
                let parser = OutputParser::new(ToolCallMode::Auto, ToolSyntax::default()).in_thinking();
                ChoiceBuilder::new(parser).with_parallel_calls(parallel)
            };
            let mut whole = start();
            let ended = whole.push(&tokenizer, ChoiceUpdate::Delta(delta_of(text)));
            assert_eq!(ended, !parallel);
            if !ended {
                whole.push(&tokenizer, ChoiceUpdate::End(delta_of(""), "stop"));
            }
            let choice = whole.choice(0);
            let message = &choice["message"];
            assert_eq!(
                (&message["content"], &message["reasoning_content"]),
                (&json!("I ask."), &json!("hm"))
            );
            assert_eq!(
                message["tool_calls"][0]["function"],
                json!({"name": "add", "arguments": "{\"a\":1}"})
            );
            assert_eq!(choice["finish_reason"], "tool_calls");

            let mut builder = start();
            let (mut said, mut arguments, mut reasons) = (String::new(), String::new(), Vec::new());
            for c in text.chars().map(Some).chain([None]) {
                let update = match c {
                    Some(c) => ChoiceUpdate::Delta(delta_of(&c.to_string())),
                    None => ChoiceUpdate::End(delta_of(""), "stop"),
                };
                let (chunks, ended) = builder.deltas(&tokenizer, 0, update);
                for chunk in chunks {
                    said += chunk["delta"]["content"].as_str().unwrap_or_default();
                    let call = &chunk["delta"]["tool_calls"][0]["function"];
                    arguments += call["arguments"].as_str().unwrap_or_default();
                    reasons.extend(chunk["finish_reason"].as_str().map(str::to_owned));
                }
                if ended {
                    break;
                }
            }
            assert_eq!((said.as_str(), arguments.as_str()), ("I ask.", "{\"a\":1}"));
            assert_eq!(reasons, ["tool_calls"]);
        }
    }
}
