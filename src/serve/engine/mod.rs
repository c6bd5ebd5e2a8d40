//! The thread that owns a model, and the text of what it generates.
//!
//! [`handle`] (what handlers hold) sends requests to [`worker`] (the thread), which steps [`engine_core`] (the batcher behind a
//! fair [`queue`]). Events come back through [`output`], where [`detokenizer`] turns tokens into text and [`stop_strings`]
//! looks for stop strings. Tokens in, text out: JSON is [`super::api`]'s.

pub mod detokenizer;
pub mod engine_core;
pub mod handle;
pub mod output;
pub mod queue;
pub mod stop_strings;
pub mod worker;
