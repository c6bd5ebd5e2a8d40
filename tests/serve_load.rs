//! The server under load and among rude clients: many streams, slow readers, sudden disconnects, signals.

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use common::http::{Answer, receive, send};
use common::served::Server;
use serde_json::{Value, json};

/// More tokens than any machine makes while a test looks, and the flags that allow them.
const ENDLESS: u64 = 60_000;
const LONG: [&str; 4] = ["--context", "65536", "--max-new-tokens", "60000"];

fn serve(flags: &[&str]) -> Server {
    Server::start(&[&LONG, flags].concat())
}

/// A stream that goes on until its limit.
fn endless(tokens: u64) -> Value {
    json!({
        "messages": [{"role": "user", "content": "Count."}], "temperature": 1, "ignore_eos": true, "max_tokens": tokens,
        "stream": true, "stream_options": {"include_usage": true},
    })
}

fn start(server: &Server, body: &Value) -> TcpStream {
    send(&server.address, "POST", "/v1/chat/completions", &[], body.to_string().as_bytes())
}

/// Reads until the first token was seen.
fn first_token(stream: &mut TcpStream) {
    let mut seen = Vec::new();
    let mut buffer = [0; 4096];
    // The chunk that names the role comes before any token.
    while String::from_utf8_lossy(&seen).matches("data: ").count() < 2 {
        let read = stream.read(&mut buffer).expect("the stream goes on");
        assert!(read > 0, "{}", String::from_utf8_lossy(&seen));
        seen.extend(&buffer[..read]);
    }
}

fn open_files(server: &Server) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", server.child.id())).map_or(0, Iterator::count)
}

#[test]
fn many_streams_slow_readers_and_sudden_disconnects() {
    let server = serve(&["--slots", "16", "--queue", "200"]);
    server.until("minimind_connections", 1.0);
    let files = open_files(&server);
    let threads: Vec<_> = (0..64)
        .map(|i| {
            let mut stream = start(&server, &endless(24));
            std::thread::spawn(move || match i % 4 {
                // Goes away after the first bytes.
                0 => {
                    let mut byte = [0; 1];
                    let _ = stream.read(&mut byte);
                    None
                }
                // Goes away at once.
                1 => None,
                // Reads slowly.
                2 => {
                    let mut all = Vec::new();
                    let mut buffer = [0; 256];
                    loop {
                        let read = stream.read(&mut buffer).expect("the stream goes on");
                        if read == 0 {
                            break;
                        }
                        all.extend(&buffer[..read]);
                        std::thread::sleep(Duration::from_millis(5));
                    }
                    Some(String::from_utf8_lossy(&all).into_owned())
                }
                _ => Some(receive(stream).text()),
            })
        })
        .collect();
    let mut whole = 0;
    for thread in threads {
        if let Some(text) = thread.join().expect("a client") {
            assert!(text.contains("data: [DONE]") && text.contains("\"completion_tokens\":24"), "{text}");
            whole += 1;
        }
    }
    assert_eq!(whole, 32);
    for gauge in ["minimind_requests_running", "minimind_requests_waiting"] {
        server.until(gauge, 0.0);
    }
    server.until("minimind_connections", 1.0);
    assert_eq!(server.metric("minimind_failed_total"), 0.0);
    assert!(open_files(&server) <= files + 2, "{} files, {files} before", open_files(&server));
    assert_eq!(receive(start(&server, &endless(2))).status, 200);
}

#[test]
fn every_slot_is_used_by_answers_without_a_limit_and_by_long_ones() {
    let server = Server::start(&["--slots", "64"]);
    let mut plain = endless(0);
    plain.as_object_mut().expect("an object").remove("max_tokens");
    let streams: Vec<TcpStream> = (0..64).map(|_| start(&server, &plain)).collect();
    server.until("minimind_requests_running", 64.0);
    drop(streams);
    server.until("minimind_requests_running", 0.0);
    let server = Server::start(&[]);
    let streams: Vec<TcpStream> = (0..16).map(|_| start(&server, &endless(4000))).collect();
    server.until("minimind_requests_running", 16.0);
    drop(streams);
}

#[test]
fn a_client_that_goes_away_frees_its_place() {
    let server = serve(&["--slots", "1", "--queue", "1"]);
    let mut first = start(&server, &endless(ENDLESS));
    first_token(&mut first);
    let waiting = start(&server, &endless(ENDLESS));
    server.until("minimind_requests_waiting", 1.0);
    // No place is left.
    let refused = receive(start(&server, &endless(1)));
    assert_eq!((refused.status, refused.header("retry-after")), (429, Some("1")), "{}", refused.text());
    assert_eq!(refused.json()["error"]["code"], "queue_full");
    drop((first, waiting));
    server.until("minimind_requests_waiting", 0.0);
    server.until("minimind_requests_running", 0.0);
    // An answer in one piece whose client goes away is ended too.
    let mut whole = endless(ENDLESS);
    whole["stream"] = false.into();
    whole.as_object_mut().expect("an object").remove("stream_options");
    let impatient = start(&server, &whole);
    server.until("minimind_requests_running", 1.0);
    drop(impatient);
    server.until("minimind_requests_running", 0.0);
    assert_eq!(receive(start(&server, &endless(2))).status, 200);
    assert!(server.metric("minimind_cancelled_total") >= 3.0);
}

#[test]
fn a_reader_that_stops_holds_no_place() {
    let server = serve(&["--slots", "1", "--queue", "0"]);
    let stuck = start(&server, &endless(300));
    // It never reads, yet its generation ends and the next one begins.
    let end = Instant::now() + Duration::from_secs(60);
    while receive(start(&server, &endless(2))).status == 429 {
        assert!(Instant::now() < end, "the place is still taken");
        std::thread::sleep(Duration::from_millis(50));
    }
    drop(stuck);
    server.until("minimind_connections", 1.0);
}

#[test]
fn headers_must_come_and_time_runs_out() {
    let server = serve(&["--timeout-secs", "1"]);
    let late = receive(start(&server, &endless(ENDLESS)));
    assert_eq!(late.status, 200);
    let last = late.events().pop().expect("an event");
    assert!(last.contains("took longer than 1 s"), "{last}");
    let mut body = endless(ENDLESS);
    body["stream"] = false.into();
    body.as_object_mut().expect("an object").remove("stream_options");
    let answer = receive(start(&server, &body));
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (504, &json!("timeout")));
    server.until("minimind_requests_running", 0.0);
    // Half a request, and one that is no HTTP.
    let mut half = TcpStream::connect(&server.address).expect("a connection");
    half.write_all(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n{")
        .expect("bytes");
    let mut noise = TcpStream::connect(&server.address).expect("a connection");
    noise.write_all(b"\x16\x03\x01 nonsense\r\n\r\n").expect("bytes");
    drop((half, noise));
    server.until("minimind_connections", 1.0);
}

/// The answer of `/health` once the server has heard that it shall stop.
fn until_stopping(server: &Server) -> Answer {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let health = server.get("/health");
        if health.status == 503 {
            return health;
        }
        assert!(Instant::now() < end, "the signal is not heard");
    }
}

#[test]
fn models_are_swapped_and_the_end_waits_for_what_runs() {
    let mut server = serve(&[]);
    let mut stream = start(&server, &endless(6000));
    first_token(&mut stream);
    server.signal("HUP");
    server.until("minimind_model_loads_total", 2.0);
    assert_eq!(server.post("/admin/reload", &json!({})).json()["reloaded"], json!(["run"]));
    assert_eq!(server.metric("minimind_model_loads_total"), 3.0);
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("the old model's answer ends well");
    assert!(text.contains("\"completion_tokens\":6000") && text.contains("data: [DONE]"));

    let mut last = start(&server, &endless(8000));
    first_token(&mut last);
    server.signal("TERM");
    // Whoever comes now is told so, balancers and clients.
    let health = until_stopping(&server);
    assert_eq!(
        (health.json()["status"].as_str(), health.header("retry-after")),
        (Some("stopping"), Some("2"))
    );
    for answer in [receive(start(&server, &endless(1))), server.get("/v1/models")] {
        assert_eq!((answer.status, answer.header("retry-after")), (503, Some("2")), "{}", answer.text());
        assert!(answer.text().contains("the server is stopping"), "{}", answer.text());
    }
    text.clear();
    last.read_to_string(&mut text).expect("the last answer ends well");
    assert!(text.contains("\"completion_tokens\":8000") && text.contains("data: [DONE]"));
    let status = server.child.wait().expect("it ends");
    assert_eq!(status.code(), Some(0), "{}", server.log());
    assert!(TcpStream::connect(&server.address).is_err());
}

#[test]
fn health_is_503_while_a_model_loads() {
    // Many models load one after another: there is time to ask.
    let path = common::served::model().display().to_string();
    let specs: Vec<String> = (0..12).flat_map(|i| ["--model".to_owned(), format!("m{i}={path}")]).collect();
    let server = Server::launch(&specs.iter().map(String::as_str).collect::<Vec<_>>());
    let loading = server.get("/health");
    assert_eq!((loading.status, loading.json()["status"].as_str()), (503, Some("loading")));
    let early = server.post(
        "/v1/chat/completions",
        &json!({"model": "m11", "messages": [{"role": "user", "content": "x"}]}),
    );
    assert_eq!((early.status, early.header("retry-after").is_some()), (503, true));
    let end = Instant::now() + Duration::from_secs(60);
    while server.get("/health").status != 200 {
        assert!(Instant::now() < end, "{}", server.log());
        std::thread::sleep(Duration::from_millis(20));
    }
}
