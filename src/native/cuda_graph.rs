//! CUDA graphs: a GPU's work captured once and replayed as a whole, which spares its hundreds of launches.

use std::ffi::c_void;

use tch::{Device, Tensor};

use super::ffi::{self, check, handle, own};
use crate::error::{Error, Result};

/// Captured work. It reads and writes the memory that it did when it was captured: inputs are copied into the tensors
/// it saw, and its results lie in those it made.
#[derive(Debug)]
pub struct CudaGraph {
    graph: *mut c_void,
}

// SAFETY: the graph is an object on the heap that no thread holds on to; only the name of its memory is read through `&`.
unsafe impl Send for CudaGraph {}

impl CudaGraph {
    /// Captures what `work` asks the GPU to do, without doing it. `work` should have run before, so that nothing is set
    /// up for the first time, and may not wait for the GPU. With `like` it shares that graph's memory pool: what a replay
    /// leaves behind holds until the next replay of either.
    ///
    /// # Errors
    /// Not a CUDA device; work that cannot be captured; its own fault.
    pub fn capture<T>(
        device: Device,
        like: Option<&CudaGraph>,
        work: impl FnOnce() -> Result<T>,
    ) -> Result<(Self, T)> {
        let Device::Cuda(index) = device else {
            return Err(Error::failed("work is captured on CUDA devices alone"));
        };
        let mut graph = std::ptr::null_mut();
        let like = like.map_or(std::ptr::null_mut(), |like| like.graph);
        // SAFETY: `like` is a live graph or null; `graph` receives an object on success, which `Self` owns from then on.
        let begun = unsafe { ffi::mm_graph_begin(index as i64, like, &mut graph) };
        check(begun, "begin to capture the GPU's work")?;
        let capture = Capture(Self { graph });
        let made = work()?;
        Ok((capture.end()?, made))
    }

    /// Starts the work once more, behind what the GPU was told before.
    ///
    /// # Errors
    /// A GPU that fails.
    pub fn replay(&mut self) -> Result<()> {
        // SAFETY: a live, captured graph.
        check(unsafe { ffi::mm_graph_replay(self.graph) }, "replay the GPU's work")
    }
}

/// A capture that has begun; dropped without [`Capture::end`], it gives up, so that a fault or a panic inside leaves
/// the thread as it was.
struct Capture(CudaGraph);

impl Capture {
    fn end(self) -> Result<CudaGraph> {
        // SAFETY: a live graph whose capture has begun on this thread.
        let ended = unsafe { ffi::mm_graph_end(self.0.graph, 1) };
        // SAFETY: `self` is not looked at again and its drop does not run, so the graph is taken out once.
        let graph = unsafe { std::ptr::read(&std::mem::ManuallyDrop::new(self).0) };
        check(ended, "capture the GPU's work").map(|()| graph)
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        // SAFETY: a live graph whose capture has begun on this thread; a message, if any, is freed by check.
        let _ = check(unsafe { ffi::mm_graph_end(self.0.graph, 0) }, "give a capture up");
    }
}

impl Drop for CudaGraph {
    fn drop(&mut self) {
        // SAFETY: freed once, here.
        unsafe { ffi::mm_graph_free(self.graph) }
    }
}

/// Gives memory that libtorch caches for a GPU's later tensors back to it, as `torch.cuda.empty_cache`; nothing elsewhere.
///
/// # Errors
/// A GPU that fails.
pub fn empty_cuda_cache(device: Device) -> Result<()> {
    match device {
        // SAFETY: frees what no tensor uses, under the allocator's own lock.
        Device::Cuda(index) => check(unsafe { ffi::mm_cuda_empty_cache(index as i64) }, "give memory back"),
        _ => Ok(()),
    }
}

/// Waits until a GPU has done all it was told, as `torch.cuda.synchronize`; nothing elsewhere.
///
/// # Errors
/// A GPU that fails.
pub fn synchronize(device: Device) -> Result<()> {
    match device {
        // SAFETY: touches no memory of ours.
        Device::Cuda(index) => check(unsafe { ffi::mm_cuda_synchronize(index as i64) }, "wait for the GPU"),
        _ => Ok(()),
    }
}

/// A tensor of the host, of any shape, on a device. On a GPU it goes by pinned memory, and nothing waits for it: what is asked of the
/// GPU afterwards finds it there.
pub fn to_device(tensor: Tensor, device: Device) -> Tensor {
    match device {
        Device::Cpu => tensor,
        Device::Cuda(index) => {
            let mut out = std::ptr::null_mut();
            // SAFETY: a live tensor for the length of the call, whose pinned copy libtorch keeps until it was sent; `out`
            // receives a new tensor on success.
            let sent = unsafe { ffi::mm_to_gpu(handle(&tensor), index as i64, &mut out) };
            check(sent, "send to the GPU").expect("the GPU takes it");
            own(out)
        }
        _ => tensor.to_device(device),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_captures_nothing() {
        assert!(CudaGraph::capture(Device::Cpu, None, || Ok(())).unwrap_err().to_string().contains("CUDA"));
        synchronize(Device::Cpu).unwrap();
        empty_cuda_cache(Device::Cpu).unwrap();
    }
}
