//! A pickle machine that builds plain data and tensors and cannot do anything else.
//!
//! What a pickle may name is the list in `allowed`; all else is refused by name, so no file runs code.
//! Depth, values and tensor bytes are bounded while they are built, by the file's own size.
//! Containers live in an arena while they are built, because a pickle fills them after naming them.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use super::allowed::{Global, broken, global, script_global};
use super::archive::Archive;
use super::budget::{Budget, too_deep};
use super::items::{Item, Node};
use super::pickler::MAX_DEPTH;
use crate::checkpoint::value::{HostTensor, Storage, Value};
use crate::error::Result;

/// Marks that are open at a time: one a container, two more in a tensor's arguments.
const MOST_MARKS: usize = 4 * MAX_DEPTH;

struct Machine<'a> {
    archive: &'a Archive,
    /// The folder of the storages.
    within: &'a str,
    /// Whether classes of a TorchScript program may be named.
    script: bool,
    code: &'a [u8],
    at: usize,
    stack: Vec<Item>,
    marks: Vec<usize>,
    memo: HashMap<u32, Item>,
    nodes: Vec<Node>,
    /// How deep each node's contents were when it was last filled.
    heights: Vec<usize>,
    storages: HashMap<String, Arc<Storage>>,
    budget: Budget,
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
    let mut machine = Machine {
        archive,
        within: name,
        script,
        code,
        at: 0,
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        nodes: Vec::new(),
        heights: Vec::new(),
        storages: HashMap::new(),
        budget: Budget::new(archive.size(), code.len()),
    };
    let root = machine.run()?;
    machine.memo = HashMap::new();
    machine.stack = Vec::new();
    archive.verify(name, machine.storages.keys().map(String::as_str))?;
    machine.finish(&root, 0)
}

impl<'a> Machine<'a> {
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

    fn push(&mut self, item: Item) -> Result<()> {
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
    fn node(&mut self, node: Node, height: usize) -> Result<()> {
        self.nodes.push(node);
        self.heights.push(height);
        self.push(Item::Node(self.nodes.len() - 1))
    }

    /// How deep a container of these items is.
    ///
    /// # Errors
    /// Deeper than any checkpoint.
    fn height<'i>(&self, items: impl Iterator<Item = &'i Item>) -> Result<usize> {
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

    fn set_items(&mut self, items: Vec<Item>) -> Result<()> {
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
                0x80 => {
                    let version = self.number(1)?;
                    if version > 5 {
                        return Err(broken(&format!("protocol {version} is unknown")));
                    }
                    continue;
                }
                0x95 => {
                    self.take(8)?;
                    continue;
                }
                b'.' => return self.pop(),
                b'N' => Item::None,
                0x88 => Item::Bool(true),
                0x89 => Item::Bool(false),
                b'J' => Item::Int(i64::from(self.number(4)? as u32 as i32)),
                b'K' => Item::Int(self.number(1)? as i64),
                b'M' => Item::Int(self.number(2)? as i64),
                0x8a => self.long()?,
                b'G' => {
                    let bytes = self.take(8)?.try_into().map_err(|_| broken("float"))?;
                    Item::Float(f64::from_be_bytes(bytes))
                }
                b'X' => self.text(4)?,
                0x8c => self.text(1)?,
                0x8d => self.text(8)?,
                b'C' | b'B' => {
                    let n = self.number(if op == b'C' { 1 } else { 4 })?;
                    Item::Bytes(self.take(n)?.into())
                }
                b'c' => {
                    let (module, name) = (self.line()?, self.line()?);
                    Item::Global(self.global(module, name)?)
                }
                0x93 => match (self.pop()?, self.pop()?) {
                    (Item::Str(name), Item::Str(module)) => Item::Global(self.global(&module, &name)?),
                    _ => return Err(broken("a name is not text")),
                },
                b'h' | b'j' => {
                    let key = self.number(if op == b'h' { 1 } else { 4 })? as u32;
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

    fn long(&mut self) -> Result<Item> {
        let n = self.number(1)?;
        let bytes = self.take(n)?;
        if n > 8 {
            return Err(broken("a whole number needs more than 64 bits"));
        }
        let negative = bytes.last().is_some_and(|b| b & 0x80 != 0);
        let mut wide = [if negative { 0xff } else { 0 }; 8];
        wide[..n].copy_from_slice(bytes);
        Ok(Item::Int(i64::from_le_bytes(wide)))
    }

    /// Opcodes that change what is on the stack.
    fn build(&mut self, op: u8) -> Result<()> {
        match op {
            b'(' if self.marks.len() >= MOST_MARKS => return Err(too_deep()),
            b'(' => self.marks.push(self.stack.len()),
            b'}' => self.node(Node::Dict(Vec::new()), 0)?,
            b']' => self.node(Node::List(Vec::new()), 0)?,
            b')' => self.tuple(0)?,
            0x85..=0x87 => self.tuple(usize::from(op - 0x84))?,
            b't' | b'l' => {
                let items = self.pop_mark()?;
                let height = self.height(items.iter())?;
                self.node(if op == b't' { Node::Tuple(items) } else { Node::List(items) }, height)?;
            }
            b'd' => {
                let items = self.pop_mark()?;
                self.node(Node::Dict(Vec::new()), 0)?;
                self.set_items(items)?;
            }
            b'u' => {
                let items = self.pop_mark()?;
                self.set_items(items)?;
            }
            b'e' => {
                let items = self.pop_mark()?;
                self.append(items)?;
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.set_items(vec![key, value])?;
            }
            b'a' => {
                let item = self.pop()?;
                self.append(vec![item])?;
            }
            b'q' | b'r' | 0x94 => {
                let key = match op {
                    b'q' => self.number(1)?,
                    b'r' => self.number(4)?,
                    _ => self.memo.len(),
                };
                let top = self.stack.last().cloned().ok_or_else(|| broken("its stack runs empty"))?;
                self.memo.insert(key as u32, top);
                self.budget.memo(self.memo.len())?;
            }
            b'Q' => {
                let id = self.pop()?;
                let storage = self.storage(&id)?;
                self.push(storage)?;
            }
            b'R' => {
                let (args, callee) = (self.pop()?, self.pop()?);
                self.reduce(&callee, &args)?;
            }
            // An object of a TorchScript class, before its parts are set.
            0x81 => match (self.pop()?, self.pop()?) {
                (_, Item::Global(Global::ScriptClass)) => self.node(Node::Dict(Vec::new()), 0)?,
                _ => return Err(broken("it makes an object of what is no class")),
            },
            // The parts of such an object; or attributes of an OrderedDict (`_metadata` of a state dict),
            // which are nothing we use.
            b'b' => {
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
                if !matches!(self.top()?, Node::Dict(_)) {
                    return Err(broken("it sets the state of an object"));
                }
            }
            _ => {
                return Err(broken(&format!(
                    "it uses instruction 0x{op:02x}, which plain data does not need"
                ))
                .hint("save a plain state_dict with torch.save"));
            }
        }
        Ok(())
    }

    fn items(&self, item: &Item) -> Result<&[Item]> {
        match item {
            Item::Node(id) => match self.nodes.get(*id) {
                Some(Node::Tuple(items) | Node::List(items)) => Ok(items),
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

    fn storage(&mut self, id: &Item) -> Result<Item> {
        let (dtype, key, numel) = match self.items(id)? {
            [
                Item::Str(tag),
                Item::Global(Global::Storage(dtype)),
                Item::Str(key),
                Item::Str(_),
                Item::Int(numel),
            ] if &**tag == "storage" => (*dtype, Rc::clone(key), *numel),
            _ => return Err(broken("a storage is not described as PyTorch does")),
        };
        if key.is_empty() || !key.chars().all(|c| c.is_ascii_alphanumeric()) {
            return Err(broken(&format!("a storage is called `{}`", key.escape_debug())));
        }
        let storage = match self.storages.get(&*key) {
            Some(storage) => Arc::clone(storage),
            None => self.archive.storage(self.within, &key)?,
        };
        let need = usize::try_from(numel).ok().and_then(|n| n.checked_mul(dtype.size()));
        if need.is_none_or(|need| need > storage.bytes().len()) {
            let held = storage.bytes().len();
            return Err(broken(&format!("storage {key} should hold {numel} elements, but has {held} bytes")));
        }
        self.storages.insert(key.to_string(), Arc::clone(&storage));
        Ok(Item::Storage(dtype, storage))
    }

    fn reduce(&mut self, callee: &Item, args: &Item) -> Result<()> {
        let Item::Global(callee) = callee else { return Err(broken("it calls what is no function")) };
        let args = self.items(args)?;
        if args.len() > 8 {
            return Err(broken("a call has too many arguments"));
        }
        let args = args.to_vec();
        let made = match (callee, &args[..]) {
            (Global::OrderedDict, []) => return self.node(Node::Dict(Vec::new()), 0),
            (Global::OrderedDict, [pairs]) => {
                let number = self.items(pairs)?.len();
                self.budget.charge(number.saturating_mul(2), 0)?;
                let mut flat = Vec::new();
                for pair in self.items(pairs)? {
                    let [key, value] = self.items(pair)? else { return Err(broken("a pair is expected")) };
                    flat.extend([key.clone(), value.clone()]);
                }
                self.node(Node::Dict(Vec::new()), 0)?;
                return self.set_items(flat);
            }
            (Global::RebuildTensor, [Item::Storage(dtype, storage), Item::Int(offset), size, stride, ..]) => {
                let (size, stride) = (self.ints(size)?, self.ints(stride)?);
                let tensor = HostTensor::new(*dtype, size, stride, *offset, Arc::clone(storage))?;
                self.budget.charge(1 + tensor.strides().len() / 2, 0)?;
                Item::Tensor(Rc::new(tensor))
            }
            (Global::RebuildParameter, [tensor @ Item::Tensor(_), ..]) => tensor.clone(),
            (Global::ScriptList, [list @ Item::Node(_), ..]) => list.clone(),
            (Global::Size, [size @ Item::Node(_)]) => size.clone(),
            (Global::Encode, [Item::Str(text), Item::Str(how)]) if &**how == "latin1" => {
                self.budget.charge(1, text.len())?;
                let bytes: Option<Vec<u8>> = text.chars().map(|c| u8::try_from(c).ok()).collect();
                Item::Bytes(bytes.ok_or_else(|| broken("bytes are out of range"))?.into())
            }
            _ => return Err(broken(&format!("{callee:?} is called in a way PyTorch does not"))),
        };
        self.push(made)
    }

    /// The finished tree; a container that holds itself runs out of depth, one repeated too often of nodes.
    fn finish(&mut self, item: &Item, depth: usize) -> Result<Value> {
        match item {
            Item::Str(s) => self.budget.charge(1, s.len())?,
            Item::Bytes(b) => self.budget.charge(1, b.len())?,
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
            Item::Global(_) | Item::Storage(..) => {
                return Err(broken("it holds a type where a value belongs"));
            }
            Item::Node(id) => {
                // Taken out while its children are finished: a cycle finds an empty place and ends.
                let node = std::mem::replace(&mut self.nodes[*id], Node::Tuple(vec![Item::Node(*id)]));
                let made = match &node {
                    Node::List(items) => Value::List(self.finish_all(items, depth)?),
                    Node::Tuple(items) => Value::Tuple(self.finish_all(items, depth)?),
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
