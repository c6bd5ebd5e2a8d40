//! The body of a request, within its limits of size and time.

use std::time::Duration;

use axum::body::{BodyDataStream, Bytes, HttpBody};
use axum::extract::Request;
use axum::http::header;
use futures_util::StreamExt;

use super::Limits;
use super::fault::Fault;

/// Bytes beyond the limit that are still read, and for how long, before a body is refused: a client that has not
/// sent all sees a broken pipe instead of the answer.
const SPILL_BYTES: usize = 8 << 20;
const SPILL_TIME: Duration = Duration::from_secs(5);

/// Reads a body.
pub async fn read(request: Request, limits: &Limits) -> Result<Bytes, Fault> {
    let asks_first = request.headers().contains_key(header::EXPECT);
    let body = request.into_body();
    let known = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    let mut body = body.into_data_stream();
    if known > limits.body_bytes {
        // Who asks first has sent nothing yet; of what is larger still, reading a part helps nobody.
        if !asks_first && known - limits.body_bytes <= SPILL_BYTES {
            spill(&mut body, known).await;
        }
        return Err(Fault::too_large(limits.body_bytes));
    }
    let mut bytes = Vec::with_capacity(known);
    let gathered = async {
        while let Some(part) = body.next().await {
            bytes.extend_from_slice(&part.map_err(|_| Fault::bad("the body broke off"))?);
            if bytes.len() > limits.body_bytes {
                return Err(Fault::too_large(limits.body_bytes));
            }
        }
        Ok(())
    };
    match tokio::time::timeout(limits.body, gathered).await {
        Err(_) => Err(Fault::slow_body()),
        Ok(Ok(())) => Ok(bytes.into()),
        Ok(Err(fault)) => {
            spill(&mut body, SPILL_BYTES).await;
            Err(fault)
        }
    }
}

/// Reads and drops up to `most` bytes.
async fn spill(body: &mut BodyDataStream, most: usize) {
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
    let _ = tokio::time::timeout(SPILL_TIME, dropped).await;
}

/// Runs what may take a while (parsing, tokenising) apart from the threads that serve connections.
pub async fn apart<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Fault> + Send + 'static,
) -> Result<T, Fault> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|_| Err(Fault::failed("the request could not be read")))
}
