//! Reads a TorchScript archive as data: its parameters, the signatures of its methods, its metadata.
//!
//! Its objects are read as plain dicts and its source as text; nothing is compiled or run.

use std::path::Path;

use super::archive::Archive;
use super::unpickler::unpickle_script;
use crate::checkpoint::host_tensor::HostTensor;
use crate::checkpoint::value::Value;
use crate::error::{Error, Place, Result};

/// Most bytes of source text that are read.
const MAX_SOURCE_BYTES: usize = 64 << 20;

/// Longest dotted name of a tensor: nesting could otherwise make very long names from a small file.
const MAX_NAME_BYTES: usize = 1024;

/// The contents of a TorchScript program.
#[derive(Debug)]
pub struct ScriptContents {
    /// Class of the root module.
    pub class: String,
    /// Parameters and buffers by their dotted names, in the order of registration.
    pub tensors: Vec<(String, HostTensor)>,
    /// Tensors that are constants of the program: all weights of a frozen one.
    pub constants: Vec<HostTensor>,
    /// Signatures of the root module's methods.
    pub methods: Vec<String>,
    /// The record `minimind.json`, if it was exported here.
    pub metadata: Option<Vec<u8>>,
}

/// Whether the file is a TorchScript archive.
pub fn is_script(path: &Path) -> bool {
    Archive::open(path).is_ok_and(|archive| archive.is_script())
}

/// Reads a TorchScript program.
///
/// # Errors
/// The file cannot be read, is a plain checkpoint, or is damaged.
pub fn read_script(path: &Path) -> Result<ScriptContents> {
    let at = |e: Error| e.at(Place::file(path));
    let archive = Archive::open(path).map_err(at)?;
    if !archive.is_script() {
        return Err(at(Error::failed("this file is no TorchScript program")));
    }
    contents(&archive).map_err(at)
}

/// The contents of an open TorchScript program.
///
/// # Errors
/// It is damaged.
pub(super) fn contents(archive: &Archive) -> Result<ScriptContents> {
    let mut tensors = Vec::new();
    flatten("", &unpickle_script(archive, "data")?, &mut tensors)?;
    let constants = match unpickle_script(archive, "constants")? {
        Value::Tuple(items) | Value::List(items) => {
            items.iter().filter_map(|item| item.as_tensor().cloned()).collect()
        }
        _ => Vec::new(),
    };
    let class = root_class(archive.bytes("data.pkl")?).unwrap_or_default();
    let sources = archive.sources(MAX_SOURCE_BYTES)?;
    let short = class.rsplit('.').next().unwrap_or_default();
    let methods = sources.iter().flat_map(|text| methods_of(text, short)).collect();
    let metadata = archive.extra("extra/minimind.json")?;
    Ok(ScriptContents { class, tensors, constants, methods, metadata })
}

/// Appends the tensors of nested dicts under their dotted names.
fn flatten(prefix: &str, value: &Value, into: &mut Vec<(String, HostTensor)>) -> Result<()> {
    for (key, value) in value.entries() {
        let Some(key) = key.as_str() else { continue };
        if prefix.len() + key.len() >= MAX_NAME_BYTES {
            return Err(Error::failed("this TorchScript program is damaged")
                .because(format!("a name in it is longer than {MAX_NAME_BYTES} bytes")));
        }
        let name = if prefix.is_empty() { key.to_owned() } else { format!("{prefix}.{key}") };
        match value {
            Value::Tensor(tensor) => into.push((name, tensor.clone())),
            other => flatten(&name, other, into)?,
        }
    }
    Ok(())
}

/// The pickle of an object begins with its class: protocol, then `c`, module, name.
fn root_class(pickle: &[u8]) -> Option<String> {
    let [0x80, _, b'c', rest @ ..] = pickle else { return None };
    let mut lines = rest.splitn(3, |b| *b == b'\n');
    let mut line = || std::str::from_utf8(lines.next()?).ok();
    Some(format!("{}.{}", line()?, line()?))
}

/// `name(argument: type, ...) -> type` of every method of a class, from the text that libtorch prints.
fn methods_of(text: &str, class: &str) -> Vec<String> {
    let head = format!("class {class}(Module):");
    let Some(body) = text.split_once(&head).map(|(_, rest)| rest) else { return Vec::new() };
    let body = body.split("\nclass ").next().unwrap_or_default();
    let heading = |part: &str| {
        let whole: Vec<&str> = part.split(":\n    ").next()?.split_whitespace().collect();
        let one_line = whole.join(" ").trim_end_matches(':').to_owned();
        let (name, rest) = one_line.split_once("(self")?;
        // The object itself is no argument that a caller gives; libtorch prints its type.
        let end = rest.find([',', ')']).unwrap_or(0);
        Some(format!("{name}({}", rest[end..].trim_start_matches(", ")))
    };
    body.split("\n  def ").skip(1).filter_map(heading).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_are_refused() {
        let text = |n: usize| Value::Str("k".repeat(n));
        let leaf = Value::Dict(vec![(text(600), Value::Dict(vec![(text(600), Value::None)]))]);
        let fault = flatten("", &leaf, &mut Vec::new()).unwrap_err();
        assert!(fault.to_string().contains("longer than 1024"), "{fault}");
        assert!(flatten("", &Value::Dict(vec![(text(600), Value::None)]), &mut Vec::new()).is_ok());
    }

    #[test]
    fn headings_are_read_from_source() {
        let text = "class A(Module):\n  __parameters__ = []\n  def forward(self: __torch__.A,\n    x: Tensor) -> Tensor:\n    return x\n  def generate(self: __torch__.A,\n    t: float=1.) -> Tensor:\n    return x\nclass B(Module):\n  def other(self: __torch__.B) -> int:\n    return 1\n";
        let found = methods_of(text, "A");
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].contains("x: Tensor) -> Tensor") && found[1].starts_with("generate("), "{found:?}");
        assert_eq!(root_class(b"\x80\x02c__torch__\nA\n)").as_deref(), Some("__torch__.A"));
        assert_eq!(root_class(b"\x80\x02}"), None);
    }
}
