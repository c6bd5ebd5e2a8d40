//! What a file tells beside its weights: adapter, optimizer, training position, provenance.

use serde_json::{Map, Value as Json, json};

use super::tree::Row;
use crate::checkpoint::config_conflicts::config_conflicts;
use crate::checkpoint::{Value, Weights};
use crate::model::value_head::{VALUE_BIAS, VALUE_WEIGHT};
use crate::model::{ModelConfig, SCORE};

/// What keeps the weights from being a model of the architecture that stands beside them: each with its key, what the
/// config and the weights say, and a sentence; a fault of another kind has the sentence alone.
pub fn contradictions(config: &ModelConfig, from: &str, weights: &Weights) -> Vec<Json> {
    // Reward models and critics have a head more than a language model.
    let mut tensors = weights.tensors.clone();
    for head in [SCORE, VALUE_WEIGHT, VALUE_BIAS] {
        tensors.remove(head);
    }
    let (differ, why) = config_conflicts(config, &tensors);
    let told = differ.iter().map(|d| {
        let (key, stated, has) = (d.key, &d.config, &d.weights);
        let text = format!("`{key}` is {stated} by {from}, but {has} by the weights");
        json!({"key": key, "config": stated, "weights": has, "text": text})
    });
    told.chain(why.map(|text| json!({ "text": text }))).collect()
}

/// Rank and reach of a LoRA adapter, upstream's names or PEFT's; null without one.
pub fn lora(rows: &[Row]) -> Json {
    let down = |name: &str| name.contains(".lora.A.") || name.contains(".lora_A.");
    let up = |name: &str| name.contains(".lora.B.") || name.contains(".lora_B.");
    let mut ranks: Vec<i64> = rows
        .iter()
        .filter(|(name, _, _)| down(name))
        .filter_map(|(_, _, shape)| shape.first().copied())
        .collect();
    let modules = ranks.len();
    if modules == 0 {
        return Json::Null;
    }
    ranks.sort_unstable();
    ranks.dedup();
    let of_adapter = rows.iter().filter(|(name, _, _)| down(name) || up(name));
    let parameters: i64 = of_adapter.map(|(_, _, shape)| shape.iter().product::<i64>()).sum();
    let rank = if ranks.len() == 1 { json!(ranks[0]) } else { json!(ranks) };
    json!({"rank": rank, "modules": modules, "parameters": parameters})
}

/// The optimizer's state in a resume file; null without one.
pub fn optimizer(resume: &Value) -> Json {
    let Some(optimizer) = resume.get("optimizer").filter(|o| o.as_dict().is_some()) else {
        return Json::Null;
    };
    let states = optimizer.get("state").map(Value::entries).unwrap_or_default();
    let first = states.first().map(|(_, state)| state);
    let group = match optimizer.get("param_groups") {
        Some(Value::List(groups)) => groups.first(),
        _ => None,
    };
    let setting = |key: &str| group.and_then(|g| g.get(key)).and_then(Value::as_f64);
    let betas = match group.and_then(|g| g.get("betas")) {
        Some(Value::Tuple(items) | Value::List(items)) => items.iter().filter_map(Value::as_f64).collect(),
        _ => Vec::new(),
    };
    let moments = |(_, state): &(Value, Value)| {
        let of = |key: &str| state.get(key).and_then(Value::as_tensor).map_or(0, |t| t.numel() as u64);
        of("exp_avg") + of("exp_avg_sq")
    };
    json!({
        "parameters": states.len(),
        "numbers": states.iter().map(moments).sum::<u64>(),
        "dtype": first.and_then(|s| s.get("exp_avg")).and_then(Value::as_tensor).map(|t| t.dtype().name()),
        "updates": first.and_then(|s| s.get("step")).and_then(number),
        "lr": setting("lr"),
        "betas": betas,
        "eps": setting("eps"),
        "weight_decay": setting("weight_decay"),
    })
}

/// A number, or a tensor of one.
fn number(value: &Value) -> Option<f64> {
    if let Some(tensor) = value.as_tensor() {
        let tensor = crate::checkpoint::convert::to_tensor(tensor).ok()?;
        return (tensor.numel() == 1).then(|| tensor.double_value(&[0i64; 1][..tensor.dim()]));
    }
    value.as_f64()
}

/// Where training stands; `minimind` is our own record, null in upstream's files.
pub fn position(resume: &Value) -> Json {
    let whole = |key: &str| resume.get(key).and_then(Value::as_i64);
    json!({
        "epoch": whole("epoch"), "step": whole("step"), "world_size": whole("world_size"),
        "minimind": own_state(resume),
    })
}

fn own_state(resume: &Value) -> Option<Json> {
    serde_json::from_str(resume.get("minimind")?.as_str()?).ok()
}

/// Real tokens trained on, where the file tells.
pub fn tokens(metadata: Option<&Json>, resume: Option<&Value>) -> Json {
    let own = resume.and_then(own_state);
    let told = |json: Option<&Json>| json.and_then(|j| j.get("tokens")).cloned();
    told(own.as_ref()).or_else(|| told(metadata)).unwrap_or_default()
}

/// What made the file: recipe, stage, program, and the hashes of everything that decided it.
pub fn provenance(metadata: Option<&Json>, resume: Option<&Value>) -> Json {
    let keys = [
        "recipe",
        "recipe_hash",
        "stage",
        "program",
        "content_hash",
        "inputs",
        "tokenizer",
        "exported_from",
        "exported_by",
    ];
    let mut found = Map::new();
    let own = resume.and_then(own_state);
    for from in [metadata, own.as_ref()].into_iter().flatten() {
        for key in keys {
            if let Some(value) = from.get(key).filter(|v| !v.is_null()) {
                found.entry(key).or_insert_with(|| value.clone());
            }
        }
    }
    if found.is_empty() { Json::Null } else { Json::Object(found) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adapters_of_both_kinds_are_seen() {
        let row = |name: &str, shape: &[i64]| (name.to_owned(), "f16".to_owned(), shape.to_vec());
        let ours = [row("a.q_proj.lora.A.weight", &[4, 32]), row("a.q_proj.lora.B.weight", &[32, 4])];
        assert_eq!(lora(&ours), json!({"rank": 4, "modules": 1, "parameters": 256}));
        let peft = [row("base_model.model.q_proj.lora_A.weight", &[8, 32])];
        assert_eq!(lora(&peft)["rank"], 8);
        assert!(lora(&[row("model.norm.weight", &[4])]).is_null());
    }
}
