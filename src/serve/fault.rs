//! What a client gets when its request cannot be served: OpenAI's error object and the right status.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::error::{Error, Kind};

/// When to come back to a server that loads or stops.
pub const RETRY_SECS: u64 = 2;

/// An error for the client.
#[derive(Debug, Clone)]
pub struct Fault {
    status: StatusCode,
    kind: &'static str,
    message: String,
    param: Option<String>,
    code: Option<&'static str>,
    retry_after_secs: Option<u64>,
}

impl Fault {
    fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        Self { status, kind, message: message.into(), param: None, code: None, retry_after_secs: None }
    }

    /// 400: the request is wrong.
    pub fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", message)
    }

    /// 400: one parameter is wrong.
    pub fn param(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self { param: Some(param.into()), ..Self::bad(message) }
    }

    /// 400: a prompt of so many tokens (or `at_least` so many) is longer than a model sees.
    pub fn too_long(param: &str, tokens: usize, at_least: bool, context: usize) -> Self {
        let tokens = if at_least { format!("at least {tokens}") } else { tokens.to_string() };
        let message = format!(
            "the prompt has {tokens} tokens; this model's maximum context length is {context}, answer included"
        );
        Self::param(param, message).code("context_length_exceeded")
    }

    /// 401: no key, or a wrong one.
    pub fn no_key() -> Self {
        let message = "the API key is missing or wrong; send it as `Authorization: Bearer KEY`";
        Self::new(StatusCode::UNAUTHORIZED, "invalid_request_error", message).code("invalid_api_key")
    }

    /// 403: not from there.
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "invalid_request_error", message)
    }

    /// 404: there is no such thing.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "invalid_request_error", message)
    }

    /// 405: this path, but not this method.
    pub fn method() -> Self {
        let message = "this path does not take that method";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "invalid_request_error", message)
    }

    /// 408: the body did not come in time.
    pub fn slow_body() -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "invalid_request_error", "the body did not arrive in time")
    }

    /// 413: more bytes than the server takes.
    pub fn too_large(limit_bytes: usize) -> Self {
        let message = format!("the body is larger than {limit_bytes} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "invalid_request_error", message)
    }

    /// 429: the queue is full.
    pub fn busy(waiting: usize) -> Self {
        let message =
            format!("the server is busy: {waiting} requests are at work or waiting; try again soon");
        let fault = Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", message);
        Self { retry_after_secs: Some(1), ..fault.code("queue_full") }
    }

    /// 500: our side failed.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", message)
    }

    /// 503: not now.
    pub fn unavailable(message: impl Into<String>) -> Self {
        let fault = Self::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", message);
        Self { retry_after_secs: Some(RETRY_SECS), ..fault }
    }

    /// 503: what runs is finished, nothing new is taken.
    pub fn stopping() -> Self {
        Self::unavailable("the server is stopping")
    }

    /// 504: it took longer than the server allows.
    pub fn late(limit_secs: u64) -> Self {
        let message = format!("the request took longer than {limit_secs} s");
        Self::new(StatusCode::GATEWAY_TIMEOUT, "server_error", message).code("timeout")
    }

    /// What a layer below said in another form.
    pub fn of_status(status: StatusCode, message: impl Into<String>) -> Self {
        let kind = if status.is_server_error() { "server_error" } else { "invalid_request_error" };
        Self::new(status, kind, message)
    }

    /// Adds a code that programs can look at.
    pub fn code(self, code: &'static str) -> Self {
        Self { code: Some(code), ..self }
    }

    /// The body: `{"error": {...}}`.
    pub fn body(&self) -> Value {
        json!({"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}})
    }

    /// The status.
    pub fn status(&self) -> StatusCode {
        self.status
    }
}

/// Input faults are the client's, all others ours.
impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        // The text after `error: ` with its cause; a path of this machine is not the client's affair.
        let message = error.what().to_owned();
        match error.kind() {
            Kind::Input => Self::bad(message),
            _ => {
                tracing::error!("{error}");
                Self::failed(message)
            }
        }
    }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body())).into_response();
        let headers = response.headers_mut();
        if let Some(secs) = self.retry_after_secs {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(secs));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
