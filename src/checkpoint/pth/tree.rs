//! The finished tree of a pickle: items and arena nodes copied out as a [`Value`].
//!
//! A container that holds itself runs out of depth, one that is repeated too often out of budget.

use super::allowed_globals::Global;
use super::budget::{Budget, too_deep};
use super::items::{Item, Node};
use super::pickler::MAX_DEPTH;
use crate::checkpoint::host_tensor::HostTensor;
use crate::checkpoint::value::Value;
use crate::error::Result;

/// Copies items out of the arena; the budget pays for what is copied.
pub struct TreeBuilder<'m> {
    /// The containers that a pickle made.
    pub nodes: &'m mut [Node],
    /// What may still be made.
    pub budget: &'m mut Budget,
}

impl TreeBuilder<'_> {
    /// The tree below `root`.
    ///
    /// # Errors
    /// It is nested too deep, repeats its contents too often, or its tensors are far larger than the file.
    pub fn build(&mut self, root: &Item) -> Result<Value> {
        self.value(root, 0)
    }

    fn value(&mut self, item: &Item, depth: usize) -> Result<Value> {
        self.charge(item)?;
        if depth > MAX_DEPTH {
            return Err(too_deep());
        }
        Ok(match item {
            Item::None => Value::None,
            Item::Bool(on) => Value::Bool(*on),
            Item::Int(n) => Value::Int(*n),
            Item::Float(x) => Value::Float(*x),
            Item::Str(s) => Value::Str(s.to_string()),
            Item::Bytes(b) => Value::Bytes(b.to_vec()),
            Item::Tensor(t) => Value::Tensor(HostTensor::clone(t)),
            Item::Complex(real, imaginary) => Value::Complex(*real, *imaginary),
            Item::Other(text) => Value::Other(text.to_string()),
            Item::Global(Global::Named(name, _)) => Value::Other(format!("torch.{name}")),
            Item::Global(_) => Value::Other("a class".to_owned()),
            Item::Storage(dtype, storage) => Value::Other(format!(
                "a storage of {} {}",
                storage.bytes().len() / dtype.size(),
                dtype.name()
            )),
            Item::DeferredStorage => Value::Other("a storage".to_owned()),
            Item::Node(id) => {
                // Taken out while its children are copied: a cycle finds a tuple of itself and runs out of depth.
                let node = std::mem::replace(&mut self.nodes[*id], Node::Tuple(vec![Item::Node(*id)]));
                let made = self.container(&node, depth)?;
                self.nodes[*id] = node;
                made
            }
        })
    }

    /// Pays for the copy of an item.
    fn charge(&mut self, item: &Item) -> Result<()> {
        match item {
            Item::Str(s) | Item::Other(s) => self.budget.charge(1, s.len()),
            Item::Bytes(b) => self.budget.charge(1, b.len()),
            Item::Tensor(t) => {
                self.budget.tensor(t.numel() * t.dtype().size())?;
                self.budget.charge(1 + t.strides().len() / 2, 0)
            }
            _ => self.budget.charge(1, 0),
        }
    }

    fn container(&mut self, node: &Node, depth: usize) -> Result<Value> {
        Ok(match node {
            Node::List(items) => Value::List(self.values(items, depth)?),
            Node::Tuple(items) => Value::Tuple(self.values(items, depth)?),
            Node::Set(items) => Value::Set(self.values(items, depth)?),
            Node::Dict(entries) => {
                let entries = entries
                    .iter()
                    .map(|(key, value)| Ok((self.value(key, depth + 1)?, self.value(value, depth + 1)?)));
                Value::Dict(entries.collect::<Result<_>>()?)
            }
        })
    }

    fn values(&mut self, items: &[Item], depth: usize) -> Result<Vec<Value>> {
        items.iter().map(|item| self.value(item, depth + 1)).collect()
    }
}
