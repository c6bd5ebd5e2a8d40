//! What the server says of requests that are wrong, and whom it answers by name.

mod common;

use common::http::{post, receive, send};
use common::served::{Server, asked, content, model, shared, with};
use serde_json::{Value, json};

#[test]
fn faults_have_the_right_status_and_shape() {
    let server = shared();
    let chat = |more: Value| with(asked("x"), more);
    let long = "word ".repeat(9000);
    for (path, body, status, param) in [
        ("/v1/chat/completions", chat(json!({"messages": []})), 400, "messages"),
        ("/v1/chat/completions", json!({}), 400, "messages"),
        (
            "/v1/chat/completions",
            json!({"messages": [{"role": "king", "content": "x"}]}),
            400,
            "messages[0].role",
        ),
        ("/v1/chat/completions", chat(json!({"max_tokens": -1})), 400, "max_tokens"),
        ("/v1/chat/completions", chat(json!({"temperature": 9})), 400, "temperature"),
        ("/v1/chat/completions", chat(json!({"temperature": "hot"})), 400, "temperature"),
        ("/v1/chat/completions", chat(json!({"stream": "yes"})), 400, "stream"),
        ("/v1/chat/completions", chat(json!({"n": 0})), 400, "n"),
        ("/v1/chat/completions", chat(json!({"top_logprobs": 2})), 400, "top_logprobs"),
        ("/v1/chat/completions", chat(json!({"tool_choice": "required"})), 400, "tool_choice"),
        ("/v1/chat/completions", chat(json!({"response_format": {"type": "xml"}})), 400, "response_format"),
        ("/v1/chat/completions", json!({"messages": [{"role": "user", "content": long}]}), 400, "messages"),
        ("/v1/chat/completions", chat(json!({"model": "gpt-9"})), 404, ""),
        ("/v1/completions", json!({}), 400, "prompt"),
        ("/v1/completions", json!({"prompt": [1, "a"]}), 400, "prompt"),
        ("/v1/completions", json!({"prompt": [999999]}), 400, "prompt"),
        ("/v1/completions", json!({"prompt": "x", "max_tokens": 1.5}), 400, "max_tokens"),
        ("/v1/completions", json!({"prompt": vec!["x"; 60], "n": 16}), 400, ""),
        ("/v1/embeddings", json!({}), 400, "input"),
        ("/tokenize", json!({}), 400, "prompt"),
        ("/detokenize", json!({"tokens": ["a"]}), 400, "tokens"),
        ("/detokenize", json!({"tokens": [5, 99999]}), 400, "tokens"),
        ("/admin/reload", json!({"model": "none"}), 404, ""),
        ("/nowhere", json!({}), 404, ""),
    ] {
        let answer = server.post(path, &body);
        let said = answer.json();
        assert_eq!(answer.status, status, "{path} {said}");
        assert_eq!(said["error"]["param"].as_str().unwrap_or_default(), param, "{path} {said}");
        assert!(
            said["error"]["message"].as_str().is_some_and(|m| !m.is_empty())
                && said["error"]["type"].is_string()
        );
    }
    let method = server.get("/v1/chat/completions");
    assert_eq!((method.status, method.json()["error"]["type"].as_str().is_some()), (405, true));
    let broken = receive(send(&server.address, "POST", "/v1/chat/completions", &[], b"{\"messages\": ["));
    assert!(broken.status == 400 && broken.text().contains("not JSON"), "{}", broken.text());
}

#[test]
fn models_have_names() {
    let path = model().display().to_string();
    let (a, b) = (format!("a={path}"), format!("b={path}:sft"));
    let server = Server::start_with(&["--model", &a, "--model", &b]);
    let list = server.get("/v1/models").json();
    let names: Vec<&str> =
        list["data"].as_array().expect("a list").iter().filter_map(|m| m["id"].as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    for name in names {
        let answer = server.chat(&with(asked("What is 2 + 3?"), json!({"model": name})));
        assert_eq!((&answer["model"], content(&answer)), (&json!(name), "The sum is 5."));
    }
    assert_eq!(
        post(&server.address, "/admin/reload", &json!({"model": "b"})).json()["reloaded"],
        json!(["b"])
    );
}
