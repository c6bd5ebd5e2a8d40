//! The server among clients that mean it harm or are odd: idle crowds, half-closed connections, readers that do not
//! read, requests that want every slot, bodies that cannot fit, headers that cannot be read.

mod common;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::http::{Answer, get, post, receive, send};
use common::served::{Server, model, shared};
use serde_json::{Value, json};

fn ask(extra: Value) -> Value {
    let mut body = json!({"messages": [{"role": "user", "content": "Count."}], "temperature": 0});
    body.as_object_mut().expect("an object").extend(extra.as_object().expect("an object").clone());
    body
}

/// Sends bytes as they are and closes our side; whatever comes back.
fn raw(address: &str, text: &[u8], half_close: bool) -> String {
    let mut stream = TcpStream::connect(address).expect("a connection");
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
    stream.write_all(text).expect("it is sent");
    if half_close {
        stream.shutdown(Shutdown::Write).expect("our side is closed");
    }
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

fn request(path: &str, body: &Value) -> Vec<u8> {
    let body = body.to_string();
    let head = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body.as_bytes()].concat()
}

#[test]
fn a_client_that_closed_its_side_is_answered() {
    let server = shared();
    for version in ["1.0", "1.1"] {
        let text = format!("GET /v1/models HTTP/{version}\r\nHost: localhost\r\n\r\n");
        let answer = raw(&server.address, text.as_bytes(), true);
        assert!(answer.contains(" 200 OK\r\n") && answer.contains("max_model_len"), "{answer}");
    }
    let whole = raw(&server.address, &request("/v1/chat/completions", &ask(json!({}))), true);
    assert!(whole.contains(" 200 OK\r\n") && whole.contains("38 39 40"), "{whole}");
    let stream = raw(&server.address, &request("/v1/chat/completions", &ask(json!({"stream": true}))), true);
    assert!(stream.contains("data: [DONE]"), "{stream}");
    // One whose answer takes long is asked whether it is still there, and understands.
    let long = Server::start(&["--context", "65536", "--max-new-tokens", "60000"]);
    let body = ask(json!({"ignore_eos": true, "max_tokens": 12_000}));
    let text = raw(&long.address, &request("/v1/chat/completions", &body), true);
    let last = text.split("HTTP/1.1 100 Continue\r\n\r\n").last().unwrap_or_default();
    assert!(
        last.starts_with("HTTP/1.1 200 OK\r\n") && last.contains("\"completion_tokens\":12000"),
        "{last:.300}"
    );
}

/// A crowd that says nothing.
fn crowd(address: &str, count: usize) -> Vec<TcpStream> {
    (0..count).filter_map(|_| TcpStream::connect(address).ok()).collect()
}

#[test]
fn idle_connections_make_room_for_others() {
    let server = Server::start(&["--connections", "8"]);
    let mut at_work = send(
        &server.address,
        "POST",
        "/v1/chat/completions",
        &[],
        ask(json!({"stream": true})).to_string().as_bytes(),
    );
    let idle = crowd(&server.address, 60);
    for _ in 0..20 {
        assert_eq!(get(&server.address, "/v1/models").status, 200);
    }
    let mut text = String::new();
    at_work.read_to_string(&mut text).expect("an answer at work keeps its place");
    assert!(text.contains("[DONE]"), "{text}");
    let log = server.log();
    let said = log.matches("idle connections were closed").count();
    assert!((1..=20).contains(&said), "{said} times\n{log}");
    drop(idle);
    // With a part of a head, or of a body that never comes, it is the same.
    for start in ["GET / HT", "POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{"] {
        let mut slow = crowd(&server.address, 9);
        slow.iter_mut().for_each(|stream| drop(stream.write_all(start.as_bytes())));
        assert_eq!(get(&server.address, "/v1/models").status, 200, "{start}");
    }
}

/// A server under `ulimit -n`.
struct Limited(Child);

impl Drop for Limited {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_limit_follows_the_files_that_there_are() {
    let port =
        std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
    let address = format!("127.0.0.1:{port}");
    let folder = tempfile::tempdir().expect("a folder");
    let log = folder.path().join("log");
    let line = format!(
        "ulimit -n 64; exec {} serve --device cpu --port {port} --model {}",
        env!("CARGO_BIN_EXE_minimind"),
        model().display()
    );
    let mut command = Command::new("sh");
    command.args(["-c", &line]).stdin(Stdio::null()).stdout(Stdio::null());
    command.stderr(std::fs::File::create(&log).expect("a log"));
    let _server = Limited(command.spawn().expect("it starts"));
    let until = Instant::now() + Duration::from_secs(60);
    while TcpStream::connect(&address).is_err() || get(&address, "/health").status != 200 {
        assert!(Instant::now() < until, "{}", std::fs::read_to_string(&log).unwrap_or_default());
        std::thread::sleep(Duration::from_millis(20));
    }
    let idle = crowd(&address, 120);
    for _ in 0..10 {
        assert_eq!(post(&address, "/tokenize", &json!({"prompt": "Count."})).status, 200);
    }
    assert_eq!(post(&address, "/admin/reload", &json!({})).status, 200);
    drop(idle);
    let said = std::fs::read_to_string(&log).expect("a log");
    assert!(said.contains("connections at once, not 512"), "{said}");
    assert!(said.lines().count() < 40, "{said}");
}

#[test]
fn one_request_leaves_a_slot_to_others() {
    let server = Server::start(&["--context", "65536", "--max-new-tokens", "60000", "--slots", "8"]);
    let greedy = ask(json!({"n": 16, "max_tokens": 50_000, "ignore_eos": true, "stream": true}));
    let stream = send(&server.address, "POST", "/v1/chat/completions", &[], greedy.to_string().as_bytes());
    server.until("minimind_requests_running", 7.0);
    let answer = server.chat(&ask(json!({})));
    assert!(answer["choices"][0]["message"]["content"].as_str().is_some_and(|text| text.ends_with("39 40")));
    assert_eq!(server.metric("minimind_requests_running"), 7.0, "the first goes on");
    drop(stream);
    server.until("minimind_requests_running", 0.0);
}

/// Waits longer than [`Server::until`].
fn until_idle(server: &Server) {
    let end = Instant::now() + Duration::from_secs(180);
    while server.metric("minimind_requests_running") + server.metric("minimind_requests_waiting") > 0.0 {
        assert!(Instant::now() < end, "it goes on\n{}", server.log());
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_reader_that_does_not_read_is_ended_and_then_dropped() {
    let flags = ["--context", "65536", "--max-new-tokens", "60000", "--write-timeout-secs", "2"];
    let server = Server::start(&flags);
    let body =
        ask(json!({"n": 16, "max_tokens": 50_000, "ignore_eos": true, "stream": true, "logprobs": true,
        "top_logprobs": 20, "temperature": 1}));
    let before = memory_kb(&server);
    let stuck = send(&server.address, "POST", "/v1/chat/completions", &[], body.to_string().as_bytes());
    server.until("minimind_requests_running", 14.0);
    until_idle(&server);
    server.until("minimind_connections", 1.0);
    assert!(server.metric("minimind_cancelled_total") > 0.0);
    let grown = memory_kb(&server) - before;
    println!("{} MB more at the most", grown / 1024);
    assert!(grown < 600 << 10, "{} MB", grown / 1024);
    drop(stuck);
}

/// The most memory that it has held so far.
fn memory_kb(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.child.id())).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

#[test]
fn what_cannot_fit_is_refused_before_it_is_worked_on() {
    let server = Server::start(&[]);
    let text = "The crow has wings. ".repeat(200_000);
    let ids: Vec<u32> = vec![5; 1_300_000];
    let before = memory_kb(&server);
    let bodies = [
        ("/tokenize", json!({"prompt": text})),
        ("/tokenize", json!({"messages": [{"role": "user", "content": text}]})),
        ("/v1/chat/completions", ask(json!({"messages": [{"role": "user", "content": text}]}))),
        ("/v1/completions", json!({"prompt": text})),
        ("/v1/completions", json!({"prompt": ids})),
        ("/v1/embeddings", json!({"input": [text]})),
        ("/detokenize", json!({"tokens": ids})),
    ];
    let threads: Vec<_> = bodies
        .into_iter()
        .cycle()
        .take(14)
        .map(|(path, body)| {
            let address = server.address.clone();
            std::thread::spawn(move || (path, post(&address, path, &body)))
        })
        .collect();
    for thread in threads {
        let (path, answer) = thread.join().expect("a client");
        let code = answer.json()["error"]["code"].clone();
        assert!(
            (answer.status == 400 && code == "context_length_exceeded") || answer.status == 503,
            "{path}: {}",
            answer.text()
        );
    }
    let grown = memory_kb(&server).saturating_sub(before);
    println!("{} MB more at the most", grown / 1024);
    assert!(grown < 700 << 10, "{} MB", grown / 1024);
    // What fits is still counted.
    let counted = server.post("/tokenize", &json!({"prompt": "Count. ".repeat(1000)}));
    assert!(counted.json()["count"].as_u64().is_some_and(|n| n > 1000), "{}", counted.text());
}

#[test]
fn headers_that_cannot_be_read_are_refused() {
    let server = shared();
    let status = |head: &[u8]| {
        let text = [b"POST /tokenize HTTP/1.1\r\nContent-Length: 15\r\nConnection: close\r\n", head].concat();
        let answer = raw(&server.address, &[&text[..], b"\r\n{\"prompt\": \"a\"}"].concat(), false);
        let status: u16 =
            answer.get(9..12).and_then(|s| s.parse().ok()).unwrap_or_else(|| panic!("{answer}"));
        if status != 200 {
            let body = answer.split("\r\n\r\n").nth(1).unwrap_or_default();
            let error: Value = serde_json::from_str(body).unwrap_or_else(|_| panic!("no JSON: {answer}"));
            assert!(error["error"]["message"].is_string(), "{answer}");
        }
        status
    };
    for (head, wanted) in [
        (&b"Host: localhost\r\n"[..], 200),
        (b"Host: 127.0.0.1:1\r\n", 200),
        (b"Host: [::1]:8998\r\n", 200),
        (b"Host: localhost\r\nOrigin: http://localhost\r\n", 200),
        (b"", 400),
        (b"Host: localhost\r\nHost: localhost\r\n", 400),
        (b"Host: [::1]evil.example\r\n", 400),
        (b"Host: user@localhost\r\n", 400),
        (b"Host: localhost:80x\r\n", 400),
        (b"Host: \xff\r\n", 400),
        (b"Host: \r\n", 400),
        (b"Host: evil.example\r\n", 403),
        (b"Host: localhost\r\nOrigin: http://ev\xc3\xafl.example\r\n", 400),
        (b"Host: localhost\r\nOrigin: http://localhost\r\nOrigin: http://localhost\r\n", 400),
        (b"Host: localhost\r\nOrigin: http://evil.example\r\n", 403),
        (b"Host: localhost\r\nOrigin: null\r\n", 403),
        (b"Host: localhost\r\nOrigin: http://localhost@evil.example\r\n", 403),
    ] {
        assert_eq!(status(head), wanted, "{}", String::from_utf8_lossy(head));
    }
    // A target that names another server than the header does.
    let text = "GET http://evil.example/v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    assert!(raw(&server.address, text.as_bytes(), false).starts_with("HTTP/1.1 400"));
}

#[test]
fn every_fault_is_said_in_openais_form() {
    let server = Server::start(&["--max-body-bytes", "5000"]);
    let sent =
        |method: &str, path: &str, body: &[u8]| receive(send(&server.address, method, path, &[], body));
    let check = |answer: Answer, status: u16| {
        assert_eq!((answer.status, answer.header("content-type")), (status, Some("application/json")));
        let error = answer.json()["error"].clone();
        assert!(error["message"].is_string() && error["type"].is_string(), "{error}");
        assert!(error.get("param").is_some() && error.get("code").is_some(), "{error}");
    };
    for (method, path, status) in [
        ("GET", "/nowhere", 404),
        ("GET", "/v1/models/nobody", 404),
        ("GET", "/v1/models/%ff", 400),
        ("GET", "/assets/%ff", 400),
        ("GET", "/report?model=%ff", 404),
        ("GET", "/report?model=a&model=b", 400),
        ("GET", "/v1/chat/completions", 405),
        ("DELETE", "/v1/models", 405),
        ("PUT", "/tokenize", 405),
    ] {
        println!("{method} {path}");
        check(sent(method, path, b""), status);
    }
    for body in [&b""[..], b"[]", b"{", b"\xff", b"{\"messages\": 3}", b"null", b"{\"model\": \"nobody\"}"] {
        for path in [
            "/v1/chat/completions",
            "/v1/completions",
            "/v1/embeddings",
            "/tokenize",
            "/detokenize",
            "/tools/call",
        ] {
            let answer = sent("POST", path, body);
            let status = answer.status;
            assert!(matches!(status, 400 | 404), "{path} {status}");
            check(answer, status);
        }
    }
    check(sent("POST", "/v1/completions", &[b'x'; 5001]), 413);
    // Nothing of this machine's folders is told.
    let list = server.get("/v1/models").text();
    assert!(!list.contains(&*model().parent().expect("a folder").to_string_lossy()), "{list}");
}
