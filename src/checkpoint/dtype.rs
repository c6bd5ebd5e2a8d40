//! Element types of PyTorch's files and their names in libtorch, in pickles and in messages.
//!
//! Next: `host_tensor`.

use tch::Kind;

/// Element types of PyTorch's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum DType {
    F64,
    F32,
    F16,
    BF16,
    I64,
    I32,
    I16,
    I8,
    U8,
    Bool,
    F8E4M3,
    F8E5M2,
    F8E4M3Fnuz,
    F8E5M2Fnuz,
    // Listed by `inspect`, not computed with.
    F8E8M0,
    U16,
    U32,
    U64,
    C64,
    C128,
    QI8,
    QU8,
    QI32,
}

/// Every type: ours, libtorch's (for types that are not computed with, one of the same size), PyTorch's storage class
/// (empty for the newer types, whose storages are untyped), PyTorch's name, the short name.
const DTYPES: [(DType, Kind, &str, &str, &str); 23] = [
    (DType::F64, Kind::Double, "DoubleStorage", "float64", "f64"),
    (DType::F32, Kind::Float, "FloatStorage", "float32", "f32"),
    (DType::F16, Kind::Half, "HalfStorage", "float16", "f16"),
    (DType::BF16, Kind::BFloat16, "BFloat16Storage", "bfloat16", "bf16"),
    (DType::I64, Kind::Int64, "LongStorage", "int64", "i64"),
    (DType::I32, Kind::Int, "IntStorage", "int32", "i32"),
    (DType::I16, Kind::Int16, "ShortStorage", "int16", "i16"),
    (DType::I8, Kind::Int8, "CharStorage", "int8", "i8"),
    (DType::U8, Kind::Uint8, "ByteStorage", "uint8", "u8"),
    (DType::Bool, Kind::Bool, "BoolStorage", "bool", "bool"),
    (DType::F8E4M3, Kind::Float8e4m3fn, "", "float8_e4m3fn", "f8_e4m3"),
    (DType::F8E5M2, Kind::Float8e5m2, "", "float8_e5m2", "f8_e5m2"),
    (DType::F8E4M3Fnuz, Kind::Float8e4m3fnuz, "", "float8_e4m3fnuz", "f8_e4m3fnuz"),
    (DType::F8E5M2Fnuz, Kind::Float8e5m2fnuz, "", "float8_e5m2fnuz", "f8_e5m2fnuz"),
    (DType::F8E8M0, Kind::Uint8, "", "float8_e8m0fnu", "f8_e8m0"),
    (DType::U16, Kind::Int16, "", "uint16", "u16"),
    (DType::U32, Kind::Int, "", "uint32", "u32"),
    (DType::U64, Kind::Int64, "", "uint64", "u64"),
    (DType::C64, Kind::ComplexFloat, "ComplexFloatStorage", "complex64", "c64"),
    (DType::C128, Kind::ComplexDouble, "ComplexDoubleStorage", "complex128", "c128"),
    (DType::QI8, Kind::QInt8, "QInt8Storage", "qint8", "qint8"),
    (DType::QU8, Kind::QUInt8, "QUInt8Storage", "quint8", "quint8"),
    (DType::QI32, Kind::QInt32, "QInt32Storage", "qint32", "qint32"),
];

impl DType {
    fn row(self) -> &'static (DType, Kind, &'static str, &'static str, &'static str) {
        &DTYPES[self as usize]
    }

    /// Bytes of an element.
    pub fn size(self) -> usize {
        self.kind().elt_size_in_bytes()
    }

    /// libtorch's name of it.
    pub fn kind(self) -> Kind {
        self.row().1
    }

    /// Whether tensors of it can be computed with; of other types only the bytes are known.
    pub fn is_computed(self) -> bool {
        (self as usize) < DType::F8E8M0 as usize
    }

    /// PyTorch's class of typed storages (`FloatStorage`); `None` for the newer types, whose storages are untyped.
    pub fn storage_class(self) -> Option<&'static str> {
        Some(self.row().2).filter(|class| !class.is_empty())
    }

    /// `float32`, `bfloat16`, ...
    pub fn torch_name(self) -> &'static str {
        self.row().3
    }

    /// `f32`, `bf16`, ...
    pub fn name(self) -> &'static str {
        self.row().4
    }

    /// From libtorch's name; `None` for complex and quantised types.
    pub fn from_kind(kind: Kind) -> Option<Self> {
        DTYPES.iter().find(|row| row.1 == kind && row.0.is_computed()).map(|row| row.0)
    }

    /// From PyTorch's storage class.
    pub fn from_storage_class(name: &str) -> Option<Self> {
        DTYPES.iter().find(|row| row.2 == name && !name.is_empty()).map(|row| row.0)
    }

    /// From PyTorch's name.
    pub fn from_torch(name: &str) -> Option<Self> {
        DTYPES.iter().find(|row| row.3 == name).map(|row| row.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_types() {
        for (at, row) in DTYPES.iter().enumerate() {
            assert_eq!((row.0 as usize, DType::from_torch(row.3)), (at, Some(row.0)));
        }
    }
}
