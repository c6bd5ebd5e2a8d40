//! Memory that tensors on the CPU gave back, kept for later ones (`allocator.cpp`).

unsafe extern "C" {
    fn mm_memory_keep();
    fn mm_memory_release();
    fn mm_memory_restart_peak();
    fn mm_memory_surplus() -> u64;
}

/// From now on large blocks of memory that tensors on the CPU give back are kept for later ones: the system would clear
/// each page of a new one first, a tenth of a training step. Never much more is held than tensors once used together.
pub fn keep_memory() {
    // SAFETY: sets libtorch's allocator, which lives for ever and frees what an earlier one made by that one.
    unsafe { mm_memory_keep() }
}

/// Gives what is kept back to the system.
pub fn release_memory() {
    // SAFETY: frees what no tensor uses, under the allocator's own lock.
    unsafe { mm_memory_release() }
}

/// Starts over what [`kept_surplus`] tells.
pub fn restart_kept_peak() {
    // SAFETY: sets two numbers under the allocator's own lock.
    unsafe { mm_memory_restart_peak() }
}

/// How much less tensors used at most than was held at most, in bytes: what a resident size counts too much.
pub fn kept_surplus() -> u64 {
    // SAFETY: reads two numbers under the allocator's own lock.
    unsafe { mm_memory_surplus() }
}
