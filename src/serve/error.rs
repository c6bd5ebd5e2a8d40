//! What a client gets when its request cannot be served: OpenAI's error object (`message`, `type`, `param`, `code`) and
//! the right status.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::error::{Error, Kind};

/// When to come back to a server that loads or stops.
pub const RETRY_SECS: u64 = 2;

/// An error for the client.
#[derive(Debug, Clone)]
pub struct ApiError {
    status: StatusCode,
    kind: &'static str,
    message: String,
    param: Option<String>,
    code: Option<&'static str>,
    retry_after_secs: Option<u64>,
}

impl ApiError {
    fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        Self { status, kind, message: message.into(), param: None, code: None, retry_after_secs: None }
    }

    /// 400: the request is wrong.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", message)
    }

    /// 400: the field `param` is wrong.
    pub fn param(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self { param: Some(param.into()), ..Self::bad_request(message) }
    }

    /// 400: the prompt in the field `param` has more `tokens` than the model's `context`.
    pub fn prompt_too_long(param: &str, tokens: usize, context: usize) -> Self {
        Self::context_exceeded(param, &tokens.to_string(), context)
    }

    /// The same of a prompt that was not tokenised: it has at least so many tokens.
    pub fn prompt_too_long_at_least(param: &str, tokens: usize, context: usize) -> Self {
        Self::context_exceeded(param, &format!("at least {tokens}"), context)
    }

    fn context_exceeded(param: &str, tokens: &str, context: usize) -> Self {
        let message = format!(
            "the prompt has {tokens} tokens; this model's maximum context length is {context}, answer included"
        );
        Self::param(param, message).code("context_length_exceeded")
    }

    /// 401: no key, or a wrong one.
    pub fn unauthorized() -> Self {
        let message = "the API key is missing or wrong; send it as `Authorization: Bearer KEY`";
        Self::new(StatusCode::UNAUTHORIZED, "invalid_request_error", message).code("invalid_api_key")
    }

    /// 403: requests from there are not taken.
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "invalid_request_error", message)
    }

    /// 404: there is no such thing.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "invalid_request_error", message)
    }

    /// 405: this path, but not this method.
    pub fn method_not_allowed() -> Self {
        let message = "this path does not take that method";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "invalid_request_error", message)
    }

    /// 408: the body did not come in time.
    pub fn body_timeout() -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "invalid_request_error", "the body did not arrive in time")
    }

    /// 413: more bytes than the server takes.
    pub fn payload_too_large(limit_bytes: usize) -> Self {
        let message = format!("the body is larger than {limit_bytes} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "invalid_request_error", message)
    }

    /// 429: the queue is full.
    pub fn queue_full(waiting: usize) -> Self {
        let message =
            format!("the server is busy: {waiting} requests are at work or waiting; try again soon");
        let error = Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", message);
        Self { retry_after_secs: Some(1), ..error.code("queue_full") }
    }

    /// 500: the server failed.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", message)
    }

    /// 503: not now.
    pub fn unavailable(message: impl Into<String>) -> Self {
        let error = Self::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", message);
        Self { retry_after_secs: Some(RETRY_SECS), ..error }
    }

    /// 503: what runs is finished, nothing new is taken.
    pub fn stopping() -> Self {
        Self::unavailable("the server is stopping")
    }

    /// 504: it took longer than the server allows.
    pub fn timeout(limit_secs: u64) -> Self {
        let message = format!("the request took longer than {limit_secs} s");
        Self::new(StatusCode::GATEWAY_TIMEOUT, "server_error", message).code("timeout")
    }

    /// The error of a layer that answers in another form.
    pub fn from_status(status: StatusCode, message: impl Into<String>) -> Self {
        let kind = if status.is_server_error() { "server_error" } else { "invalid_request_error" };
        Self::new(status, kind, message)
    }

    /// Adds a code for programs to match on.
    pub fn code(self, code: &'static str) -> Self {
        Self { code: Some(code), ..self }
    }

    /// The body: `{"error": {...}}`.
    pub fn body(&self) -> Value {
        json!({"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}})
    }

    /// The HTTP status that the client gets.
    pub fn status(&self) -> StatusCode {
        self.status
    }
}

/// Wrong input is the client's fault (400), all else the server's (500).
impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        // The text after `error: ` with its cause; a path of this machine is not for clients.
        let message = error.what().to_owned();
        match error.kind() {
            Kind::Input => Self::bad_request(message),
            _ => {
                tracing::error!("{error}");
                Self::internal(message)
            }
        }
    }
}

impl IntoResponse for ApiError {
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
