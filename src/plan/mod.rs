//! What will be done: a recipe with every default filled and every name resolved.

pub mod types;

pub use types::*;
