//! What the user wrote: a checked tree, with the place of every key, and nothing filled in.
//!
//! It knows no key: [`read`] is handed a [`Shape`], and gives every fault of a file at once. `plan` owns the shape and
//! turns a [`Recipe`] into a plan. Next: `shape`, `places`, `mask`, `expand`, `check`, `faults`, `tree`, `reader`.

pub mod check;
pub mod expand;
pub mod faults;
pub mod mask;
pub mod places;
pub mod reader;
pub mod shape;
pub mod tree;

pub use places::{Places, Steps};
pub use reader::{Recipe, read, read_all};
pub use shape::{Hints, Shape};
pub use tree::Section;

#[cfg(test)]
mod tests;
