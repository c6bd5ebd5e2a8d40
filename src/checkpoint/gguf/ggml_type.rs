//! ggml's element types: plain floats, and blocks of 32 or 256 quantised weights.
//!
//! The arithmetic of quantising is ggml's reference (`ggml-quants.c`: `quantize_row_q8_0_ref`,
//! `quantize_row_q4_0_ref`), so that the same weights give the same bytes as its own tool. Next: `dequantize`.

use std::borrow::Cow;

use half::{bf16, f16};

use super::dequantize;
use crate::checkpoint::dtype::DType;
use crate::checkpoint::host_tensor::HostTensor;
use crate::error::{Error, Result};

/// Weights in a block of q8_0 and q4_0.
const BLOCK: usize = 32;

/// The type that a file stores its weights in (llama.cpp's `ftype`); norms and gates stay f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum FileType {
    F32,
    F16,
    Bf16,
    Q8_0,
    Q4_0,
}

/// An element type of ggml (`ggml_type`): number, name, weights in a block, bytes of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GgmlType(&'static (u32, &'static str, usize, usize));

const ELEMENTS: [(u32, &str, usize, usize); 32] = [
    (0, "f32", 1, 4),
    (1, "f16", 1, 2),
    (2, "q4_0", 32, 18),
    (3, "q4_1", 32, 20),
    (6, "q5_0", 32, 22),
    (7, "q5_1", 32, 24),
    (8, "q8_0", 32, 34),
    (9, "q8_1", 32, 36),
    (10, "q2_k", 256, 84),
    (11, "q3_k", 256, 110),
    (12, "q4_k", 256, 144),
    (13, "q5_k", 256, 176),
    (14, "q6_k", 256, 210),
    (15, "q8_k", 256, 292),
    (16, "iq2_xxs", 256, 66),
    (17, "iq2_xs", 256, 74),
    (18, "iq3_xxs", 256, 98),
    (19, "iq1_s", 256, 50),
    (20, "iq4_nl", 32, 18),
    (21, "iq3_s", 256, 110),
    (22, "iq2_s", 256, 82),
    (23, "iq4_xs", 256, 136),
    (24, "i8", 1, 1),
    (25, "i16", 1, 2),
    (26, "i32", 1, 4),
    (27, "i64", 1, 8),
    (28, "f64", 1, 8),
    (29, "iq1_m", 256, 56),
    (30, "bf16", 1, 2),
    (34, "tq1_0", 256, 54),
    (35, "tq2_0", 256, 66),
    (39, "mxfp4", 32, 17),
];

impl GgmlType {
    /// By ggml's number.
    pub fn of(number: u32) -> Option<Self> {
        ELEMENTS.iter().find(|row| row.0 == number).map(Self)
    }

    fn named(name: &str) -> Self {
        Self(ELEMENTS.iter().find(|row| row.1 == name).unwrap_or(&ELEMENTS[0]))
    }

    /// ggml's number.
    pub fn number(self) -> u32 {
        self.0.0
    }

    /// `f32`, `q8_0`, ...
    pub fn name(self) -> &'static str {
        self.0.1
    }

    /// Number of weights in a block.
    pub fn block(self) -> usize {
        self.0.2
    }

    /// Bytes of a block.
    pub fn block_bytes(self) -> usize {
        self.0.3
    }

    /// The same type in PyTorch, where there is one.
    pub fn dtype(self) -> Option<DType> {
        Some(match self.name() {
            "f32" => DType::F32,
            "f16" => DType::F16,
            "bf16" => DType::BF16,
            "f64" => DType::F64,
            _ => return None,
        })
    }

    /// The type of a matrix with rows of `row` weights in a file of this type. Rows that do not fill blocks are stored
    /// in f16, as llama.cpp's own tool does; the embedding stays at 8 bits in a 4-bit file, because it is the output
    /// layer too and loses most.
    pub fn chosen(file_type: FileType, row: i64, embedding: bool) -> Self {
        let fits = row % BLOCK as i64 == 0;
        Self::named(match file_type {
            FileType::F32 => "f32",
            FileType::Bf16 => "bf16",
            FileType::Q8_0 if fits => "q8_0",
            FileType::Q4_0 if fits && embedding => "q8_0",
            FileType::Q4_0 if fits => "q4_0",
            FileType::F16 | FileType::Q8_0 | FileType::Q4_0 => "f16",
        })
    }

    /// The type f32.
    pub fn f32() -> Self {
        Self::named("f32")
    }

    /// Appends weights, which fill whole blocks, to `out` as this type stores them.
    ///
    /// # Errors
    /// A weight is too large for f16 or is not finite; a type that is read but not written.
    pub fn encode(self, weights: &[f32], out: &mut Vec<u8>) -> Result<()> {
        let wide = || {
            Error::failed("a weight is too large for 16 bits, or not a number")
                .hint("export with --precision f32")
        };
        match self.name() {
            "f32" => out.extend(weights.iter().flat_map(|x| x.to_le_bytes())),
            "f16" => {
                if weights.iter().any(|x| !f16::from_f32(*x).is_finite()) {
                    return Err(wide());
                }
                out.extend(weights.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()));
            }
            "bf16" => out.extend(weights.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes())),
            "q8_0" => {
                for block in weights.chunks_exact(BLOCK) {
                    let largest = block.iter().fold(0f32, |m, x| m.max(x.abs()));
                    let scale = largest / 127.0;
                    put_scale(scale, block, out).ok_or_else(wide)?;
                    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
                    out.extend(block.iter().map(|x| (x * inverse).round() as i8 as u8));
                }
            }
            "q4_0" => {
                for block in weights.chunks_exact(BLOCK) {
                    // The weight farthest from zero becomes -8, so that the range is used whole.
                    let far = block.iter().fold(0f32, |m, x| if x.abs() > m.abs() { *x } else { m });
                    let scale = far / -8.0;
                    put_scale(scale, block, out).ok_or_else(wide)?;
                    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
                    // One rounding to 32 bits, as of a fused multiply-add: what llama.cpp gives on today's
                    // processors, and its Python package everywhere.
                    let level = |x: f32| {
                        let exact = f64::from(x) * f64::from(inverse) + 8.5;
                        ((exact as f32) as i8).min(15) as u8
                    };
                    let (low, high) = block.split_at(BLOCK / 2);
                    out.extend(low.iter().zip(high).map(|(a, b)| level(*a) | level(*b) << 4));
                }
            }
            other => return Err(Error::failed(format!("{other} cannot be written"))),
        }
        Ok(())
    }

    /// The weights of whole blocks as f32.
    ///
    /// # Errors
    /// A type that is not read here.
    pub fn decode(self, bytes: &[u8]) -> Result<Vec<f32>> {
        let blocks = bytes.chunks_exact(self.block_bytes());
        let mut out = Vec::with_capacity(blocks.len() * self.block());
        match self.name() {
            "f32" => out.extend(blocks.map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))),
            "f16" => out.extend(blocks.map(|b| dequantize::f16_at(b, 0))),
            "bf16" => out.extend(blocks.map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32())),
            other => {
                let decode = dequantize::decoder(other).ok_or_else(|| {
                    Error::failed(format!("weights of type {other} are not read here"))
                        .hint("convert the model to f16, q8_0 or q4_k with llama.cpp's llama-quantize")
                })?;
                blocks.for_each(|block| decode(block, &mut out));
            }
        }
        Ok(out)
    }
}

fn put_scale(scale: f32, block: &[f32], out: &mut Vec<u8>) -> Option<()> {
    let stored = f16::from_f32(scale);
    out.extend(stored.to_le_bytes());
    (stored.is_finite() && block.iter().all(|x| x.is_finite())).then_some(())
}

/// A tensor's elements as f32 in row-major order.
///
/// # Errors
/// It is of no floating-point type of 16 bits or more.
pub fn floats(tensor: &HostTensor) -> Result<Vec<f32>> {
    let bytes: Cow<'_, [u8]> = tensor.bytes()?;
    Ok(match tensor.dtype() {
        DType::F32 => bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
        DType::F16 => bytes.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
        DType::BF16 => bytes.chunks_exact(2).map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
        DType::F64 => bytes
            .chunks_exact(8)
            .map(|b| f64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]) as f32)
            .collect(),
        other => return Err(Error::failed(format!("weights of type {} cannot be exported", other.name()))),
    })
}
