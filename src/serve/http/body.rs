//! Reads a request's body within its limits of size and time, and those of all bodies together.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{BodyDataStream, HttpBody};
use axum::extract::{FromRequest, Request};
use axum::http::header;
use futures_util::StreamExt;

use super::connection::ConnectionState;
use crate::serve::body::RequestBody;
use crate::serve::error::ApiError;
use crate::serve::state::AppState;

/// Bytes beyond the limit that are still read, and for how long, before a body is refused: a client that has not
/// sent all sees a broken pipe instead of the answer.
const DISCARD_BYTES: usize = 8 << 20;
const DISCARD_TIME: Duration = Duration::from_secs(5);

impl FromRequest<Arc<AppState>> for RequestBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &Arc<AppState>) -> Result<Self, ApiError> {
        read(request, state).await
    }
}

async fn read(request: Request, state: &AppState) -> Result<RequestBody, ApiError> {
    let limits = &state.settings.limits;
    let connection = request.extensions().get::<Arc<ConnectionState>>().cloned();
    let mut share = state.body_budget.share();
    let expects_continue = request.headers().contains_key(header::EXPECT);
    let body = request.into_body();
    let known = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    let mut body = body.into_data_stream();
    if known > limits.body_bytes {
        // Who waits for `100 Continue` has sent nothing yet; of what is larger still, reading a part helps nobody.
        if !expects_continue && known - limits.body_bytes <= DISCARD_BYTES {
            discard(&mut body, known).await;
        }
        return Err(ApiError::payload_too_large(limits.body_bytes));
    }
    let mut bytes = Vec::new();
    let gathered = async {
        while let Some(part) = body.next().await {
            let part = part.map_err(|_| ApiError::bad_request("the body broke off"))?;
            share.grow_to(bytes.len() + part.len())?;
            bytes.extend_from_slice(&part);
            if bytes.len() > limits.body_bytes {
                return Err(ApiError::payload_too_large(limits.body_bytes));
            }
        }
        Ok(())
    };
    match tokio::time::timeout(limits.body, gathered).await {
        Err(_) => Err(ApiError::body_timeout()),
        Ok(Ok(())) => {
            if let Some(connection) = connection {
                connection.body_received();
            }
            Ok(RequestBody::new(bytes.into(), share))
        }
        Ok(Err(error)) => {
            discard(&mut body, DISCARD_BYTES).await;
            Err(error)
        }
    }
}

/// Reads and drops up to `most` bytes.
async fn discard(body: &mut BodyDataStream, most: usize) {
    let dropped = async {
        let mut left = most;
        while let Some(Ok(part)) = body.next().await {
            match left.checked_sub(part.len()) {
                Some(rest) => left = rest,
                None => break,
            }
        }
    };
    // What has not come by then is not waited for.
    let _ = tokio::time::timeout(DISCARD_TIME, dropped).await;
}
