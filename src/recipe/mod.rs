//! What the user wrote: typed, with the place of every key, and nothing filled in.
//!
//! [`read`] gives every fault of a file at once. It knows no tensor and no default: `plan::resolve`
//! turns a [`Recipe`] into a plan. Next: `schema` (the keys), `places`, `expand`, `faults`,
//! `upstream` (what MiniMind calls otherwise), `reader`.

pub mod expand;
pub mod faults;
pub mod one_key;
pub mod places;
pub mod reader;
pub mod schema;
pub mod stages;
pub mod upstream;

pub use places::{Places, Steps};
pub use reader::{Recipe, read, read_all};
pub use schema::Root;

#[cfg(test)]
mod tests;
