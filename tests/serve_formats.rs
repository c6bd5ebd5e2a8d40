//! Answers that must be JSON (`response_format`) or tool calls (`tool_choice`), from a model that never learnt them.

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

/// A tool whose arguments any text within its schema satisfies soon.
fn turn(name: &str) -> Value {
    json!({"type": "function", "function": {"name": name, "parameters": {
        "type": "object", "properties": {"side": {"enum": ["left", "right"]}}, "required": ["side"], "additionalProperties": false,
    }}})
}

/// A choice that is calls alone; their names.
fn calls(choice: &Value) -> Vec<String> {
    assert_eq!(
        (&choice["finish_reason"], &choice["message"]["content"]),
        (&json!("tool_calls"), &Value::Null)
    );
    let calls = choice["message"]["tool_calls"].as_array().expect("calls").iter().map(|call| {
        let arguments = call["function"]["arguments"].as_str().expect("arguments");
        let read: Value = serde_json::from_str(arguments).unwrap_or_else(|e| panic!("{arguments}: {e}"));
        assert!(["left", "right"].contains(&read["side"].as_str().expect("a side")), "{arguments}");
        call["function"]["name"].as_str().expect("a name").to_owned()
    });
    calls.collect()
}

#[test]
fn a_demanded_call_is_a_call_whatever_the_model_would_say() {
    let demand = |choice: Value, parallel: bool| {
        let tools = json!([turn("turn_car"), turn("turn_boat")]);
        let body = asked(json!({"tools": tools, "tool_choice": choice, "parallel_tool_calls": parallel,
            "n": 4, "temperature": 1.5, "seed": 3}));
        let answer = shared().chat(&body);
        let named: Vec<Vec<String>> =
            answer["choices"].as_array().expect("choices").iter().map(calls).collect();
        assert_eq!(named.len(), 4);
        named
    };
    for names in demand(json!("required"), false) {
        assert!(names == ["turn_car"] || names == ["turn_boat"], "{names:?}");
    }
    let boat = json!({"type": "function", "function": {"name": "turn_boat"}});
    for names in demand(boat, true) {
        assert!(!names.is_empty() && names.iter().all(|name| name == "turn_boat"), "{names:?}");
    }
}

#[test]
fn calls_that_cannot_be_demanded_are_said() {
    let mut tool = turn("turn_car");
    tool["function"]["parameters"]["properties"]["side"] = json!({"type": "nonsense"});
    let answer =
        shared().post("/v1/chat/completions", &asked(json!({"tools": [tool], "tool_choice": "required"})));
    assert_eq!(
        (answer.status, &answer.json()["error"]["param"]),
        (400, &json!("tools")),
        "{}",
        answer.text()
    );
}

#[test]
fn a_demanded_call_that_is_cut_off_is_a_call_with_what_there_is() {
    let server = shared();
    let speech = json!({"type": "function", "function": {"name": "say", "parameters": {
        "type": "object", "properties": {"text": {"type": "string", "minLength": 900}}, "required": ["text"], "additionalProperties": false,
    }}});
    let named = json!({"type": "function", "function": {"name": "say"}});
    for (choice, tools) in [
        (json!("required"), json!([speech])),
        (json!("required"), json!([speech, turn("turn_car")])),
        (named, json!([speech, turn("turn_car")])),
    ] {
        let body = asked(json!({"tools": tools, "tool_choice": choice, "max_tokens": 60, "temperature": 0}));
        // With two tools the model may choose the other, whose call is soon complete.
        let answer = server.chat(&body);
        let choice = &answer["choices"][0];
        if choice["finish_reason"] == "tool_calls" && tools.as_array().is_some_and(|tools| tools.len() > 1) {
            continue;
        }
        assert_eq!(
            (&choice["finish_reason"], &choice["message"]["content"]),
            (&json!("length"), &Value::Null),
            "{answer}"
        );
        let function = &choice["message"]["tool_calls"][0]["function"];
        let arguments = function["arguments"].as_str().expect("arguments");
        assert!(function["name"] == "say" && arguments.starts_with("{\"text\":"), "{function}");
        assert!(serde_json::from_str::<Value>(arguments).is_err(), "{arguments}");

        let chunks = server.stream("/v1/chat/completions", &body);
        let deltas: Vec<&Value> = chunks.iter().map(|c| &c["choices"][0]["delta"]).collect();
        assert!(deltas.iter().all(|d| d["content"].as_str().unwrap_or_default().is_empty()), "{deltas:?}");
        let calls = deltas.iter().filter_map(|d| d["tool_calls"][0]["function"]["arguments"].as_str());
        assert_eq!(calls.collect::<String>(), arguments);
        assert_eq!(chunks.last().expect("chunks")["choices"][0]["finish_reason"], "length");
    }
    // So early that not even the name is there: the only one there is.
    let body = asked(json!({"tools": [speech], "tool_choice": "required", "max_tokens": 1}));
    let choice = server.chat(&body)["choices"][0].clone();
    assert_eq!(choice["message"]["tool_calls"][0]["function"], json!({"name": "say", "arguments": ""}));
    assert_eq!((&choice["finish_reason"], &choice["message"]["content"]), (&json!("length"), &Value::Null));
}
