//! The JSON of chat answers: whole, or as the deltas of a stream.

use serde_json::{Map, Value, json};

use super::answer::Update;
use super::assemble::chat_logprobs;
use super::split::{Calls, Piece, Reading, Splitter};
use crate::data::Tokenizer;

/// What every chunk of an answer repeats.
#[derive(Debug, Clone)]
pub struct Head {
    id: String,
    object: &'static str,
    created: u64,
    model: String,
}

impl Head {
    /// A fresh id behind `prefix`.
    pub fn new(prefix: &str, object: &'static str, model: String) -> Self {
        let id = format!("{prefix}-{:032x}", rand::random::<u128>());
        Self { id, object, created: super::now_secs(), model }
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
    pub fn whole(&self, choices: Vec<Value>, usage: Value) -> Value {
        self.with(choices.into(), Some(usage))
    }

    /// A chunk of a stream; where usage is asked for, it is null until the end.
    pub fn chunk(&self, choice: Value, include_usage: bool) -> Value {
        self.with(json!([choice]), include_usage.then_some(Value::Null))
    }

    /// The chunk that ends a stream with the numbers of tokens.
    pub fn usage(&self, usage: Value) -> Value {
        self.with(json!([]), Some(usage))
    }
}

/// One chat choice as it is heard.
#[derive(Debug, Clone)]
pub struct Voice {
    splitter: Splitter,
    parallel: bool,
    short_ids: bool,
    wants_logprobs: bool,
    content: String,
    reasoning: String,
    calls: Vec<Value>,
    logprobs: Vec<Value>,
    finish: Option<&'static str>,
}

/// What an update brought.
struct Heard {
    pieces: Vec<Piece>,
    logprobs: Option<Value>,
    finish: Option<&'static str>,
}

impl Voice {
    /// A choice at its start: `parallel` for several calls, `thinking` where the prompt opened a think block.
    pub fn new(
        thinking: bool,
        (reading, calls): (Reading, Calls),
        parallel: bool,
        wants_logprobs: bool,
    ) -> Self {
        Self {
            short_ids: calls.form.short_ids,
            splitter: Splitter::new(thinking, reading, calls),
            parallel,
            wants_logprobs,
            content: String::new(),
            reasoning: String::new(),
            calls: Vec::new(),
            logprobs: Vec::new(),
            finish: None,
        }
    }

    /// The same for an answer that goes on with a message of the request.
    pub fn going_on(self) -> Self {
        Self { splitter: self.splitter.going_on(), ..self }
    }

    fn take(&mut self, tokenizer: &Tokenizer, update: Update) -> Heard {
        let (shown, mut finish) = match update {
            Update::Prompt(_) => return Heard { pieces: Vec::new(), logprobs: None, finish: None },
            Update::Shown(shown) => (shown, None),
            Update::End(shown, reason) => (shown, Some(reason)),
        };
        let mut pieces = self.splitter.push(&shown.text);
        // By the limit, or by a stop string in a demanded call.
        let mut broken = false;
        let whole = pieces.iter().position(|piece| matches!(piece, Piece::Call(_)));
        if let Some(at) = whole.filter(|_| !self.parallel) {
            pieces.truncate(at + 1);
            finish = Some("stop");
        } else if let Some(reason) = finish {
            let last = self.splitter.finish(reason == "length");
            broken = last.iter().any(|piece| matches!(piece, Piece::Call(call) if !is_json(&call.arguments)));
            pieces.extend(last);
        }
        if !self.parallel {
            // Those of a list come together.
            let mut calls = self.calls.len();
            pieces.retain(|piece| !matches!(piece, Piece::Call(_)) || std::mem::replace(&mut calls, 1) == 0);
        }
        for piece in &pieces {
            match piece {
                Piece::Reasoning(text) => self.reasoning.push_str(text),
                Piece::Content(text) => self.content.push_str(text),
                Piece::Call(call) => self.calls.push(json!({
                    "id": call_id(self.short_ids),
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                })),
            }
        }
        if finish == Some("stop") && !self.calls.is_empty() && !broken {
            finish = Some("tool_calls");
        }
        self.finish = finish;
        let logprobs = (self.wants_logprobs && !shown.entries.is_empty())
            .then(|| chat_logprobs(tokenizer, &shown.entries));
        Heard { pieces, logprobs, finish }
    }

    /// Takes an update; whether the choice ended with it.
    pub fn hear(&mut self, tokenizer: &Tokenizer, update: Update) -> bool {
        let heard = self.take(tokenizer, update);
        if let Some(Value::Array(entries)) = heard.logprobs.map(|mut l| l["content"].take()) {
            self.logprobs.extend(entries);
        }
        heard.finish.is_some()
    }

    /// The choice in one piece.
    pub fn choice(self, index: usize) -> Value {
        let mut message = Map::new();
        message.insert("role".into(), "assistant".into());
        let silent = self.content.is_empty() && !self.calls.is_empty();
        message.insert("content".into(), if silent { Value::Null } else { self.content.into() });
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
        if self.wants_logprobs {
            choice["logprobs"] = json!({"content": null, "refusal": null});
            choice["logprobs"]["content"] = self.logprobs.into();
        }
        choice
    }

    /// The chunk that opens a choice.
    pub fn opening(index: usize) -> Value {
        delta(index, json!({"role": "assistant", "content": ""}), None, None)
    }

    /// Takes an update; the chunks it makes, and whether the choice ended with it.
    pub fn deltas(&mut self, tokenizer: &Tokenizer, index: usize, update: Update) -> (Vec<Value>, bool) {
        let called = self.calls.len();
        let mut heard = self.take(tokenizer, update);
        let mut logprobs = heard.logprobs.take();
        let mut deltas = Vec::new();
        let mut call_index = called;
        for piece in heard.pieces {
            match piece {
                Piece::Reasoning(text) => deltas.push(json!({"reasoning_content": text})),
                Piece::Content(text) => deltas.push(json!({"content": text})),
                Piece::Call(_) => {
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
        if let Some(reason) = heard.finish {
            chunks.push(delta(index, json!({}), None, Some(reason)));
        }
        (chunks, heard.finish.is_some())
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
    use crate::serve::assemble::Shown;

    fn shown(text: &str) -> Shown {
        Shown { text: text.to_owned(), entries: Vec::new() }
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
            let mut whole = Voice::new(true, (Reading::Calls, Calls::default()), parallel, false);
            let ended = whole.hear(&tokenizer, Update::Shown(shown(text)));
            assert_eq!(ended, !parallel);
            if !ended {
                whole.hear(&tokenizer, Update::End(shown(""), "stop"));
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

            let mut voice = Voice::new(true, (Reading::Calls, Calls::default()), parallel, false);
            let (mut said, mut arguments, mut reasons) = (String::new(), String::new(), Vec::new());
            for c in text.chars().map(Some).chain([None]) {
                let update = match c {
                    Some(c) => Update::Shown(shown(&c.to_string())),
                    None => Update::End(shown(""), "stop"),
                };
                let (chunks, ended) = voice.deltas(&tokenizer, 0, update);
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
