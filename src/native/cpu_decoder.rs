//! The decoder on the CPU: paged keys and values, packed weights, kernels for each set of instructions
//! (`cpu_decoder/*.cpp`).
//!
//! Next: `network`, a step over the tokens of many sequences; `packed`, the weights it reads; `abi`, the C interface.

mod abi;
mod network;
mod packed;

pub use network::{KvPages, LayerWeights, Network, Sizes, StepTokens, Weights};
pub use packed::{PAGE, PackedMatrix, Storage, ThreadPool, exp_scaled, instruction_set};
