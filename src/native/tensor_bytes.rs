//! A CPU tensor's memory as bytes, for writing it to a file without a copy.

use tch::{Device, Tensor};

use crate::error::{Error, Result};

/// The bytes of a contiguous tensor on the CPU, in row-major order.
///
/// The checkpoint room, its only caller, reads them while no operation writes to the tensor: a save runs
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_row_major_and_strided_tensors_are_refused() {
        let t = Tensor::from_slice(&[1u8, 2, 3, 4]).view([2, 2]);
        assert_eq!(tensor_bytes(&t).unwrap(), [1, 2, 3, 4]);
        assert!(tensor_bytes(&t.transpose(0, 1)).is_err());
    }
}
