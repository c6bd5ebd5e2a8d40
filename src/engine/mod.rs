//! A loss becomes optimizer steps: device and precision, accumulation, clipping, schedules, checkpoints,
//! signals, ranks. Stages hand in an [`Objective`]; everything that every training stage shares is here.

pub mod anomaly;
pub mod companion;
pub mod device;
pub mod memory;
pub mod objective;
mod pace;
pub mod ranks;
pub mod resume;
mod shards;
pub mod signals;
pub mod trainer;
mod turns;

pub use anomaly::OnAnomaly;
pub use companion::Companion;
pub use device::Compute;
pub use objective::{LoopConfig, Metrics, Objective, Observer, Outcome, Pass, StepLoss};
pub use ranks::{DdpBackend, Ranks};
pub use resume::{Files, Position, SavedState};
pub use signals::Signals;
pub use trainer::{RunControl, train};
