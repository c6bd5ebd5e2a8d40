//! Whom the server answers and whom it refuses: keys, hosts, origins, bodies that are too large.

mod common;

use std::io::Write;
use std::net::TcpStream;
use std::process::Stdio;
use std::time::Duration;

use common::http::{receive, send};
use common::minimind;
use common::served::{Server, model, shared};
use serde_json::json;

#[test]
fn bodies_keys_hosts_and_origins_are_checked() {
    let server = Server::start(&[
        "--api-key",
        "secret",
        "--cors",
        "https://friend.example",
        "--max-body-bytes",
        "2000",
    ]);
    let with_key = |headers: &[(&str, &str)], body: &str| {
        let all = [&[("Authorization", "Bearer secret")], headers].concat();
        receive(send(&server.address, "POST", "/v1/chat/completions", &all, body.as_bytes()))
    };
    let body =
        json!({"messages": [{"role": "user", "content": "What is 2 + 3?"}], "temperature": 0}).to_string();
    for key in [None, Some("Bearer wrong"), Some("secret")] {
        let headers: Vec<_> = key.map(|k| ("Authorization", k)).into_iter().collect();
        let answer =
            receive(send(&server.address, "POST", "/v1/chat/completions", &headers, body.as_bytes()));
        assert_eq!((answer.status, &answer.json()["error"]["code"]), (401, &json!("invalid_api_key")));
    }
    assert_eq!(server.get("/metrics").status, 401);
    assert_eq!((server.get("/").status, server.get("/assets/app.js").status), (200, 200));
    assert_eq!(with_key(&[], &body).status, 200);
    let large = with_key(&[], &"x".repeat(2001));
    assert_eq!((large.status, large.json()["error"]["type"].as_str()), (413, Some("invalid_request_error")));
    assert_eq!(with_key(&[("Origin", "https://evil.example")], &body).status, 403);
    let friend = with_key(&[("Origin", "https://friend.example")], &body);
    assert_eq!(
        (friend.status, friend.header("access-control-allow-origin")),
        (200, Some("https://friend.example"))
    );
    let open = shared();
    let host = |name: &str| receive(send(&open.address, "GET", "/v1/models", &[("Host", name)], b"")).status;
    assert_eq!((host("evil.example"), host("localhost")), (403, 200));
    let origin = [("Origin", "https://evil.example")];
    assert_eq!(receive(send(&open.address, "POST", "/admin/reload", &origin, b"{}")).status, 403);
    assert!(
        receive(send(&open.address, "GET", "/health", &origin, b""))
            .header("access-control-allow-origin")
            .is_none()
    );
}

#[test]
fn an_open_address_needs_a_key() {
    let model = model().display().to_string();
    for (flags, code, said) in [
        (&["--host", "0.0.0.0"][..], 2, "--api-key"),
        (&["--host", "nonsense"], 2, "not an address"),
        (&["--api-key", ""], 2, "empty"),
        (&["--cors", "friend.example"], 2, "origin"),
        (&["--model", &model], 2, "two models"),
    ] {
        let output = minimind()
            .args(["serve", "--model", &model])
            .args(flags)
            .stdin(Stdio::null())
            .output()
            .expect("it starts");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(code) && text.contains(said), "{flags:?}: {text}");
    }
}

#[test]
fn a_body_that_is_too_large_is_read_before_it_is_refused() {
    let server = Server::start(&["--max-body-bytes", "2000"]);
    // What the client sends does not fit the system's buffers: a server that closed at once would break its pipe.
    let body = vec![b'x'; 6 << 20];
    for length in ["Content-Length: 6291456\r\n", "Transfer-Encoding: chunked\r\n"] {
        let mut stream = TcpStream::connect(&server.address).expect("a connection");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
        let head =
            format!("POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{length}\r\n");
        stream.write_all(head.as_bytes()).expect("a head");
        let chunked = length.contains("chunked");
        if chunked {
            stream.write_all(b"600000\r\n").expect("a chunk's length");
        }
        stream.write_all(&body).expect("the server reads it all");
        if chunked {
            stream.write_all(b"\r\n0\r\n\r\n").expect("the end");
        }
        let answer = receive(stream);
        assert_eq!(answer.status, 413, "{length}{}", answer.text());
    }
    // Who asks first is answered at once, and so is who would send without end.
    for more in ["Content-Length: 6291456\r\nExpect: 100-continue\r\n", "Content-Length: 99999999999\r\n"] {
        let mut stream = TcpStream::connect(&server.address).expect("a connection");
        stream.set_read_timeout(Some(Duration::from_secs(1))).expect("a timeout");
        let head = format!("POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n{more}\r\n");
        stream.write_all(head.as_bytes()).expect("a head");
        assert_eq!(receive(stream).status, 413, "{more}");
    }
}
