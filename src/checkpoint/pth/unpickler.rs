//! A pickle machine that builds plain data and tensors and cannot do anything else.
//!
//! What a pickle may name is the list in `allowed`; all else is refused by name, so no file runs code.
//! Depth, values and tensor bytes are bounded while they are built, by the file's own size.
//! Containers live in an arena while they are built, because a pickle fills them after naming them.
//! Next: `rebuild` (what a call makes), `opcodes`.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use super::allowed::{Global, broken, global, script_global};
use super::archive::Archive;
use super::budget::{Budget, too_deep};
use super::items::{Item, Node};
use super::opcodes::*;
use super::pickler::MAX_DEPTH;
use super::storages::{Records, Storages};
use crate::checkpoint::host_tensor::{HostTensor, Storage};
use crate::checkpoint::value::Value;
use crate::error::Result;

/// Marks that are open at a time: one a container, two more in a tensor's arguments.
const MOST_MARKS: usize = 4 * MAX_DEPTH;

/// The machine.
pub struct Machine<'a> {
    pub(super) source: &'a dyn Storages,
    /// Whether classes of a TorchScript program may be named.
    script: bool,
    code: &'a [u8],
    at: usize,
    stack: Vec<Item>,
    marks: Vec<usize>,
    memo: HashMap<u32, Item>,
    pub(super) nodes: Vec<Node>,
    /// How deep each node's contents were when it was last filled.
    heights: Vec<usize>,
    pub(super) storages: HashMap<String, Arc<Storage>>,
    pub(super) budget: Budget,
}

/// Reads a checkpoint's tree.
pub fn unpickle(archive: &Archive) -> Result<Value> {
    unpickle_record(archive, "data", false)
}

/// Reads the record `<name>.pkl` of a TorchScript program; its objects become dicts.
pub fn unpickle_script(archive: &Archive, name: &str) -> Result<Value> {
    unpickle_record(archive, name, true)
}

fn unpickle_record(archive: &Archive, name: &str, script: bool) -> Result<Value> {
    let code = archive.bytes(&format!("{name}.pkl"))?;
    let records = Records { archive, within: name, used: RefCell::default() };
    let mut machine = Machine::new(code, &records, script);
    let root = machine.run()?;
    machine.memo = HashMap::new();
    machine.stack = Vec::new();
    archive.verify(name, records.used.borrow().iter().map(String::as_str))?;
    machine.finish(&root, 0)
}

/// Reads the pickle at the beginning of `code`, and says how many bytes it has.
pub fn unpickle_part(code: &[u8], source: &dyn Storages) -> Result<(Value, usize)> {
    let mut machine = Machine::new(code, source, false);
    let root = machine.run()?;
    Ok((machine.finish(&root, 0)?, machine.at))
}

/// Reads the pickle that `code` is.
pub fn unpickle_whole(code: &[u8], source: &dyn Storages) -> Result<Value> {
    unpickle_part(code, source).map(|(value, _)| value)
}

impl<'a> Machine<'a> {
    fn new(code: &'a [u8], source: &'a dyn Storages, script: bool) -> Self {
        Self {
            source,
            script,
            code,
            at: 0,
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
            nodes: Vec::new(),
            heights: Vec::new(),
            storages: HashMap::new(),
            budget: Budget::new(source.size(), code.len()),
        }
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let end = self.at.checked_add(n).filter(|end| *end <= self.code.len());
        let end = end.ok_or_else(|| broken("it ends in the middle"))?;
        let bytes = &self.code[self.at..end];
        self.at = end;
        Ok(bytes)
    }

    fn global(&self, module: &str, name: &str) -> Result<Global> {
        if self.script { script_global(module, name) } else { global(module, name) }
    }

    fn number(&mut self, width: usize) -> Result<usize> {
        let bytes = self.take(width)?;
        let n = bytes.iter().rev().fold(0u64, |n, b| n << 8 | u64::from(*b));
        usize::try_from(n).map_err(|_| broken("a length overflows"))
    }

    fn line(&mut self) -> Result<&'a str> {
        let rest = &self.code[self.at..];
        let end = rest.iter().position(|b| *b == b'\n').ok_or_else(|| broken("it ends in the middle"))?;
        self.at += end + 1;
        std::str::from_utf8(&rest[..end]).map_err(|_| broken("a name is not text"))
    }

    fn text(&mut self, width: usize) -> Result<Item> {
        let n = self.number(width)?;
        let text = std::str::from_utf8(self.take(n)?).map_err(|_| broken("a text is not UTF-8"))?;
        Ok(Item::Str(text.into()))
    }

    pub(super) fn push(&mut self, item: Item) -> Result<()> {
        self.budget.value()?;
        self.stack.push(item);
        Ok(())
    }

    fn pop(&mut self) -> Result<Item> {
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return Err(broken("its stack runs empty"));
        }
        self.stack.pop().ok_or_else(|| broken("its stack runs empty"))
    }

    fn pop_mark(&mut self) -> Result<Vec<Item>> {
        let mark = self.marks.pop().ok_or_else(|| broken("a mark is missing"))?;
        Ok(self.stack.split_off(mark))
    }

    /// A new container.
    pub(super) fn node(&mut self, node: Node, height: usize) -> Result<()> {
        self.nodes.push(node);
        self.heights.push(height);
        self.push(Item::Node(self.nodes.len() - 1))
    }

    /// How deep a container of these items is.
    ///
    /// # Errors
    /// Deeper than any checkpoint.
    pub(super) fn height<'i>(&self, items: impl Iterator<Item = &'i Item>) -> Result<usize> {
        let of = |item: &Item| match item {
            Item::Node(id) => self.heights.get(*id).map_or(0, |height| height + 1),
            _ => 0,
        };
        let height = items.map(of).max().unwrap_or(0);
        if height > MAX_DEPTH { Err(too_deep()) } else { Ok(height) }
    }

    fn raise_top(&mut self, height: usize) {
        if let Some(Item::Node(id)) = self.stack.last()
            && let Some(own) = self.heights.get_mut(*id)
        {
            *own = height.max(*own);
        }
    }

    fn top(&mut self) -> Result<&mut Node> {
        match self.stack.last() {
            Some(Item::Node(id)) => self.nodes.get_mut(*id).ok_or_else(|| broken("node")),
            _ => Err(broken("it fills something that is not a container")),
        }
    }

    fn tuple(&mut self, n: usize) -> Result<()> {
        let mut items = (0..n).map(|_| self.pop()).collect::<Result<Vec<_>>>()?;
        items.reverse();
        let height = self.height(items.iter())?;
        self.node(Node::Tuple(items), height)
    }

    pub(super) fn set_items(&mut self, items: Vec<Item>) -> Result<()> {
        let height = self.height(items.iter())?;
        self.raise_top(height);
        let Node::Dict(entries) = self.top()? else { return Err(broken("it sets items of what is no dict")) };
        let mut items = items.into_iter();
        while let Some(key) = items.next() {
            let value = items.next().ok_or_else(|| broken("a key has no value"))?;
            entries.push((key, value));
        }
        Ok(())
    }

    fn append(&mut self, items: Vec<Item>) -> Result<()> {
        let height = self.height(items.iter())?;
        self.raise_top(height);
        let Node::List(list) = self.top()? else { return Err(broken("it appends to what is no list")) };
        list.extend(items);
        Ok(())
    }

    fn run(&mut self) -> Result<Item> {
        loop {
            let op = self.take(1)?[0];
            let item = match op {
                PROTO => {
                    let version = self.number(1)?;
                    if version > 5 {
                        return Err(broken(&format!("protocol {version} is unknown")));
                    }
                    continue;
                }
                FRAME => {
                    self.take(8)?;
                    continue;
                }
                STOP => return self.pop(),
                NONE => Item::None,
                NEWTRUE => Item::Bool(true),
                NEWFALSE => Item::Bool(false),
                BININT => Item::Int(i64::from(self.number(4)? as u32 as i32)),
                BININT1 => Item::Int(self.number(1)? as i64),
                BININT2 => Item::Int(self.number(2)? as i64),
                LONG1 => self.long(1)?,
                LONG4 => self.long(4)?,
                BINFLOAT => {
                    let bytes = self.take(8)?.try_into().map_err(|_| broken("float"))?;
                    Item::Float(f64::from_be_bytes(bytes))
                }
                BINUNICODE => self.text(4)?,
                SHORT_BINUNICODE => self.text(1)?,
                BINUNICODE8 => self.text(8)?,
                SHORT_BINBYTES | BINBYTES | BINBYTES8 | BYTEARRAY8 => {
                    let n = self.number(match op {
                        SHORT_BINBYTES => 1,
                        BINBYTES => 4,
                        _ => 8,
                    })?;
                    Item::Bytes(self.take(n)?.into())
                }
                // Python 2's texts.
                SHORT_BINSTRING | BINSTRING => {
                    let n = self.number(if op == SHORT_BINSTRING { 1 } else { 4 })?;
                    let bytes = self.take(n)?;
                    std::str::from_utf8(bytes)
                        .map_or_else(|_| Item::Bytes(bytes.into()), |text| Item::Str(text.into()))
                }
                GLOBAL => {
                    let (module, name) = (self.line()?, self.line()?);
                    Item::Global(self.global(module, name)?)
                }
                STACK_GLOBAL => match (self.pop()?, self.pop()?) {
                    (Item::Str(name), Item::Str(module)) => Item::Global(self.global(&module, &name)?),
                    _ => return Err(broken("a name is not text")),
                },
                BINGET | LONG_BINGET => {
                    let key = self.number(if op == BINGET { 1 } else { 4 })? as u32;
                    self.memo.get(&key).cloned().ok_or_else(|| broken("it recalls what it never kept"))?
                }
                _ => {
                    self.build(op)?;
                    continue;
                }
            };
            self.push(item)?;
        }
    }

    fn long(&mut self, width: usize) -> Result<Item> {
        let n = self.number(width)?;
        let bytes = self.take(n)?;
        let negative = bytes.last().is_some_and(|b| b & 0x80 != 0);
        let extended = |rest: &[u8]| rest.iter().all(|b| *b == if negative { 0xff } else { 0 });
        if n > 8 && !(extended(&bytes[8..]) && (bytes[7] & 0x80 != 0) == negative) {
            return Ok(Item::Other(format!("a whole number of {n} bytes").into()));
        }
        let mut wide = [if negative { 0xff } else { 0 }; 8];
        let held = n.min(8);
        wide[..held].copy_from_slice(&bytes[..held]);
        Ok(Item::Int(i64::from_le_bytes(wide)))
    }

    /// Opcodes that change what is on the stack.
    fn build(&mut self, op: u8) -> Result<()> {
        match op {
            MARK if self.marks.len() >= MOST_MARKS => return Err(too_deep()),
            MARK => self.marks.push(self.stack.len()),
            EMPTY_DICT => self.node(Node::Dict(Vec::new()), 0)?,
            EMPTY_LIST => self.node(Node::List(Vec::new()), 0)?,
            EMPTY_TUPLE => self.tuple(0)?,
            TUPLE1..=TUPLE3 => self.tuple(usize::from(op - TUPLE1) + 1)?,
            TUPLE | LIST => {
                let items = self.pop_mark()?;
                let height = self.height(items.iter())?;
                self.node(if op == TUPLE { Node::Tuple(items) } else { Node::List(items) }, height)?;
            }
            DICT => {
                let items = self.pop_mark()?;
                self.node(Node::Dict(Vec::new()), 0)?;
                self.set_items(items)?;
            }
            SETITEMS => {
                let items = self.pop_mark()?;
                self.set_items(items)?;
            }
            APPENDS => {
                let items = self.pop_mark()?;
                self.append(items)?;
            }
            SETITEM => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.set_items(vec![key, value])?;
            }
            APPEND => {
                let item = self.pop()?;
                self.append(vec![item])?;
            }
            BINPUT | LONG_BINPUT | MEMOIZE => {
                let key = match op {
                    BINPUT => self.number(1)?,
                    LONG_BINPUT => self.number(4)?,
                    _ => self.memo.len(),
                };
                let top = self.stack.last().cloned().ok_or_else(|| broken("its stack runs empty"))?;
                self.memo.insert(key as u32, top);
                self.budget.memo(self.memo.len())?;
            }
            BINPERSID => {
                let id = self.pop()?;
                let storage = self.storage(&id)?;
                self.push(storage)?;
            }
            REDUCE => {
                let (args, callee) = (self.pop()?, self.pop()?);
                self.reduce(&callee, &args)?;
            }
            EMPTY_SET => self.node(Node::Set(Vec::new()), 0)?,
            FROZENSET => {
                let items = self.pop_mark()?;
                let height = self.height(items.iter())?;
                self.node(Node::Set(items), height)?;
            }
            ADDITEMS => {
                let items = self.pop_mark()?;
                let height = self.height(items.iter())?;
                self.raise_top(height);
                let Node::Set(set) = self.top()? else { return Err(broken("it adds to what is no set")) };
                set.extend(items);
            }
            // An object of a TorchScript class, before its parts are set; a parameter of its tensor.
            NEWOBJ => match (self.pop()?, self.pop()?) {
                (_, Item::Global(Global::ScriptClass)) => self.node(Node::Dict(Vec::new()), 0)?,
                (args, Item::Global(class)) => self.reduce(&Item::Global(class), &args)?,
                _ => return Err(broken("it makes an object of what is no class")),
            },
            // The parts of such an object; or attributes of an OrderedDict (`_metadata` of a state dict),
            // which are nothing we use.
            BUILD => {
                let state = self.pop()?;
                if let (true, Item::Node(id)) = (self.script, &state)
                    && let Some(Node::Dict(parts)) = self.nodes.get_mut(*id)
                {
                    let parts = std::mem::take(parts);
                    self.raise_top(self.heights[*id]);
                    if let Node::Dict(entries) = self.top()? {
                        entries.extend(parts);
                        return Ok(());
                    }
                }
                // Of tensors too: what programs keep beside their numbers.
                if !matches!(self.stack.last(), Some(Item::Tensor(_) | Item::Later))
                    && !matches!(self.top()?, Node::Dict(_) | Node::Set(_))
                {
                    return Err(broken("it sets the state of an object"));
                }
            }
            _ => {
                return Err(broken(&format!(
                    "it uses the instruction {}, which plain data does not need",
                    called(op)
                ))
                .hint("save a plain state_dict with torch.save, with its own pickle protocol (2)"));
            }
        }
        Ok(())
    }

    /// The finished tree; a container that holds itself runs out of depth, one repeated too often of nodes.
    fn finish(&mut self, item: &Item, depth: usize) -> Result<Value> {
        match item {
            Item::Str(s) => self.budget.charge(1, s.len())?,
            Item::Bytes(b) => self.budget.charge(1, b.len())?,
            Item::Other(s) => self.budget.charge(1, s.len())?,
            Item::Tensor(t) => {
                self.budget.tensor(t.numel() * t.dtype().size())?;
                self.budget.charge(1 + t.strides().len() / 2, 0)?;
            }
            _ => self.budget.charge(1, 0)?,
        }
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
            Item::Later => Value::Other("a storage".to_owned()),
            Item::Node(id) => {
                // Taken out while its children are finished: a cycle finds an empty place and ends.
                let node = std::mem::replace(&mut self.nodes[*id], Node::Tuple(vec![Item::Node(*id)]));
                let made = match &node {
                    Node::List(items) => Value::List(self.finish_all(items, depth)?),
                    Node::Tuple(items) => Value::Tuple(self.finish_all(items, depth)?),
                    Node::Set(items) => Value::Set(self.finish_all(items, depth)?),
                    Node::Dict(entries) => Value::Dict(
                        entries
                            .iter()
                            .map(|(k, v)| Ok((self.finish(k, depth + 1)?, self.finish(v, depth + 1)?)))
                            .collect::<Result<_>>()?,
                    ),
                };
                self.nodes[*id] = node;
                made
            }
        })
    }

    fn finish_all(&mut self, items: &[Item], depth: usize) -> Result<Vec<Value>> {
        items.iter().map(|item| self.finish(item, depth + 1)).collect()
    }
}
