//! Loss scaling for fp16, as `torch.amp.GradScaler`: grow while all is finite, halve on an overflow.

use serde::{Deserialize, Serialize};

/// The scale and how it changes. Field names are those of PyTorch's `state_dict`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GradScaler {
    /// What the loss is multiplied by.
    pub scale: f64,
    /// Growth after `growth_interval` good updates.
    pub growth_factor: f64,
    /// Shrinkage after an overflow.
    pub backoff_factor: f64,
    /// Good updates before the scale grows.
    pub growth_interval: u64,
    /// Good updates since the last change.
    #[serde(rename = "_growth_tracker")]
    pub growth_tracker: u64,
}

impl Default for GradScaler {
    fn default() -> Self {
        Self {
            scale: 65536.0,
            growth_factor: 2.0,
            backoff_factor: 0.5,
            growth_interval: 2000,
            growth_tracker: 0,
        }
    }
}

impl GradScaler {
    /// Takes note of an update; says whether it may be made (all gradients finite).
    pub fn update(&mut self, finite: bool) -> bool {
        if !finite {
            self.scale *= self.backoff_factor;
            self.growth_tracker = 0;
            return false;
        }
        self.growth_tracker += 1;
        if self.growth_tracker == self.growth_interval {
            self.scale *= self.growth_factor;
            self.growth_tracker = 0;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_and_backs_off() {
        let mut scaler = GradScaler { growth_interval: 2, ..GradScaler::default() };
        assert!(!scaler.update(false));
        assert_eq!(scaler.scale, 32768.0);
        assert!(scaler.update(true) && scaler.update(true));
        assert_eq!((scaler.scale, scaler.growth_tracker), (65536.0, 0));
    }
}
