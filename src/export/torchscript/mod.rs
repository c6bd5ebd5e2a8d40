//! TorchScript: a module that torch.jit.load reads in Python, C++ and here, with upstream's state_dict.
//!
//! The program (`program`) is written out for this architecture, compiled by libtorch and saved with the
//! weights as registered parameters (`module_tree`). Methods: `forward(input_ids)`, `forward_cached(input_ids,
//! past_k, past_v)`, `generate(input_ids, max_new_tokens, temperature, top_k, top_p)`, `empty_cache(batch)`.
//!
//! B rows, T tokens, S tokens seen, L layers, K kv heads, E head dim, V vocab.

mod module_tree;
mod program;

use std::collections::HashMap;
use std::path::Path;

use tch::{CModule, IValue, Kind, Tensor};

use super::check::{self, Check};
use super::options::Precision;
use super::source::Source;
use crate::checkpoint::METADATA;
use crate::engine::resume::state_dict;
use crate::error::{Error, Result};
use crate::model::{CausalLm, KvCache, ModelConfig};
use crate::native::Script;
use module_tree::Node;

/// Methods that stay beside `forward` when a module is frozen.
pub const METHODS: [&str; 3] = ["forward_cached", "generate", "empty_cache"];

/// How a module holds its weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightForm {
    /// As registered parameters, by upstream's names.
    Parameters,
    /// As constants of a frozen program (`torch.jit.freeze`), without names.
    Constants,
}

/// Writes the module.
///
/// # Errors
/// libtorch cannot compile the program; the disk fails.
pub fn write(source: &Source, precision: Precision, weights: WeightForm, path: &Path) -> Result<()> {
    let model = source.model_as(precision.kind())?;
    let mut named = state_dict(&model);
    // An output layer of its own is in the table already.
    if !named.iter().any(|(name, _)| name == "lm_head.weight") {
        named.push(("lm_head.weight".to_owned(), model.lm_head().shallow_clone()));
    }
    let mut script = Script::new()?;
    let mut builder = Builder { script: &mut script, config: model.config(), seen: HashMap::new() };
    let root = builder.build(&mut Vec::new(), &Node::from_names(named))?;
    let keep = if weights == WeightForm::Constants { &METHODS[..] } else { &[] };
    script.save(root, path, keep, (METADATA, &source.describe(path).to_string()))
}

struct Builder<'a> {
    script: &'a mut Script,
    config: &'a ModelConfig,
    /// The first module of each class.
    seen: HashMap<&'static str, i64>,
}

impl Builder<'_> {
    /// Children first: a method compiles against the modules it calls.
    fn build(&mut self, path: &mut Vec<String>, node: &Node) -> Result<i64> {
        let mut children = Vec::new();
        for (name, child) in &node.children {
            path.push(name.clone());
            children.push((name, self.build(path, child)?));
            path.pop();
        }
        let names: Vec<&str> = path.iter().map(String::as_str).collect();
        let class = program::class(&names, node, self.config);
        let first = self.seen.get(class.name).copied();
        let module = match first {
            Some(like) => self.script.module_like(like)?,
            None => self.script.module(class.name)?,
        };
        for (name, tensor) in &node.parameters {
            self.script.parameter(module, name, tensor)?;
        }
        for (name, child) in children {
            self.script.child(module, name, child)?;
        }
        if first.is_none() {
            if !class.source.is_empty() {
                self.script.define(module, &class.source)?;
            }
            self.seen.insert(class.name, module);
        }
        Ok(module)
    }
}

fn tensors(value: IValue) -> Result<(Tensor, Tensor, Tensor)> {
    let odd = || Error::failed("forward_cached of the export gives something that is not three tensors");
    let IValue::Tuple(parts) = value else { return Err(odd()) };
    match <[IValue; 3]>::try_from(parts) {
        Ok([IValue::Tensor(a), IValue::Tensor(b), IValue::Tensor(c)]) => Ok((a, b, c)),
        _ => Err(odd()),
    }
}

fn tensor(value: IValue) -> Result<Tensor> {
    match value {
        IValue::Tensor(tensor) => Ok(tensor),
        _ => Err(Error::failed("a method of the export gives something that is no tensor")),
    }
}

/// Loads the module and compares every method with the source, in the type `kind`.
///
/// # Errors
/// It cannot be loaded, or a method gives something else than the source.
pub fn compare(source: &Source, kind: Kind, path: &Path) -> Result<Check> {
    let _no_grad = tch::no_grad_guard();
    let module = CModule::load(path)?;
    let model = source.model_as(kind)?;
    let ids = check::random_ids(&source.model); // [B, T]
    let want = check::logits(&model, &ids); // [B, T, V]
    let allowed = check::tolerance(kind);
    // Twice and in two shapes: the second call runs what the first one's shapes made of the program.
    let mut found = check::compare(&want, &module.forward_ts(&[&ids])?, allowed, "logits")?;
    let (_, t) = ids.size2().expect("ids are [B, T]");
    let short = ids.narrow(0, 0, 1).narrow(1, 0, t.min(5));
    let short_want = check::logits(&model, &short);
    found = found.and(check::compare(&short_want, &module.forward_ts(&[&short])?, allowed, "other shapes")?);
    let want_cached = own_cached_logits(&model, &ids)?;
    let cached = cached_logits(&module, &ids)?;
    found = found.and(check::compare(&want_cached, &cached, allowed, "cached logits")?);
    greedy(&module, &model, &short, found.tolerance)?;
    found.compared.push("greedy tokens".to_owned());
    Ok(found)
}

/// From and to of the pieces that go through a cache one after another: several tokens, several more, one.
fn pieces(t: i64) -> impl Iterator<Item = (i64, i64)> {
    [(0, t / 2), (t / 2, t - 1), (t - 1, t)].into_iter().filter(|(from, to)| from != to)
}

/// `[B, T] -> [B, T, V]` by the source through a cache of its own. In the same pieces as the module: products of another
/// shape round otherwise in half precision, and a rounding may send a token to another expert.
fn own_cached_logits(model: &CausalLm, ids: &Tensor) -> Result<Tensor> {
    let (b, t) = ids.size2().expect("ids are [B, T]");
    let mut cache = KvCache::new(model.config(), b, t, model.kind(), model.device())?;
    let logits: Vec<Tensor> = pieces(t)
        .map(|(from, to)| model.logits(&model.hidden_cached(&ids.narrow(1, from, to - from), &mut cache)))
        .collect();
    Ok(Tensor::f_cat(&logits, 1)?.to_kind(Kind::Float))
}

/// `[B, T] -> [B, T, V]` through `forward_cached`, in the same [`pieces`].
fn cached_logits(module: &CModule, ids: &Tensor) -> Result<Tensor> {
    let (b, t) = ids.size2().expect("ids are [B, T]");
    let empty =
        || -> Result<Tensor> { tensor(module.method_is("empty_cache", &[IValue::Int(b), IValue::Int(0)])?) };
    let (mut k, mut v) = (empty()?, empty()?); // [L, B, K, S, E]
    let mut logits = Vec::new();
    for (from, to) in pieces(t) {
        let piece = ids.narrow(1, from, to - from);
        let given = [piece, k, v].map(IValue::Tensor);
        let (made, new_k, new_v) = tensors(module.method_is("forward_cached", &given)?)?;
        logits.push(made);
        (k, v) = (new_k, new_v);
    }
    Ok(Tensor::f_cat(&logits, 1)?)
}

/// Demands that `generate` at temperature 0 takes a most likely token by the source's logits, up to ties.
fn greedy(module: &CModule, model: &CausalLm, ids: &Tensor, tolerance: f64) -> Result<()> {
    let (_, t) = ids.size2().expect("ids are [B, T]");
    let new = 6.min(model.config().max_position_embeddings - t);
    if new < 1 {
        return Ok(());
    }
    let given = [
        IValue::Tensor(ids.shallow_clone()),
        IValue::Int(new),
        IValue::Double(0.0),
        IValue::Int(0),
        IValue::Double(1.0),
    ];
    let all = tensor(module.method_is("generate", &given)?)?; // [B, T + N]
    let logits = check::logits(model, &all).narrow(1, t - 1, new); // [B, N, V]
    let taken = logits.gather(-1, &all.narrow(1, t, new).unsqueeze(-1), false).squeeze_dim(-1);
    let behind = (logits.amax([-1i64].as_slice(), false) - taken).max().double_value(&[]);
    if behind <= 2.0 * tolerance && all.narrow(1, 0, t).equal(ids) {
        return Ok(());
    }
    Err(Error::failed("generate of the export does not take the most likely token at temperature 0")
        .because(format!("a token lies {behind:.2e} below the most likely one")))
}
