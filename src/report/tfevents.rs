//! TensorBoard's event records: TFRecord frames around hand-encoded `Event` messages.
//!
//! A frame is length (u64 LE), its masked crc32c, the message, and the message's masked crc32c. The
//! messages are `tensorflow/core/util/event.proto` and `framework/summary.proto`, of which scalars need
//! six fields. Next: `metrics`, which writes them beside the JSON rows.

/// The table of crc32c (Castagnoli), reflected polynomial 0x82f63b78.
const TABLE: [u32; 256] = table();

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut value = index as u32;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 { (value >> 1) ^ 0x82f6_3b78 } else { value >> 1 };
            bit += 1;
        }
        table[index] = value;
        index += 1;
    }
    table
}

/// crc32c of `bytes`.
pub fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, &byte| TABLE[((crc ^ u32::from(byte)) & 0xff) as usize] ^ (crc >> 8))
}

/// The masking of `tensorflow/core/lib/hash/crc32c.h`: a checksum of checksummed data stays useful.
fn masked(bytes: &[u8]) -> u32 {
    crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// One TFRecord around `message`.
fn frame(message: &[u8]) -> Vec<u8> {
    let length = (message.len() as u64).to_le_bytes();
    let mut out = Vec::with_capacity(message.len() + 16);
    out.extend_from_slice(&length);
    out.extend_from_slice(&masked(&length).to_le_bytes());
    out.extend_from_slice(message);
    out.extend_from_slice(&masked(message).to_le_bytes());
    out
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value as u8) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A length-delimited field.
fn field(out: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    out.push(number << 3 | 2);
    varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// `Event.wall_time`, field 1, a double.
fn event(wall_time: f64) -> Vec<u8> {
    let mut out = vec![1 << 3 | 1];
    out.extend_from_slice(&wall_time.to_le_bytes());
    out
}

/// The record that opens a file: `Event { wall_time, file_version }`.
pub fn opening(wall_time: f64) -> Vec<u8> {
    let mut message = event(wall_time);
    field(&mut message, 3, b"brain.Event:2");
    frame(&message)
}

/// A record of scalars: `Event { wall_time, step, summary { value { tag, simple_value }.. } }`.
pub fn scalars(wall_time: f64, step: u64, values: &[(&str, f64)]) -> Vec<u8> {
    let mut summary = Vec::new();
    for &(tag, number) in values {
        let mut value = Vec::new();
        field(&mut value, 1, tag.as_bytes());
        value.push(2 << 3 | 5);
        value.extend_from_slice(&(number as f32).to_le_bytes());
        field(&mut summary, 1, &value);
    }
    let mut message = event(wall_time);
    message.push(2 << 3);
    varint(&mut message, step);
    field(&mut message, 5, &summary);
    frame(&message)
}

/// How many leading bytes of `bytes` are whole records with right checksums.
pub fn whole_records(bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Some(length) = bytes.get(at..at + 8) {
        let size = u64::from_le_bytes(length.try_into().unwrap_or_default());
        let Some(end) = usize::try_from(size).ok().and_then(|size| (at + 12).checked_add(size)) else {
            break;
        };
        let Some(message) = bytes.get(at + 12..end) else { break };
        let sums = [(at + 8, masked(length)), (end, masked(message))];
        if sums.iter().any(|&(from, sum)| bytes.get(from..from + 4) != Some(&sum.to_le_bytes()[..])) {
            break;
        }
        at = end + 4;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_castagnolis() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
    }

    #[test]
    fn records_read_back_and_a_broken_one_ends_the_file() {
        let mut bytes = opening(1.5);
        assert_eq!(&bytes[12..21], &[9, 0, 0, 0, 0, 0, 0, 0xf8, 0x3f]);
        let first = bytes.len();
        bytes.extend(scalars(2.0, 300, &[("loss", 2.5), ("lr", 1e-4)]));
        assert_eq!(whole_records(&bytes), bytes.len());
        // step 300 as a varint, then the summary with two values of which the first is `loss`.
        let body = &bytes[first + 12 + 9..];
        assert_eq!(&body[..4], &[0x10, 0xac, 0x02, 0x2a]);
        assert_eq!(&body[5..18], b"\x0a\x0b\x0a\x04loss\x15\x00\x00\x20\x40");
        assert_eq!(whole_records(&bytes[..bytes.len() - 1]), first);
        let last = bytes.len() - 6;
        bytes[last] ^= 1;
        assert_eq!(whole_records(&bytes), first);
    }
}
