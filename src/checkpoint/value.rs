//! The tree that a checkpoint holds: Python's plain values and tensors in host memory.
//!
//! Next: `host_tensor`, `pth` (the file).

use super::host_tensor::HostTensor;

/// A Python value of the kinds a checkpoint may hold.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub enum Value {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(String),
    Bytes(Vec<u8>),
    Complex(f64, f64),
    Tensor(HostTensor),
    List(Vec<Value>),
    Tuple(Vec<Value>),
    Set(Vec<Value>),
    /// What is kept as text alone: a dtype, a device, an integer of more than 64 bits.
    Other(String),
    /// In the order written; the last of equal keys counts.
    Dict(Vec<(Value, Value)>),
}

impl Value {
    /// A dict with text keys.
    pub fn dict(entries: impl IntoIterator<Item = (impl Into<String>, Value)>) -> Self {
        Self::Dict(entries.into_iter().map(|(key, value)| (Value::Str(key.into()), value)).collect())
    }

    /// The entry of a dict called `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.entries().iter().rev().find(|(k, _)| k.as_str() == Some(key)).map(|(_, v)| v)
    }

    /// The entry of a dict with the integer key `key`.
    pub fn get_index(&self, key: i64) -> Option<&Value> {
        self.entries().iter().rev().find(|(k, _)| matches!(k, Value::Int(n) if *n == key)).map(|(_, v)| v)
    }

    /// The integer, if it is one.
    pub fn as_i64(&self) -> Option<i64> {
        if let Value::Int(n) = self { Some(*n) } else { None }
    }

    /// The number, if it is an integer or a float.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Value::Float(x) => Some(*x),
            Value::Int(n) => Some(*n as f64),
            _ => None,
        }
    }

    /// The text, if it is one.
    pub fn as_str(&self) -> Option<&str> {
        if let Value::Str(s) = self { Some(s) } else { None }
    }

    /// The tensor, if it is one.
    pub fn as_tensor(&self) -> Option<&HostTensor> {
        if let Value::Tensor(t) = self { Some(t) } else { None }
    }

    /// The items, if it is a list.
    pub fn as_list(&self) -> Option<&[Value]> {
        if let Value::List(items) = self { Some(items) } else { None }
    }

    /// The entries, if it is a dict.
    pub fn as_dict(&self) -> Option<&[(Value, Value)]> {
        if let Value::Dict(entries) = self { Some(entries) } else { None }
    }

    /// The entries of a dict; empty for anything else.
    pub fn entries(&self) -> &[(Value, Value)] {
        self.as_dict().unwrap_or(&[])
    }
}
