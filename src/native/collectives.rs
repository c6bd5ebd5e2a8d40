//! PyTorch's c10d (`collectives/c10d.cpp`): processes meet, add tensors up, share gradients while backward goes on.

use std::cell::Cell;
use std::ffi::{CString, c_char, c_int, c_void};
use std::rc::Rc;

use tch::{Kind, Tensor};

use super::ffi::{self, handle, message, pointers};
use crate::error::{Error, Result};

/// A fault of c10d's with all it says: NCCL tells the cause in its last line.
fn check(fault: *mut c_char, doing: &str) -> Result<()> {
    let Some(text) = message(fault) else { return Ok(()) };
    let lines = text.lines().map(str::trim).take_while(|line| !line.starts_with("Exception raised from"));
    let said = lines.filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ");
    Err(Error::failed(format!("libtorch could not {doing}")).because(said))
}

/// Whether this program was built with gloo's headers, without which there is one process alone.
pub const HAS_COLLECTIVES: bool = env!("MINIMIND_RANKS").as_bytes()[0] == b'y';

/// Major, minor and patch number of the NCCL that libtorch's CUDA half was loaded with, if it was.
pub fn nccl_version() -> Option<[i32; 3]> {
    // SAFETY: asks the linker for functions of libraries that are loaded, and one of them for a number.
    let version = unsafe { ffi::mm_nccl_version() };
    (version > 0).then_some([version / 10_000, version / 100 % 100, version % 100])
}

/// The identity of this GPU, or of a part of one: 32 hexadecimal digits.
///
/// # Errors
/// The GPU's driver is not loaded.
pub fn gpu_uuid(cuda_index: usize) -> Result<String> {
    let mut text = [0 as c_char; 33];
    // SAFETY: `text` has room for the 33 bytes that are written on success.
    check(unsafe { ffi::mm_gpu_uuid(cuda_index as i64, text.as_mut_ptr()) }, "ask which GPU this is")?;
    Ok(text[..32].iter().map(|digit| char::from(*digit as u8)).collect())
}

/// Where ranks meet, and which of them this process is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendezvous {
    /// Host of the store.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// This process, from 0.
    pub rank: usize,
    /// How many there are.
    pub world: usize,
    /// Whether this process hosts the store (PyTorch's TCPStore) at which they meet.
    pub hosts_store: bool,
    /// Tells one start of a run from another at the same place.
    pub name: String,
}

/// How numbers of several ranks become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reduce {
    /// Added.
    Sum = ffi::MM_SUM as isize,
    /// The largest.
    Max = ffi::MM_MAX as isize,
    /// The smallest.
    Min = ffi::MM_MIN as isize,
}

/// The ranks that train together. Every call is made by all of them, in the same order.
#[derive(Debug)]
pub struct ProcessGroup {
    raw: *mut c_void,
    has_nccl: Cell<bool>,
}

impl ProcessGroup {
    /// Waits for the others, up to five minutes.
    ///
    /// # Errors
    /// The others do not come within five minutes; built without gloo.
    pub fn open(at: &Rendezvous) -> Result<Self> {
        let text = |t: &str| CString::new(t).map_err(|e| Error::input("a name holds a NUL byte").because(e));
        let (host, name) = (text(&at.host)?, text(&at.name)?);
        let mut raw = std::ptr::null_mut();
        // SAFETY: both strings live for the length of the call; `raw` receives an object that Drop frees.
        let message = unsafe {
            ffi::mm_group_new(
                host.as_ptr(),
                at.port,
                at.rank as c_int,
                at.world as c_int,
                c_int::from(at.hosts_store),
                name.as_ptr(),
                &mut raw,
            )
        };
        check(message, "meet the other ranks")?;
        Ok(Self { raw, has_nccl: Cell::new(false) })
    }

    /// From now on what lies on this GPU is added up by NCCL, not through the host. Every rank has a GPU that no other
    /// has. Waits for the others.
    ///
    /// # Errors
    /// NCCL is not there, or the GPUs cannot reach each other.
    pub fn use_nccl(&self, cuda_index: usize) -> Result<()> {
        // SAFETY: the group lives as long as `self`.
        check(unsafe { ffi::mm_group_use_gpu(self.raw, cuda_index as i64) }, "join the ranks' GPUs by NCCL")?;
        self.has_nccl.set(true);
        Ok(())
    }

    /// Whether GPUs add up by NCCL.
    pub fn has_nccl(&self) -> bool {
        self.has_nccl.get()
    }

    /// When all ranks end well: waits for what their GPUs still add up. Dropped without it, a group cuts that short.
    ///
    /// # Errors
    /// A rank that was lost.
    pub fn close(&self) -> Result<()> {
        // SAFETY: the group lives as long as `self`.
        check(unsafe { ffi::mm_group_close(self.raw) }, "part from the other ranks")
    }

    /// Makes `tensor`, of any shape but the same everywhere, that of all ranks together, in place.
    ///
    /// # Errors
    /// A rank that was lost.
    pub fn all_reduce(&self, tensor: &Tensor, op: Reduce) -> Result<()> {
        // SAFETY: the group lives as long as `self`; the tensor for the length of the call, which waits.
        check(
            unsafe { ffi::mm_group_all_reduce(self.raw, handle(tensor), op as c_int) },
            "add up over the ranks",
        )
    }

    /// Makes `tensor`, of any shape but the same everywhere, the one of rank `root`, in place.
    ///
    /// # Errors
    /// A rank that was lost.
    pub fn broadcast(&self, tensor: &Tensor, root: usize) -> Result<()> {
        // SAFETY: as in `all_reduce`.
        check(
            unsafe { ffi::mm_group_broadcast(self.raw, handle(tensor), root as c_int) },
            "broadcast from a rank",
        )
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        // SAFETY: made by `open`, freed once, after every reducer (they hold an Rc of it).
        unsafe { ffi::mm_group_free(self.raw) }
    }
}

/// Sums gradients over the ranks.
#[derive(Debug)]
pub struct Reducer {
    raw: *mut c_void,
    _group: Rc<ProcessGroup>,
}

impl Reducer {
    /// For fp32 leaves of any shapes that want gradients; gradients travel in buckets of about `bucket_bytes`.
    ///
    /// # Errors
    /// Parameters that are not fp32 leaves.
    pub fn new(group: &Rc<ProcessGroup>, params: &[Tensor], bucket_bytes: usize) -> Result<Self> {
        if let Some(other) = params.iter().find(|p| p.kind() != Kind::Float) {
            return Err(Error::failed(format!("ranks share fp32 gradients, not {:?}", other.kind())));
        }
        let mut handles = pointers(params);
        let mut raw = std::ptr::null_mut();
        // SAFETY: live tensors, whose handles the C++ side copies; the group outlives the reducer by the Rc.
        let message = unsafe {
            ffi::mm_reducer_new(group.raw, handles.as_mut_ptr(), handles.len(), bucket_bytes as i64, &mut raw)
        };
        check(message, "prepare to share gradients")?;
        Ok(Self { raw, _group: Rc::clone(group) })
    }

    /// Lets gradients leave during the next backward pass, which is the last before [`Self::finalize`].
    ///
    /// # Errors
    /// A rank that was lost.
    pub fn prepare_for_backward(&mut self) -> Result<()> {
        // SAFETY: `raw` was made by `new` and lives.
        check(unsafe { ffi::mm_reducer_prepare(self.raw) }, "prepare to share gradients")
    }

    /// Waits until every gradient is the sum over all ranks.
    ///
    /// # Errors
    /// A rank that was lost; a gradient that changed after it was sent.
    pub fn finalize(&mut self) -> Result<()> {
        // SAFETY: `raw` was made by `new` and lives.
        check(unsafe { ffi::mm_reducer_finalize(self.raw) }, "share gradients")
    }
}

impl Drop for Reducer {
    fn drop(&mut self) {
        // SAFETY: made by `new`, freed once; its hooks go with it.
        unsafe { ffi::mm_reducer_free(self.raw) }
    }
}
