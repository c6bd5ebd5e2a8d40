//! A CPU tensor's memory as bytes, for writing it to a file without a copy, and a tensor from a file's bytes
//! in one pass.

use tch::{Device, Kind, Tensor};

use crate::error::{Error, Result};

/// The bytes of a contiguous tensor of any shape on the CPU, in row-major order.
///
/// The checkpoint room reads them while no operation writes to the tensor: a save runs
/// between two steps on the thread that trains.
///
/// # Errors
/// The tensor lies elsewhere or is not contiguous.
pub fn tensor_bytes(tensor: &Tensor) -> Result<&[u8]> {
    if tensor.device() != Device::Cpu || !tensor.is_contiguous() {
        return Err(Error::failed("a tensor's bytes can be read only where it is contiguous and on the CPU"));
    }
    let len = tensor.numel() * tensor.kind().elt_size_in_bytes();
    let start = tensor.data_ptr() as *const u8;
    if len == 0 || start.is_null() {
        return Ok(&[]);
    }
    // SAFETY: a contiguous CPU tensor owns `numel` elements from `data_ptr` on, and the borrow keeps it
    // alive; nothing writes to it meanwhile (see above).
    Ok(unsafe { std::slice::from_raw_parts(start, len) })
}

/// The numbers of a contiguous fp32 tensor of any shape on the CPU, in row-major order.
///
/// The decoder, its only caller, reads weights while it packs them, which nothing changes meanwhile: it runs between
/// two steps on the thread that trains.
///
/// # Errors
/// The tensor is of another type, lies elsewhere or is not contiguous.
pub fn tensor_floats(tensor: &Tensor) -> Result<&[f32]> {
    if tensor.kind() != Kind::Float {
        return Err(Error::failed("a tensor's numbers can be read only where they are fp32"));
    }
    let bytes = tensor_bytes(tensor)?;
    if bytes.is_empty() {
        return Ok(&[]);
    }
    // SAFETY: the bytes are numel fp32 numbers that libtorch has aligned; they are borrowed from the tensor as above.
    Ok(unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len() / 4) })
}

/// Numbers in memory as a file has them; strides count elements.
#[derive(Debug, Clone, Copy)]
pub struct Strided<'a> {
    /// From the first element on.
    pub bytes: &'a [u8],
    /// Sizes.
    pub shape: &'a [i64],
    /// As many as sizes.
    pub strides: &'a [i64],
    /// Their type.
    pub kind: Kind,
}

impl Strided<'_> {
    /// Whether every element lies inside the bytes, and is aligned as libtorch wants it.
    fn fits(&self) -> bool {
        let size = self.kind.elt_size_in_bytes();
        let reach = self.shape.iter().zip(self.strides).try_fold(0i64, |at, (d, s)| {
            if *d < 1 || *s < 0 { None } else { (d - 1).checked_mul(*s)?.checked_add(at) }
        });
        let end =
            reach.and_then(|n| usize::try_from(n).ok()).and_then(|n| n.checked_add(1)?.checked_mul(size));
        self.shape.len() == self.strides.len()
            && end.is_some_and(|end| end <= self.bytes.len())
            && self.bytes.as_ptr().align_offset(size) == 0
    }
}

/// A contiguous tensor of its own, of the shape given, on `device` with type `kind`, copied and converted in one pass.
///
/// # Errors
/// The numbers do not lie in the bytes as said or are not aligned; libtorch has no memory for the copy.
pub fn tensor_from_bytes(from: Strided<'_>, device: Device, kind: Kind) -> Result<Tensor> {
    if from.shape.contains(&0) {
        return Ok(Tensor::f_zeros(from.shape, (kind, device))?);
    }
    if !from.fits() {
        return Err(Error::failed("numbers in a file do not lie where they should"));
    }
    // A byte that is neither 0 nor 1 is no bool in C++; as a number it is.
    let seen = if from.kind == Kind::Bool { Kind::Uint8 } else { from.kind };
    // SAFETY: every element lies inside `from.bytes`, which outlives the view: `view` ends with this
    // function, and `copy` has memory of its own.
    let view =
        unsafe { Tensor::f_from_blob(from.bytes.as_ptr(), from.shape, from.strides, seen, Device::Cpu)? };
    let copy = view.f_to_device_(device, kind, false, true)?;
    Ok(copy.f_contiguous()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_row_major_and_strided_tensors_are_refused() {
        let t = Tensor::from_slice(&[1u8, 2, 3, 4]).view([2, 2]);
        assert_eq!(tensor_bytes(&t).unwrap(), [1, 2, 3, 4]);
        assert!(tensor_bytes(&t.transpose(0, 1)).is_err());
        assert_eq!(tensor_floats(&Tensor::from_slice(&[1.5f32, -2.0])).unwrap(), [1.5, -2.0]);
        assert!(tensor_floats(&t).is_err());
    }

    #[test]
    fn numbers_are_copied_by_their_strides_and_never_from_outside() {
        let bytes: Vec<u8> = (0..6i16).flat_map(i16::to_ne_bytes).collect();
        let make = |shape: &[i64], strides: &[i64], skip: usize| {
            let from = Strided { bytes: &bytes[skip..], shape, strides, kind: Kind::Int16 };
            tensor_from_bytes(from, Device::Cpu, Kind::Float)
        };
        let turned = make(&[3, 2], &[1, 3], 0).unwrap();
        assert!(
            turned.is_contiguous()
                && turned.equal(&Tensor::from_slice(&[0f32, 3., 1., 4., 2., 5.]).view([3, 2]))
        );
        assert_eq!(make(&[0, 3], &[3, 1], 0).unwrap().size(), [0, 3]);
        for (shape, strides, skip) in [
            (&[3, 3][..], &[3, 1][..], 0),
            (&[2], &[i64::MAX], 0),
            (&[2], &[1, 1], 0),
            (&[-1], &[1], 0),
            (&[2], &[1], 1),
        ] {
            assert!(make(shape, strides, skip).is_err(), "{shape:?} {strides:?} {skip}");
        }
        let flags = Strided { bytes: &[0, 1, 7], shape: &[3], strides: &[1], kind: Kind::Bool };
        let flags = tensor_from_bytes(flags, Device::Cpu, Kind::Bool).unwrap();
        assert_eq!(Vec::<bool>::try_from(flags).unwrap(), [false, true, true]);
    }
}
