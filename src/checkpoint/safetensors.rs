//! `.safetensors`: read through a map of the file, written in one pass.
//!
//! The format's own crate checks the header against the file's size (<https://github.com/huggingface/safetensors>). Next: `read`.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use super::dtype::DType;
use super::host_tensor::{HostTensor, Storage};
use crate::atomic;
use crate::error::{Error, Place, Result};
use crate::native;

/// The contents of a file.
#[derive(Debug, Default)]
pub struct Contents {
    /// Tensors by name, views of the mapped file.
    pub tensors: HashMap<String, HostTensor>,
    /// The header's `__metadata__`.
    pub metadata: HashMap<String, String>,
}

const DTYPES: [(DType, Dtype); 19] = [
    (DType::F64, Dtype::F64),
    (DType::F32, Dtype::F32),
    (DType::F16, Dtype::F16),
    (DType::BF16, Dtype::BF16),
    (DType::I64, Dtype::I64),
    (DType::I32, Dtype::I32),
    (DType::I16, Dtype::I16),
    (DType::I8, Dtype::I8),
    (DType::U8, Dtype::U8),
    (DType::Bool, Dtype::BOOL),
    (DType::F8E4M3, Dtype::F8_E4M3),
    (DType::F8E5M2, Dtype::F8_E5M2),
    (DType::F8E4M3Fnuz, Dtype::F8_E4M3FNUZ),
    (DType::F8E5M2Fnuz, Dtype::F8_E5M2FNUZ),
    (DType::F8E8M0, Dtype::F8_E8M0),
    (DType::U16, Dtype::U16),
    (DType::U32, Dtype::U32),
    (DType::U64, Dtype::U64),
    (DType::C64, Dtype::C64),
];

/// Reads a file; its tensors are mapped, not copied.
///
/// # Errors
/// The file cannot be read, is damaged, or has a type that PyTorch does not have.
pub fn read(path: &Path) -> Result<Contents> {
    let io = |e| Error::io("read the weights", path, e);
    let wrong = |e: safetensors::SafeTensorError| {
        Error::failed("this safetensors file is damaged")
            .at(Place::file(path))
            .because(e)
            .hint("copy or download it again; a Git LFS pointer needs `git lfs pull`")
    };
    let map = Arc::new(native::map_file(&crate::files::open(path).map_err(io)?).map_err(io)?);
    let (header, metadata) = SafeTensors::read_metadata(&map).map_err(wrong)?;
    SafeTensors::deserialize(&map).map_err(wrong)?;
    let data = header + 8;
    let mut contents = Contents::default();
    for (name, info) in metadata.tensors() {
        let at = |e: Error| e.at(Place::file(path));
        let dtype = DTYPES.iter().find(|(_, theirs)| *theirs == info.dtype).map(|(ours, _)| *ours);
        let dtype = dtype.ok_or_else(|| {
            at(Error::failed(format!("`{name}` has type {:?}, which is not supported", info.dtype)))
        })?;
        let (start, end) = info.data_offsets;
        let storage = Storage::mapped(&map, data.saturating_add(start), end.saturating_sub(start));
        let storage = storage.ok_or_else(|| at(Error::failed(format!("`{name}` reaches past the end"))))?;
        let shape = info.shape.iter().map(|n| *n as i64).collect();
        contents.tensors.insert(name.clone(), HostTensor::contiguous(dtype, shape, storage).map_err(at)?);
    }
    contents.metadata = metadata.metadata().clone().unwrap_or_default();
    Ok(contents)
}

/// Replaces the file. Tensors that share a storage are each written, as the format demands.
///
/// # Errors
/// A type that the format does not have; the disk fails.
pub fn write(path: &Path, tensors: &[(String, HostTensor)], metadata: HashMap<String, String>) -> Result<()> {
    let wrong = |e: safetensors::SafeTensorError| {
        Error::failed("cannot write safetensors").at(Place::file(path)).because(e)
    };
    let bytes: Vec<Cow<'_, [u8]>> = tensors.iter().map(|(_, t)| t.bytes()).collect::<Result<_>>()?;
    let mut views = Vec::new();
    for ((name, tensor), bytes) in tensors.iter().zip(&bytes) {
        let dtype = DTYPES.iter().find(|(ours, _)| *ours == tensor.dtype()).map(|(_, theirs)| *theirs);
        let dtype = dtype.ok_or_else(|| {
            Error::failed(format!("safetensors have no numbers of type {}", tensor.dtype().name()))
        })?;
        let shape = tensor.shape().iter().map(|n| *n as usize).collect();
        views.push((name.as_str(), TensorView::new(dtype, shape, bytes).map_err(wrong)?));
    }
    let whole = safetensors::serialize(views, Some(metadata)).map_err(wrong)?;
    atomic::write_bytes(path, &whole)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::convert;
    use tch::{Device, Kind, Tensor};

    #[test]
    fn tensors_and_text_come_back_and_damage_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        let t = Tensor::arange(6, (Kind::BFloat16, Device::Cpu)).view([2, 3]).transpose(0, 1);
        let tensors = [("t".to_owned(), convert::to_host(&t).unwrap())];
        write(&path, &tensors, HashMap::from([("k".to_owned(), "v".to_owned())])).unwrap();
        let back = read(&path).unwrap();
        assert!(convert::to_tensor(&back.tensors["t"]).unwrap().equal(&t));
        assert_eq!(back.metadata["k"], "v");
        let whole = std::fs::read(&path).unwrap();
        for cut in [0, 4, 20, whole.len() - 1] {
            std::fs::write(&path, &whole[..cut]).unwrap();
            assert!(read(&path).is_err(), "{cut}");
        }
    }
}
