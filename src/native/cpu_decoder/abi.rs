//! `cpu_decoder/abi.h` in Rust: the structs and functions of the decoder's kernels, one for one.

use std::ffi::{c_char, c_void};

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Matrix {
    pub panels: *const c_void,
    pub scales: *const f32,
    pub bias: *const f32,
    pub outputs: i32,
    pub inputs: i32,
    pub storage: i32,
}

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Ffn {
    pub gate_up: Matrix,
    pub down: Matrix,
}

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Layer {
    pub qkv: Matrix,
    pub o: Matrix,
    pub norm_in: *const f32,
    pub norm_post: *const f32,
    pub q_norm: *const f32,
    pub k_norm: *const f32,
    pub router: Matrix,
    pub ffns: *const Ffn,
}

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Model {
    pub layers: i32,
    pub hidden: i32,
    pub heads: i32,
    pub kv_heads: i32,
    pub head_dim: i32,
    pub inner: i32,
    pub vocab: i32,
    pub routed: i32,
    pub top_k: i32,
    pub shared: i32,
    pub renormalise: i32,
    pub eps: f32,
    pub embedding: *const f32,
    pub norm: *const f32,
    pub cos: *const f32,
    pub sin: *const f32,
    pub layer: *const Layer,
    pub head: Matrix,
}

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Cache {
    pub arena: *mut f32,
    pub page_floats: i64,
    pub layer_floats: i64,
    pub head_floats: i64,
}

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Batch {
    pub tokens: i32,
    pub sequences: i32,
    pub max_pages: i32,
    pub outputs: i32,
    pub ids: *const i32,
    pub positions: *const i32,
    pub starts: *const i32,
    pub pages: *const i32,
    pub output_rows: *const i32,
    pub logits: *mut f32,
    pub hidden: *mut f32,
}

unsafe extern "C" {
    pub fn mm_pool_new(threads: i32) -> *mut c_void;
    pub fn mm_pool_free(pool: *mut c_void);
    pub fn mm_scratch_floats(
        model: *const Model,
        tokens: i32,
        outputs: i32,
        positions: i64,
        threads: i32,
    ) -> i64;
    pub fn mm_forward(
        model: *const Model,
        cache: *const Cache,
        batch: *const Batch,
        scratch: *mut f32,
        positions: i64,
        pool: *mut c_void,
    ) -> i32;
    pub fn mm_pack(
        source: *const f32,
        rows: i32,
        inputs: i32,
        storage: i32,
        panels: *mut c_void,
        scales: *mut f32,
        first: i32,
        stride: i32,
        pool: *mut c_void,
    );
    pub fn mm_panel_bytes(inputs: i32, storage: i32) -> i64;
    pub fn mm_panel_scales(inputs: i32, storage: i32) -> i64;
    pub fn mm_exp(x: *const f32, n: i64, most: f32, scale: f32, out: *mut f32) -> f64;
    pub fn mm_measure_read(data: *const f32, floats: i64, pool: *mut c_void) -> f64;
    pub fn mm_measure_flops(rounds: i64, pool: *mut c_void) -> f64;
    pub fn mm_isa() -> *const c_char;
}
