//! Server-sent events: one `data:` line a chunk, the numbers of tokens where asked for, `[DONE]`.
//!
//! The stream lives in the response's body: when the client goes away, the body is dropped and with it the
//! answer, which cancels the generation.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::http::{HeaderName, HeaderValue, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use serde_json::Value;

use super::answer::{Answer, Update};
use super::reply::{Head, Voice};

/// A comment goes out this often while a request waits, so that a dead connection is noticed.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// What a stream is made of.
struct Source<F> {
    answer: Answer,
    chunks: VecDeque<String>,
    on_update: F,
    head: Head,
    include_usage: bool,
    open: bool,
}

/// Streams a chat answer.
pub fn chat(answer: Answer, mut voices: Vec<Voice>, head: Head, include_usage: bool) -> Response {
    let opening = (0..voices.len()).map(Voice::opening).collect();
    let on_update = move |answer: &mut Answer, index: usize, update: Update| {
        let (chunks, ended) = voices[index].deltas(&answer.live.tokenizer, index, update);
        if ended {
            answer.end(index);
        }
        chunks
    };
    events(answer, opening, head, include_usage, on_update)
}

/// Streams an answer; `on_update` turns updates into choices.
pub fn events<F>(
    answer: Answer,
    opening: Vec<Value>,
    head: Head,
    include_usage: bool,
    on_update: F,
) -> Response
where
    F: FnMut(&mut Answer, usize, Update) -> Vec<Value> + Send + 'static,
{
    let chunks = opening.into_iter().map(|choice| head.chunk(choice, include_usage).to_string()).collect();
    let source = Source { answer, chunks, on_update, head, include_usage, open: true };
    let stream = futures_util::stream::unfold(source, |mut source| async move {
        let text = source.next().await?;
        Some((Ok::<_, Infallible>(Event::default().data(text)), source))
    });
    let mut response = Sse::new(stream).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // Proxies that gather a response before they pass it on are told not to.
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}

impl<F> Source<F>
where
    F: FnMut(&mut Answer, usize, Update) -> Vec<Value>,
{
    async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(chunk) = self.chunks.pop_front() {
                return Some(chunk);
            }
            if !self.open {
                return None;
            }
            match self.answer.next().await {
                Some(Ok((index, update))) => {
                    for choice in (self.on_update)(&mut self.answer, index, update) {
                        self.chunks.push_back(self.head.chunk(choice, self.include_usage).to_string());
                    }
                }
                Some(Err(fault)) => {
                    // The status is out already: the error goes where the next chunk would.
                    self.open = false;
                    self.chunks.push_back(fault.body().to_string());
                }
                None => {
                    self.open = false;
                    if self.include_usage {
                        self.chunks.push_back(self.head.usage(self.answer.usage()).to_string());
                    }
                    self.chunks.push_back("[DONE]".to_owned());
                }
            }
        }
    }
}
