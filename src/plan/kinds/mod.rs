//! The kinds of stages: each with its settings, their ranges and defaults, and how references in them are resolved.
//!
//! A setting is declared once: a field with its doc line, its range and its default (`plan/defaults.yaml` where it differs
//! by kind). `recipe::check` refuses what does not fit it, `minimind schema` and `docs/recipe.md` show it. Start with
//! `train`, which the others build on.

mod distill;
mod dpo;
mod eval;
mod export;
mod guards;
mod lora;
mod methods;
mod policy;
mod reason;
mod reward;
mod rollout;
mod tokenizer;
mod train;

pub use distill::DistillStage;
pub use dpo::{DpoStage, Reference};
pub use eval::{ChoicePlan, EvalConfig, EvalTask};
pub use export::ExportConfig;
pub use guards::{Guard, GuardAction, GuardPlan};
pub use lora::{LoraConfig, MergeConfig};
pub use methods::{GrpoLossType, GrpoPlan, Method, PpoPlan, SpoPlan};
pub use policy::{AgentKeys, AgentPlan, GrpoKeys, PolicyConfig, PolicyKeys, PpoKeys, SpoKeys};
pub use reason::ReasonConfig;
pub use reward::RewardConfig;
pub use rollout::{GeneratedPlan, RolloutKeys, RolloutPlan, ServerPlan, UpdatePlan};
pub use tokenizer::TokenizerConfig;
pub use train::{SaveDtype, TrainConfig};

/// Keeps the first of equal elements.
fn without_repeats<T: Copy + PartialEq>(list: &mut Vec<T>) {
    let mut seen = Vec::new();
    list.retain(|item| {
        let new = !seen.contains(item);
        seen.push(*item);
        new
    });
}
