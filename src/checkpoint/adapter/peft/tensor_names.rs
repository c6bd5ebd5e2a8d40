//! The names of tensors in PEFT's files: which part of an adapter each is.
//!
//! `base_model.model.` precedes the model's own name; the adapter's name (`default`) may follow the part. Names are
//! those that `get_peft_model_state_dict` writes, and a whole model's state dict. Next: `peft`.

use crate::checkpoint::state_dict::strip_wrappers;

pub const PREFIX: &str = "base_model.model.";

/// A part of a module's adapter, or of the model.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Part {
    /// LoRA's A, `[R, I]`.
    A,
    /// LoRA's B, `[O, R]`.
    B,
    /// Bias of B, `[O]`.
    BiasOfB,
    /// A of an embedding, `[R, V]`.
    EmbeddingA,
    /// B of an embedding, `[D, R]`.
    EmbeddingB,
    /// DoRA's magnitude vector, `[O]`.
    Magnitude,
    /// New rows of an embedding (`trainable_token_indices`).
    TokenRows,
    /// A parameter, such as `weight`, of a copy of the module (`modules_to_save`).
    Saved(String),
    /// A parameter of the base model.
    Base(String),
    /// The original of a copied module, which is not read.
    Original,
}

/// Reads what follows a mark in a name.
type Reader = fn(&str) -> Option<Part>;

/// The module and the part of its adapter that a tensor is; `None` for a name of another form.
pub fn parse(name: &str) -> Option<(String, Part)> {
    let own = strip_wrappers(name.strip_prefix(PREFIX).unwrap_or(name)).into_owned();
    let marks: [(&str, Reader); 9] = [
        (".lora_A", |rest| after(rest, "weight").then_some(Part::A)),
        (".lora_B", |rest| match rest {
            rest if after(rest, "weight") => Some(Part::B),
            rest => after(rest, "bias").then_some(Part::BiasOfB),
        }),
        (".lora_embedding_A", |rest| named(rest).then_some(Part::EmbeddingA)),
        (".lora_embedding_B", |rest| named(rest).then_some(Part::EmbeddingB)),
        (".lora_magnitude_vector", |rest| (named(rest) || after(rest, "weight")).then_some(Part::Magnitude)),
        (".token_adapter.trainable_tokens_delta", |rest| named(rest).then_some(Part::TokenRows)),
        (".token_adapter.", |rest| Some(rest.strip_prefix("base_layer.").map_or(Part::Original, base))),
        (".modules_to_save", |rest| Some(Part::Saved(saved(rest)?))),
        (".original_module.", |_| Some(Part::Original)),
    ];
    for (mark, read) in marks {
        if let Some((module, rest)) = own.split_once(mark) {
            return Some((module.to_owned(), read(rest)?));
        }
    }
    if own.contains(".lora_") {
        return None;
    }
    if let Some((module, rest)) = own.split_once(".base_layer.") {
        return Some((module.to_owned(), base(rest)));
    }
    let (module, parameter) = own.rsplit_once('.')?;
    Some((module.to_owned(), base(parameter)))
}

fn base(parameter: &str) -> Part {
    Part::Base(parameter.to_owned())
}

/// Nothing, or a dot and an adapter's name.
fn named(rest: &str) -> bool {
    rest.is_empty() || rest.strip_prefix('.').is_some_and(|name| !name.is_empty() && !name.contains('.'))
}

/// `.weight`, or `.default.weight`.
fn after(rest: &str, parameter: &str) -> bool {
    rest.strip_suffix(parameter).and_then(|rest| rest.strip_suffix('.')).is_some_and(named)
}

/// `.weight` or `.default.weight`, as `weight`.
fn saved(rest: &str) -> Option<String> {
    let rest = rest.strip_prefix('.')?;
    Some(rest.rsplit_once('.').map_or(rest, |(_, parameter)| parameter).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_every_version_are_known() {
        let q = "model.layers.0.self_attn.q_proj";
        for (rest, part) in [
            ("lora_A.weight", Part::A),
            ("lora_A.default.weight", Part::A),
            ("lora_B.weight", Part::B),
            ("lora_B.other.bias", Part::BiasOfB),
            ("lora_magnitude_vector", Part::Magnitude),
            ("lora_magnitude_vector.default", Part::Magnitude),
            ("lora_magnitude_vector.default.weight", Part::Magnitude),
            ("base_layer.bias", Part::Base("bias".into())),
            ("bias", Part::Base("bias".into())),
            ("modules_to_save.default.weight", Part::Saved("weight".into())),
            ("original_module.weight", Part::Original),
            ("lora_embedding_A.default", Part::EmbeddingA),
            ("token_adapter.trainable_tokens_delta", Part::TokenRows),
        ] {
            for prefix in ["base_model.model.", "", "base_model.model._orig_mod."] {
                assert_eq!(
                    parse(&format!("{prefix}{q}.{rest}")),
                    Some((q.to_owned(), part.clone())),
                    "{rest}"
                );
            }
        }
        for rest in ["lora_E", "lora_A.a.b.weight", "lora_A.bias", "lora_other.weight"] {
            assert_eq!(parse(&format!("{q}.{rest}")), None, "{rest}");
        }
    }
}
