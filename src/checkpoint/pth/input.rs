//! The bytes of a pickle, read from the front: numbers, texts, and the opcodes that push a leaf.
//!
//! Next: `unpickler`, which runs the other opcodes.

use super::allowed_globals::broken;
use super::items::Item;
use super::opcode::OpCode;
use crate::error::Result;

/// A pickle and how far it is read.
#[derive(Debug)]
pub struct Input<'a> {
    code: &'a [u8],
    at: usize,
}

impl<'a> Input<'a> {
    /// A pickle that begins with the first byte of `code`.
    pub fn new(code: &'a [u8]) -> Self {
        Self { code, at: 0 }
    }

    /// Bytes that were read.
    pub fn position(&self) -> usize {
        self.at
    }

    /// The next `n` bytes.
    ///
    /// # Errors
    /// There are fewer.
    pub fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let end = self.at.checked_add(n).filter(|end| *end <= self.code.len());
        let end = end.ok_or_else(|| broken("it ends in the middle"))?;
        let bytes = &self.code[self.at..end];
        self.at = end;
        Ok(bytes)
    }

    /// A little-endian unsigned number of `width` bytes, at most 8.
    ///
    /// # Errors
    /// The pickle ends, or the number does not fit a `usize`.
    pub fn number(&mut self, width: usize) -> Result<usize> {
        let bytes = self.take(width)?;
        let n = bytes.iter().rev().fold(0u64, |n, b| n << 8 | u64::from(*b));
        usize::try_from(n).map_err(|_| broken("a length overflows"))
    }

    /// The text up to the next line end, which is read too.
    ///
    /// # Errors
    /// There is no line end, or the text is not UTF-8.
    pub fn line(&mut self) -> Result<&'a str> {
        let rest = &self.code[self.at..];
        let end = rest.iter().position(|b| *b == b'\n').ok_or_else(|| broken("it ends in the middle"))?;
        self.at += end + 1;
        std::str::from_utf8(&rest[..end]).map_err(|_| broken("a name is not text"))
    }

    /// The next opcode.
    ///
    /// # Errors
    /// The pickle ends, or the byte is no opcode.
    pub fn opcode(&mut self) -> Result<OpCode> {
        let byte = self.take(1)?[0];
        OpCode::from_byte(byte).ok_or_else(|| unsupported(&format!("0x{byte:02x}")))
    }

    /// The value that an opcode with an argument of its own pushes; `None` for any other opcode.
    ///
    /// # Errors
    /// The pickle ends in the argument, or a text is not UTF-8.
    pub fn leaf(&mut self, op: OpCode) -> Result<Option<Item>> {
        Ok(Some(match op {
            OpCode::None => Item::None,
            OpCode::NewTrue => Item::Bool(true),
            OpCode::NewFalse => Item::Bool(false),
            OpCode::BinInt => Item::Int(i64::from(self.number(4)? as u32 as i32)),
            OpCode::BinInt1 => Item::Int(self.number(1)? as i64),
            OpCode::BinInt2 => Item::Int(self.number(2)? as i64),
            OpCode::Long1 => self.long(1)?,
            OpCode::Long4 => self.long(4)?,
            OpCode::BinFloat => {
                let bytes = self.take(8)?.try_into().map_err(|_| broken("float"))?;
                Item::Float(f64::from_be_bytes(bytes))
            }
            OpCode::ShortBinUnicode => self.text(1)?,
            OpCode::BinUnicode => self.text(4)?,
            OpCode::BinUnicode8 => self.text(8)?,
            OpCode::ShortBinBytes => Item::Bytes(self.counted(1)?.into()),
            OpCode::BinBytes => Item::Bytes(self.counted(4)?.into()),
            OpCode::BinBytes8 | OpCode::ByteArray8 => Item::Bytes(self.counted(8)?.into()),
            OpCode::ShortBinString => self.python2_text(1)?,
            OpCode::BinString => self.python2_text(4)?,
            _ => return Ok(None),
        }))
    }

    /// Bytes with their number, of `width` bytes, before them.
    fn counted(&mut self, width: usize) -> Result<&'a [u8]> {
        let n = self.number(width)?;
        self.take(n)
    }

    fn text(&mut self, width: usize) -> Result<Item> {
        let text = std::str::from_utf8(self.counted(width)?).map_err(|_| broken("a text is not UTF-8"))?;
        Ok(Item::Str(text.into()))
    }

    /// Python 2's `str`: text where it is UTF-8, else bytes.
    fn python2_text(&mut self, width: usize) -> Result<Item> {
        let bytes = self.counted(width)?;
        let text = std::str::from_utf8(bytes);
        Ok(text.map_or_else(|_| Item::Bytes(bytes.into()), |text| Item::Str(text.into())))
    }

    /// A little-endian two's complement integer of any length; beyond 64 bits it is kept as text.
    fn long(&mut self, width: usize) -> Result<Item> {
        let bytes = self.counted(width)?;
        let n = bytes.len();
        let negative = bytes.last().is_some_and(|b| b & 0x80 != 0);
        let extended = |rest: &[u8]| rest.iter().all(|b| *b == if negative { 0xff } else { 0 });
        if n > 8 && !(extended(&bytes[8..]) && (bytes[7] & 0x80 != 0) == negative) {
            return Ok(Item::Other(format!("a whole number of {n} bytes").into()));
        }
        let mut wide = [if negative { 0xff } else { 0 }; 8];
        let held = n.min(8);
        wide[..held].copy_from_slice(&bytes[..held]);
        Ok(Item::Int(i64::from_le_bytes(wide)))
    }
}

/// The fault of an opcode that no plain data needs; `name` is as `OpCode::name` or a byte.
pub fn unsupported(name: &str) -> crate::Error {
    broken(&format!("it uses the opcode {name}, which plain data does not need"))
        .hint("save a plain state_dict with torch.save, with its own pickle protocol (2)")
}
