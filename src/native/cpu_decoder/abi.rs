//! The structs and functions of the decoder's kernels, as build.rs makes them from `cpu_decoder/abi.h`.
#![allow(dead_code)] // some numbers are for C alone

use std::ffi::{c_char, c_void};

include!(concat!(env!("OUT_DIR"), "/cpu_decoder.rs"));
