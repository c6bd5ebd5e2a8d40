//! The tree a checkpoint holds: Python's plain values and tensors that lie in host memory.
//!
//! A [`HostTensor`] is a strided view of a [`Storage`]; tied weights are two views of one storage and stay
//! so when written. Every view is checked against its storage when made, so reading one never goes astray.
//! Next: `bridge` (to and from libtorch), `pth` (the file).

use std::borrow::Cow;
use std::sync::Arc;

use memmap2::Mmap;
use tch::{Kind, Tensor};

use crate::error::{Error, Result};
use crate::native;

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
    // Stored and told, not computed with.
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

/// Every type: ours, libtorch's (of those that are not computed with one of their size), PyTorch's storage class (none
/// of the newer types, whose storages are bytes), PyTorch's name, the short name.
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

    /// Whether tensors of it can be computed with; of others the bytes alone are known.
    pub fn is_computed(self) -> bool {
        (self as usize) < DType::F8E8M0 as usize
    }

    /// PyTorch's class for a storage of it; none of the newer types.
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

/// Where a storage's bytes lie.
#[derive(Debug)]
enum Bytes {
    Owned(Vec<u8>),
    Mapped { map: Arc<Mmap>, start: usize, len: usize },
    Borrowed(Tensor),
}

/// A run of bytes that tensors look at; the `Arc` around it is its identity.
#[derive(Debug)]
pub struct Storage(Bytes);

// A borrowed tensor keeps a storage on its thread; `Arc` is for the map, and costs nothing here.
#[allow(clippy::arc_with_non_send_sync)]
impl Storage {
    /// Bytes of its own.
    pub fn owned(bytes: Vec<u8>) -> Arc<Self> {
        Arc::new(Self(Bytes::Owned(bytes)))
    }

    /// A part of a mapped file; `None` where it reaches past the end.
    pub fn mapped(map: &Arc<Mmap>, start: usize, len: usize) -> Option<Arc<Self>> {
        map.get(start..start.checked_add(len)?)?;
        Some(Arc::new(Self(Bytes::Mapped { map: Arc::clone(map), start, len })))
    }

    /// The memory of a contiguous CPU tensor, which is kept alive.
    pub fn borrowed(tensor: Tensor) -> Result<Arc<Self>> {
        native::tensor_bytes(&tensor)?;
        Ok(Arc::new(Self(Bytes::Borrowed(tensor))))
    }

    /// Gives back the memory of a mapped file's part; it is read again when it is looked at again.
    pub fn release(&self) {
        if let Bytes::Mapped { map, start, len } = &self.0 {
            native::release_mapped(map, *start, *len);
        }
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        match &self.0 {
            Bytes::Owned(bytes) => bytes,
            Bytes::Mapped { map, start, len } => &map[*start..start + len],
            // Checked when made; views check the length again before they read.
            Bytes::Borrowed(tensor) => native::tensor_bytes(tensor).unwrap_or(&[]),
        }
    }
}

/// A strided view of a storage in host memory.
#[derive(Debug, Clone)]
pub struct HostTensor {
    dtype: DType,
    shape: Vec<i64>,
    strides: Vec<i64>,
    offset: i64,
    storage: Arc<Storage>,
}

impl HostTensor {
    /// A view; strides and offset count elements.
    ///
    /// # Errors
    /// The view reaches outside its storage, or its size is negative or overflows.
    pub fn new(
        dtype: DType,
        shape: Vec<i64>,
        strides: Vec<i64>,
        offset: i64,
        storage: Arc<Storage>,
    ) -> Result<Self> {
        let wrong = |why: &str| {
            Err(Error::failed(format!("a tensor of shape {shape:?} is not possible here"))
                .because(why.to_owned()))
        };
        if shape.len() != strides.len() || shape.len() > 64 {
            return wrong("its numbers of sizes and strides do not fit");
        }
        if offset < 0 || shape.iter().chain(&strides).any(|n| *n < 0) {
            return wrong("it has a negative size, stride or offset");
        }
        let held = (storage.bytes().len() / dtype.size()) as i64;
        let numel = shape.iter().try_fold(1i64, |n, d| n.checked_mul(*d));
        if numel.and_then(|n| n.checked_mul(dtype.size() as i64)).is_none() {
            return wrong("its size overflows");
        }
        let last = shape
            .iter()
            .zip(&strides)
            .try_fold(offset, |at, (d, s)| (d - 1).max(0).checked_mul(*s).and_then(|n| n.checked_add(at)));
        let end = if numel == Some(0) { Some(offset) } else { last.and_then(|n| n.checked_add(1)) };
        match end {
            Some(end) if end <= held => Ok(Self { dtype, shape, strides, offset, storage }),
            _ => wrong(&format!("it reaches outside its storage of {held} elements")),
        }
    }

    /// A whole storage seen row by row.
    pub fn contiguous(dtype: DType, shape: Vec<i64>, storage: Arc<Storage>) -> Result<Self> {
        let mut strides = vec![1i64; shape.len()];
        for i in (1..shape.len()).rev() {
            strides[i - 1] = strides[i].saturating_mul(shape[i].max(1));
        }
        Self::new(dtype, shape, strides, 0, storage)
    }

    /// A matrix with its axes exchanged, over the same storage.
    ///
    /// # Errors
    /// It is no matrix.
    pub fn transposed(&self) -> Result<Self> {
        match (&self.shape[..], &self.strides[..]) {
            ([rows, columns], [down, along]) => Ok(Self {
                shape: vec![*columns, *rows],
                strides: vec![*along, *down],
                storage: Arc::clone(&self.storage),
                ..*self
            }),
            _ => Err(Error::failed(format!("a tensor of shape {:?} is no matrix", self.shape))),
        }
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Sizes, as `Tensor::size` gives them.
    pub fn shape(&self) -> Vec<i64> {
        self.shape.clone()
    }

    /// Strides in elements.
    pub fn strides(&self) -> &[i64] {
        &self.strides
    }

    /// First element's place in the storage.
    pub fn offset(&self) -> i64 {
        self.offset
    }

    /// What it looks at.
    pub fn storage(&self) -> &Arc<Storage> {
        &self.storage
    }

    /// Elements.
    pub fn numel(&self) -> usize {
        self.shape.iter().product::<i64>() as usize
    }

    /// Whether both look at the same elements of one storage.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.storage, &other.storage)
            && (self.dtype, self.offset) == (other.dtype, other.offset)
            && (&self.shape, &self.strides) == (&other.shape, &other.strides)
    }

    fn is_contiguous(&self) -> bool {
        let mut want = 1;
        self.shape.iter().zip(&self.strides).rev().all(|(d, s)| {
            let fits = *d == 1 || *s == want;
            want *= (*d).max(1);
            fits
        })
    }

    /// Its elements row by row; a copy only where the view is strided.
    pub fn bytes(&self) -> Result<Cow<'_, [u8]>> {
        let size = self.dtype.size();
        let all = self.storage.bytes();
        let gone = || Error::failed("a tensor's storage changed its size while it was being saved");
        let numel = self.numel();
        if numel == 0 {
            return Ok(Cow::Borrowed(&[]));
        }
        let start = self.offset as usize * size;
        if self.is_contiguous() {
            return Ok(Cow::Borrowed(all.get(start..start + numel * size).ok_or_else(gone)?));
        }
        let mut out = Vec::with_capacity(numel * size);
        let mut index = vec![0i64; self.shape.len()];
        let mut at = self.offset;
        for _ in 0..numel {
            let from = at as usize * size;
            out.extend_from_slice(all.get(from..from + size).ok_or_else(gone)?);
            for axis in (0..index.len()).rev() {
                index[axis] += 1;
                at += self.strides[axis];
                if index[axis] < self.shape[axis] {
                    break;
                }
                at -= self.strides[axis] * self.shape[axis];
                index[axis] = 0;
            }
        }
        Ok(Cow::Owned(out))
    }
}

/// A Python value of the kinds a checkpoint may hold.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub enum Value {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(String),
    Bytes(Vec<u8>),
    Complex(f64, f64),
    Tensor(HostTensor),
    List(Vec<Value>),
    Tuple(Vec<Value>),
    Set(Vec<Value>),
    /// What is known by its text alone: a type of numbers, a device, a whole number of more than 64 bits.
    Other(String),
    /// In the order written; of equal keys the last counts.
    Dict(Vec<(Value, Value)>),
}

impl Value {
    /// A dict with text keys.
    pub fn dict(entries: impl IntoIterator<Item = (impl Into<String>, Value)>) -> Self {
        Self::Dict(entries.into_iter().map(|(key, value)| (Value::Str(key.into()), value)).collect())
    }

    /// The entry of a dict called `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.entries().iter().rev().find(|(k, _)| k.as_str() == Some(key)).map(|(_, v)| v)
    }

    /// The entry of a dict numbered `key`.
    pub fn get_index(&self, key: i64) -> Option<&Value> {
        self.entries().iter().rev().find(|(k, _)| matches!(k, Value::Int(n) if *n == key)).map(|(_, v)| v)
    }

    /// A whole number.
    pub fn as_i64(&self) -> Option<i64> {
        if let Value::Int(n) = self { Some(*n) } else { None }
    }

    /// A number.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Value::Float(x) => Some(*x),
            Value::Int(n) => Some(*n as f64),
            _ => None,
        }
    }

    /// Text.
    pub fn as_str(&self) -> Option<&str> {
        if let Value::Str(s) = self { Some(s) } else { None }
    }

    /// A tensor.
    pub fn as_tensor(&self) -> Option<&HostTensor> {
        if let Value::Tensor(t) = self { Some(t) } else { None }
    }

    /// A list's items.
    pub fn as_list(&self) -> Option<&[Value]> {
        if let Value::List(items) = self { Some(items) } else { None }
    }

    /// A dict's entries.
    pub fn as_dict(&self) -> Option<&[(Value, Value)]> {
        if let Value::Dict(entries) = self { Some(entries) } else { None }
    }

    /// A dict's entries; none of what is not a dict.
    pub fn entries(&self) -> &[(Value, Value)] {
        self.as_dict().unwrap_or(&[])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_outside_their_storage_are_refused() {
        let storage = Storage::owned(vec![0; 16]);
        let make = |shape: &[i64], strides: &[i64], offset| {
            HostTensor::new(DType::F32, shape.to_vec(), strides.to_vec(), offset, Arc::clone(&storage))
        };
        assert!(make(&[2, 2], &[2, 1], 0).is_ok());
        assert!(make(&[2, 2], &[2, 1], 1).is_err());
        assert!(make(&[5], &[0], 3).is_ok(), "an expanded scalar");
        for (shape, strides, offset) in [
            (&[i64::MAX, 4][..], &[0, 0][..], 0),
            (&[-1], &[1], 0),
            (&[2], &[i64::MAX], 1),
            (&[1], &[1], i64::MAX),
            (&[2], &[1, 1], 0),
        ] {
            assert!(make(shape, strides, offset).is_err(), "{shape:?} {strides:?} {offset}");
        }
        for (at, row) in DTYPES.iter().enumerate() {
            assert_eq!((row.0 as usize, DType::from_torch(row.3)), (at, Some(row.0)));
        }
    }

    #[test]
    fn strided_bytes_come_row_by_row() {
        let storage = Storage::owned((0..6).collect());
        let t = HostTensor::new(DType::U8, vec![3, 2], vec![1, 3], 0, storage).unwrap();
        assert_eq!(&*t.bytes().unwrap(), [0, 3, 1, 4, 2, 5]);
    }
}
