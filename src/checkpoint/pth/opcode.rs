//! Pickle's opcodes by their names in Python's `pickletools`, protocols 0 to 5.
//!
//! Next: `unpickler`, which runs those that plain data needs, and `pickler`, which writes protocol 2.

macro_rules! opcodes {
    ($($name:ident $spelled:literal = $code:expr,)*) => {
        /// An instruction of the pickle machine.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[allow(missing_docs)]
        #[repr(u8)]
        pub enum OpCode {
            $($name = $code,)*
        }

        impl OpCode {
            /// The opcode that a byte stands for.
            pub fn from_byte(byte: u8) -> Option<Self> {
                Some(match byte {
                    $($code => Self::$name,)*
                    _ => return None,
                })
            }

            /// Its name in `pickletools`: `SHORT_BINUNICODE`.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $spelled,)*
                }
            }
        }
    };
}

opcodes! {
    Mark "MARK" = b'(',
    Stop "STOP" = b'.',
    Pop "POP" = b'0',
    PopMark "POP_MARK" = b'1',
    Dup "DUP" = b'2',
    Float "FLOAT" = b'F',
    Int "INT" = b'I',
    BinInt "BININT" = b'J',
    BinInt1 "BININT1" = b'K',
    Long "LONG" = b'L',
    BinInt2 "BININT2" = b'M',
    None "NONE" = b'N',
    PersId "PERSID" = b'P',
    BinPersId "BINPERSID" = b'Q',
    Reduce "REDUCE" = b'R',
    String "STRING" = b'S',
    BinString "BINSTRING" = b'T',
    ShortBinString "SHORT_BINSTRING" = b'U',
    Unicode "UNICODE" = b'V',
    BinUnicode "BINUNICODE" = b'X',
    Append "APPEND" = b'a',
    Build "BUILD" = b'b',
    Global "GLOBAL" = b'c',
    Dict "DICT" = b'd',
    EmptyDict "EMPTY_DICT" = b'}',
    Appends "APPENDS" = b'e',
    Get "GET" = b'g',
    BinGet "BINGET" = b'h',
    Inst "INST" = b'i',
    LongBinGet "LONG_BINGET" = b'j',
    List "LIST" = b'l',
    EmptyList "EMPTY_LIST" = b']',
    Obj "OBJ" = b'o',
    Put "PUT" = b'p',
    BinPut "BINPUT" = b'q',
    LongBinPut "LONG_BINPUT" = b'r',
    SetItem "SETITEM" = b's',
    Tuple "TUPLE" = b't',
    EmptyTuple "EMPTY_TUPLE" = b')',
    SetItems "SETITEMS" = b'u',
    BinFloat "BINFLOAT" = b'G',
    BinBytes "BINBYTES" = b'B',
    ShortBinBytes "SHORT_BINBYTES" = b'C',
    Proto "PROTO" = 0x80,
    NewObj "NEWOBJ" = 0x81,
    Ext1 "EXT1" = 0x82,
    Ext2 "EXT2" = 0x83,
    Ext4 "EXT4" = 0x84,
    Tuple1 "TUPLE1" = 0x85,
    Tuple2 "TUPLE2" = 0x86,
    Tuple3 "TUPLE3" = 0x87,
    NewTrue "NEWTRUE" = 0x88,
    NewFalse "NEWFALSE" = 0x89,
    Long1 "LONG1" = 0x8a,
    Long4 "LONG4" = 0x8b,
    ShortBinUnicode "SHORT_BINUNICODE" = 0x8c,
    BinUnicode8 "BINUNICODE8" = 0x8d,
    BinBytes8 "BINBYTES8" = 0x8e,
    EmptySet "EMPTY_SET" = 0x8f,
    AddItems "ADDITEMS" = 0x90,
    FrozenSet "FROZENSET" = 0x91,
    NewObjEx "NEWOBJ_EX" = 0x92,
    StackGlobal "STACK_GLOBAL" = 0x93,
    Memoize "MEMOIZE" = 0x94,
    Frame "FRAME" = 0x95,
    ByteArray8 "BYTEARRAY8" = 0x96,
    NextBuffer "NEXT_BUFFER" = 0x97,
    ReadonlyBuffer "READONLY_BUFFER" = 0x98,
}

impl OpCode {
    /// The byte in the file.
    pub fn byte(self) -> u8 {
        self as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_one_opcode_or_none() {
        let known: Vec<OpCode> = (0..=255).filter_map(OpCode::from_byte).collect();
        assert_eq!(known.len(), 68);
        assert!(known.iter().all(|op| OpCode::from_byte(op.byte()) == Some(*op)));
        assert_eq!((OpCode::BinPersId.name(), OpCode::BinPersId.byte()), ("BINPERSID", b'Q'));
    }
}
