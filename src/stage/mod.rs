//! What a recipe's stages do, one file a kind: tokenizer, train (pretrain and sft), lora, merge, reason,
//! distill, dpo, reward, grpo, ppo, spo (over `policy`), eval; `runner` walks through them, skips what is done, and keeps
//! each stage's record; `decision` says what becomes of a stage that was made before (`stage_state`, `changes`, `legacy_records`, `backup`).
//!
//! `preflight` reads the first rows of all data before anything trains. Read `context` (what a stage is given) and `runner` first, then `session` (what all training stages share) and `train`. Tensor arithmetic lives in the leaves, files in `checkpoint`.

pub mod backup;
pub mod changes;
pub mod choice;
pub mod context;
mod cuda_graph;
pub mod decision;
pub mod distill;
pub mod dpo;
pub mod eval;
pub mod export;
pub mod grpo;
pub mod inputs;
pub mod legacy_records;
pub mod loop_config;
pub mod lora;
pub mod measure;
pub mod merge;
pub mod metadata;
pub mod metrics_logger;
pub mod model_shapes;
pub mod pairs;
pub mod policy;
pub mod ppo;
pub mod preflight;
pub mod reason;
pub mod record;
pub mod rerun;
pub mod resuming;
pub mod reward;
pub mod runner;
pub mod samples;
pub mod session;
pub mod solve;
pub mod spo;
pub mod stage_state;
pub mod tokenizer;
pub mod train;
pub mod training_run;

pub use runner::run;
