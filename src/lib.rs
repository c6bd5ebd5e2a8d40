//! `minimind` trains a small language model through its whole life from one recipe.
//!
//! The map, in reading order: [`recipe`] (what the user wrote) becomes a [`plan`] (what will be done),
//! which the stages carry out with [`data`], [`model`] and the other leaves; [`checkpoint`] and
//! [`report`] keep what came of it. Nothing below `plan` knows a recipe.

// First: its macros stand in for the standard library's in all that follows.
#[macro_use]
pub mod terminal;

pub mod atomic;
pub mod checkpoint;
pub mod cli;
pub mod data;
pub mod engine;
pub mod error;
pub mod export;
pub mod files;
pub mod hash;
pub mod hub;
pub mod loss;
pub mod model;
pub mod native;
pub mod optim;
pub mod plan;
pub mod recipe;
pub mod report;
pub mod rollout;
pub mod serve;
pub mod stage;

pub use error::{Error, Result};
