//! What the server counts, in Prometheus' text form (exposition format 0.0.4) at `/metrics`.

use std::time::Instant;

use prometheus::core::Collector;
use prometheus::{
    Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry, TextEncoder,
};

/// Upper edges of the histograms, in seconds.
const EDGES: [f64; 11] = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 120.0];

/// Everything that is counted.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    started: Instant,
    uptime: Gauge,
    requests: IntCounterVec,
    /// Generations in the batch.
    pub running: IntGauge,
    /// Generations that wait for a slot.
    pub waiting: IntGauge,
    /// Connections that are open now.
    pub connections: IntGauge,
    /// Tokens of all prompts so far.
    pub prompt_tokens: IntCounter,
    /// Tokens generated so far.
    pub generated_tokens: IntCounter,
    /// Generations whose client went away, or that ended early for a stop string.
    pub cancelled: IntCounter,
    /// Generations that failed.
    pub failed: IntCounter,
    /// Requests refused because the queue was full.
    pub rejected: IntCounter,
    /// Models loaded, the first time and again.
    pub loads: IntCounter,
    /// Seconds from a request to its first token.
    pub first_token: Histogram,
    /// Seconds from a request to the end of its answer.
    pub duration: Histogram,
}

/// Registers a metric. The names are constants of this file: none is wrong or there twice.
fn register<M: Collector + Clone + 'static>(registry: &Registry, metric: prometheus::Result<M>) -> M {
    let metric = metric.expect("a metric's name is well formed");
    registry.register(Box::new(metric.clone())).expect("a metric's name is its own");
    metric
}

impl Default for Metrics {
    fn default() -> Self {
        let registry = Registry::new();
        let gauge = |name, help| register(&registry, IntGauge::new(name, help));
        let counter = |name, help| register(&registry, IntCounter::new(name, help));
        let histogram = |name, help| {
            let options = HistogramOpts::new(name, help).buckets(EDGES.to_vec());
            register(&registry, Histogram::with_opts(options))
        };
        let info = Opts::new("minimind_build_info", "The version of the program.");
        let info = info.const_label("version", env!("CARGO_PKG_VERSION"));
        register(&registry, IntGauge::with_opts(info)).set(1);
        let requests = Opts::new("minimind_http_requests_total", "Requests by path and status.");
        Self {
            started: Instant::now(),
            uptime: register(&registry, Gauge::new("minimind_uptime_seconds", "Seconds since the start.")),
            requests: register(&registry, IntCounterVec::new(requests, &["path", "status"])),
            running: gauge("minimind_requests_running", "Generations in the batch."),
            waiting: gauge("minimind_requests_waiting", "Generations that wait for a row."),
            connections: gauge("minimind_connections", "Open connections."),
            prompt_tokens: counter("minimind_prompt_tokens_total", "Tokens of prompts."),
            generated_tokens: counter("minimind_generated_tokens_total", "Tokens generated."),
            cancelled: counter("minimind_cancelled_total", "Generations that were ended early."),
            failed: counter("minimind_failed_total", "Generations that failed."),
            rejected: counter("minimind_rejected_total", "Requests refused because the queue was full."),
            loads: counter("minimind_model_loads_total", "Models loaded."),
            first_token: histogram("minimind_first_token_seconds", "Time to the first token."),
            duration: histogram("minimind_request_seconds", "Time to the end of an answer."),
            registry,
        }
    }
}

impl Metrics {
    /// Counts a request; `path` is a route's, never what a client made up.
    pub fn count_request(&self, path: &str, status: u16) {
        self.requests.with_label_values(&[path, &status.to_string()]).inc();
    }

    /// The text that Prometheus reads.
    pub fn text(&self) -> String {
        self.uptime.set(self.started.elapsed().as_secs_f64());
        let mut text = String::new();
        // It fails for a family without a metric alone, and the registry leaves those out.
        let _ = TextEncoder::new().encode_utf8(&self.registry.gather(), &mut text);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_exposition_format() {
        let metrics = Metrics::default();
        metrics.count_request("/health", 200);
        metrics.running.add(2);
        metrics.loads.inc();
        metrics.first_token.observe(0.25);
        let text = metrics.text();
        for lines in [
            concat!("minimind_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1\n"),
            "# HELP minimind_http_requests_total Requests by path and status.\n\
             # TYPE minimind_http_requests_total counter\n\
             minimind_http_requests_total{path=\"/health\",status=\"200\"} 1\n",
            "# TYPE minimind_requests_running gauge\nminimind_requests_running 2\n",
            "# TYPE minimind_model_loads_total counter\nminimind_model_loads_total 1\n",
            "# TYPE minimind_first_token_seconds histogram\nminimind_first_token_seconds_bucket{le=\"0.01\"} 0\n",
            "_bucket{le=\"0.1\"} 0\nminimind_first_token_seconds_bucket{le=\"0.25\"} 1\n\
             minimind_first_token_seconds_bucket{le=\"0.5\"} 1\nminimind_first_token_seconds_bucket{le=\"1\"} 1\n",
            "minimind_first_token_seconds_bucket{le=\"+Inf\"} 1\nminimind_first_token_seconds_sum 0.25\n\
             minimind_first_token_seconds_count 1\n",
        ] {
            assert!(text.contains(lines), "{lines}\n{text}");
        }
    }
}
