//! JSON over HTTP to a service of the user's: time-outs, a few retries, and errors that name the address.
//!
//! For the `http` reward and the `http` rollout engine. A refused or broken connection, 408, 429 and 5xx are tried
//! again; any other status is the service's last word.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Error, Result};

/// Where a service is, and with what patience.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ServiceConfig {
    /// Its address: http://host:port/path.
    #[schemars(with = "Option<String>")]
    pub url: String,
    /// Seconds a request may take.
    #[schemars(range(max = 86_400), extend("exclusiveMinimum" = 0))]
    pub timeout_secs: f64,
    /// Tries after the first.
    pub retries: usize,
    /// More headers. They may be keys: names alone are written to the run's folder.
    #[serde(serialize_with = "names")]
    #[schemars(with = "Option<BTreeMap<String, String>>")]
    pub headers: BTreeMap<String, String>,
    /// The environment variable that holds the key, sent as a bearer token; never written to the run's folder.
    #[serde(skip)]
    #[schemars(!skip, rename = "api_key_env", with = "Option<String>")]
    pub api_key: Option<Secret>,
}

impl Default for ServiceConfig {
    fn default() -> Self {
        Self::new("")
    }
}

impl ServiceConfig {
    /// An address with a minute's patience and three more tries.
    pub fn new(url: impl Into<String>) -> Self {
        Self { url: url.into(), timeout_secs: 60.0, retries: 3, headers: BTreeMap::new(), api_key: None }
    }
}

fn names<S: serde::Serializer>(headers: &BTreeMap<String, String>, to: S) -> Result<S::Ok, S::Error> {
    to.collect_map(headers.keys().map(|name| (name, "(not kept)")))
}

/// A text that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// A service that can be asked.
pub struct Service {
    config: ServiceConfig,
    agent: ureq::Agent,
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.config.fmt(f)
    }
}

/// One try's end.
enum Attempt {
    Done(Value),
    Again(String),
    Never(Error),
}

/// The largest answer that is read.
const MAX_BYTES: u64 = 1 << 30;

impl Service {
    /// A client; nothing is sent yet.
    pub fn new(config: &ServiceConfig) -> Self {
        let agent = ureq::Agent::config_builder()
            .timeout_global(Some(Duration::from_secs_f64(config.timeout_secs)))
            .http_status_as_error(false)
            .build()
            .into();
        Self { config: config.clone(), agent }
    }

    /// The address of `path` below the configured one.
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.config.url.trim_end_matches('/'))
    }

    /// Posts JSON to `path` (empty: the configured address itself) and reads JSON back.
    ///
    /// # Errors
    /// Where no try brings an answer of status 2xx in JSON.
    pub fn post(&self, path: &str, body: &Value) -> Result<Value> {
        let url = if path.is_empty() { self.config.url.clone() } else { self.url(path) };
        let mut last = String::new();
        for attempt in 0..=self.config.retries {
            if attempt > 0 {
                tracing::warn!("{url}: {last}; try {} of {}", attempt + 1, self.config.retries + 1);
                std::thread::sleep(Duration::from_millis(200 << (attempt - 1).min(6)));
            }
            match self.attempt(&url, body) {
                Attempt::Done(value) => return Ok(value),
                Attempt::Never(error) => return Err(error),
                Attempt::Again(cause) => last = cause,
            }
        }
        Err(Error::failed(format!("{url} does not answer after {} tries", self.config.retries + 1))
            .because(last)
            .hint("is the service running? see `url`, `timeout_secs` and `retries`"))
    }

    fn attempt(&self, url: &str, body: &Value) -> Attempt {
        let mut request = self.agent.post(url).header("content-type", "application/json");
        for (name, value) in &self.config.headers {
            request = request.header(name, value);
        }
        if let Some(key) = &self.config.api_key {
            request = request.header("authorization", format!("Bearer {}", key.0));
        }
        let mut answer = match request.send(body.to_string()) {
            Ok(answer) => answer,
            Err(error) => return Attempt::Again(error.to_string()),
        };
        let status = answer.status();
        let text = match answer.body_mut().with_config().limit(MAX_BYTES).read_to_string() {
            Ok(text) => text,
            Err(error) => return Attempt::Again(error.to_string()),
        };
        let start: String = text.chars().take(300).collect();
        if status.is_success() {
            return match serde_json::from_str(&text) {
                Ok(value) => Attempt::Done(value),
                Err(error) => Attempt::Never(
                    Error::failed(format!("{url} answered with something that is not JSON: {start}"))
                        .because(error)
                        .hint("check that `url` names the right service"),
                ),
            };
        }
        let cause = format!("status {status}: {start}");
        if status.is_server_error() || matches!(status.as_u16(), 408 | 429) {
            return Attempt::Again(cause);
        }
        Attempt::Never(
            Error::failed(format!("{url} refused the request"))
                .because(cause)
                .hint("check `url`, and `api_key_env` where the service wants a key"),
        )
    }
}

/// A small server for tests: answers each request by `answer(path, body)` with a status and a body.
#[cfg(test)]
pub(crate) mod testing {
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::TcpListener;
    use std::sync::mpsc::{Receiver, channel};

    use serde_json::Value;

    /// The address, and what was asked in order. The server ends with the test's process.
    pub(crate) fn serve(
        mut answer: impl FnMut(&str, &Value) -> (u16, String) + Send + 'static,
    ) -> (String, Receiver<(String, Value)>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (send, asked) = channel();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let (mut first, mut length) = (String::new(), 0usize);
                reader.read_line(&mut first).unwrap();
                loop {
                    let mut line = String::new();
                    if reader.read_line(&mut line).unwrap() == 0 || line.trim().is_empty() {
                        break;
                    }
                    let lower = line.to_lowercase();
                    if let Some(value) = lower.strip_prefix("content-length:") {
                        length = value.trim().parse().unwrap();
                    }
                }
                let mut body = vec![0; length];
                reader.read_exact(&mut body).unwrap();
                let path = first.split_whitespace().nth(1).unwrap_or_default().to_owned();
                let body: Value = serde_json::from_slice(&body).unwrap_or_default();
                let (status, text) = answer(&path, &body);
                if send.send((path, body)).is_err() {
                    break;
                }
                if status == 0 {
                    continue; // Closes the connection without a word.
                }
                let head = format!(
                    "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                    text.len()
                );
                let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(text.as_bytes()));
            }
        });
        (url, asked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn service(url: String) -> Service {
        Service::new(&ServiceConfig { timeout_secs: 5.0, retries: 2, ..ServiceConfig::new(url) })
    }

    #[test]
    fn a_busy_or_broken_service_is_asked_again() {
        let mut count = 0;
        let (url, asked) = testing::serve(move |_, body| {
            count += 1;
            match count {
                1 => (503, "busy".into()),
                2 => (0, String::new()),
                _ => (200, json!({"got": body}).to_string()),
            }
        });
        assert_eq!(service(url).post("/x", &json!([1])).unwrap(), json!({"got": [1]}));
        assert_eq!(asked.try_iter().count(), 3);
    }

    #[test]
    fn a_refusal_is_final_and_patience_ends() {
        let (url, asked) = testing::serve(|path, _| match path {
            "/no" => (404, "nothing here".into()),
            "/html" => (200, "<html>".into()),
            _ => (500, "broken".into()),
        });
        let text = |path: &str| service(url.clone()).post(path, &json!({})).unwrap_err().to_string();
        assert!(text("/no").contains("status 404") && text("/html").contains("not JSON"));
        assert_eq!(asked.try_iter().count(), 2);
        let last = text("/always");
        assert!(last.contains("after 3 tries") && last.contains("broken"), "{last}");
        let nobody = Service::new(&ServiceConfig { retries: 0, ..ServiceConfig::new("http://127.0.0.1:1") });
        assert!(
            nobody.post("/x", &json!({})).unwrap_err().to_string().contains("127.0.0.1:1/x does not answer")
        );
    }

    #[test]
    fn a_slow_service_is_not_waited_for() {
        let (url, _asked) = testing::serve(|_, _| {
            std::thread::sleep(Duration::from_secs(5));
            (200, "{}".into())
        });
        let config = ServiceConfig { timeout_secs: 0.2, retries: 0, ..ServiceConfig::new(url) };
        let started = std::time::Instant::now();
        assert!(Service::new(&config).post("/x", &json!({})).is_err());
        assert!(started.elapsed() < Duration::from_secs(3));
    }

    #[test]
    fn a_key_is_not_shown() {
        let config = ServiceConfig { api_key: Some(Secret("sesame".into())), ..ServiceConfig::new("x") };
        let text = format!("{config:?} {}", serde_json::to_string(&config).unwrap());
        assert!(!text.contains("sesame"));
    }
}
