//! Tensors in host memory: strided views of storages that are owned, mapped from a file, or borrowed from libtorch.
//!
//! Tied weights are two views of one [`Storage`] and stay tied when written. Every view is checked against its storage
//! when it is made, so that reading one never goes out of bounds. Next: `convert` (to and from libtorch).

use std::borrow::Cow;
use std::sync::Arc;

use memmap2::Mmap;
use tch::Tensor;

use super::dtype::DType;
use crate::error::{Error, Result};
use crate::native;

/// The memory of a storage.
#[derive(Debug)]
enum Bytes {
    Owned(Vec<u8>),
    Mapped { map: Arc<Mmap>, start: usize, len: usize },
    Borrowed(Tensor),
}

/// A run of bytes that tensors are views of; the `Arc` around it is its identity.
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
    ///
    /// # Errors
    /// It is not contiguous, or is on another device.
    pub fn borrowed(tensor: Tensor) -> Result<Arc<Self>> {
        native::tensor_bytes(&tensor)?;
        Ok(Arc::new(Self(Bytes::Borrowed(tensor))))
    }

    /// Gives the pages of a mapped file back to the system; they are read again when they are used again.
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

    /// A row-major view of a whole storage.
    ///
    /// # Errors
    /// As [`HostTensor::new`].
    pub fn contiguous(dtype: DType, shape: Vec<i64>, storage: Arc<Storage>) -> Result<Self> {
        let mut strides = vec![1i64; shape.len()];
        for i in (1..shape.len()).rev() {
            strides[i - 1] = strides[i].saturating_mul(shape[i].max(1));
        }
        Self::new(dtype, shape, strides, 0, storage)
    }

    /// A matrix with its axes exchanged, `[n, m]` to `[m, n]`, over the same storage.
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

    /// Index of the first element in the storage.
    pub fn offset(&self) -> i64 {
        self.offset
    }

    /// The storage it is a view of.
    pub fn storage(&self) -> &Arc<Storage> {
        &self.storage
    }

    /// Number of elements.
    pub fn numel(&self) -> usize {
        self.shape.iter().product::<i64>() as usize
    }

    /// Whether both are the same view of one storage.
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

    /// Its elements in row-major order; copied only where the view is strided.
    ///
    /// # Errors
    /// A borrowed tensor changed its size after the view was made.
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
    }

    #[test]
    fn strided_bytes_come_row_by_row() {
        let storage = Storage::owned((0..6).collect());
        let t = HostTensor::new(DType::U8, vec![3, 2], vec![1, 3], 0, storage).unwrap();
        assert_eq!(&*t.bytes().unwrap(), [0, 3, 1, 4, 2, 5]);
    }
}
