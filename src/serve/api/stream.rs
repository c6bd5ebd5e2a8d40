//! Server-sent events: one `data:` line a chunk, the numbers of tokens where asked for, `[DONE]`.
//!
//! The stream lives in the response's body: when the client goes away, the body is dropped and with it the
//! output stream, which cancels the generation.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::http::{HeaderName, HeaderValue, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use serde_json::Value;

use super::reply::{ChoiceBuilder, ResponseHead};
use crate::serve::engine::output::{ChoiceUpdate, OutputStream};

/// A comment goes out this often while a request waits, so that a dead connection is noticed.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// The state of a stream.
struct ChunkStream<F> {
    output: OutputStream,
    /// Chunks that have not gone out.
    chunks: VecDeque<String>,
    on_update: F,
    head: ResponseHead,
    open: bool,
}

/// Streams a chat answer.
pub fn chat(output: OutputStream, mut builders: Vec<ChoiceBuilder>, head: ResponseHead) -> Response {
    let opening = (0..builders.len()).map(ChoiceBuilder::opening).collect();
    let on_update = move |output: &mut OutputStream, index: usize, update: ChoiceUpdate| {
        let (chunks, ended) = builders[index].deltas(&output.model.tokenizer, index, update);
        if ended {
            output.end(index);
        }
        chunks
    };
    events(output, opening, head, on_update)
}

/// Streams an answer: first the choices `opening`, a chunk each, then the choices that `on_update` makes of each update.
pub fn events<F>(output: OutputStream, opening: Vec<Value>, head: ResponseHead, on_update: F) -> Response
where
    F: FnMut(&mut OutputStream, usize, ChoiceUpdate) -> Vec<Value> + Send + 'static,
{
    let chunks = opening.into_iter().map(|choice| head.chunk(choice).to_string()).collect();
    let state = ChunkStream { output, chunks, on_update, head, open: true };
    let stream = futures_util::stream::unfold(state, |mut state| async move {
        let text = state.next().await?;
        Some((Ok::<_, Infallible>(Event::default().data(text)), state))
    });
    let mut response = Sse::new(stream).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // Asks proxies not to buffer the response.
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}

impl<F> ChunkStream<F>
where
    F: FnMut(&mut OutputStream, usize, ChoiceUpdate) -> Vec<Value>,
{
    async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(chunk) = self.chunks.pop_front() {
                return Some(chunk);
            }
            if !self.open {
                return None;
            }
            match self.output.next().await {
                Some(Ok((index, update))) => {
                    for choice in (self.on_update)(&mut self.output, index, update) {
                        self.chunks.push_back(self.head.chunk(choice).to_string());
                    }
                }
                Some(Err(error)) => {
                    // The status is out already: the error goes where the next chunk would.
                    self.open = false;
                    self.chunks.push_back(error.body().to_string());
                }
                None => {
                    self.open = false;
                    let usage = self.head.usage_chunk(self.output.usage());
                    self.chunks.extend(usage.map(|chunk| chunk.to_string()));
                    self.chunks.push_back("[DONE]".to_owned());
                }
            }
        }
    }
}
