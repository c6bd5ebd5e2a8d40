//! A loss becomes optimizer steps: device and precision, accumulation, clipping, schedules, checkpoints,
//! signals. Stages hand in an [`Objective`]; everything that every training stage shares is here.

pub mod anomaly;
pub mod companion;
pub mod device;
pub mod objective;
pub mod resume;
pub mod signals;
pub mod trainer;

pub use anomaly::OnAnomaly;
pub use companion::Companion;
pub use device::Compute;
pub use objective::{LoopConfig, Metrics, Objective, Observer, Outcome, StepLoss};
pub use resume::{Files, Position, SavedState};
pub use signals::Signals;
pub use trainer::train;
