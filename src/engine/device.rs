//! The device and the precision of a run.

use std::path::Path;

use serde::Serialize;
use tch::{Cuda, Device, Kind};

use crate::error::{Error, Result};
use crate::native::{AutocastGuard, load_cuda};

/// The device that a recipe asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Wanted {
    /// CUDA, then MPS, then CPU.
    Auto,
    /// The CPU.
    Cpu,
    /// A CUDA device by index.
    Cuda(usize),
    /// Apple's GPU.
    Mps,
}

/// The device to run on. libtorch's CUDA libraries are loaded from `lib_dir` only for CUDA, or for `auto` where
/// `gpu_seen`.
///
/// # Errors
/// The device is not there.
pub fn resolve(wanted: Wanted, lib_dir: &Path, gpu_seen: bool) -> Result<Device> {
    match wanted {
        Wanted::Cpu => Ok(Device::Cpu),
        Wanted::Cuda(index) => {
            load_cuda(lib_dir)?;
            let found = Cuda::device_count();
            if (index as i64) < found {
                return Ok(Device::Cuda(index));
            }
            Err(Error::input(format!("device cuda:{index} is not there: {found} CUDA devices found"))
                .hint("use device: auto or cpu, or look at minimind doctor"))
        }
        Wanted::Mps => {
            if tch::utils::has_mps() {
                return Ok(Device::Mps);
            }
            Err(Error::input("device mps is not there").hint("use device: auto or cpu"))
        }
        Wanted::Auto => {
            if gpu_seen && load_cuda(lib_dir).is_ok() && Cuda::is_available() {
                return Ok(Device::Cuda(0));
            }
            Ok(if tch::utils::has_mps() { Device::Mps } else { Device::Cpu })
        }
    }
}

/// The device of a machine's rank `local`: CUDA device 0 stands for one device a rank, any other index for that device
/// on all ranks.
pub fn of_rank(device: Device, local: usize) -> Device {
    match device {
        Device::Cuda(0) if (local as i64) < Cuda::device_count() => Device::Cuda(local),
        other => other,
    }
}

/// The name shown to people and written to files.
pub fn name(device: Device) -> String {
    match device {
        Device::Cpu => "cpu".to_owned(),
        Device::Cuda(index) => format!("cuda:{index}"),
        Device::Mps => "mps".to_owned(),
        Device::Vulkan => "vulkan".to_owned(),
    }
}

/// Precision of forward and backward; weights and optimizer stay fp32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compute {
    /// 32-bit.
    Fp32,
    /// bf16 autocast.
    Bf16,
    /// fp16 autocast, with loss scaling.
    Fp16,
}

impl Compute {
    /// The name in recipes.
    pub fn name(self) -> &'static str {
        match self {
            Compute::Fp32 => "fp32",
            Compute::Bf16 => "bf16",
            Compute::Fp16 => "fp16",
        }
    }

    /// Runs a forward pass in this precision (autocast).
    ///
    /// # Errors
    /// Those of `forward`; a device without autocast.
    pub fn run<T>(self, device: Device, forward: impl FnOnce() -> Result<T>) -> Result<T> {
        let kind = match self {
            Compute::Fp32 => return forward(),
            Compute::Bf16 => Kind::BFloat16,
            Compute::Fp16 => Kind::Half,
        };
        let _autocast = AutocastGuard::new(device, kind)?;
        forward()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_is_not_there_is_named() {
        assert_eq!(resolve(Wanted::Cpu, Path::new("/nowhere"), false).unwrap(), Device::Cpu);
        assert!(resolve(Wanted::Cuda(3), Path::new("/nowhere"), false).is_err());
    }

    #[test]
    fn autocast_computes_in_half_and_ends() {
        let x = tch::Tensor::ones([2, 2], (Kind::Float, Device::Cpu));
        let product = || Ok(x.matmul(&x).kind());
        assert_eq!(Compute::Bf16.run(Device::Cpu, product).unwrap(), Kind::BFloat16);
        assert_eq!(Compute::Fp32.run(Device::Cpu, product).unwrap(), Kind::Float);
    }
}
