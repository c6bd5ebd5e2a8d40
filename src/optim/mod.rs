//! From gradients to new weights: clipping, AdamW, the learning rate over time, loss scaling.

pub mod adamw;
pub mod clip;
pub mod scaler;
pub mod schedule;

pub use adamw::{AdamW, AdamWConfig};
pub use scaler::GradScaler;
pub use schedule::{Schedule, ScheduleKind};
