//! What the decoder's kernels work with: threads, and weights packed in the order in which they are read.
//! Next: `network`, which puts them together.

use std::ffi::{CStr, c_void};

use super::abi;
use crate::error::{Error, Result};
use crate::native::buffer::Buffer;

/// Positions a page of the cache holds, and output rows a panel.
pub const PAGE: usize = abi::MM_PANEL as usize;

/// How weights are stored; arithmetic is fp32 (int8 meets 16-bit activations in whole numbers).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    /// 32-bit.
    F32,
    /// bfloat16.
    Bf16,
    /// Half precision.
    F16,
    /// 8-bit, with a scale for every 128 inputs of an output.
    Int8,
}

impl Storage {
    fn code(self) -> i32 {
        match self {
            Storage::F32 => abi::MM_F32,
            Storage::Bf16 => abi::MM_BF16,
            Storage::F16 => abi::MM_F16,
            Storage::Int8 => abi::MM_I8,
        }
    }
}

/// Threads that share the work of a step. They sleep while there is none.
#[derive(Debug)]
pub struct ThreadPool {
    pub(super) handle: *mut c_void,
    pub(super) threads: usize,
}

// SAFETY: the pool is run through `&mut` alone, from whichever thread owns it.
unsafe impl Send for ThreadPool {}

impl ThreadPool {
    /// A pool of `threads`, the caller's own among them.
    ///
    /// # Errors
    /// The system gives no memory for it.
    pub fn new(threads: usize) -> Result<Self> {
        let threads = threads.clamp(1, 256);
        // SAFETY: makes a new pool, owned by this value; null says that there was no memory.
        let handle = unsafe { abi::mm_pool_new(threads as i32) };
        if handle.is_null() {
            return Err(Error::failed("no memory for the decoder's threads"));
        }
        Ok(Self { handle, threads })
    }

    /// Bytes that the threads read from memory a second, and fp32 operations a second, measured.
    ///
    /// # Errors
    /// Memory cannot be allocated.
    pub fn measure_machine(&mut self) -> Result<(f64, f64)> {
        // Far larger than the caches; written once, so that every page is real.
        let mut data = Buffer::<f32>::zeroed(64 << 20)?;
        data.fill(0.5);
        // SAFETY: reads `len` floats; runs on a pool that nothing else uses meanwhile.
        let read = unsafe { abi::mm_measure_read(data.as_ptr(), data.len() as i64, self.handle) };
        // SAFETY: computes in registers.
        let flops = unsafe { abi::mm_measure_flops(1_000_000, self.handle) };
        Ok((read, flops))
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        // SAFETY: the handle came from mm_pool_new and is freed once.
        unsafe { abi::mm_pool_free(self.handle) }
    }
}

/// The instructions the kernels use on this machine: `avx512`, `avx2` or `base`.
pub fn instruction_set() -> &'static str {
    // SAFETY: returns a constant C string.
    unsafe { CStr::from_ptr(abi::mm_isa()) }.to_str().unwrap_or("base")
}

/// `out[i] = exp((x[i] - most) * scale)`; returns the sum.
pub fn exp_scaled(x: &[f32], most: f32, scale: f32, out: &mut Vec<f32>) -> f64 {
    out.clear();
    out.resize(x.len(), 0.0);
    // SAFETY: both slices hold `x.len()` floats and do not overlap.
    unsafe { abi::mm_exp(x.as_ptr(), x.len() as i64, most, scale, out.as_mut_ptr()) }
}

/// A weight matrix in the kernels' order.
#[derive(Debug)]
pub struct PackedMatrix {
    panels: Buffer<u8>,
    scales: Buffer<f32>,
    bias: Vec<f32>,
    outputs: usize,
    inputs: usize,
    pub(super) storage: Storage,
}

impl PackedMatrix {
    /// Packs `[rows, inputs]` matrices one below the other; all but the last have a multiple of 32 rows. `bias` is
    /// empty or has a value for every row.
    ///
    /// # Errors
    /// Sizes that do not fit, or no memory.
    pub fn stacked(
        parts: &[&[f32]],
        inputs: usize,
        bias: Vec<f32>,
        storage: Storage,
        pool: &mut ThreadPool,
    ) -> Result<Self> {
        let outputs: usize = parts.iter().map(|part| part.len() / inputs.max(1)).sum();
        let mut packed = Self::empty(outputs, inputs, bias, storage)?;
        let mut first = 0;
        for part in parts {
            if first % PAGE != 0 {
                return Err(Error::failed("stacked matrices need a multiple of 32 rows"));
            }
            packed.fill(part, first / PAGE, 1, pool)?;
            first += part.len() / inputs;
        }
        Ok(packed)
    }

    /// Packs gate and up, `[rows, inputs]` each, with their panels in turns. Biases are empty or one a row.
    ///
    /// # Errors
    /// As [`PackedMatrix::stacked`].
    pub fn paired(
        (gate, gate_bias): (&[f32], &[f32]),
        (up, up_bias): (&[f32], &[f32]),
        inputs: usize,
        storage: Storage,
        pool: &mut ThreadPool,
    ) -> Result<Self> {
        let rows = (gate.len() / inputs.max(1)).next_multiple_of(PAGE);
        let mut bias = Vec::new();
        if !gate_bias.is_empty() || !up_bias.is_empty() {
            let at = |list: &[f32], i: usize| list.get(i).copied().unwrap_or(0.0);
            for panel in (0..rows).step_by(PAGE) {
                bias.extend((panel..panel + PAGE).map(|i| at(gate_bias, i)));
                bias.extend((panel..panel + PAGE).map(|i| at(up_bias, i)));
            }
        }
        let mut packed = Self::empty(2 * rows, inputs, bias, storage)?;
        packed.fill(gate, 0, 2, pool)?;
        packed.fill(up, 1, 2, pool)?;
        Ok(packed)
    }

    fn empty(outputs: usize, inputs: usize, bias: Vec<f32>, storage: Storage) -> Result<Self> {
        let fits = |n: usize| n > 0 && n < 1 << 30;
        if !fits(outputs) || !fits(inputs) || !(bias.is_empty() || bias.len() == outputs) {
            return Err(Error::failed(format!("a matrix of {outputs} x {inputs} cannot be packed")));
        }
        let panels = outputs.div_ceil(PAGE);
        // SAFETY: two functions of two numbers.
        let (bytes, scales) = unsafe {
            (
                abi::mm_panel_bytes(inputs as i32, storage.code()) as usize,
                abi::mm_panel_scales(inputs as i32, storage.code()) as usize,
            )
        };
        Ok(Self {
            panels: Buffer::zeroed(panels * bytes)?,
            scales: Buffer::zeroed(panels * scales)?,
            bias,
            outputs,
            inputs,
            storage,
        })
    }

    /// Writes a matrix's panels at `first`, `first + stride`, ...
    fn fill(&mut self, source: &[f32], first: usize, stride: usize, pool: &mut ThreadPool) -> Result<()> {
        let rows = source.len() / self.inputs;
        let last = first + (rows.div_ceil(PAGE).max(1) - 1) * stride;
        if rows == 0 || rows * self.inputs != source.len() || last >= self.outputs.div_ceil(PAGE) {
            return Err(Error::failed("a weight does not have the shape it should"));
        }
        // SAFETY: `source` is rows x inputs floats; every panel written lies in the buffers (checked above).
        unsafe {
            abi::mm_pack(
                source.as_ptr(),
                rows as i32,
                self.inputs as i32,
                self.storage.code(),
                self.panels.as_mut_ptr().cast(),
                self.scales.as_mut_ptr(),
                first as i32,
                stride as i32,
                pool.handle,
            );
        }
        Ok(())
    }

    /// Bytes that a token reads of it.
    pub fn bytes(&self) -> usize {
        self.panels.len() + self.scales.len() * 4
    }

    pub(super) fn raw(&self) -> abi::Matrix {
        abi::Matrix {
            panels: self.panels.as_ptr().cast(),
            scales: self.scales.as_ptr(),
            bias: if self.bias.is_empty() { std::ptr::null() } else { self.bias.as_ptr() },
            outputs: self.outputs as i32,
            inputs: self.inputs as i32,
            storage: self.storage.code(),
        }
    }

    pub(super) fn is(&self, outputs: usize, inputs: usize) -> bool {
        self.outputs == outputs && self.inputs == inputs
    }
}
