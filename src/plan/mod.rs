//! What will be done: a recipe with every default filled and every name resolved.
//!
//! Reading order: `schema`, `shape` and `upstream` (the keys of a recipe), `types` (the plan), `kinds` (what a change of it
//! means), `resolve`, `tuning`, `evaluation`, `exporting`, `policies`, `references`, `hubs`, `rollouts`, `rewards`, `tools` and `settings` (from a recipe to it), `environment` and `machine` with `quota` (the only readers of both), `cost` (what it will take).

pub mod cost;
pub mod environment;
pub mod evaluation;
pub mod exporting;
pub mod hubs;
pub mod kinds;
pub mod machine;
mod policies;
pub mod policy;
mod quota;
pub mod references;
pub mod resolve;
pub mod rewards;
mod rollouts;
pub mod schema;
pub mod settings;
pub mod shape;
pub mod tools;
pub mod tuning;
pub mod types;
mod upstream;

pub use cost::{Facts, StageCost, estimate};
pub use exporting::ExportConfig;
pub use kinds::{Change, SettingKind};
pub use machine::Machine;
pub use resolve::{load, resolve};
pub use shape::shape;
pub use types::*;

#[cfg(test)]
mod tests;
