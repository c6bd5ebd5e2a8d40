//! What a recipe's stages do, one file a kind: tokenizer, train (pretrain and sft), eval, grpo, ppo, spo (over
//! `policy`); `runner` walks through them, skips what is done, and keeps each stage's record.
//!
//! Read `runner` first, then `train`. Tensor arithmetic lives in the leaves, files in `checkpoint`.

pub mod choice;
pub mod eval;
pub mod export;
pub mod grpo;
pub mod inputs;
pub mod measure;
pub mod policy;
pub mod ppo;
pub mod record;
pub mod runner;
pub mod solve;
pub mod spo;
pub mod tokenizer;
pub mod train;
pub mod watch;

pub use runner::{Resume, RunOptions, run};
