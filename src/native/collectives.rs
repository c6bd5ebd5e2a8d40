//! PyTorch's c10d (`collectives/c10d.cpp`): processes meet, add tensors up, share gradients while backward goes on.

use std::cell::Cell;
use std::ffi::{CString, c_char, c_int, c_void};
use std::rc::Rc;

use tch::{Kind, Tensor};

use super::libtorch::message;
use crate::error::{Error, Result};

unsafe extern "C" {
    fn mm_group_new(
        host: *const c_char,
        port: u16,
        rank: c_int,
        world: c_int,
        serves: c_int,
        name: *const c_char,
        out: *mut *mut c_void,
    ) -> *mut c_char;
    fn mm_group_free(group: *mut c_void);
    fn mm_nccl_version() -> c_int;
    fn mm_gpu_uuid(cuda_index: i64, text: *mut c_char) -> *mut c_char;
    fn mm_group_use_gpu(group: *mut c_void, cuda_index: i64) -> *mut c_char;
    fn mm_group_close(group: *mut c_void) -> *mut c_char;
    fn mm_group_reduce(group: *mut c_void, tensor: *mut c_void, op: c_int) -> *mut c_char;
    fn mm_group_broadcast(group: *mut c_void, tensor: *mut c_void, root: c_int) -> *mut c_char;
    fn mm_reducer_new(
        group: *mut c_void,
        params: *mut *mut c_void,
        n: usize,
        bucket_bytes: i64,
        out: *mut *mut c_void,
    ) -> *mut c_char;
    fn mm_reducer_free(reducer: *mut c_void);
    fn mm_reducer_arm(reducer: *mut c_void) -> *mut c_char;
    fn mm_reducer_finish(reducer: *mut c_void) -> *mut c_char;
}

/// A fault of c10d's with all it says: NCCL tells the cause in its last line.
fn check(fault: *mut c_char, doing: &str) -> Result<()> {
    let Some(text) = message(fault) else { return Ok(()) };
    let lines = text.lines().map(str::trim).take_while(|line| !line.starts_with("Exception raised from"));
    let said = lines.filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ");
    Err(Error::failed(format!("libtorch could not {doing}")).because(said))
}

/// Whether this program was built with gloo's headers, without which there is one process alone.
pub const HAS_RANKS: bool = env!("MINIMIND_RANKS").as_bytes()[0] == b'y';

/// Major, minor and patch number of the NCCL that libtorch's CUDA half was loaded with, if it was.
pub fn nccl_version() -> Option<[i32; 3]> {
    // SAFETY: asks the linker for functions of libraries that are loaded, and one of them for a number.
    let version = unsafe { mm_nccl_version() };
    (version > 0).then_some([version / 10_000, version / 100 % 100, version % 100])
}

/// What tells this GPU, or part of one, from every other anywhere: 32 hexadecimal digits.
pub fn gpu_uuid(cuda_index: usize) -> Result<String> {
    let mut text = [0 as c_char; 33];
    // SAFETY: `text` has room for the 33 bytes that are written on success.
    check(unsafe { mm_gpu_uuid(cuda_index as i64, text.as_mut_ptr()) }, "ask which GPU this is")?;
    Ok(text[..32].iter().map(|digit| char::from(*digit as u8)).collect())
}

/// Where ranks meet, and which of them this process is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meeting {
    /// Host of the meeting place.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// This process, from 0.
    pub rank: usize,
    /// How many there are.
    pub world: usize,
    /// Whether this process keeps the meeting place.
    pub serves: bool,
    /// Tells one start of a run from another at the same place.
    pub name: String,
}

/// How numbers of several ranks become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reduce {
    /// Added.
    Sum = 0,
    /// The largest.
    Max = 1,
    /// The smallest.
    Min = 2,
}

/// The ranks that train together. Every call is made by all of them, in the same order.
#[derive(Debug)]
pub struct Group {
    raw: *mut c_void,
    on_gpus: Cell<bool>,
}

impl Group {
    /// Waits for the others, up to five minutes.
    pub fn open(meeting: &Meeting) -> Result<Self> {
        let text = |t: &str| CString::new(t).map_err(|e| Error::input("a name holds a NUL byte").because(e));
        let (host, name) = (text(&meeting.host)?, text(&meeting.name)?);
        let mut raw = std::ptr::null_mut();
        // SAFETY: both strings live for the length of the call; `raw` receives an object that Drop frees.
        let message = unsafe {
            mm_group_new(
                host.as_ptr(),
                meeting.port,
                meeting.rank as c_int,
                meeting.world as c_int,
                c_int::from(meeting.serves),
                name.as_ptr(),
                &mut raw,
            )
        };
        check(message, "meet the other ranks")?;
        Ok(Self { raw, on_gpus: Cell::new(false) })
    }

    /// From now on what lies on this GPU is added up by NCCL, not through the host. Every rank has a GPU that no other
    /// has. Waits for the others.
    pub fn use_gpu(&self, cuda_index: usize) -> Result<()> {
        // SAFETY: the group lives as long as `self`.
        check(unsafe { mm_group_use_gpu(self.raw, cuda_index as i64) }, "join the ranks' GPUs by NCCL")?;
        self.on_gpus.set(true);
        Ok(())
    }

    /// Whether GPUs add up by NCCL.
    pub fn on_gpus(&self) -> bool {
        self.on_gpus.get()
    }

    /// When all ranks end well: waits for what their GPUs still add up. Dropped without it, a group cuts that short.
    pub fn close(&self) -> Result<()> {
        // SAFETY: the group lives as long as `self`.
        check(unsafe { mm_group_close(self.raw) }, "part from the other ranks")
    }

    /// Makes `tensor` that of all ranks together, in place.
    pub fn reduce(&self, tensor: &Tensor, op: Reduce) -> Result<()> {
        // SAFETY: the group lives as long as `self`; the tensor for the length of the call, which waits.
        check(
            unsafe { mm_group_reduce(self.raw, tensor.as_ptr() as *mut c_void, op as c_int) },
            "add up over the ranks",
        )
    }

    /// Makes `tensor` the one of rank `root`, in place.
    pub fn broadcast(&self, tensor: &Tensor, root: usize) -> Result<()> {
        // SAFETY: as in `reduce`.
        check(
            unsafe { mm_group_broadcast(self.raw, tensor.as_ptr() as *mut c_void, root as c_int) },
            "hear another rank",
        )
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // SAFETY: made by `open`, freed once, after every reducer (they hold an Rc of it).
        unsafe { mm_group_free(self.raw) }
    }
}

/// Sums gradients over the ranks.
#[derive(Debug)]
pub struct Reducer {
    raw: *mut c_void,
    _group: Rc<Group>,
}

impl Reducer {
    /// For fp32 leaves that want gradients; gradients travel in buckets of about `bucket_bytes`.
    pub fn new(group: &Rc<Group>, params: &[Tensor], bucket_bytes: usize) -> Result<Self> {
        if let Some(other) = params.iter().find(|p| p.kind() != Kind::Float) {
            return Err(Error::failed(format!("ranks share fp32 gradients, not {:?}", other.kind())));
        }
        let mut handles: Vec<_> = params.iter().map(|p| p.as_ptr() as *mut c_void).collect();
        let mut raw = std::ptr::null_mut();
        // SAFETY: live tensors, whose handles the C++ side copies; the group outlives the reducer by the Rc.
        let message = unsafe {
            mm_reducer_new(group.raw, handles.as_mut_ptr(), handles.len(), bucket_bytes as i64, &mut raw)
        };
        check(message, "prepare to share gradients")?;
        Ok(Self { raw, _group: Rc::clone(group) })
    }

    /// Lets gradients leave during the next backward pass, which is the last before [`Self::finish`].
    pub fn arm(&mut self) -> Result<()> {
        // SAFETY: `raw` was made by `new` and lives.
        check(unsafe { mm_reducer_arm(self.raw) }, "prepare to share gradients")
    }

    /// Waits until every gradient is the sum over all ranks.
    pub fn finish(&mut self) -> Result<()> {
        // SAFETY: `raw` was made by `new` and lives.
        check(unsafe { mm_reducer_finish(self.raw) }, "share gradients")
    }
}

impl Drop for Reducer {
    fn drop(&mut self) {
        // SAFETY: made by `new`, freed once; its hooks go with it.
        unsafe { mm_reducer_free(self.raw) }
    }
}
