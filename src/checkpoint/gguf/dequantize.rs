//! Dequantises ggml's blocks to f32.
//!
//! The arithmetic is ggml's (`ggml-quants.c`, `dequantize_row_*`) in the order of operations of its Python package
//! (`gguf/quants.py`), so that every number is the same to the last bit. Next: `ggml_type`, which names the types.
//!
//! A K block has 256 weights in groups of 16 or 32, each with a scale (and some with a minimum) of a few bits.

use half::f16;

/// Levels of iq4_nl and iq4_xs.
const LEVELS: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// The f16 at byte `at` of a block.
pub fn f16_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// Appends the weights of one block to a list.
pub type Decoder = fn(&[u8], &mut Vec<f32>);

/// The decoder of a type by ggml's name; `None` for a type that is not read.
pub fn decoder(name: &str) -> Option<Decoder> {
    Some(match name {
        "q4_0" => q4_0,
        "q4_1" => q4_1,
        "q5_0" => q5_0,
        "q5_1" => q5_1,
        "q8_0" => q8_0,
        "q2_k" => q2_k,
        "q3_k" => q3_k,
        "q4_k" => q4_k,
        "q5_k" => q5_k,
        "q6_k" => q6_k,
        "iq4_nl" => iq4_nl,
        "iq4_xs" => iq4_xs,
        _ => return None,
    })
}

/// The low 4 bits of every byte, then the high 4 bits.
fn nibbles(bytes: &[u8]) -> impl Iterator<Item = u8> + '_ {
    bytes.iter().map(|b| b & 15).chain(bytes.iter().map(|b| b >> 4))
}

/// The bits of a 32-bit number, lowest first.
fn bits(bytes: &[u8]) -> impl Iterator<Item = u8> + '_ {
    (0..32).map(|i| bytes[i / 8] >> (i % 8) & 1)
}

fn q4_0(block: &[u8], out: &mut Vec<f32>) {
    let d = f16_at(block, 0);
    out.extend(nibbles(&block[2..]).map(|q| (f32::from(q) - 8.0) * d));
}

fn q4_1(block: &[u8], out: &mut Vec<f32>) {
    let (d, m) = (f16_at(block, 0), f16_at(block, 2));
    out.extend(nibbles(&block[4..]).map(|q| d * f32::from(q) + m));
}

fn q5_0(block: &[u8], out: &mut Vec<f32>) {
    let d = f16_at(block, 0);
    let levels = nibbles(&block[6..]).zip(bits(&block[2..6]));
    out.extend(levels.map(|(low, high)| d * (f32::from(low | high << 4) - 16.0)));
}

fn q5_1(block: &[u8], out: &mut Vec<f32>) {
    let (d, m) = (f16_at(block, 0), f16_at(block, 2));
    let levels = nibbles(&block[8..]).zip(bits(&block[4..8]));
    out.extend(levels.map(|(low, high)| d * f32::from(low | high << 4) + m));
}

fn q8_0(block: &[u8], out: &mut Vec<f32>) {
    let d = f16_at(block, 0);
    out.extend(block[2..].iter().map(|q| f32::from(*q as i8) * d));
}

/// 2 bits each, four to a byte: 32 bytes hold four groups of 32.
fn quarters(bytes: &[u8]) -> impl Iterator<Item = u8> + '_ {
    bytes
        .chunks_exact(32)
        .flat_map(|part| (0..4).flat_map(move |k| part.iter().map(move |b| b >> (2 * k) & 3)))
}

fn q2_k(block: &[u8], out: &mut Vec<f32>) {
    let (d, least) = (f16_at(block, 80), f16_at(block, 82));
    for (i, q) in quarters(&block[16..80]).enumerate() {
        let scale = block[i / 16];
        out.push(d * f32::from(scale & 15) * f32::from(q) - least * f32::from(scale >> 4));
    }
}

fn q3_k(block: &[u8], out: &mut Vec<f32>) {
    let (high, scales, d) = (&block[..32], &block[96..108], f16_at(block, 108));
    for (i, q) in quarters(&block[32..96]).enumerate() {
        let group = i / 16;
        let low = scales[group % 8] >> (4 * (group / 8)) & 15;
        let top = scales[8 + group % 4] >> (2 * (group / 4)) & 3;
        let scale = d * (f32::from(low | top << 4) - 32.0);
        // A bit that is not set takes 4 away.
        let away = if high[i % 32] >> (i / 32) & 1 == 0 { 4.0 } else { 0.0 };
        out.push(scale * (f32::from(q) - away));
    }
}

/// Scale and minimum of a group of 32, 6 bits each in 12 bytes.
fn scale_and_least(packed: &[u8], group: usize) -> (f32, f32) {
    let (scale, least) = if group < 4 {
        (packed[group] & 63, packed[4 + group] & 63)
    } else {
        let both = packed[4 + group];
        (both & 15 | packed[group - 4] >> 2 & 0x30, both >> 4 | packed[group] >> 2 & 0x30)
    };
    (f32::from(scale), f32::from(least))
}

/// 4 bits each: 32 bytes hold two groups of 32.
fn halves(bytes: &[u8]) -> impl Iterator<Item = u8> + '_ {
    bytes.chunks_exact(32).flat_map(nibbles)
}

fn q4_k(block: &[u8], out: &mut Vec<f32>) {
    let (d, least) = (f16_at(block, 0), f16_at(block, 2));
    for (i, q) in halves(&block[16..]).enumerate() {
        let (scale, min) = scale_and_least(&block[4..16], i / 32);
        out.push(d * scale * f32::from(q) - least * min);
    }
}

fn q5_k(block: &[u8], out: &mut Vec<f32>) {
    let (d, least, high) = (f16_at(block, 0), f16_at(block, 2), &block[16..48]);
    for (i, q) in halves(&block[48..]).enumerate() {
        let (scale, min) = scale_and_least(&block[4..16], i / 32);
        let q = q | (high[i % 32] >> (i / 32) & 1) << 4;
        out.push(d * scale * f32::from(q) - least * min);
    }
}

/// 256 weights in two halves; 4 low bits and 2 high bits apart, a scale for every 16, and one over all.
fn q6_k(block: &[u8], out: &mut Vec<f32>) {
    let d = f16_at(block, 208);
    let from = out.len();
    out.resize(from + 256, 0.0);
    for half in 0..2 {
        let low = &block[half * 64..half * 64 + 64];
        let high = &block[128 + half * 32..128 + half * 32 + 32];
        let scales = &block[192 + half * 8..192 + half * 8 + 8];
        for l in 0..32 {
            let quarter = [low[l] & 15, low[l + 32] & 15, low[l] >> 4, low[l + 32] >> 4];
            for (k, low) in quarter.into_iter().enumerate() {
                let q = low | (high[l] >> (2 * k) & 3) << 4;
                let s = f32::from(scales[l / 16 + 2 * k] as i8);
                out[from + half * 128 + k * 32 + l] = d * s * (f32::from(q) - 32.0);
            }
        }
    }
}

fn level(q: u8) -> f32 {
    f32::from(LEVELS[usize::from(q)])
}

fn iq4_nl(block: &[u8], out: &mut Vec<f32>) {
    let d = f16_at(block, 0);
    out.extend(nibbles(&block[2..]).map(|q| d * level(q)));
}

fn iq4_xs(block: &[u8], out: &mut Vec<f32>) {
    let d = f16_at(block, 0);
    let high = u16::from_le_bytes([block[2], block[3]]);
    for (group, part) in block[8..].chunks_exact(16).enumerate() {
        let low = block[4 + group / 2] >> (4 * (group % 2)) & 15;
        let top = (high >> (2 * group) & 3) as u8;
        let scale = d * (f32::from(low | top << 4) - 32.0);
        out.extend(nibbles(part).map(|q| scale * level(q)));
    }
}
