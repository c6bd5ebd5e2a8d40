//! What a recipe's stages do, one file a kind: tokenizer, train (pretrain and sft), lora, merge, reason,
//! distill, dpo, reward, `policy` (grpo, ppo, spo, agent), eval, export. `runner` runs them in order and keeps each
//! stage's record; `decision` decides what becomes of a stage that was made before (`stage_state`, `changes`,
//! `legacy_records`, `backup`, `rerun`).
//!
//! `preflight` reads the first rows of all data before anything trains. Read `context` (what a stage is given) and
//! `runner` first, then `session` (what all training stages share) and `train`. Tensor arithmetic lives in `loss` and
//! `model`, files in `checkpoint`.

pub mod backup;
pub mod changes;
pub mod context;
mod cuda_graph;
pub mod decision;
pub mod device_batch;
pub mod distill;
pub mod dpo;
pub mod eval;
pub mod export;
pub mod fingerprint;
pub mod greedy;
pub mod legacy_records;
pub mod loading;
pub mod loop_config;
pub mod lora;
pub mod merge;
pub mod metadata;
pub mod metrics_logger;
pub mod model_shapes;
pub mod policy;
pub mod preference_pairs;
pub mod preflight;
pub mod reason;
pub mod record;
pub mod rerun;
pub mod resuming;
pub mod reward;
pub mod runner;
pub mod samples;
pub mod session;
pub mod stage_state;
pub mod tokenizer;
pub mod train;
pub mod training_run;

pub use runner::run;
