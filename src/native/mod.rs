//! The only room with `unsafe`: small wrappers over the system and libtorch's C++ that Rust cannot check.
//!
//! Each function here is safe to call; each `unsafe` block says why.
#![allow(unsafe_code)]

mod mmap;

pub use mmap::map_file;
