//! A server over a tiny model that has learnt a few answers by heart, so that tests know what it says.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::http;

/// The tool of the conversations below, as a client offers it.
pub fn tool() -> Value {
    json!({"type": "function", "function": {"name": "calculate_math", "description": "Works a sum out.",
        "parameters": {"type": "object", "properties": {"expression": {"type": "string"}}, "required": ["expression"]}}})
}

/// What a browser must show as text.
pub const SCRIPT: &str =
    "<script>window.hacked = 1</script><img src=x onerror=\"window.hacked = 1\"> **bold** `code`";

/// What the model learns by heart.
fn conversations() -> Vec<Value> {
    let user = |text: &str| json!({"role": "user", "content": text});
    let model = |text: &str| json!({"role": "assistant", "content": text});
    let count = (1..=40).map(|n| n.to_string()).collect::<Vec<_>>().join(" ");
    let tools = json!([tool()]).to_string();
    let call = json!([{"name": "calculate_math", "arguments": {"expression": "12*3"}}]).to_string();
    let system = json!({"role": "system", "content": "", "tools": tools});
    vec![
        json!([user("What is 2 + 3?"), model("The sum is 5.")]),
        json!([user("Count."), model(&count)]),
        json!([user("What is 2 + 3?"), model("The sum is 5."), user("Count."), model(&count)]),
        json!([user("Say the script."), model(SCRIPT)]),
        json!([user("What is a crow?"), {"role": "assistant", "reasoning_content": "A crow has wings.", "content": "A crow is a bird."}]),
        json!([system, user("What is 12 * 3?"), {"role": "assistant", "content": "", "tool_calls": call},
            {"role": "tool", "content": "36"}, model("It is 36.")]),
    ]
}

/// The run's folder of the model; made once and kept in the target folder.
pub fn model() -> &'static Path {
    static MODEL: OnceLock<PathBuf> = OnceLock::new();
    MODEL.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("served");
        std::fs::create_dir_all(&folder).expect("a folder");
        let rows: String = conversations().iter().map(|c| format!("{}\n", json!({"conversations": c}))).collect();
        std::fs::write(folder.join("chats.jsonl"), rows.repeat(16)).expect("data is written");
        let recipe = format!(
            "name: served\nseed: 1\nruntime: {{device: cpu, precision: fp32}}\noutput: {run}\ntokenizer: tok\n\
             model: {{preset: minimind3, hidden_size: 64, num_hidden_layers: 2, num_attention_heads: 4, num_key_value_heads: 2}}\n\
             stages:\n  - tokenizer: {{name: tok, data: {{path: {data}}}, vocab_size: 700}}\n\
             \x20 - sft: {{init: scratch, data: {{path: {data}}}, epochs: 20, batch_size: 8, accumulation_steps: 1, learning_rate: 4.0e-3, max_seq_len: 1024, save_dtype: fp32}}\n",
            run = folder.join("run").display(),
            data = folder.join("chats.jsonl").display(),
        );
        std::fs::write(folder.join("served.yaml"), recipe).expect("a recipe is written");
        super::succeed(super::minimind().arg("run").arg(folder.join("served.yaml")));
        folder.join("run")
    })
}

/// A server of its own; ended when dropped.
#[derive(Debug)]
pub struct Server {
    pub child: Child,
    pub address: String,
    log: Arc<Mutex<String>>,
}

impl Server {
    /// Starts one with further flags and waits until it serves.
    pub fn start(flags: &[&str]) -> Self {
        let model = model().display().to_string();
        Self::start_with(&[&["--model", &model], flags].concat())
    }

    /// The same, with every flag given.
    pub fn start_with(flags: &[&str]) -> Self {
        let server = Self::launch(flags);
        let end = Instant::now() + Duration::from_secs(60);
        while http::get(&server.address, "/health").status != 200 {
            assert!(Instant::now() < end, "the server does not become ready:\n{}", server.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        server
    }

    /// Starts one and waits until it takes connections.
    pub fn launch(flags: &[&str]) -> Self {
        let mut child = super::minimind()
            .args(["serve", "--port", "0", "--device", "cpu"])
            .args(flags)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let log = Arc::new(Mutex::new(String::new()));
        let mut lines = BufReader::new(child.stderr.take().expect("a pipe")).lines();
        let mut address = None;
        while address.is_none() {
            let line =
                lines.next().unwrap_or_else(|| panic!("it ended:\n{}", log.lock().unwrap())).expect("text");
            address = line.split_once("listening on http://").map(|(_, a)| a.trim().to_owned());
            *log.lock().unwrap() += &format!("{line}\n");
        }
        let kept = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                *kept.lock().unwrap() += &format!("{line}\n");
            }
        });
        Self { child, address: address.expect("an address"), log }
    }

    /// What it has written to stderr.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    pub fn get(&self, path: &str) -> http::Answer {
        http::get(&self.address, path)
    }

    pub fn post(&self, path: &str, body: &Value) -> http::Answer {
        http::post(&self.address, path, body)
    }

    /// A chat answer in one piece; the request must succeed.
    pub fn chat(&self, body: &Value) -> Value {
        let answer = self.post("/v1/chat/completions", body);
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    }

    /// The chunks of a stream, which must end with `[DONE]`.
    pub fn stream(&self, path: &str, body: &Value) -> Vec<Value> {
        let mut body = body.clone();
        body["stream"] = true.into();
        let answer = self.post(path, &body);
        assert_eq!(
            (answer.status, answer.header("content-type")),
            (200, Some("text/event-stream")),
            "{}",
            answer.text()
        );
        let mut events = answer.events();
        assert_eq!(events.pop().as_deref(), Some("[DONE]"));
        events.iter().map(|e| serde_json::from_str(e).expect("JSON")).collect()
    }

    /// A number of `/metrics`.
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").text();
        let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|v| v.parse().ok()).unwrap_or_else(|| panic!("no {name} in\n{text}"))
    }

    /// Waits until a metric has a value.
    pub fn until(&self, name: &str, value: f64) {
        let end = Instant::now() + Duration::from_secs(20);
        while self.metric(name) != value {
            assert!(Instant::now() < end, "{name} is {}, not {value}\n{}", self.metric(name), self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Sends a signal.
    pub fn signal(&self, name: &str) {
        super::signal(self.child.id(), name);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One server for the tests that need nothing special; it ends with the last test that holds it.
pub fn shared() -> Arc<Server> {
    static SERVER: Mutex<Weak<Server>> = Mutex::new(Weak::new());
    let mut held = SERVER.lock().unwrap_or_else(|e| e.into_inner());
    held.upgrade().unwrap_or_else(|| {
        let server = Arc::new(Server::start(&[]));
        *held = Arc::downgrade(&server);
        server
    })
}

/// A chat of one question, answered greedily.
pub fn asked(text: &str) -> Value {
    json!({"messages": [{"role": "user", "content": text}], "temperature": 0})
}

/// A body with more keys.
pub fn with(mut body: Value, more: Value) -> Value {
    for (key, value) in more.as_object().expect("an object") {
        body[key] = value.clone();
    }
    body
}

/// What a chat answer says.
pub fn content(answer: &Value) -> &str {
    answer["choices"][0]["message"]["content"].as_str().expect("content")
}

/// What the deltas of a choice say together.
pub fn joined(chunks: &[Value], index: usize, field: &str) -> String {
    let choices = chunks.iter().flat_map(|c| c["choices"].as_array().expect("choices"));
    choices.filter(|c| c["index"] == index).filter_map(|c| c["delta"][field].as_str()).collect()
}
