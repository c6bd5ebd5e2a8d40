//! What a recipe's stages do, one file a kind: tokenizer, train (pretrain and sft), lora, merge, reason,
//! distill, dpo, reward, grpo, ppo, spo (over `policy`), eval; `runner` walks through them, skips what is done, and keeps
//! each stage's record; `verdict` says what becomes of a stage that was made before (`trace`, `changes`, `legacy`, `aside`).
//!
//! `look` reads the first rows of all data before anything trains. Read `context` (what a stage is given) and `runner` first, then `session` (what all training stages share) and `train`. Tensor arithmetic lives in the leaves, files in `checkpoint`.

pub mod backup;
pub mod campaign;
pub mod changes;
pub mod choice;
pub mod context;
pub mod distill;
pub mod dpo;
pub mod eval;
pub mod export;
pub mod grpo;
pub mod inputs;
pub mod legacy;
pub mod look;
pub mod loop_config;
pub mod lora;
pub mod measure;
pub mod merge;
pub mod metadata;
pub mod metrics_logger;
pub mod pairs;
pub mod policy;
pub mod ppo;
pub mod reason;
pub mod record;
mod recorded;
pub mod resuming;
pub mod reward;
pub mod runner;
pub mod samples;
pub mod session;
pub mod shapes;
pub mod solve;
pub mod spo;
pub mod tokenizer;
pub mod trace;
pub mod train;
pub mod training_run;
pub mod verdict;

pub use runner::run;
