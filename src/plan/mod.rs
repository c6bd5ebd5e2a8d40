//! What will be done: a recipe with every default filled and every name resolved.
//!
//! Reading order: `types` (the plan), `kinds` (the stages' settings, each declared once, and how they are resolved), `runtime`,
//! `schema` (keys that are not yet there), `shape` and `defaults.yaml` (what a recipe may hold), `upstream` (MiniMind's names),
//! `resolve` (from a recipe to a plan), `references`, `hubs`, `settings` (model, data), `data_files`, `rewards`,
//! `tools`, `changes` (what a change of a setting means), `environment` and `machine` with `quota` (the only readers of
//! both), `cost` (what it will take).

pub mod changes;
pub mod cost;
mod data_files;
pub mod environment;
pub mod hubs;
pub mod kinds;
pub mod machine;
mod markdown;
mod mixture;
mod quota;
pub mod references;
pub mod resolve;
pub mod rewards;
pub mod runtime;
pub mod schema;
pub mod settings;
pub mod shape;
pub mod tools;
pub mod types;
mod upstream;

pub use changes::{Change, SettingKind};
pub use cost::{Facts, StageCost, estimate};
pub use machine::Machine;
pub use markdown::markdown;
pub use resolve::{load, resolve};
pub use shape::shape;
pub use types::*;

#[cfg(test)]
mod tests;
