//! Bytes to batches.

pub mod batch;

pub use batch::{Batch, IGNORE};
