//! Large zeroed memory for weights and caches: aligned to a cache line, in large pages where the system has them,
//! taken only when it is touched.

use std::ops::{Deref, DerefMut};

use crate::error::{Error, Result};

/// Plain numbers for which all zero bits are a value.
pub trait Plain: Copy + 'static {}
impl Plain for f32 {}
impl Plain for u8 {}

/// A zeroed block of `len` items.
#[derive(Debug)]
pub struct Buffer<T: Plain> {
    start: *mut T,
    len: usize,
    bytes: usize,
}

// SAFETY: the block is owned, and its items are plain numbers.
unsafe impl<T: Plain> Send for Buffer<T> {}
// SAFETY: shared access only reads.
unsafe impl<T: Plain> Sync for Buffer<T> {}

impl<T: Plain> Buffer<T> {
    /// A block of zeros.
    ///
    /// # Errors
    /// The system has no such memory.
    pub fn zeroed(len: usize) -> Result<Self> {
        let bytes = len.saturating_mul(size_of::<T>()).max(64);
        let no_memory = || {
            Error::failed(format!("no memory for {} MB of the decoder", bytes >> 20))
                .hint("lower the number of rows or the context, or use --precision bf16 or int8")
        };
        if bytes > isize::MAX as usize {
            return Err(no_memory());
        }
        // SAFETY: a fresh private mapping; nothing else knows its address. Its pages read as zeros.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANON | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(no_memory().because(std::io::Error::last_os_error()));
        }
        #[cfg(target_os = "linux")]
        // SAFETY: advice about our own mapping; a refusal changes nothing.
        unsafe {
            libc::madvise(start, bytes, libc::MADV_HUGEPAGE);
        }
        Ok(Self { start: start.cast(), len, bytes })
    }
}

impl<T: Plain> Deref for Buffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: the mapping holds `len` initialised items for as long as `self` lives.
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }
}

impl<T: Plain> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.len) }
    }
}

impl<T: Plain> Drop for Buffer<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping was made in `zeroed` with this length and is released once.
        unsafe {
            libc::munmap(self.start.cast(), self.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_that_can_be_written_and_too_much_is_refused() {
        let mut block = Buffer::<f32>::zeroed(1000).unwrap();
        assert!(block.iter().all(|&x| x == 0.0) && block.len() == 1000);
        block[999] = 2.0;
        assert_eq!(block[999], 2.0);
        assert_eq!(block.as_ptr() as usize % 64, 0);
        assert!(Buffer::<f32>::zeroed(usize::MAX / 2).unwrap_err().to_string().contains("no memory"));
    }
}
