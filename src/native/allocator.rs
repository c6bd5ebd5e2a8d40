//! The caching allocator for CPU tensors (`allocator.cpp`).

use super::ffi;

/// From now on large blocks of memory that CPU tensors free are cached for later ones: the system would clear each page of
/// a new one first, a tenth of a training step. Never much more is held than tensors once used together.
pub fn enable_cpu_cache() {
    // SAFETY: sets libtorch's allocator, which lives for ever and frees what an earlier one made by that one.
    unsafe { ffi::mm_cpu_cache_enable() }
}

/// Gives what is cached back to the system.
pub fn empty_cpu_cache() {
    // SAFETY: frees what no tensor uses, under the allocator's own lock.
    unsafe { ffi::mm_cpu_cache_empty() }
}

/// Resets the peaks that [`cpu_cache_overhead`] compares.
pub fn reset_cpu_cache_peak() {
    // SAFETY: sets two numbers under the allocator's own lock.
    unsafe { ffi::mm_cpu_cache_reset_peak() }
}

/// The most bytes that were held since the last reset, less the most that tensors used: what a peak of the resident size
/// counts too much.
pub fn cpu_cache_overhead() -> u64 {
    // SAFETY: reads two numbers under the allocator's own lock.
    unsafe { ffi::mm_cpu_cache_peak_overhead() }
}
