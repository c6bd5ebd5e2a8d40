//! Finds the state dict inside a training checkpoint, and maps its names to those of a causal language model.
//!
//! Training programs put a state dict under a key of their own, and module wrappers (DDP, `torch.compile`, FSDP) put
//! parts into its names. A base model saved alone has no `model.` before its names, a model inside another has more.
//! Next: `read`.

use std::borrow::Cow;
use std::collections::HashMap;

use super::host_tensor::HostTensor;
use super::value::Value;
use crate::error::{Error, Result};

/// Where programs keep a model's state dict, in the order in which it is looked for.
const STATE_DICTS: [&str; 9] = [
    "model",
    "state_dict",
    "model_state_dict",
    "module",
    "model_state",
    "network",
    "net",
    "weights",
    "params",
];

/// How deep a state dict may be nested.
const MAX_DEPTH: usize = 4;

/// What module wrappers put into the names of weights below them: DDP, `torch.compile`, FSDP, activation
/// checkpointing, DeepSpeed.
const WRAPPERS: [&str; 5] =
    ["module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"];

/// A weight's name without the parts that module wrappers put before and into it.
pub fn strip_wrappers(name: &str) -> Cow<'_, str> {
    if !name.split('.').any(|part| WRAPPERS.contains(&part)) {
        return Cow::Borrowed(name);
    }
    let parts: Vec<&str> = name.split('.').filter(|part| !WRAPPERS.contains(part)).collect();
    Cow::Owned(parts.join("."))
}

/// Whether a dict is a state dict: one of its entries has a dotted name and a tensor.
fn is_state_dict(value: &Value) -> bool {
    let weight = |(key, value): &(Value, Value)| {
        key.as_str().is_some_and(|k| k.contains('.')) && value.as_tensor().is_some()
    };
    value.entries().iter().any(weight)
}

/// The state dict inside a tree, and the keys that lead to it; the tree itself where no other is found.
pub fn find(value: &Value) -> (&Value, Vec<String>) {
    let mut keys = Vec::new();
    match search(value, 0, &mut keys) {
        Some(found) => (found, keys),
        // A tree of ours has its weights under `model`, whatever they are called.
        None => match value.get("model").filter(|m| m.as_dict().is_some()) {
            Some(model) => (model, vec!["model".to_owned()]),
            None => (value, Vec::new()),
        },
    }
}

fn search<'v>(value: &'v Value, depth: usize, keys: &mut Vec<String>) -> Option<&'v Value> {
    if depth > MAX_DEPTH {
        return None;
    }
    for key in STATE_DICTS {
        let Some(inner) = value.get(key).filter(|inner| inner.as_dict().is_some()) else { continue };
        keys.push(key.to_owned());
        if let Some(found) = search(inner, depth + 1, keys) {
            return Some(found);
        }
        keys.pop();
    }
    if is_state_dict(value) {
        return Some(value);
    }
    // Under a name of the program's own, where there is but one such.
    let mut others = state_dicts_in(value);
    let (key, found) = others.next()?;
    if others.next().is_some() {
        return None;
    }
    keys.push(key.to_owned());
    Some(found)
}

/// The state dicts directly inside a tree, with the program's own names for them.
fn state_dicts_in(value: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let entries = value.entries().iter().filter_map(|(key, inner)| Some((key.as_str()?, inner)));
    entries.filter(|(_, inner)| is_state_dict(inner))
}

/// The names of the state dicts in a tree that has several, none of which is known to be the model.
pub fn several_state_dicts(value: &Value) -> Option<Vec<&str>> {
    let names: Vec<&str> = state_dicts_in(value).map(|(name, _)| name).collect();
    (names.len() > 1 && search(value, 0, &mut Vec::new()).is_none()).then_some(names)
}

/// The tensors of a tree's state dict, names without what module wrappers add.
///
/// # Errors
/// Two different tensors get one name.
pub fn tensors_of(value: &Value) -> Result<HashMap<String, HostTensor>> {
    let named = find(value).0.entries().iter();
    without_wrappers(named.filter_map(|(k, v)| Some((k.as_str()?.to_owned(), v.as_tensor()?.clone()))))
}

/// The tensors by their names without what module wrappers add ([`strip_wrappers`]).
///
/// # Errors
/// Two different tensors get one name.
pub fn without_wrappers(
    named: impl IntoIterator<Item = (String, HostTensor)>,
) -> Result<HashMap<String, HostTensor>> {
    let mut tensors: HashMap<String, HostTensor> = HashMap::new();
    for (name, tensor) in named {
        let name = strip_wrappers(&name).into_owned();
        if tensors.get(&name).is_some_and(|other| !other.is_same(&tensor)) {
            return Err(Error::failed(format!("two weights are called `{}`", name.escape_debug()))
                .because("so they are without what module wrappers put into their names"));
        }
        tensors.insert(name, tensor);
    }
    Ok(tensors)
}

/// The same tensors under a causal language model's names: `model.` is put before a base model's, and the prefix
/// of a model inside another is removed. Names of adapters are left alone.
pub fn to_causal_lm_names(tensors: HashMap<String, HostTensor>) -> HashMap<String, HostTensor> {
    const EMBEDDING: &str = "embed_tokens.weight";
    let adapted = |name: &String| name.starts_with("base_model.") || name.contains(".lora_");
    let embedding = |name: &&String| {
        name.strip_suffix(EMBEDDING).is_some_and(|before| before.is_empty() || before.ends_with('.'))
    };
    let mut found = tensors.keys().filter(embedding);
    let (Some(name), None) = (found.next(), found.next()) else { return tensors };
    let before = name.trim_end_matches(EMBEDDING).to_owned();
    if before == "model." || tensors.keys().any(adapted) {
        return tensors;
    }
    let renamed = |name: String| match before.strip_suffix("model.") {
        Some(outer) => name.strip_prefix(outer).map(str::to_owned).unwrap_or(name),
        None if before.is_empty() => {
            let base = ["embed_tokens.", "layers.", "norm."].iter().any(|part| name.starts_with(part));
            if base { format!("model.{name}") } else { name }
        }
        None => name.strip_prefix(&before).map(|rest| format!("model.{rest}")).unwrap_or(name),
    };
    tensors.into_iter().map(|(name, tensor)| (renamed(name), tensor)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::DType;
    use crate::checkpoint::host_tensor::Storage;

    fn tensor(byte: u8) -> HostTensor {
        HostTensor::contiguous(DType::U8, vec![1], Storage::owned(vec![byte])).unwrap()
    }

    fn weights(names: &[&str]) -> Value {
        Value::dict(names.iter().map(|name| (*name, Value::Tensor(tensor(1)))))
    }

    #[test]
    fn wrappers_go_wherever_they_stand() {
        for name in
            ["a.b", "a.module.b", "module.a.module.b", "_orig_mod.module.a._checkpoint_wrapped_module.b"]
        {
            assert_eq!(strip_wrappers(name), "a.b");
        }
        assert_eq!(strip_wrappers("a.modules_to_save.b"), "a.modules_to_save.b");
        let two = [("a.b".to_owned(), tensor(1)), ("module.a.b".to_owned(), tensor(2))];
        assert!(without_wrappers(two).unwrap_err().to_string().contains("two weights are called `a.b`"));
    }

    #[test]
    fn a_state_dict_is_found_where_programs_put_it() {
        let names = ["model.norm.weight", "lm_head.weight"];
        let w = || weights(&names);
        let epoch = || ("epoch", Value::Int(1));
        for (tree, want) in [
            (w(), ""),
            (Value::dict([("model", w()), epoch()]), "model"),
            (Value::dict([epoch(), ("state_dict", w())]), "state_dict"),
            (
                Value::dict([("model_state_dict", w()), ("optimizer_state_dict", Value::dict([epoch()]))]),
                "model_state_dict",
            ),
            (Value::dict([("module", Value::dict([("model", w())]))]), "module.model"),
            (Value::dict([("net_g", w()), epoch()]), "net_g"),
            (Value::dict([("a", w()), ("b", w())]), ""),
        ] {
            let (found, keys) = find(&tree);
            assert_eq!(keys.join("."), want);
            assert_eq!(is_state_dict(found), !want.is_empty() || is_state_dict(&tree), "{want}");
        }
        let two = Value::dict([("best", w()), ("last", w())]);
        assert_eq!(several_state_dicts(&two), Some(vec!["best", "last"]));
        assert_eq!(several_state_dicts(&Value::dict([("model", w()), ("ema", w()), ("last", w())])), None);
        // Any names under `model`, as before.
        assert_eq!(tensors_of(&Value::dict([("model", weights(&["w"]))])).unwrap().len(), 1);
        let mut deep = w();
        for _ in 0..9 {
            deep = Value::dict([("model", deep)]);
        }
        assert!(tensors_of(&deep).unwrap().is_empty());
    }

    #[test]
    fn base_models_and_models_inside_others_get_the_usual_names() {
        let names = |list: &[&str]| -> Vec<String> {
            let tensors = list.iter().map(|name| ((*name).to_owned(), tensor(1))).collect();
            let mut names: Vec<String> = to_causal_lm_names(tensors).into_keys().collect();
            names.sort();
            names
        };
        let want =
            ["lm_head.weight", "model.embed_tokens.weight", "model.layers.0.x.weight", "model.norm.weight"];
        for before in ["", "model.", "transformer.", "llm."] {
            let list =
                ["embed_tokens.weight", "layers.0.x.weight", "norm.weight"].map(|n| format!("{before}{n}"));
            assert_eq!(names(&["lm_head.weight", &list[0], &list[1], &list[2]]), want, "{before}");
        }
        let list = want.map(|name| format!("model.{name}"));
        assert_eq!(names(&list.each_ref().map(String::as_str)), want);
        let peft = ["base_model.model.model.embed_tokens.weight"];
        assert_eq!(names(&peft), peft);
        assert_eq!(names(&["wte.weight"]), ["wte.weight"]);
    }
}
