//! The names a pickle may use, all of them types a state dict is made of.
//!
//! A name that is not here ends the reading, with the name in the message: whatever it is, unpickling it
//! would call it. None of these does more than build a value.

use crate::checkpoint::value::DType;
use crate::error::{Error, Result};

/// What a pickle may call.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Global {
    /// A dict.
    OrderedDict,
    /// A view of a storage.
    RebuildTensor,
    /// A tensor again.
    RebuildParameter,
    /// A tuple.
    Size,
    /// Bytes, written as text.
    Encode,
    /// The class that tells a storage's type.
    Storage(DType),
    /// A class of a TorchScript program: a record with named parts.
    ScriptClass,
    /// A typed list of a TorchScript program: the list itself.
    ScriptList,
}

/// The thing of that name in a TorchScript program, whose classes are read as plain records.
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

/// The thing of that name.
pub fn global(module: &str, name: &str) -> Result<Global> {
    Ok(match (module, name) {
        ("collections", "OrderedDict") => Global::OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2") => Global::RebuildTensor,
        ("torch._utils", "_rebuild_parameter") => Global::RebuildParameter,
        ("torch", "Size") => Global::Size,
        ("_codecs", "encode") => Global::Encode,
        ("torch", class) if DType::from_storage_class(class).is_some() => {
            Global::Storage(DType::from_storage_class(class).ok_or_else(|| broken("storage"))?)
        }
        _ => {
            let called = format!("{}.{}", module.escape_debug(), name.escape_debug());
            return Err(Error::failed("this file would run code")
                .because(format!("it names `{called}`, which is not among the types a checkpoint needs"))
                .hint("do not load it elsewhere unless you trust it; save a plain state_dict instead"));
        }
    })
}

/// A pickle that PyTorch would not have written.
pub fn broken(what: &str) -> Error {
    Error::failed("this checkpoint's pickle is damaged").because(what)
}
