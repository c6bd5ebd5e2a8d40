//! The boundary to C++: the functions of `ffi.h` and `collectives/collectives.h`, whose declarations build.rs makes from
//! these headers, and how faults and tensors cross it.
//!
//! A function returns a message where it failed, else null. Tensors go in as borrowed handles ([`handle`]) and come out as
//! owned ones ([`own`]).

use std::ffi::{CStr, c_char, c_int, c_void};

use tch::Tensor;

use crate::error::{Error, Result};

include!(concat!(env!("OUT_DIR"), "/ffi.rs"));

/// [`handle`], or null for no tensor.
pub(super) fn handle_or_null(tensor: Option<&Tensor>) -> *mut c_void {
    tensor.map_or(std::ptr::null_mut(), handle)
}

/// What C++ says of a fault, if there was one; frees the message.
pub(super) fn message(message: *mut c_char) -> Option<String> {
    if message.is_null() {
        return None;
    }
    // SAFETY: a non-null message is a C string that C++ allocated for us; it is freed once, here.
    unsafe {
        let text = CStr::from_ptr(message).to_string_lossy().into_owned();
        mm_free_message(message);
        Some(text)
    }
}

/// The fault of a call that was to do `doing`, with the first line of what libtorch says.
///
/// # Errors
/// There is a message.
pub(super) fn check(fault: *mut c_char, doing: &str) -> Result<()> {
    let Some(text) = message(fault) else { return Ok(()) };
    Err(Error::failed(format!("libtorch could not {doing}")).because(text.lines().next().unwrap_or_default()))
}

/// The `at::Tensor` behind a tensor; valid as long as it lives.
pub(super) fn handle(tensor: &Tensor) -> *mut c_void {
    tensor.as_ptr() as *mut c_void
}

/// A tensor that C++ made and hands over.
pub(super) fn own(tensor: *mut c_void) -> Tensor {
    // SAFETY: called with one at::Tensor that C++ gave away, which tch's Tensor now frees.
    unsafe { Tensor::from_ptr(tensor.cast()) }
}

/// [`handle`] of each.
pub(super) fn pointers(tensors: &[Tensor]) -> Vec<*mut c_void> {
    tensors.iter().map(handle).collect()
}

#[cfg(test)]
#[path = "../../build/c_header.rs"]
mod c_header;

#[cfg(test)]
mod tests {
    use super::c_header::rust_from;

    #[test]
    fn declarations_follow_the_header() {
        let header = "
            // A comment; with a semicolon.
            #pragma once
            extern \"C\" {
            enum mm_color { MM_RED = 0, MM_BLUE = 1 };
            typedef void *mm_tensor;
            typedef struct mm_pool mm_pool;
            typedef struct {
              const float *cos, *sin; // [S]
              int32_t rows, columns;
            } mm_table;
            char *mm_read(mm_tensor *tensors, size_t n, const char *const *names,
                          const mm_table *table, const mm_pool *pool);
            void mm_leave(void);
            }";
        let rust = rust_from(header);
        for line in [
            "pub const MM_BLUE: i32 = 1;",
            "pub struct Table {\n    pub cos: *const f32,\n    pub sin: *const f32,\n    pub rows: i32,\n    pub columns: i32,\n}",
            "pub fn mm_read(tensors: *mut *mut c_void, n: usize, names: *const *const c_char, table: *const Table, \
             pool: *mut c_void) -> *mut c_char;",
            "pub fn mm_leave();",
        ] {
            assert!(rust.contains(line), "{line}\n{rust}");
        }
    }

    #[test]
    #[should_panic(expected = "long double")]
    fn a_type_that_is_not_known_stops_the_build() {
        rust_from("long double mm_far(void);");
    }
}
