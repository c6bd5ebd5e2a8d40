//! From a loss to optimizer steps: device and precision, accumulation, clipping, schedules, checkpoints, signals,
//! ranks. Stages hand in an [`Objective`]; next: `trainer`, the loop.

pub mod anomaly;
pub mod aux_model;
mod collectives;
pub mod device;
mod launch_env;
pub mod memory;
pub mod objective;
mod optimizer_shards;
pub mod ranks;
pub mod resume;
mod settings;
pub mod signals;
mod throughput;
pub mod trainer;

pub use anomaly::OnAnomaly;
pub use aux_model::AuxModel;
pub use device::Compute;
pub use objective::{
    BackwardPass, LoopConfig, MetricsRow, Objective, Observer, Outcome, PartLoss, StepLoss, column,
};
pub use ranks::{DdpBackend, Ranks};
pub use resume::{CheckpointPaths, Position, SavedState};
pub use settings::{AnomalyConfig, LoopIntervals};
pub use signals::Signals;
pub use trainer::{RunControl, TrainSetup, train};
