//! The JSON that a weight file of ours carries beside its tensors.

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::context::Context;
use super::loading;
use super::record::Inputs;
use crate::model::CausalLm;
use crate::plan::TokenizerSource;

/// Entries of any weight file of stage `name`: architecture, tokenizer, recipe, program.
pub fn of_model(
    context: &Context<'_>,
    name: &str,
    tokenizer: Option<&TokenizerSource>,
    model: &CausalLm,
) -> Map<String, Value> {
    let tokenizer = tokenizer.map(|source| {
        let folder = loading::tokenizer_folder(context, source);
        loading::relative(context, &folder)
    });
    let recipe_hash = crate::hash::hex(&Sha256::digest(context.plan.recipe_text.as_bytes()));
    Map::from_iter([
        ("config".to_owned(), model.config().to_json()),
        ("tokenizer".to_owned(), json!(tokenizer)),
        ("recipe".to_owned(), json!(context.plan.name)),
        ("stage".to_owned(), json!(name)),
        ("recipe_hash".to_owned(), json!(recipe_hash)),
        ("program".to_owned(), json!(format!("minimind {}", loading::PROGRAM))),
    ])
}

/// Entries of a trained file: what it was made from.
pub fn of_inputs(inputs: &Inputs) -> Map<String, Value> {
    Map::from_iter([
        ("content_hash".to_owned(), json!(inputs.content_hash)),
        ("inputs".to_owned(), json!(inputs.named)),
    ])
}
