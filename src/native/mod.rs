//! The only room with `unsafe`: small wrappers over the system and libtorch's C++ that Rust cannot check.
//!
//! `shim.h`, `ranks/ranks.h` and `decode/abi.h` are the whole C ABI; each function here is safe to call, and each `unsafe` block says why.
#![allow(unsafe_code)]

mod buffer;
mod decode_abi;
pub mod fused;
mod graph;
mod jit;
mod keeping;
mod libtorch;
pub mod mixed;
mod mmap;
mod network;
mod packed;
mod ranks;
mod system;
mod tensor_bytes;
mod waiting;

pub use graph::{Graph, release_cached, to_device, wait};
pub use jit::Script;
pub use keeping::{keep_memory, kept_surplus, release_memory, restart_kept_peak};
pub use libtorch::{
    AdamWStep, AutocastGuard, device_peak_bytes, forget_grads, fused_adamw, libtorch_dir, load_cuda,
    restart_device_peak, rng_state, scale_together, set_rng_state, together_norm, zero_together,
};
pub use mmap::{map_file, release_mapped};
pub use network::{KvPages, LayerWeights, Network, Sizes, StepTokens, Weights};
pub use packed::{PAGE, Packed, Pool, Storage, exp_scaled, instructions};
pub use ranks::{Group, HAS_RANKS, Meeting, Reduce, Reducer, gpu_uuid, nccl_version};
pub use system::{
    die_with_parent, faults_of_writing_are_errors, kill_group, leave, most_open_files, peak_memory_bytes,
    processor_seconds, send_signal,
};
pub use tensor_bytes::{Strided, tensor_bytes, tensor_floats, tensor_from_bytes};
pub use waiting::{Waits, short_waits, use_threads, waits};
