//! Converts between libtorch's tensors and [`HostTensor`]s.
//!
//! Tensors on the CPU are borrowed, so that saving a model needs no second copy of it; tensors that share memory share a
//! [`Storage`]. Next: `host_tensor`.

use std::collections::HashMap;
use std::sync::Arc;

use tch::{Device, Kind, Tensor};

use super::dtype::DType;
use super::host_tensor::{HostTensor, Storage};
use crate::error::{Error, Result};
use crate::native;

/// Host tensors that borrow the memory of `tensors`, in their order and with their shapes; tensors of other devices and
/// non-contiguous ones are copied. Tensors at one address share a storage, so that tied weights stay tied.
///
/// # Errors
/// A tensor is of a complex or quantised type; the copy to the CPU fails.
pub fn borrow_all<'a>(tensors: impl Iterator<Item = &'a Tensor>) -> Result<Vec<HostTensor>> {
    let mut seen: HashMap<(usize, usize, DType), Arc<Storage>> = HashMap::new();
    tensors
        .map(|tensor| {
            let dtype = DType::from_kind(tensor.kind()).ok_or_else(|| {
                Error::failed(format!("a tensor of type {:?} cannot be saved", tensor.kind()))
            })?;
            // A tensor of another device is identified by its address there; it stays alive in this loop.
            let (numel, address) = (tensor.numel(), tensor.data_ptr() as usize);
            let whole = numel > 0 && tensor.is_contiguous();
            let key = (address, numel, dtype);
            let storage = match seen.get(&key).filter(|_| whole) {
                Some(storage) => Arc::clone(storage),
                None => {
                    let here = tensor.detach().f_to_device(Device::Cpu)?.f_contiguous()?;
                    Storage::borrowed(here)?
                }
            };
            if whole {
                seen.insert(key, Arc::clone(&storage));
            }
            HostTensor::contiguous(dtype, tensor.size(), storage)
        })
        .collect()
}

/// [`borrow_all`] of one tensor.
///
/// # Errors
/// As [`borrow_all`].
pub fn to_host(tensor: &Tensor) -> Result<HostTensor> {
    let mut all = borrow_all(std::iter::once(tensor))?;
    all.pop().ok_or_else(|| Error::failed("no tensor to save"))
}

/// A CPU tensor with memory of its own and the same type, shape and elements.
///
/// # Errors
/// The type is one that libtorch does not compute with (`DType::is_computed`).
pub fn to_tensor(host: &HostTensor) -> Result<Tensor> {
    to_tensor_as(host, Device::Cpu, host.dtype().kind())
}

/// A tensor with memory of its own, the shape of `host`, on `device` in the type `kind`; one pass over the elements.
///
/// # Errors
/// As [`to_tensor`]; the device has no memory left.
pub fn to_tensor_as(host: &HostTensor, device: Device, kind: Kind) -> Result<Tensor> {
    if !host.dtype().is_computed() {
        return Err(Error::failed(format!("tensors of type {} are not supported", host.dtype().name()))
            .hint("in Python, turn it into float32 (a quantised one by dequantize()) and save it again"));
    }
    let size = host.dtype().size();
    let all = host.storage().bytes();
    let bytes = all.get(host.offset() as usize * size..).unwrap_or(&[]);
    let (shape, from) = (host.shape(), host.dtype().kind());
    if bytes.as_ptr().align_offset(size) != 0 {
        // Files of other programs need not align their numbers.
        let here = Tensor::f_from_data_size(&host.bytes()?, &shape, from)?;
        return Ok(here.f_to_device(device)?.f_to_kind(kind)?);
    }
    let from = native::Strided { bytes, shape: &shape, strides: host.strides(), kind: from };
    native::tensor_from_bytes(from, device, kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_go_there_and_back_and_ties_stay() {
        let a = Tensor::arange(6, (Kind::BFloat16, Device::Cpu)).view([2, 3]);
        let turned = a.transpose(0, 1);
        let hosts = borrow_all([&a, &a.shallow_clone(), &turned].into_iter()).unwrap();
        assert!(Arc::ptr_eq(hosts[0].storage(), hosts[1].storage()));
        assert_eq!(hosts[2].shape(), turned.size());
        assert!(to_tensor(&hosts[0]).unwrap().equal(&a));
        assert!(to_tensor(&hosts[2]).unwrap().equal(&turned));
        let none = Tensor::zeros([0, 3], (Kind::Float, Device::Cpu));
        assert_eq!(to_tensor(&to_host(&none).unwrap()).unwrap().size(), [0, 3]);
    }
}
