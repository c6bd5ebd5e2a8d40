//! OpenAI's interface: what a request asks, checked field by field, and the JSON of its answer.
//!
//! Requests: [`fields`] (types and ranges), [`params`] (sampling and limits), [`messages`], [`prompt`], [`response_format`],
//! [`forced_tool_call`], [`inputs`]. Answers: [`output_parser`] (thinking and tool calls in the text), [`reply`],
//! [`logprobs`], [`stream`] (server-sent events). Endpoints: [`chat`], [`completions`], [`embeddings`], [`tokenize`],
//! [`tools`]. Fields and their meaning are OpenAI's, and vLLM's where OpenAI has none.

pub mod chat;
pub mod completions;
pub mod embeddings;
pub mod fields;
pub mod forced_tool_call;
pub mod inputs;
pub mod logprobs;
pub mod messages;
pub mod output_parser;
pub mod params;
pub mod prompt;
pub mod reply;
pub mod response_format;
pub mod stream;
pub mod tokenize;
pub mod tools;

use super::error::ApiError;

/// Runs what may take a while (parsing, tokenising) on a thread of its own, apart from those that serve connections.
///
/// # Errors
/// What `work` returns, and 500 where it panics.
pub async fn run_blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|_| Err(ApiError::internal("the request could not be read")))
}
