//! The command line: one file a command, each an `Args` (clap) and a `run`.

pub mod run;
pub mod plan;
pub mod validate;
pub mod recipes;
pub mod schema;
pub mod chat;
pub mod generate;
pub mod eval;
pub mod tokenizer;
pub mod data;
pub mod inspect;
pub mod report;
pub mod doctor;
