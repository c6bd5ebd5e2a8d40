//! Values while a pickle is read: leaves, and containers that are still being filled.
//!
//! Containers are numbers into an arena, so that the memo and the stack can mean the same one.
//! Next: `unpickler`, which fills them.

use std::rc::Rc;
use std::sync::Arc;

use super::allowed_globals::Global;
use crate::checkpoint::dtype::DType;
use crate::checkpoint::host_tensor::{HostTensor, Storage};

/// A value on the unpickler's stack or in its memo.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub enum Item {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Complex(f64, f64),
    Str(Rc<str>),
    Bytes(Rc<[u8]>),
    Tensor(Rc<HostTensor>),
    Global(Global),
    Storage(DType, Arc<Storage>),
    /// A storage whose place in the file is not known yet (`legacy`).
    DeferredStorage,
    /// What is kept as text alone: a device, a dtype, an integer of more than 64 bits.
    Other(Rc<str>),
    /// Index of a container in the arena.
    Node(usize),
}

/// A container of the arena, filled after it is named.
#[derive(Debug)]
#[allow(missing_docs)]
pub enum Node {
    List(Vec<Item>),
    Tuple(Vec<Item>),
    Dict(Vec<(Item, Item)>),
    Set(Vec<Item>),
}
