//! What the allowed calls of a pickle (REDUCE) make: tensors of storages, and plain values.
//!
//! Signatures are those of torch's `_utils.py` and of Python's own `__reduce__`. Next: `allowed_globals`.

use std::rc::Rc;
use std::sync::Arc;

use super::allowed_globals::{Global, broken};
use super::items::{Item, Node};
use super::storages::StorageId;
use super::unpickler::Unpickler;
use crate::checkpoint::dtype::DType;
use crate::checkpoint::host_tensor::{HostTensor, Storage};
use crate::error::{Error, Result};

/// Calls inside a call: a parameter of a tensor of a class.
const MAX_NESTED_CALLS: usize = 3;

impl Unpickler<'_> {
    fn items(&self, item: &Item) -> Result<&[Item]> {
        match item {
            Item::Node(id) => match self.nodes.get(*id) {
                Some(Node::Tuple(items) | Node::List(items) | Node::Set(items)) => Ok(items),
                _ => Err(broken("a tuple is expected")),
            },
            _ => Err(broken("a tuple is expected")),
        }
    }

    fn ints(&self, item: &Item) -> Result<Vec<i64>> {
        let whole = |item: &Item| {
            if let Item::Int(n) = item { Ok(*n) } else { Err(broken("a size is not a number")) }
        };
        let items = self.items(item)?;
        if items.len() > 64 {
            return Err(broken("a tensor has more than 64 dimensions"));
        }
        items.iter().map(whole).collect()
    }

    /// The storage that a persistent id (`('storage', class, key, device, numel)`) describes.
    ///
    /// # Errors
    /// It is described otherwise than PyTorch does, or is smaller than described.
    pub(super) fn storage(&mut self, id: &Item) -> Result<Item> {
        let wrong = || broken("a storage is not described as PyTorch does");
        let size = |item: &Item| match item {
            Item::Int(n) => {
                usize::try_from(*n).map_err(|_| broken(&format!("a storage should hold {n} elements")))
            }
            _ => Err(wrong()),
        };
        let (dtype, key, numel, view) = match self.items(id)? {
            [Item::Str(tag), Item::Global(class), Item::Str(key), Item::Str(_), numel, rest @ ..]
                if &**tag == "storage" && rest.len() < 2 =>
            {
                let dtype = match class {
                    Global::Storage(dtype) => *dtype,
                    Global::UntypedStorage => DType::U8,
                    _ => return Err(wrong()),
                };
                let view = match rest {
                    [] | [Item::None] => None,
                    [view] => match self.items(view)? {
                        [Item::Str(key), from, numel] => Some((Rc::clone(key), size(from)?, size(numel)?)),
                        _ => return Err(wrong()),
                    },
                    _ => return Err(wrong()),
                };
                (dtype, Rc::clone(key), size(numel)?, view)
            }
            _ => return Err(wrong()),
        };
        if key.is_empty() || !key.chars().all(|c| c.is_ascii_alphanumeric()) {
            return Err(broken(&format!("a storage is called `{}`", key.escape_debug())));
        }
        // Views of storages have names of their own.
        let name = view.as_ref().map_or(key.to_string(), |(name, ..)| format!("{key} {name}"));
        let storage = match self.storages.get(&name) {
            Some(storage) => Arc::clone(storage),
            None => {
                let storage_id = StorageId { key: Rc::clone(&key), dtype, numel, view: view.clone() };
                let Some(storage) = self.source.find(&storage_id)? else { return Ok(Item::DeferredStorage) };
                storage
            }
        };
        let held = storage.bytes().len();
        let numel = view.map_or(numel, |(_, _, numel)| numel);
        if numel.checked_mul(dtype.size()).is_none_or(|need| need > held) {
            return Err(broken(&format!("storage {key} should hold {numel} elements, but has {held} bytes")));
        }
        self.storages.insert(name, Arc::clone(&storage));
        Ok(Item::Storage(dtype, storage))
    }

    /// Calls `callee`, which must be one of the allowed globals, and pushes what it makes.
    ///
    /// # Errors
    /// It is no such global, or its arguments are not those that PyTorch gives.
    pub(super) fn reduce(&mut self, callee: &Item, args: &Item) -> Result<()> {
        let made = match self.call(callee, args, 0)? {
            Made::Item(item) => item,
            Made::Dict(flat) => {
                self.budget.charge(flat.len(), 0)?;
                self.push_node(Node::Dict(Vec::new()), 0)?;
                return self.set_items(flat);
            }
            Made::Set(items) => {
                self.budget.charge(items.len(), 0)?;
                let height = self.height(items.iter())?;
                return self.push_node(Node::Set(items), height);
            }
        };
        self.push(made)
    }

    fn call(&mut self, callee: &Item, args: &Item, depth: usize) -> Result<Made> {
        let Item::Global(callee) = callee else { return Err(broken("it calls what is no function")) };
        let args = self.items(args)?;
        if args.len() > 8 {
            return Err(broken("a call has too many arguments"));
        }
        let args = args.to_vec();
        if let Some(tensor) = self.rebuilt_tensor(callee, &args)? {
            return Ok(Made::Item(tensor));
        }
        Ok(Made::Item(match (callee, &args[..]) {
            (Global::OrderedDict | Global::Counter, []) => return Ok(Made::Dict(Vec::new())),
            (Global::OrderedDict | Global::Counter, [of]) => return self.dict_of(of),
            (Global::Set, []) => return Ok(Made::Set(Vec::new())),
            (Global::Set, [items]) => return Ok(Made::Set(self.items(items)?.to_vec())),
            (
                Global::RebuildFromType,
                [func, Item::Global(Global::Tensor | Global::Parameter), inner @ Item::Node(_), ..],
            ) if depth < MAX_NESTED_CALLS => return self.call(func, inner, depth + 1),
            (Global::RebuildOther(what), _) => {
                return Err(Error::failed(format!("this file holds {what}, which is not read here"))
                    .hint("in Python, save the plain tensors alone: {name: tensor.to_dense() ...}"));
            }
            (Global::ScriptList, [list @ Item::Node(_), ..]) => list.clone(),
            (Global::Size, [size @ Item::Node(_)]) => size.clone(),
            (Global::Device, [Item::Str(kind)]) => Item::Other(Rc::clone(kind)),
            (Global::Device, [Item::Str(kind), Item::Int(n)]) => {
                self.budget.charge(1, kind.len())?;
                Item::Other(format!("{kind}:{n}").into())
            }
            (Global::Layout, [Item::Str(name)]) => Item::Other(Rc::clone(name)),
            (Global::Complex, [real, imaginary]) => Item::Complex(float(real)?, float(imaginary)?),
            (Global::Bytes | Global::ByteArray, []) => Item::Bytes(Vec::new().into()),
            (Global::Bytes | Global::ByteArray, [bytes @ Item::Bytes(_)]) => bytes.clone(),
            (Global::Encode | Global::ByteArray, [Item::Str(text), Item::Str(how)])
                if ["latin1", "latin-1"].contains(&&**how) =>
            {
                self.budget.charge(1, text.len())?;
                let bytes: Option<Vec<u8>> = text.chars().map(|c| u8::try_from(c).ok()).collect();
                Item::Bytes(bytes.ok_or_else(|| broken("bytes are out of range"))?.into())
            }
            _ => return Err(broken(&format!("{callee:?} is called in a way PyTorch does not"))),
        }))
    }

    /// The tensor that one of torch's `_rebuild_*` functions makes; `None` for any other call.
    fn rebuilt_tensor(&mut self, callee: &Global, args: &[Item]) -> Result<Option<Item>> {
        Ok(Some(match (callee, args) {
            (
                Global::RebuildTensor | Global::RebuildTensorV3 | Global::RebuildQuantised,
                [Item::DeferredStorage, ..],
            ) => Item::DeferredStorage,
            (
                Global::RebuildTensor,
                [Item::Storage(dtype, storage), Item::Int(offset), size, stride, rest @ ..],
            ) => {
                self.check_plain_view(rest.get(2))?;
                self.tensor(*dtype, storage, View { size, stride, offset: *offset })?
            }
            (
                Global::RebuildQuantised,
                [Item::Storage(dtype, storage), Item::Int(offset), size, stride, ..],
            ) => self.tensor(*dtype, storage, View { size, stride, offset: *offset })?,
            (
                Global::RebuildTensorV3,
                [
                    Item::Storage(_, storage),
                    Item::Int(offset),
                    size,
                    stride,
                    _,
                    _,
                    Item::Global(Global::Named(name, dtype)),
                    rest @ ..,
                ],
            ) => {
                self.check_plain_view(rest.first())?;
                let dtype = dtype.ok_or_else(|| {
                    Error::failed(format!("a tensor of type torch.{name} is not read here"))
                        .hint("in Python, turn it into another type and save it again")
                })?;
                self.tensor(dtype, storage, View { size, stride, offset: *offset })?
            }
            (
                Global::RebuildParameter | Global::Parameter,
                [tensor @ (Item::Tensor(_) | Item::DeferredStorage), ..],
            ) => tensor.clone(),
            _ => return Ok(None),
        }))
    }

    /// Keys and values of a dict, or of pairs.
    fn dict_of(&mut self, of: &Item) -> Result<Made> {
        let mut flat = Vec::new();
        if let Item::Node(id) = of
            && let Some(Node::Dict(entries)) = self.nodes.get(*id)
        {
            self.budget.charge(entries.len().saturating_mul(2), 0)?;
            entries.iter().for_each(|(key, value)| flat.extend([key.clone(), value.clone()]));
            return Ok(Made::Dict(flat));
        }
        let number = self.items(of)?.len();
        self.budget.charge(number.saturating_mul(2), 0)?;
        for pair in self.items(of)? {
            let [key, value] = self.items(pair)? else { return Err(broken("a pair is expected")) };
            flat.extend([key.clone(), value.clone()]);
        }
        Ok(Made::Dict(flat))
    }

    /// Demands that a tensor's numbers are those of its storage: PyTorch marks a conjugate or negative view in the
    /// metadata argument.
    fn check_plain_view(&self, metadata: Option<&Item>) -> Result<()> {
        let Some(Item::Node(id)) = metadata else { return Ok(()) };
        let Some(Node::Dict(marks)) = self.nodes.get(*id) else { return Ok(()) };
        match marks.iter().any(|(_, on)| matches!(on, Item::Bool(true))) {
            true => Err(Error::failed("this file holds a tensor that is a conjugate or negative view")
                .hint("in Python: resolve_conj() and resolve_neg() before it is saved")),
            false => Ok(()),
        }
    }

    fn tensor(&mut self, dtype: DType, storage: &Arc<Storage>, view: View<'_>) -> Result<Item> {
        let (size, stride) = (self.ints(view.size)?, self.ints(view.stride)?);
        let tensor = HostTensor::new(dtype, size, stride, view.offset, Arc::clone(storage))?;
        self.budget.charge(1 + tensor.strides().len() / 2, 0)?;
        Ok(Item::Tensor(Rc::new(tensor)))
    }
}

/// Sizes, strides and offset of a tensor in its storage, in elements.
struct View<'i> {
    size: &'i Item,
    stride: &'i Item,
    offset: i64,
}

/// What a call makes.
enum Made {
    Item(Item),
    /// Keys and values in alternation.
    Dict(Vec<Item>),
    Set(Vec<Item>),
}

fn float(item: &Item) -> Result<f64> {
    match item {
        Item::Float(x) => Ok(*x),
        Item::Int(n) => Ok(*n as f64),
        _ => Err(broken("a part of a complex number is no number")),
    }
}
