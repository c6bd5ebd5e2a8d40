//! `response_format`: answers that must be JSON, whole and streamed, from a model that never learnt any.

mod common;

use common::served::shared;
use serde_json::{Value, json};

fn asked(more: Value) -> Value {
    let mut body = json!({"messages": [{"role": "user", "content": "What is 2 + 3?"}], "max_tokens": 400});
    more.as_object().expect("an object").iter().for_each(|(key, value)| body[key] = value.clone());
    body
}

/// A schema that any text within it satisfies soon.
fn schema() -> Value {
    json!({"type": "json_schema", "json_schema": {"name": "answer", "strict": true, "schema": {
        "type": "object",
        "properties": {"kind": {"enum": ["sum", "other"]}, "exact": {"type": "boolean"}},
        "required": ["kind", "exact"],
        "additionalProperties": false,
    }}})
}

fn check(text: &str) {
    let value: Value = serde_json::from_str(text).unwrap_or_else(|e| panic!("{text}: {e}"));
    assert!(["sum", "other"].contains(&value["kind"].as_str().expect("kind")), "{text}");
    assert!(value["exact"].is_boolean() && value.as_object().expect("an object").len() == 2, "{text}");
}

#[test]
fn every_choice_follows_the_schema() {
    let answer =
        shared().chat(&asked(json!({"response_format": schema(), "n": 3, "temperature": 1.0, "seed": 5})));
    let choices = answer["choices"].as_array().expect("choices");
    assert_eq!(choices.len(), 3);
    for choice in choices {
        check(choice["message"]["content"].as_str().expect("content"));
        assert_eq!(choice["finish_reason"], "stop");
    }
}

#[test]
fn a_stream_follows_it_too_and_an_object_is_an_object() {
    let body = asked(json!({"response_format": schema(), "temperature": 0}));
    let chunks = shared().stream("/v1/chat/completions", &body);
    let text: String = chunks.iter().filter_map(|c| c["choices"][0]["delta"]["content"].as_str()).collect();
    check(&text);
    let free = shared().chat(&asked(json!({"response_format": {"type": "json_object"}, "temperature": 0})));
    let text = free["choices"][0]["message"]["content"].as_str().expect("content");
    assert!(text.trim_start().starts_with('{'), "{text}");
}

#[test]
fn formats_that_cannot_be_followed_are_said() {
    for format in [
        json!({"type": "json_schema"}),
        json!({"type": "json_schema", "json_schema": {"schema": {"type": "nonsense"}}}),
        json!({"type": "yaml"}),
    ] {
        let answer = shared().post("/v1/chat/completions", &asked(json!({"response_format": format})));
        assert_eq!((answer.status, &answer.json()["error"]["param"]), (400, &json!("response_format")));
    }
}
