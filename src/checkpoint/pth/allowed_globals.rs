//! The globals that a pickle may name: those that `torch.load(weights_only=True)` knows (torch 2.11, its
//! `_weights_only_unpickler.py`), and the few that PyTorch's own programs need.
//!
//! A name that is not here ends the reading, with the name in the message: unpickling would call it. None of these does
//! more than build a value.

use crate::checkpoint::dtype::DType;
use crate::error::{Error, Result};

/// What a pickle may call or name as a value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Global {
    /// `collections.OrderedDict`.
    OrderedDict,
    /// `collections.Counter`.
    Counter,
    /// `set`.
    Set,
    /// `bytearray`.
    ByteArray,
    /// `bytes`.
    Bytes,
    /// `_codecs.encode`: bytes written as text.
    Encode,
    /// `complex`.
    Complex,
    /// `_rebuild_tensor_v2`: a view of a storage.
    RebuildTensor,
    /// `_rebuild_tensor_v3`: a view of an untyped storage, with its dtype.
    RebuildTensorV3,
    /// `_rebuild_qtensor`: a view of a storage of quantised integers.
    RebuildQuantised,
    /// `_rebuild_parameter`: its tensor.
    RebuildParameter,
    /// `_rebuild_from_type_v2`: a tensor of a subclass.
    RebuildFromType,
    /// A function for a kind of tensor that is not read here, in words.
    RebuildOther(&'static str),
    /// `torch.nn.Parameter`.
    Parameter,
    /// `torch.Tensor`.
    Tensor,
    /// `torch.Size`.
    Size,
    /// `torch.device`.
    Device,
    /// `torch.serialization._get_layout`.
    Layout,
    /// A constant of `torch`: a dtype, a quantisation scheme, a layout.
    Named(&'static str, Option<DType>),
    /// A typed storage class, such as `torch.FloatStorage`.
    Storage(DType),
    /// `torch.storage.UntypedStorage`, whose dtype the tensor states.
    UntypedStorage,
    /// A class of a TorchScript program, read as a dict of its attributes.
    ScriptClass,
    /// A typed list of a TorchScript program: the list itself.
    ScriptList,
}

/// Constants of `torch` without a type here: dtypes, quantisation schemes, layouts, memory formats.
const CONSTANTS: [&str; 33] = [
    "quint4x2",
    "quint2x4",
    "bits8",
    "bits16",
    "bits1x8",
    "bits2x4",
    "bits4x2",
    "float4_e2m1fn_x2",
    "complex32",
    "uint1",
    "uint2",
    "uint3",
    "uint4",
    "uint5",
    "uint6",
    "uint7",
    "int1",
    "int2",
    "int3",
    "int4",
    "int5",
    "int6",
    "int7",
    "per_tensor_affine",
    "per_tensor_symmetric",
    "per_channel_affine",
    "per_channel_symmetric",
    "per_channel_affine_float_qparams",
    "strided",
    "sparse_coo",
    "sparse_csr",
    "contiguous_format",
    "preserve_format",
];

/// Functions that make a tensor whose numbers are not in a strided storage.
const OTHER_TENSORS: [(&str, &str); 6] = [
    ("_rebuild_sparse_tensor", "a sparse tensor"),
    ("_rebuild_nested_tensor", "a nested tensor"),
    ("_rebuild_meta_tensor_no_storage", "a tensor without numbers (of the meta device)"),
    ("_rebuild_wrapper_subclass", "a tensor of a class with tensors inside"),
    ("_rebuild_device_tensor_from_numpy", "a tensor made from one of NumPy"),
    ("_rebuild_device_tensor_from_cpu_tensor", "a tensor of a device that is not known here"),
];

/// The allowed global of that name in a TorchScript program, whose classes are read as plain dicts.
///
/// # Errors
/// The name is not in the list.
pub fn script_global(module: &str, name: &str) -> Result<Global> {
    match (module, name) {
        ("__torch__", _) => Ok(Global::ScriptClass),
        (_, _) if module.starts_with("__torch__.") => Ok(Global::ScriptClass),
        (
            "torch.jit._pickle",
            "build_intlist" | "build_doublelist" | "build_boollist" | "build_tensorlist" | "restore_type_tag",
        ) => Ok(Global::ScriptList),
        _ => global(module, name),
    }
}

/// The allowed global of that name.
///
/// # Errors
/// The name is not in the list.
pub fn global(module: &str, name: &str) -> Result<Global> {
    // The name in Python 2, which protocol 2 writes.
    let module = if module == "__builtin__" { "builtins" } else { module };
    let found = match (module, name) {
        ("collections", "OrderedDict") => Some(Global::OrderedDict),
        ("collections", "Counter") => Some(Global::Counter),
        ("builtins", "set") => Some(Global::Set),
        ("builtins", "bytearray") => Some(Global::ByteArray),
        ("builtins", "bytes") => Some(Global::Bytes),
        ("builtins", "complex") => Some(Global::Complex),
        ("_codecs", "encode") => Some(Global::Encode),
        ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => Some(Global::RebuildTensor),
        ("torch._utils", "_rebuild_tensor_v3") => Some(Global::RebuildTensorV3),
        ("torch._utils", "_rebuild_qtensor") => Some(Global::RebuildQuantised),
        ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => {
            Some(Global::RebuildParameter)
        }
        ("torch._utils", other) => {
            let kind = OTHER_TENSORS.iter().find(|(name, _)| *name == other);
            kind.map(|(_, what)| Global::RebuildOther(what))
        }
        ("torch._tensor", "_rebuild_from_type_v2") => Some(Global::RebuildFromType),
        ("torch.nn.parameter", "Parameter") => Some(Global::Parameter),
        ("torch.serialization", "_get_layout") => Some(Global::Layout),
        ("torch", "Tensor") => Some(Global::Tensor),
        ("torch", "Size") => Some(Global::Size),
        ("torch", "device") => Some(Global::Device),
        ("torch.storage", "UntypedStorage" | "_UntypedStorage") => Some(Global::UntypedStorage),
        ("torch", "UntypedStorage") => Some(Global::UntypedStorage),
        ("torch" | "torch.cuda", class) if class.ends_with("Storage") => {
            DType::from_storage_class(class).map(Global::Storage)
        }
        ("torch", name) => match DType::from_torch(name) {
            Some(dtype) => Some(Global::Named(dtype.torch_name(), Some(dtype))),
            None => CONSTANTS.iter().find(|known| **known == name).map(|known| Global::Named(known, None)),
        },
        _ => None,
    };
    found.ok_or_else(|| {
        let called = format!("{}.{}", module.escape_debug(), name.escape_debug());
        Error::failed(format!("this file names `{called}`, which is no plain data"))
            .because("to read it would run code of that name; torch.load(weights_only=True) refuses it too")
            .hint(
                "where you trust the file: in Python, load it and save its state_dict alone with torch.save",
            )
    })
}

/// The fault of a pickle that PyTorch would not have written.
pub fn broken(what: &str) -> Error {
    Error::failed("this checkpoint's pickle is damaged").because(what)
}
