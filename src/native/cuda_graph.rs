//! CUDA graphs: a GPU's work recorded once and started again as a whole, which spares its hundreds of launches.

use std::ffi::{c_char, c_int, c_void};

use tch::{Device, Tensor};

use super::libtorch::{check, handle, own};
use crate::error::{Error, Result};

unsafe extern "C" {
    fn mm_graph_begin(cuda_index: i64, like: *mut c_void, out: *mut *mut c_void) -> *mut c_char;
    fn mm_graph_end(graph: *mut c_void, keep: c_int) -> *mut c_char;
    fn mm_graph_replay(graph: *mut c_void) -> *mut c_char;
    fn mm_graph_free(graph: *mut c_void);
    fn mm_to_gpu(tensor: *mut c_void, cuda_index: i64, out: *mut *mut c_void) -> *mut c_char;
    fn mm_device_release(cuda_index: i64) -> *mut c_char;
    fn mm_device_wait(cuda_index: i64) -> *mut c_char;
}

/// Recorded work. It reads and writes the memory that it did when it was recorded: inputs are copied into the tensors
/// it saw, and its results lie in those it made.
#[derive(Debug)]
pub struct Graph {
    graph: *mut c_void,
}

// SAFETY: the graph is an object on the heap that no thread holds on to; only the name of its memory is read through `&`.
unsafe impl Send for Graph {}

impl Graph {
    /// Records what `work` asks the GPU to do, without doing it. `work` should have run before, so that nothing is set
    /// up for the first time, and may not wait for the GPU. With `like` its temporary memory is also that one's: what a
    /// repetition leaves behind holds until the next of either.
    ///
    /// # Errors
    /// Not a CUDA device; work that cannot be recorded; its own fault.
    pub fn record<T>(
        device: Device,
        like: Option<&Graph>,
        work: impl FnOnce() -> Result<T>,
    ) -> Result<(Self, T)> {
        let Device::Cuda(index) = device else {
            return Err(Error::failed("work is recorded on CUDA devices alone"));
        };
        let mut graph = std::ptr::null_mut();
        let like = like.map_or(std::ptr::null_mut(), |like| like.graph);
        // SAFETY: `like` is a live graph or null; `graph` receives an object on success, which `Self` owns from then on.
        let begun = unsafe { mm_graph_begin(index as i64, like, &mut graph) };
        check(begun, "begin to record the GPU's work")?;
        let recording = Recording(Self { graph });
        let made = work()?;
        Ok((recording.end()?, made))
    }

    /// Does the work once more, after what the GPU was told before.
    pub fn replay(&mut self) -> Result<()> {
        // SAFETY: a live, recorded graph.
        check(unsafe { mm_graph_replay(self.graph) }, "repeat the GPU's work")
    }
}

/// A recording that has begun; dropped without [`Recording::end`], it gives up, so that a fault or a panic inside leaves
/// the thread as it was.
struct Recording(Graph);

impl Recording {
    fn end(self) -> Result<Graph> {
        // SAFETY: a live graph whose recording has begun on this thread.
        let ended = unsafe { mm_graph_end(self.0.graph, 1) };
        // SAFETY: `self` is not looked at again and its drop does not run, so the graph is taken out once.
        let graph = unsafe { std::ptr::read(&std::mem::ManuallyDrop::new(self).0) };
        check(ended, "record the GPU's work").map(|()| graph)
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        // SAFETY: a live graph whose recording has begun on this thread; a message, if any, is freed by check.
        let _ = check(unsafe { mm_graph_end(self.0.graph, 0) }, "give a recording up");
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: freed once, here.
        unsafe { mm_graph_free(self.graph) }
    }
}

/// Gives a GPU's memory that libtorch keeps for later tensors back; nothing elsewhere.
pub fn release_cached(device: Device) -> Result<()> {
    match device {
        // SAFETY: frees what no tensor uses, under the allocator's own lock.
        Device::Cuda(index) => check(unsafe { mm_device_release(index as i64) }, "give memory back"),
        _ => Ok(()),
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

/// A tensor of the host on a device. On a GPU it goes by pinned memory, and nothing waits for it: what is asked of the
/// GPU afterwards finds it there.
pub fn to_device(tensor: Tensor, device: Device) -> Tensor {
    match device {
        Device::Cpu => tensor,
        Device::Cuda(index) => {
            let mut out = std::ptr::null_mut();
            // SAFETY: a live tensor for the length of the call, whose pinned copy libtorch keeps until it was sent; `out`
            // receives a new tensor on success.
            let sent = unsafe { mm_to_gpu(handle(&tensor), index as i64, &mut out) };
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
    fn a_cpu_records_nothing() {
        assert!(Graph::record(Device::Cpu, None, || Ok(())).unwrap_err().to_string().contains("CUDA"));
        wait(Device::Cpu).unwrap();
        release_cached(Device::Cpu).unwrap();
    }
}
