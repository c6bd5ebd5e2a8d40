//! The built-in tools over HTTP: what they are, what calls give, and who may call them.

mod common;

use common::http::{receive, send};
use common::served::{Server, shared};
use serde_json::{Value, json};

#[test]
fn built_in_tools_run_on_the_server() {
    let server = shared();
    let list = server.get("/tools").json()["tools"].clone();
    assert_eq!(list, minimind::rollout::tools::Tools::built_in().schemas());
    assert_eq!(list[0]["function"]["name"], "calculate_math");
    let call = |body: Value| server.post("/tools/call", &body);
    for arguments in [json!({"expression": "12*3"}), json!("{\"expression\": \"12*3\"}")] {
        assert_eq!(call(json!({"name": "calculate_math", "arguments": arguments})).json()["result"], "36");
    }
    let wrong = call(json!({"name": "calculate_math", "arguments": "{"})).json();
    assert!(wrong["result"].as_str().is_some_and(|r| r.contains("error")), "{wrong}");
    assert_eq!((call(json!({"name": "rm"})).status, call(json!({})).status), (404, 400));
}

#[test]
fn keys_and_origins_are_asked_for_as_everywhere() {
    let call = br#"{"name": "calculate_math", "arguments": {"expression": "1+1"}}"#;
    let post = |server: &Server, headers: &[(&str, &str)]| {
        receive(send(&server.address, "POST", "/tools/call", headers, call))
    };
    let locked = Server::start(&["--api-key", "secret"]);
    assert_eq!((post(&locked, &[]).status, locked.get("/tools").status), (401, 401));
    let right = post(&locked, &[("Authorization", "Bearer secret")]);
    assert_eq!((right.status, &right.json()["result"]), (200, &json!("2")));
    let open = shared();
    assert_eq!(post(&open, &[]).status, 200);
    assert_eq!(post(&open, &[("Origin", "https://evil.example")]).status, 403);
    assert_eq!(post(&open, &[("Host", "evil.example")]).status, 403);
    let refused = post(&open, &[("Host", "evil.example")]).json();
    assert!(refused["result"].is_null() && refused["error"]["message"].is_string());
}
