//! A pickle machine that builds plain data and tensors and cannot do anything else.
//!
//! What a pickle may name is the list in `allowed_globals`; everything else is refused by name, so no file runs code.
//! Depth, values and tensor bytes are bounded while they are built, by the file's own size. Containers live in an arena
//! while they are built, because a pickle fills them after it names them.
//! Opcodes: Python's `pickletools.py`. Next: `rebuild` (what a call makes), `tree` (the finished value), `input`.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use super::allowed_globals::{Global, broken, global, script_global};
use super::archive::Archive;
use super::budget::{Budget, too_deep};
use super::input::{Input, unsupported};
use super::items::{Item, Node};
use super::opcode::OpCode;
use super::pickler::MAX_DEPTH;
use super::storages::{Records, Storages};
use super::tree::TreeBuilder;
use crate::checkpoint::host_tensor::Storage;
use crate::checkpoint::value::Value;
use crate::error::Result;

/// Marks that are open at a time: one per container, two more in a tensor's arguments.
const MAX_MARKS: usize = 4 * MAX_DEPTH;

/// The newest pickle protocol.
const MAX_PROTOCOL: usize = 5;

/// The machine.
pub struct Unpickler<'a> {
    pub(super) source: &'a dyn Storages,
    /// Whether classes of a TorchScript program may be named.
    script: bool,
    input: Input<'a>,
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
///
/// # Errors
/// The pickle or a storage is damaged, names what is no plain data, or is larger unpacked than its file allows.
pub fn unpickle(archive: &Archive) -> Result<Value> {
    unpickle_record(archive, "data", false)
}

/// Reads the record `<name>.pkl` of a TorchScript program; its objects become dicts.
///
/// # Errors
/// As [`unpickle`].
pub fn unpickle_script(archive: &Archive, name: &str) -> Result<Value> {
    unpickle_record(archive, name, true)
}

fn unpickle_record(archive: &Archive, name: &str, script: bool) -> Result<Value> {
    let code = archive.bytes(&format!("{name}.pkl"))?;
    let records = Records { archive, within: name, used: RefCell::default() };
    let mut machine = Unpickler::new(code, &records, script);
    let root = machine.run()?;
    machine.memo = HashMap::new();
    machine.stack = Vec::new();
    archive.verify(name, records.used.borrow().iter().map(String::as_str))?;
    machine.tree(&root)
}

/// Reads the pickle at the beginning of `code`; also returns its length in bytes.
///
/// # Errors
/// As [`unpickle`].
pub fn unpickle_prefix(code: &[u8], source: &dyn Storages) -> Result<(Value, usize)> {
    let mut machine = Unpickler::new(code, source, false);
    let root = machine.run()?;
    Ok((machine.tree(&root)?, machine.input.position()))
}

impl<'a> Unpickler<'a> {
    fn new(code: &'a [u8], source: &'a dyn Storages, script: bool) -> Self {
        Self {
            source,
            script,
            input: Input::new(code),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
            nodes: Vec::new(),
            heights: Vec::new(),
            storages: HashMap::new(),
            budget: Budget::new(source.size(), code.len()),
        }
    }

    /// Runs the opcodes up to STOP; what is on top of the stack then is the pickle's value.
    fn run(&mut self) -> Result<Item> {
        loop {
            let op = self.input.opcode()?;
            if op == OpCode::Stop {
                return self.pop();
            }
            match self.input.leaf(op)? {
                Some(leaf) => self.push(leaf)?,
                None => self.step(op)?,
            }
        }
    }

    /// Runs an opcode that pushes no leaf.
    fn step(&mut self, op: OpCode) -> Result<()> {
        match op {
            OpCode::Proto => self.check_protocol(),
            OpCode::Frame => self.input.take(8).map(|_| ()),
            OpCode::Global | OpCode::StackGlobal => self.global(op),
            OpCode::BinGet => self.recall(1),
            OpCode::LongBinGet => self.recall(4),
            OpCode::BinPut => self.input.number(1).and_then(|key| self.memoize(key)),
            OpCode::LongBinPut => self.input.number(4).and_then(|key| self.memoize(key)),
            OpCode::Memoize => self.memoize(self.memo.len()),
            OpCode::Mark => self.mark(),
            OpCode::EmptyDict => self.push_node(Node::Dict(Vec::new()), 0),
            OpCode::EmptyList => self.push_node(Node::List(Vec::new()), 0),
            OpCode::EmptySet => self.push_node(Node::Set(Vec::new()), 0),
            OpCode::EmptyTuple => self.tuple(0),
            OpCode::Tuple1 => self.tuple(1),
            OpCode::Tuple2 => self.tuple(2),
            OpCode::Tuple3 => self.tuple(3),
            OpCode::Tuple => self.collect(Node::Tuple),
            OpCode::List => self.collect(Node::List),
            OpCode::FrozenSet => self.collect(Node::Set),
            OpCode::Dict => {
                let items = self.pop_mark()?;
                self.push_node(Node::Dict(Vec::new()), 0)?;
                self.set_items(items)
            }
            OpCode::SetItems => self.pop_mark().and_then(|items| self.set_items(items)),
            OpCode::SetItem => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.set_items(vec![key, value])
            }
            OpCode::Appends => self.pop_mark().and_then(|items| self.append(items)),
            OpCode::Append => self.pop().and_then(|item| self.append(vec![item])),
            OpCode::AddItems => self.pop_mark().and_then(|items| self.add_to_set(items)),
            OpCode::BinPersId => {
                let id = self.pop()?;
                let storage = self.storage(&id)?;
                self.push(storage)
            }
            OpCode::Reduce => {
                let (args, callee) = (self.pop()?, self.pop()?);
                self.reduce(&callee, &args)
            }
            OpCode::NewObj => self.new_object(),
            OpCode::Build => self.set_state(),
            other => Err(unsupported(&format!("{} (0x{:02x})", other.name(), other.byte()))),
        }
    }

    /// The finished tree of what [`Self::run`] returned.
    fn tree(&mut self, root: &Item) -> Result<Value> {
        TreeBuilder { nodes: &mut self.nodes, budget: &mut self.budget }.build(root)
    }

    fn check_protocol(&mut self) -> Result<()> {
        let version = self.input.number(1)?;
        if version > MAX_PROTOCOL {
            return Err(broken(&format!("protocol {version} is unknown")));
        }
        Ok(())
    }

    /// GLOBAL has its two names in the pickle, STACK_GLOBAL on the stack.
    fn global(&mut self, op: OpCode) -> Result<()> {
        let find: fn(&str, &str) -> Result<Global> = if self.script { script_global } else { global };
        let found = if op == OpCode::Global {
            let (module, name) = (self.input.line()?, self.input.line()?);
            find(module, name)?
        } else {
            match (self.pop()?, self.pop()?) {
                (Item::Str(name), Item::Str(module)) => find(&module, &name)?,
                _ => return Err(broken("a name is not text")),
            }
        };
        self.push(Item::Global(found))
    }

    fn recall(&mut self, width: usize) -> Result<()> {
        let key = self.input.number(width)? as u32;
        let item = self.memo.get(&key).cloned().ok_or_else(|| broken("it recalls what it never kept"))?;
        self.push(item)
    }

    fn memoize(&mut self, key: usize) -> Result<()> {
        let top = self.stack.last().cloned().ok_or_else(|| broken("its stack runs empty"))?;
        self.memo.insert(key as u32, top);
        self.budget.memo(self.memo.len())
    }

    fn mark(&mut self) -> Result<()> {
        if self.marks.len() >= MAX_MARKS {
            return Err(too_deep());
        }
        self.marks.push(self.stack.len());
        Ok(())
    }

    /// Pushes a value, which the budget pays for.
    ///
    /// # Errors
    /// The file makes more values than its size allows.
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

    /// Everything above the last mark.
    fn pop_mark(&mut self) -> Result<Vec<Item>> {
        let mark = self.marks.pop().ok_or_else(|| broken("a mark is missing"))?;
        Ok(self.stack.split_off(mark))
    }

    /// Pushes a new container, whose contents are `height` deep.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub(super) fn push_node(&mut self, node: Node, height: usize) -> Result<()> {
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

    /// The container on top of the stack.
    fn top(&mut self) -> Result<&mut Node> {
        match self.stack.last() {
            Some(Item::Node(id)) => self.nodes.get_mut(*id).ok_or_else(|| broken("node")),
            _ => Err(broken("it fills something that is not a container")),
        }
    }

    /// A tuple of the `n` values on top of the stack.
    fn tuple(&mut self, n: usize) -> Result<()> {
        let mut items = (0..n).map(|_| self.pop()).collect::<Result<Vec<_>>>()?;
        items.reverse();
        let height = self.height(items.iter())?;
        self.push_node(Node::Tuple(items), height)
    }

    /// A container of everything above the last mark.
    fn collect(&mut self, node: fn(Vec<Item>) -> Node) -> Result<()> {
        let items = self.pop_mark()?;
        let height = self.height(items.iter())?;
        self.push_node(node(items), height)
    }

    /// Sets keys and values, in alternation, of the dict on top of the stack.
    ///
    /// # Errors
    /// There is no dict on top, or a key has no value.
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

    fn add_to_set(&mut self, items: Vec<Item>) -> Result<()> {
        let height = self.height(items.iter())?;
        self.raise_top(height);
        let Node::Set(set) = self.top()? else { return Err(broken("it adds to what is no set")) };
        set.extend(items);
        Ok(())
    }

    /// NEWOBJ: an object of a TorchScript class before its attributes are set, or a parameter of its tensor.
    fn new_object(&mut self) -> Result<()> {
        match (self.pop()?, self.pop()?) {
            (_, Item::Global(Global::ScriptClass)) => self.push_node(Node::Dict(Vec::new()), 0),
            (args, Item::Global(class)) => self.reduce(&Item::Global(class), &args),
            _ => Err(broken("it makes an object of what is no class")),
        }
    }

    /// BUILD: the attributes of a TorchScript object; or of an OrderedDict (`_metadata` of a state dict) or a tensor,
    /// which are passed over.
    fn set_state(&mut self) -> Result<()> {
        let state = self.pop()?;
        if let (true, Item::Node(id)) = (self.script, &state)
            && let Some(Node::Dict(attributes)) = self.nodes.get_mut(*id)
        {
            let attributes = std::mem::take(attributes);
            self.raise_top(self.heights[*id]);
            if let Node::Dict(entries) = self.top()? {
                entries.extend(attributes);
                return Ok(());
            }
        }
        if !matches!(self.stack.last(), Some(Item::Tensor(_) | Item::DeferredStorage))
            && !matches!(self.top()?, Node::Dict(_) | Node::Set(_))
        {
            return Err(broken("it sets the state of an object"));
        }
        Ok(())
    }
}
