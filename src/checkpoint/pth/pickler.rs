//! A tree as a pickle of protocol 2, the one `torch.save` writes.
//!
//! No memo: nothing in our trees is shared but storages, and those are records of their own. Only globals that
//! `torch.load(weights_only=True)` allows are used. Next: `opcode`.

use std::collections::HashMap;
use std::sync::Arc;

use super::opcode::OpCode;
use crate::checkpoint::dtype::DType;
use crate::checkpoint::host_tensor::{HostTensor, Storage};
use crate::checkpoint::value::Value;
use crate::error::{Error, Result};

/// The pickle protocol of `torch.save`.
const PROTOCOL: u8 = 2;

/// How deep a tree may be nested, written and read.
pub const MAX_DEPTH: usize = 64;

/// A pickle and the storages it names by number, with how many bytes of each are written.
#[derive(Debug, Default)]
pub struct Pickled {
    /// The pickle.
    pub bytes: Vec<u8>,
    /// Records `data/0`, `data/1`, ...
    pub storages: Vec<(Arc<Storage>, usize)>,
    pub(super) keys: HashMap<(usize, DType), usize>,
}

/// Turns a tree into a pickle.
///
/// # Errors
/// The tree is nested too deep, or holds a value of a kind that is read but not written (complex, set, named).
pub fn pickle(value: &Value) -> Result<Pickled> {
    let mut out = Pickled::default();
    out.op(OpCode::Proto);
    out.bytes.push(PROTOCOL);
    out.value(value, 0)?;
    out.op(OpCode::Stop);
    Ok(out)
}

impl Pickled {
    fn op(&mut self, op: OpCode) {
        self.bytes.push(op.byte());
    }

    fn ops(&mut self, ops: &[OpCode]) {
        ops.iter().for_each(|op| self.op(*op));
    }

    fn value(&mut self, value: &Value, depth: usize) -> Result<()> {
        if depth > MAX_DEPTH {
            return Err(Error::failed(format!("a checkpoint cannot be nested deeper than {MAX_DEPTH}")));
        }
        match value {
            Value::None => self.op(OpCode::None),
            Value::Bool(on) => self.op(if *on { OpCode::NewTrue } else { OpCode::NewFalse }),
            Value::Int(n) => self.int(*n),
            Value::Float(x) => {
                self.op(OpCode::BinFloat);
                self.bytes.extend_from_slice(&x.to_be_bytes());
            }
            Value::Str(s) => self.text(s)?,
            Value::Bytes(bytes) => {
                // Protocol 2 has no bytes; Python itself writes them as this call.
                self.global("_codecs", "encode");
                self.op(OpCode::Mark);
                self.text(&bytes.iter().map(|b| char::from(*b)).collect::<String>())?;
                self.text("latin1")?;
                self.ops(&[OpCode::Tuple, OpCode::Reduce]);
            }
            Value::Complex(..) | Value::Set(_) | Value::Other(_) => {
                return Err(Error::failed(
                    "a complex number, a set or a named value is read, but not written",
                ));
            }
            Value::Tensor(tensor) => self.tensor(tensor)?,
            Value::List(items) => {
                self.ops(&[OpCode::EmptyList, OpCode::Mark]);
                items.iter().try_for_each(|item| self.value(item, depth + 1))?;
                self.op(OpCode::Appends);
            }
            Value::Tuple(items) => {
                self.op(OpCode::Mark);
                items.iter().try_for_each(|item| self.value(item, depth + 1))?;
                self.op(OpCode::Tuple);
            }
            Value::Dict(entries) => {
                self.ops(&[OpCode::EmptyDict, OpCode::Mark]);
                for (key, value) in entries {
                    self.value(key, depth + 1)?;
                    self.value(value, depth + 1)?;
                }
                self.op(OpCode::SetItems);
            }
        }
        Ok(())
    }

    fn int(&mut self, n: i64) {
        if let Ok(n) = i32::try_from(n) {
            self.op(OpCode::BinInt);
            self.bytes.extend_from_slice(&n.to_le_bytes());
        } else {
            self.op(OpCode::Long1);
            self.bytes.push(8);
            self.bytes.extend_from_slice(&n.to_le_bytes());
        }
    }

    fn text(&mut self, text: &str) -> Result<()> {
        let len = u32::try_from(text.len()).map_err(|_| Error::failed("a text of 4 GiB cannot be saved"))?;
        self.op(OpCode::BinUnicode);
        self.bytes.extend_from_slice(&len.to_le_bytes());
        self.bytes.extend_from_slice(text.as_bytes());
        Ok(())
    }

    fn global(&mut self, module: &str, name: &str) {
        self.op(OpCode::Global);
        self.bytes.extend_from_slice(format!("{module}\n{name}\n").as_bytes());
    }

    fn ints(&mut self, numbers: &[i64]) {
        self.op(OpCode::Mark);
        numbers.iter().for_each(|n| self.int(*n));
        self.op(OpCode::Tuple);
    }

    /// `_rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks)`.
    fn tensor(&mut self, tensor: &HostTensor) -> Result<()> {
        let dtype = tensor.dtype();
        let identity = (Arc::as_ptr(tensor.storage()) as usize, dtype);
        let numel = tensor.storage().bytes().len() / dtype.size();
        let key = *self.keys.entry(identity).or_insert_with(|| {
            self.storages.push((Arc::clone(tensor.storage()), numel * dtype.size()));
            self.storages.len() - 1
        });
        // Newer types have no class of storages: bytes, and the type in the call.
        let class = dtype.storage_class();
        let numel = if class.is_some() { numel } else { numel * dtype.size() };
        let rebuild = if class.is_some() { "_rebuild_tensor_v2" } else { "_rebuild_tensor_v3" };
        self.global("torch._utils", rebuild);
        self.ops(&[OpCode::Mark, OpCode::Mark]);
        self.text("storage")?;
        match class {
            Some(class) => self.global("torch", class),
            None => self.global("torch.storage", "UntypedStorage"),
        }
        self.text(&key.to_string())?;
        self.text("cpu")?;
        self.int(numel as i64);
        self.ops(&[OpCode::Tuple, OpCode::BinPersId]);
        self.int(tensor.offset());
        self.ints(&tensor.shape());
        self.ints(tensor.strides());
        self.op(OpCode::NewFalse);
        self.global("collections", "OrderedDict");
        self.ops(&[OpCode::EmptyTuple, OpCode::Reduce]);
        if class.is_none() {
            self.global("torch", dtype.torch_name());
        }
        self.ops(&[OpCode::Tuple, OpCode::Reduce]);
        Ok(())
    }
}
