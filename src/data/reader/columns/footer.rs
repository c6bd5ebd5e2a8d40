//! The end of a Parquet file, looked at before the crate that reads it: its marks, its length, and how deep its schema goes.
//!
//! The crate builds the schema by recursion and believes each group's number of children; a footer of nothing but groups in
//! groups would take the stack. Thrift's compact form is walked here as far as the schema's end.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use super::Wrong;

/// Levels of a schema; deeper is nothing that holds rows.
const MOST_DEPTH: usize = 64;
/// The largest footer that is read.
const MOST_FOOTER: u64 = 256 << 20;
/// Mark and length at the end, and the mark at the beginning.
const TAIL: u64 = 8;
const MAGIC: &[u8] = b"PAR1";

/// Checks marks, lengths and the schema's depth; the file's size.
pub(super) fn check(file: &mut File) -> Result<u64, Wrong> {
    let failed = |e: std::io::Error| e.to_string();
    let size = file.metadata().map_err(failed)?.len();
    let mut read = |at: u64, length: u64| -> Result<Vec<u8>, Wrong> {
        let mut bytes = vec![0; length as usize];
        file.seek(SeekFrom::Start(at)).and_then(|_| file.read_exact(&mut bytes)).map_err(failed)?;
        Ok(bytes)
    };
    if size < TAIL + MAGIC.len() as u64 {
        return Err(format!("it has {size} bytes"));
    }
    let (head, tail) = (read(0, MAGIC.len() as u64)?, read(size - TAIL, TAIL)?);
    let (length, mark) = tail.split_at(4);
    if head == b"PARE" || mark == b"PARE" {
        return Err("it is encrypted".to_owned());
    }
    if head != MAGIC {
        return Err("it does not begin with PAR1".to_owned());
    }
    if mark != MAGIC {
        return Err("it does not end with PAR1: it is cut off".to_owned());
    }
    let length = u64::from(u32::from_le_bytes([length[0], length[1], length[2], length[3]]));
    if length > size - TAIL - MAGIC.len() as u64 || length > MOST_FOOTER {
        return Err(format!("its footer claims {length} bytes"));
    }
    let footer = read(size - TAIL - length, length)?;
    depth(&footer).ok_or_else(|| "its schema cannot be read".to_owned()).and_then(|depth| {
        if depth > MOST_DEPTH {
            Err(format!("its schema has more than {MOST_DEPTH} levels"))
        } else {
            Ok(size)
        }
    })
}

/// Bytes in thrift's compact form.
struct Thrift<'a>(&'a [u8]);

/// The numbers of thrift's types.
const TRUE: u8 = 1;
const FALSE: u8 = 2;
const BYTE: u8 = 3;
const DOUBLE: u8 = 7;
const BINARY: u8 = 8;
const LIST: u8 = 9;
const SET: u8 = 10;
const STRUCT: u8 = 12;

impl Thrift<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn skip_bytes(&mut self, count: u64) -> Option<()> {
        self.0 = self.0.get(usize::try_from(count).ok()?..)?;
        Some(())
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn zigzag(&mut self) -> Option<i64> {
        let value = self.varint()?;
        Some((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    /// The next field of a struct: its number and type; a type of 0 ends the struct.
    fn field(&mut self, last: i64) -> Option<(i64, u8)> {
        let byte = self.byte()?;
        let kind = byte & 0x0f;
        let number = match (kind, byte >> 4) {
            (0, _) => last,
            (_, 0) => self.zigzag()?,
            (_, step) => last + i64::from(step),
        };
        Some((number, kind))
    }

    /// The number of elements of a list and their type.
    fn list(&mut self) -> Option<(u64, u8)> {
        let byte = self.byte()?;
        let count = if byte >> 4 == 15 { self.varint()? } else { u64::from(byte >> 4) };
        Some((count, byte & 0x0f))
    }

    fn skip(&mut self, kind: u8, depth: usize) -> Option<()> {
        let depth = depth.checked_sub(1)?;
        match kind {
            TRUE | FALSE => Some(()),
            BYTE => self.skip_bytes(1),
            4..=6 => self.varint().map(drop),
            DOUBLE => self.skip_bytes(8),
            BINARY => {
                let length = self.varint()?;
                self.skip_bytes(length)
            }
            LIST | SET => {
                let (count, kind) = self.list()?;
                for _ in 0..count {
                    // In a list a boolean is a byte.
                    self.skip(if kind == TRUE || kind == FALSE { BYTE } else { kind }, depth)?;
                }
                Some(())
            }
            STRUCT => {
                let mut last = 0;
                loop {
                    let (number, kind) = self.field(last)?;
                    if kind == 0 {
                        return Some(());
                    }
                    self.skip(kind, depth)?;
                    last = number;
                }
            }
            _ => None,
        }
    }
}

/// Levels of the schema in a footer; `None` where it is no footer, or its numbers of children do not fit.
fn depth(footer: &[u8]) -> Option<usize> {
    let mut thrift = Thrift(footer);
    let mut last = 0;
    loop {
        // FileMetaData: field 2 is the schema, a list of its elements, each group before its children.
        let (number, kind) = thrift.field(last)?;
        if kind == 0 {
            return None;
        }
        if number == 2 && kind == LIST {
            break;
        }
        thrift.skip(kind, MOST_DEPTH)?;
        last = number;
    }
    let (count, kind) = thrift.list()?;
    let mut open: Vec<u64> = Vec::new();
    let mut deepest = 0;
    for place in 0..count {
        let children = if kind == STRUCT { children(&mut thrift)? } else { return None };
        while open.last() == Some(&0) {
            open.pop();
        }
        if let Some(left) = open.last_mut() {
            *left -= 1;
        }
        if children > count - place {
            return None;
        }
        if children > 0 {
            open.push(children);
        }
        deepest = deepest.max(open.len());
    }
    Some(deepest)
}

/// Reads a SchemaElement; its number of children (field 5).
fn children(thrift: &mut Thrift<'_>) -> Option<u64> {
    let (mut last, mut children) = (0, 0);
    loop {
        let (number, kind) = thrift.field(last)?;
        match (number, kind) {
            (_, 0) => return Some(children),
            (5, 4..=6) => children = u64::try_from(thrift.zigzag()?).ok()?,
            _ => thrift.skip(kind, MOST_DEPTH)?,
        }
        last = number;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A footer whose schema is `levels` groups in each other.
    fn nested(levels: u8) -> Vec<u8> {
        let mut footer = vec![0x15, 2, 0x19, 0xfc, levels + 1];
        for level in 0..=levels {
            let children = if level == levels { 0 } else { 2 };
            // Field 4: a name of one letter; field 5: the number of children, zigzag.
            footer.extend([0x48, 1, b'a', 0x15, children, 0]);
        }
        footer.push(0);
        footer
    }

    #[test]
    fn a_schema_s_levels_are_counted_before_anything_recurses() {
        assert_eq!(depth(&nested(3)), Some(3));
        assert_eq!(depth(&nested(100)), Some(100));
        assert_eq!(depth(&nested(3)[..12]), None);
        let mut lying = nested(1);
        lying[9] = 126;
        assert_eq!(depth(&lying), None);
        assert_eq!(depth(b""), None);
    }
}
