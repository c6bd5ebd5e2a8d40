//! The only room with `unsafe`: small wrappers over the system and libtorch's C++ that Rust cannot check.
//!
//! By device and job: `cpu_ops` and `cuda_ops` are fused kernels of training, `cuda_graph` captures and replays, `cpu_decoder`
//! generates on the CPU, `collectives` joins processes, `allocator` caches CPU memory, `wait_policy` says how threads wait,
//! `libtorch` and `jit` are what tch does not bind, `mmap`, `buffer`, `tensor_bytes` and `system` are memory and the system.
//!
//! `ffi.h`, `collectives/collectives.h` and `cpu_decoder/abi.h` are the whole C ABI, and the only place that declares it:
//! build.rs makes Rust's declarations from them. Each function here is safe to call, and each `unsafe` block says why.
#![allow(unsafe_code)]

mod allocator;
mod buffer;
mod collectives;
mod cpu_decoder;
pub mod cpu_ops;
mod cuda_graph;
pub mod cuda_ops;
mod ffi;
mod jit;
mod libtorch;
mod mmap;
mod system;
mod tensor_bytes;
mod wait_policy;

pub use allocator::{cpu_cache_overhead, empty_cpu_cache, enable_cpu_cache, reset_cpu_cache_peak};
pub use collectives::{HAS_COLLECTIVES, ProcessGroup, Reduce, Reducer, Rendezvous, gpu_uuid, nccl_version};
pub use cpu_decoder::{
    KvPages, LayerWeights, Network, PAGE, PackedMatrix, Sizes, StepTokens, Storage, ThreadPool, Weights,
    exp_scaled, instruction_set,
};
pub use cuda_graph::{CudaGraph, empty_cuda_cache, synchronize, to_device};
pub use jit::Script;
pub use libtorch::{
    AdamWStep, AutocastGuard, adamw_step, clear_grads, cuda_peak_memory, foreach_norm, foreach_scale,
    foreach_zero, libtorch_dir, load_cuda, reset_cuda_peak_memory, rng_state, set_rng_state,
};
pub use mmap::{map_file, release_mapped};
pub use system::{
    die_with_parent, faults_of_writing_are_errors, kill_group, leave, most_open_files, peak_memory_bytes,
    processor_seconds, send_signal,
};
pub use tensor_bytes::{Strided, tensor_bytes, tensor_floats, tensor_from_bytes};
pub use wait_policy::{WaitPolicy, set_short_waits, set_threads, wait_policy};
