//! The body of a request, within its limits of size and time.

use axum::body::{Bytes, HttpBody};
use axum::extract::Request;

use super::Limits;
use super::fault::Fault;

/// Reads a body.
pub async fn read(request: Request, limits: &Limits) -> Result<Bytes, Fault> {
    let body = request.into_body();
    if body.size_hint().lower() > limits.body_bytes as u64 {
        return Err(Fault::too_large(limits.body_bytes));
    }
    match tokio::time::timeout(limits.body, axum::body::to_bytes(body, limits.body_bytes)).await {
        Err(_) => Err(Fault::slow_body()),
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) => {
            // A length limit is the source of the error, if it is one.
            let long =
                std::error::Error::source(&error).is_some_and(|e| e.to_string().contains("length limit"));
            Err(if long { Fault::too_large(limits.body_bytes) } else { Fault::bad("the body broke off") })
        }
    }
}

/// Runs what may take a while (parsing, tokenising) apart from the threads that serve connections.
pub async fn apart<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Fault> + Send + 'static,
) -> Result<T, Fault> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|_| Err(Fault::failed("the request could not be read")))
}
