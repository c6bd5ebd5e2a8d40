//! The kinds of stages: each with its settings, their ranges and defaults, and how references in them are resolved.
//!
//! A setting is declared once: a field with its doc line, its range and its default (`plan/defaults.yaml` where it differs
//! by kind). `recipe::check` refuses what does not fit it, `minimind schema` and `docs/recipe.md` show it. Start with
//! `train`, which the others build on.

mod distill;
mod dpo;
mod eval;
mod export;
mod lora;
mod reason;
mod reward;
mod tokenizer;
mod train;

pub use distill::DistillStage;
pub use dpo::{DpoStage, Reference};
pub use eval::{ChoicePlan, EvalConfig, EvalTask};
pub use export::ExportConfig;
pub use lora::{LoraConfig, MergeConfig};
pub use reason::ReasonConfig;
pub use reward::RewardConfig;
pub use tokenizer::TokenizerConfig;
pub use train::{SaveDtype, TrainConfig};
