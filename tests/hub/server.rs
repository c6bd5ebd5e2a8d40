//! A hub and its storage on this machine: as much of the protocols as clients use, and the ways they fail.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use sha1::Sha1;
use sha2::{Digest, Sha256};

/// The commit of everything.
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// The commit of what Hugging Face converts to Parquet.
pub const CONVERTED: &str = "89abcdef0123456789abcdef0123456789abcdef";

/// How the hub behaves.
#[derive(Debug, Clone, Default)]
pub struct Behaviour {
    /// Files of `models/OWNER/NAME` or `datasets/OWNER/NAME`; of its conversion: `datasets/OWNER/NAME@parquet`.
    pub repos: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
    /// Connections end after so many bytes of a body.
    pub cut_after: Option<usize>,
    /// Ranges are not honoured.
    pub ignore_ranges: bool,
    /// A byte of every large file is wrong.
    pub corrupt: bool,
    /// Large files are followed by this many more bytes, whose end no header tells.
    pub flood: usize,
    /// How many of them were taken.
    pub flooded: Arc<std::sync::atomic::AtomicUsize>,
    /// Only this token opens it.
    pub token: Option<String>,
    /// The first so many requests are answered with 503.
    pub busy: usize,
}

/// A running hub.
pub struct Server {
    /// `http://127.0.0.1:PORT`.
    pub url: String,
    /// `http://127.0.0.1:PORT` of the storage that large files are redirected to.
    pub storage: String,
    /// Behaviour, to be changed while it runs.
    pub behaviour: Arc<Mutex<Behaviour>>,
    /// Requests: method, path, range, whether a secret came along.
    pub log: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// Starts one; it runs until the test ends.
    pub fn start(behaviour: Behaviour) -> Self {
        let listen = || TcpListener::bind("127.0.0.1:0").expect("a port");
        let (hub, storage) = (listen(), listen());
        let url = |l: &TcpListener| format!("http://{}", l.local_addr().expect("an address"));
        let server = Self {
            url: url(&hub),
            storage: url(&storage),
            behaviour: Arc::new(Mutex::new(behaviour)),
            log: Arc::default(),
        };
        for listener in [hub, storage] {
            let (behaviour, log, to) =
                (Arc::clone(&server.behaviour), Arc::clone(&server.log), server.storage.clone());
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let (behaviour, log, to) = (Arc::clone(&behaviour), Arc::clone(&log), to.clone());
                    std::thread::spawn(move || answer(stream, &behaviour, &log, &to));
                }
            });
        }
        server
    }

    /// Requests so far, and forgets them.
    pub fn requests(&self) -> Vec<String> {
        std::mem::take(&mut *self.log.lock().expect("the log"))
    }

    /// Changes how it behaves.
    pub fn set(&self, change: impl FnOnce(&mut Behaviour)) {
        change(&mut self.behaviour.lock().expect("the behaviour"));
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// SHA-256 of bytes.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn git_hash(bytes: &[u8]) -> String {
    let mut hash = Sha1::new();
    hash.update(format!("blob {}\0", bytes.len()));
    hash.update(bytes);
    hex(&hash.finalize())
}

fn is_large(file: &str) -> bool {
    [".safetensors", ".jsonl", ".pth", ".parquet"].iter().any(|ending| file.ends_with(ending))
}

struct Request {
    method: String,
    path: String,
    range: Option<usize>,
    secret: String,
}

fn read(stream: &TcpStream) -> Option<Request> {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let first = lines.next()?;
    let mut parts = first.split_whitespace();
    let (method, path) = (parts.next()?.to_owned(), parts.next()?.to_owned());
    let mut request = Request { method, path, range: None, secret: String::new() };
    for line in lines.take_while(|line| !line.is_empty()) {
        let Some((name, value)) = line.split_once(':') else { continue };
        match name.to_ascii_lowercase().as_str() {
            "range" => request.range = value.trim().strip_prefix("bytes=")?.split('-').next()?.parse().ok(),
            "authorization" | "cookie" => request.secret = value.trim().to_owned(),
            _ => {}
        }
    }
    Some(request)
}

fn answer(stream: TcpStream, behaviour: &Mutex<Behaviour>, log: &Mutex<Vec<String>>, storage: &str) {
    let Some(request) = read(&stream) else { return };
    let range = request.range.map_or(String::new(), |from| format!(" from {from}"));
    let secret = if request.secret.is_empty() { "" } else { " secret" };
    let line = format!("{} {}{range}{secret}", request.method, request.path);
    log.lock().expect("the log").push(line);
    let mut state = behaviour.lock().expect("the behaviour");
    if state.busy > 0 {
        state.busy -= 1;
        drop(state);
        return send(stream, "503 Service Unavailable", &[], b"", true);
    }
    let state = state.clone();
    route(stream, &request, &state, storage);
}

fn send(mut stream: TcpStream, status: &str, headers: &[(&str, String)], body: &[u8], with_body: bool) {
    let mut head = format!("HTTP/1.1 {status}\r\nConnection: close\r\n");
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    if !headers.iter().any(|(name, _)| *name == "Content-Length") {
        head += &format!("Content-Length: {}\r\n", body.len());
    }
    // A client that goes away is its own affair.
    let _ = stream.write_all((head + "\r\n").as_bytes());
    if with_body {
        let _ = stream.write_all(body);
    }
}

fn route(stream: TcpStream, request: &Request, state: &Behaviour, storage: &str) {
    let get = request.method == "GET";
    let missing = |stream| {
        send(stream, "404 Not Found", &[("X-Error-Message", "Repository not found".into())], b"", get)
    };
    let path = request.path.split('?').next().unwrap_or_default();
    if let Some(hash) = path.strip_prefix("/storage/") {
        let found = state.repos.values().flat_map(|files| files.values()).find(|bytes| sha256(bytes) == hash);
        return match found {
            Some(bytes) => body(stream, request, state, bytes),
            None => missing(stream),
        };
    }
    if state.token.as_ref().is_some_and(|token| !request.secret.ends_with(token.as_str())) {
        return send(
            stream,
            "401 Unauthorized",
            &[("X-Error-Message", "Invalid username or password.".into())],
            b"",
            get,
        );
    }
    if let Some(rest) = path.strip_prefix("/api/v1/") {
        return modelscope(stream, request, state, rest);
    }
    if let Some(rest) = path.strip_prefix("/api/") {
        let (repo, commit) = match rest.strip_suffix("/revision/refs%2Fconvert%2Fparquet") {
            Some(repo) => (format!("{repo}@parquet"), CONVERTED),
            None => (rest.strip_suffix("/revision/main").unwrap_or(rest).to_owned(), COMMIT),
        };
        let Some(files) = state.repos.get(&repo) else { return missing(stream) };
        let siblings: Vec<_> = files.keys().map(|name| serde_json::json!({"rfilename": name})).collect();
        let json = serde_json::json!({"sha": commit, "siblings": siblings}).to_string();
        return send(stream, "200 OK", &[], json.as_bytes(), get);
    }
    let own = path.trim_start_matches('/').split_once(&format!("/resolve/{COMMIT}/"));
    let converted = path.trim_start_matches('/').split_once(&format!("/resolve/{CONVERTED}/"));
    let Some((repo, file)) = own.or(converted) else { return missing(stream) };
    let repo = &if own.is_none() { format!("{repo}@parquet") } else { repo.to_owned() };
    let repo = if repo.starts_with("datasets/") { repo.to_owned() } else { format!("models/{repo}") };
    let Some(bytes) = state.repos.get(&repo).and_then(|files| files.get(file)) else {
        return missing(stream);
    };
    if is_large(file) {
        let hash = sha256(bytes);
        let headers = [
            ("Location", format!("{storage}/storage/{hash}")),
            ("X-Linked-Etag", format!("\"{hash}\"")),
            ("X-Linked-Size", bytes.len().to_string()),
            ("X-Repo-Commit", COMMIT.to_owned()),
        ];
        return send(stream, "302 Found", &headers, b"", get);
    }
    let headers = [("ETag", format!("\"{}\"", git_hash(bytes))), ("Content-Length", bytes.len().to_string())];
    send(stream, "200 OK", &headers, bytes, get);
}

fn modelscope(stream: TcpStream, request: &Request, state: &Behaviour, rest: &str) {
    let query = request.path.split_once('?').map_or("", |(_, query)| query);
    let (repo, what) = rest.split_once("/repo").unwrap_or_default();
    let Some(files) = state.repos.get(repo) else {
        let json = br#"{"Code": 10990101007, "Message": "repo not found"}"#;
        return send(stream, "404 Not Found", &[], json, true);
    };
    if !what.is_empty() {
        let entry = |(name, bytes): (&String, &Vec<u8>)| serde_json::json!({"Path": name, "Type": "blob", "Size": bytes.len(), "Sha256": sha256(bytes)});
        let list: Vec<_> = files.iter().map(entry).collect();
        let json = serde_json::json!({"Code": 200, "Data": {"Files": list}}).to_string();
        return send(stream, "200 OK", &[], json.as_bytes(), true);
    }
    let file = query.split('&').find_map(|pair| pair.strip_prefix("FilePath=")).unwrap_or_default();
    match files.get(&file.replace("%2F", "/")) {
        Some(bytes) => body(stream, request, state, bytes),
        None => send(stream, "404 Not Found", &[], b"", true),
    }
}

/// A file's bytes from the range's start, cut or changed as the behaviour says.
fn body(stream: TcpStream, request: &Request, state: &Behaviour, bytes: &[u8]) {
    let mut bytes = bytes.to_vec();
    if let Some(byte) = bytes.last_mut().filter(|_| state.corrupt) {
        *byte ^= 1;
    }
    let from = request.range.filter(|_| !state.ignore_ranges);
    let start = from.unwrap_or(0).min(bytes.len());
    let whole = bytes.len() - start;
    let sent = state.cut_after.map_or(whole, |cut| cut.min(whole));
    if state.flood > 0 && request.method == "GET" {
        return flood(stream, &bytes, state);
    }
    let mut headers = vec![("Content-Length", whole.to_string())];
    let status = match from {
        Some(from) => {
            headers
                .push(("Content-Range", format!("bytes {from}-{}/{}", bytes.len().max(1) - 1, bytes.len())));
            "206 Partial Content"
        }
        None => "200 OK",
    };
    send(stream, status, &headers, &bytes[start..start + sent], request.method == "GET");
}

/// The bytes and more than anybody asked for, until the client goes away.
fn flood(mut stream: TcpStream, bytes: &[u8], state: &Behaviour) {
    let junk = vec![0; 1 << 20];
    let mut sent = 0;
    let mut left = state.flood;
    if stream
        .write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        .and_then(|()| stream.write_all(bytes))
        .is_ok()
    {
        while left > 0 && stream.write_all(&junk).is_ok() {
            sent += junk.len();
            left = left.saturating_sub(junk.len());
        }
    }
    state.flooded.fetch_max(sent, std::sync::atomic::Ordering::SeqCst);
}
