//! Counters of the server in Prometheus' text form (exposition format 0.0.4).

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// The sum.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    /// Changes the value.
    pub fn add(&self, value: i64) {
        self.0.fetch_add(value, Ordering::Relaxed);
    }
}

/// Upper edges of the histograms, in seconds.
const EDGES: [f64; 11] = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 120.0];

/// How long things took.
#[derive(Debug, Default)]
pub struct Histogram {
    counts: [AtomicU64; EDGES.len()],
    total: AtomicU64,
    micros: AtomicU64,
}

impl Histogram {
    /// Notes a time.
    pub fn observe(&self, took: Duration) {
        let secs = took.as_secs_f64();
        for (edge, count) in EDGES.iter().zip(&self.counts) {
            if secs <= *edge {
                count.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.total.fetch_add(1, Ordering::Relaxed);
        self.micros.fetch_add(took.as_micros() as u64, Ordering::Relaxed);
    }

    fn write(&self, name: &str, help: &str, out: &mut String) {
        head(name, "histogram", help, out);
        for (edge, count) in EDGES.iter().zip(&self.counts) {
            let _ = writeln!(out, "{name}_bucket{{le=\"{edge}\"}} {}", count.load(Ordering::Relaxed));
        }
        let total = self.total.load(Ordering::Relaxed);
        let sum = self.micros.load(Ordering::Relaxed) as f64 / 1e6;
        let _ = writeln!(out, "{name}_bucket{{le=\"+Inf\"}} {total}\n{name}_sum {sum}\n{name}_count {total}");
    }
}

fn head(name: &str, kind: &str, help: &str, out: &mut String) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

/// Everything that is counted.
#[derive(Debug)]
pub struct Metrics {
    started: Instant,
    requests: Mutex<BTreeMap<(String, u16), u64>>,
    /// Rows in the batch.
    pub running: Gauge,
    /// Generations that wait for a row.
    pub waiting: Gauge,
    /// Open connections.
    pub connections: Gauge,
    /// Tokens of prompts.
    pub prompt_tokens: Counter,
    /// Tokens generated.
    pub generated_tokens: Counter,
    /// Generations whose client went away, or that ended early for a stop string.
    pub cancelled: Counter,
    /// Generations that failed.
    pub failed: Counter,
    /// Requests refused because the queue was full.
    pub rejected: Counter,
    /// Models loaded, the first time and again.
    pub loads: Counter,
    /// From a request to its first token.
    pub first_token: Histogram,
    /// From a request to the end of its answer.
    pub duration: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            requests: Mutex::default(),
            running: Gauge::default(),
            waiting: Gauge::default(),
            connections: Gauge::default(),
            prompt_tokens: Counter::default(),
            generated_tokens: Counter::default(),
            cancelled: Counter::default(),
            failed: Counter::default(),
            rejected: Counter::default(),
            loads: Counter::default(),
            first_token: Histogram::default(),
            duration: Histogram::default(),
        }
    }
}

impl Metrics {
    /// Counts a request; `path` is a route's, never what a client made up.
    pub fn request(&self, path: &str, status: u16) {
        let mut requests = self.requests.lock().unwrap_or_else(|e| e.into_inner());
        *requests.entry((path.to_owned(), status)).or_default() += 1;
    }

    /// The page that Prometheus reads.
    pub fn text(&self) -> String {
        let mut out = String::new();
        head("minimind_build_info", "gauge", "The version of the program.", &mut out);
        let _ = writeln!(out, "minimind_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION"));
        head("minimind_uptime_seconds", "gauge", "Seconds since the start.", &mut out);
        let _ = writeln!(out, "minimind_uptime_seconds {}", self.started.elapsed().as_secs_f64());
        head("minimind_http_requests_total", "counter", "Requests by path and status.", &mut out);
        for ((path, status), count) in &*self.requests.lock().unwrap_or_else(|e| e.into_inner()) {
            let _ =
                writeln!(out, "minimind_http_requests_total{{path=\"{path}\",status=\"{status}\"}} {count}");
        }
        for (name, help, gauge) in [
            ("minimind_requests_running", "Generations in the batch.", &self.running),
            ("minimind_requests_waiting", "Generations that wait for a row.", &self.waiting),
            ("minimind_connections", "Open connections.", &self.connections),
        ] {
            head(name, "gauge", help, &mut out);
            let _ = writeln!(out, "{name} {}", gauge.0.load(Ordering::Relaxed));
        }
        for (name, help, counter) in [
            ("minimind_prompt_tokens_total", "Tokens of prompts.", &self.prompt_tokens),
            ("minimind_generated_tokens_total", "Tokens generated.", &self.generated_tokens),
            ("minimind_cancelled_total", "Generations that were ended early.", &self.cancelled),
            ("minimind_failed_total", "Generations that failed.", &self.failed),
            ("minimind_rejected_total", "Requests refused because the queue was full.", &self.rejected),
            ("minimind_model_loads_total", "Models loaded.", &self.loads),
        ] {
            head(name, "counter", help, &mut out);
            let _ = writeln!(out, "{name} {}", counter.get());
        }
        self.first_token.write("minimind_first_token_seconds", "Time to the first token.", &mut out);
        self.duration.write("minimind_request_seconds", "Time to the end of an answer.", &mut out);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_has_help_type_and_value_of_each() {
        let metrics = Metrics::default();
        metrics.request("/v1/models", 200);
        metrics.request("/v1/models", 200);
        metrics.first_token.observe(Duration::from_millis(30));
        let text = metrics.text();
        for line in [
            "minimind_http_requests_total{path=\"/v1/models\",status=\"200\"} 2",
            "minimind_first_token_seconds_bucket{le=\"0.025\"} 0",
            "minimind_first_token_seconds_bucket{le=\"0.05\"} 1",
            "minimind_first_token_seconds_count 1",
            "# TYPE minimind_requests_running gauge",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
    }
}
