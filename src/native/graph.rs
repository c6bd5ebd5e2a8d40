//! CUDA graphs: a GPU's work recorded once and started again as a whole, which spares its hundreds of launches.

use std::ffi::{c_char, c_int, c_void};

use tch::Device;

use super::libtorch::check;
use crate::error::{Error, Result};

unsafe extern "C" {
    fn mm_graph_begin(cuda_index: i64, out: *mut *mut c_void) -> *mut c_char;
    fn mm_graph_end(graph: *mut c_void, keep: c_int) -> *mut c_char;
    fn mm_graph_replay(graph: *mut c_void) -> *mut c_char;
    fn mm_graph_free(graph: *mut c_void);
    fn mm_device_wait(cuda_index: i64) -> *mut c_char;
}

/// Recorded work. It reads and writes the memory that it did when it was recorded: inputs are copied into the tensors
/// it saw, and its results lie in those it made.
#[derive(Debug)]
pub struct Graph {
    graph: *mut c_void,
}

// SAFETY: the graph is an object on the heap that no thread holds on to; calls on it need `&mut`.
unsafe impl Send for Graph {}

impl Graph {
    /// Records what `work` asks the GPU to do, without doing it. `work` should have run before, so that nothing is set
    /// up for the first time, and may not wait for the GPU.
    ///
    /// # Errors
    /// Not a CUDA device; work that cannot be recorded; its own fault.
    pub fn record<T>(device: Device, work: impl FnOnce() -> Result<T>) -> Result<(Self, T)> {
        let Device::Cuda(index) = device else {
            return Err(Error::failed("work is recorded on CUDA devices alone"));
        };
        let mut graph = std::ptr::null_mut();
        // SAFETY: `graph` receives an object on success, which `Self` owns from then on.
        check(unsafe { mm_graph_begin(index as i64, &mut graph) }, "begin to record the GPU's work")?;
        let recorded = Self { graph };
        let made = work();
        // SAFETY: a live graph whose recording has begun on this thread.
        let ended = check(
            unsafe { mm_graph_end(recorded.graph, c_int::from(made.is_ok())) },
            "record the GPU's work",
        );
        let made = made?;
        ended?;
        Ok((recorded, made))
    }

    /// Does the work once more, after what the GPU was told before.
    pub fn replay(&mut self) -> Result<()> {
        // SAFETY: a live, recorded graph.
        check(unsafe { mm_graph_replay(self.graph) }, "repeat the GPU's work")
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: freed once, here.
        unsafe { mm_graph_free(self.graph) }
    }
}

/// Waits until a GPU has done all it was told; nothing elsewhere.
pub fn wait(device: Device) -> Result<()> {
    match device {
        // SAFETY: touches no memory of ours.
        Device::Cuda(index) => check(unsafe { mm_device_wait(index as i64) }, "wait for the GPU"),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_records_nothing() {
        assert!(Graph::record(Device::Cpu, || Ok(())).unwrap_err().to_string().contains("CUDA"));
        wait(Device::Cpu).unwrap();
    }
}
