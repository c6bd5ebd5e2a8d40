//! The only room with `unsafe`: small wrappers over the system and libtorch's C++ that Rust cannot check.
//!
//! `ffi.h`, `collectives/collectives.h` and `cpu_decoder/abi.h` are the whole C ABI; each function here is safe to call, and each `unsafe` block says why.
#![allow(unsafe_code)]

mod allocator;
mod buffer;
mod collectives;
mod cpu_decoder;
pub mod cpu_ops;
mod cuda_graph;
pub mod cuda_ops;
mod jit;
mod libtorch;
mod mmap;
mod system;
mod tensor_bytes;
mod wait_policy;

pub use allocator::{keep_memory, kept_surplus, release_memory, restart_kept_peak};
pub use collectives::{Group, HAS_RANKS, Meeting, Reduce, Reducer, gpu_uuid, nccl_version};
pub use cpu_decoder::{
    KvPages, LayerWeights, Network, PAGE, Packed, Pool, Sizes, StepTokens, Storage, Weights, exp_scaled,
    instructions,
};
pub use cuda_graph::{Graph, release_cached, to_device, wait};
pub use jit::Script;
pub use libtorch::{
    AdamWStep, AutocastGuard, device_peak_bytes, forget_grads, fused_adamw, libtorch_dir, load_cuda,
    restart_device_peak, rng_state, scale_together, set_rng_state, together_norm, zero_together,
};
pub use mmap::{map_file, release_mapped};
pub use system::{
    die_with_parent, faults_of_writing_are_errors, kill_group, leave, most_open_files, peak_memory_bytes,
    processor_seconds, send_signal,
};
pub use tensor_bytes::{Strided, tensor_bytes, tensor_floats, tensor_from_bytes};
pub use wait_policy::{Waits, short_waits, use_threads, waits};
