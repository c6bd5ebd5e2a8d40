//! A tree as a pickle of protocol 2, the one `torch.save` writes.
//!
//! No memo: nothing in our trees is shared but storages, and those are records of their own. Only names
//! that `weights_only=True` allows are used.

use std::collections::HashMap;
use std::sync::Arc;

use crate::checkpoint::dtype::DType;
use crate::checkpoint::host_tensor::{HostTensor, Storage};
use crate::checkpoint::value::Value;
use crate::error::{Error, Result};

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
pub fn pickle(value: &Value) -> Result<Pickled> {
    let mut out = Pickled::default();
    out.bytes.extend_from_slice(&[0x80, 2]);
    out.value(value, 0)?;
    out.bytes.push(b'.');
    Ok(out)
}

impl Pickled {
    fn value(&mut self, value: &Value, depth: usize) -> Result<()> {
        if depth > MAX_DEPTH {
            return Err(Error::failed(format!("a checkpoint cannot be nested deeper than {MAX_DEPTH}")));
        }
        match value {
            Value::None => self.bytes.push(b'N'),
            Value::Bool(on) => self.bytes.push(if *on { 0x88 } else { 0x89 }),
            Value::Int(n) => self.int(*n),
            Value::Float(x) => {
                self.bytes.push(b'G');
                self.bytes.extend_from_slice(&x.to_be_bytes());
            }
            Value::Str(s) => self.text(s)?,
            Value::Bytes(bytes) => {
                // Protocol 2 has no bytes; this is Python's own way round that.
                self.global("_codecs", "encode");
                self.bytes.push(b'(');
                self.text(&bytes.iter().map(|b| char::from(*b)).collect::<String>())?;
                self.text("latin1")?;
                self.bytes.extend_from_slice(b"tR");
            }
            Value::Complex(..) | Value::Set(_) | Value::Other(_) => {
                return Err(Error::failed(
                    "a complex number, a set or a named value is read, but not written",
                ));
            }
            Value::Tensor(tensor) => self.tensor(tensor)?,
            Value::List(items) => {
                self.bytes.extend_from_slice(b"](");
                items.iter().try_for_each(|item| self.value(item, depth + 1))?;
                self.bytes.push(b'e');
            }
            Value::Tuple(items) => {
                self.bytes.push(b'(');
                items.iter().try_for_each(|item| self.value(item, depth + 1))?;
                self.bytes.push(b't');
            }
            Value::Dict(entries) => {
                self.bytes.extend_from_slice(b"}(");
                for (key, value) in entries {
                    self.value(key, depth + 1)?;
                    self.value(value, depth + 1)?;
                }
                self.bytes.push(b'u');
            }
        }
        Ok(())
    }

    fn int(&mut self, n: i64) {
        if let Ok(n) = i32::try_from(n) {
            self.bytes.push(b'J');
            self.bytes.extend_from_slice(&n.to_le_bytes());
        } else {
            self.bytes.extend_from_slice(&[0x8a, 8]);
            self.bytes.extend_from_slice(&n.to_le_bytes());
        }
    }

    fn text(&mut self, text: &str) -> Result<()> {
        let len = u32::try_from(text.len()).map_err(|_| Error::failed("a text of 4 GiB cannot be saved"))?;
        self.bytes.push(b'X');
        self.bytes.extend_from_slice(&len.to_le_bytes());
        self.bytes.extend_from_slice(text.as_bytes());
        Ok(())
    }

    fn global(&mut self, module: &str, name: &str) {
        self.bytes.extend_from_slice(format!("c{module}\n{name}\n").as_bytes());
    }

    fn ints(&mut self, numbers: &[i64]) {
        self.bytes.push(b'(');
        numbers.iter().for_each(|n| self.int(*n));
        self.bytes.push(b't');
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
        self.bytes.extend_from_slice(b"((");
        self.text("storage")?;
        match class {
            Some(class) => self.global("torch", class),
            None => self.global("torch.storage", "UntypedStorage"),
        }
        self.text(&key.to_string())?;
        self.text("cpu")?;
        self.int(numel as i64);
        self.bytes.extend_from_slice(b"tQ");
        self.int(tensor.offset());
        self.ints(&tensor.shape());
        self.ints(tensor.strides());
        self.bytes.push(0x89);
        self.global("collections", "OrderedDict");
        self.bytes.extend_from_slice(b")R");
        if class.is_none() {
            self.global("torch", dtype.torch_name());
        }
        self.bytes.extend_from_slice(b"tR");
        Ok(())
    }
}
