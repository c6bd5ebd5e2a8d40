//! Peak memory of the phases of a training step, so that the cause of an out-of-memory fault can be seen.
//!
//! On a GPU it is the allocator's peak; elsewhere this process's peak resident size, which only Linux can reset, without
//! what the CPU allocator caches for later tensors. Systems that report none give no number.

use tch::Device;

use crate::native::{cpu_cache_overhead, cuda_peak_memory, reset_cpu_cache_peak, reset_cuda_peak_memory};

const MB: f64 = 1e6;

/// Runs `body`; gives its result and the peak memory while it ran, in MB (`None` where the system does not report it).
/// Memory allocated before counts as long as it is held. The peak is reset before and after, so that an enclosing
/// measurement sees only what is held when `body` ends.
pub fn measure_peak<T>(device: Device, body: impl FnOnce() -> T) -> (T, Option<f64>) {
    let started = reset_peak(device);
    let made = body();
    let peak = started.then(|| peak_mb(device)).flatten();
    reset_peak(device);
    (made, peak)
}

fn reset_peak(device: Device) -> bool {
    match device {
        Device::Cuda(_) => reset_cuda_peak_memory(device).is_ok(),
        // 5: only the peak of the resident size (proc_pid_clear_refs(5)).
        _ => {
            reset_cpu_cache_peak();
            std::fs::write("/proc/self/clear_refs", "5").is_ok()
        }
    }
}

fn peak_mb(device: Device) -> Option<f64> {
    match device {
        Device::Cuda(_) => cuda_peak_memory(device).ok().map(|bytes| bytes as f64 / MB),
        // Cached blocks are resident too.
        _ => {
            let resident = resident_peak_mb(&std::fs::read_to_string("/proc/self/status").ok()?)?;
            Some((resident - cpu_cache_overhead() as f64 / MB).max(0.0))
        }
    }
}

fn resident_peak_mb(status: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024.0 / MB)
}

/// The largest peak of each phase of a training step since the last row of metrics, in MB.
#[derive(Debug, Default)]
pub struct PeakMemory {
    backward: Option<f64>,
    update: Option<f64>,
}

impl PeakMemory {
    /// Runs a forward and backward pass; rollouts within it are measured on their own.
    pub fn backward<T>(&mut self, device: Device, body: impl FnOnce() -> T) -> T {
        record_peak(&mut self.backward, device, body)
    }

    /// Runs an optimizer step.
    pub fn update<T>(&mut self, device: Device, body: impl FnOnce() -> T) -> T {
        record_peak(&mut self.update, device, body)
    }

    /// The metric columns since the last call, by name.
    pub fn take(&mut self) -> impl Iterator<Item = (&'static str, f64)> + use<> {
        let named = [("backward_peak_mb", self.backward.take()), ("update_peak_mb", self.update.take())];
        named.into_iter().filter_map(|(name, peak)| peak.map(|peak| (name, peak)))
    }
}

fn record_peak<T>(largest: &mut Option<f64>, device: Device, body: impl FnOnce() -> T) -> T {
    let (made, peak) = measure_peak(device, body);
    if let Some(peak) = peak {
        *largest = Some(largest.map_or(peak, |before: f64| before.max(peak)));
    }
    made
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_s_line_is_read() {
        assert_eq!(resident_peak_mb("VmPeak:\t 9 kB\nVmHWM:\t  2000 kB\n"), Some(2.048));
        assert_eq!(resident_peak_mb("VmHWM:\t two kB\n"), None);
    }

    #[test]
    fn a_phase_s_peak_is_its_own() {
        let mut peaks = PeakMemory::default();
        peaks.backward(Device::Cpu, || std::hint::black_box(vec![1u8; 256 << 20]).len());
        peaks.update(Device::Cpu, || ());
        let named: Vec<_> = peaks.take().collect();
        if cfg!(target_os = "linux") {
            // Other tests of this process hold memory of their own, in either phase.
            assert_eq!(named.iter().map(|n| n.0).collect::<Vec<_>>(), ["backward_peak_mb", "update_peak_mb"]);
            assert!(named[0].1 > 256.0, "{named:?}");
        }
        assert_eq!(peaks.take().count(), 0);
    }
}
