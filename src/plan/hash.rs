//! What makes a stage the same stage: its settings, seed, arithmetic and inputs.
//!
//! The caller adds what only it knows: hashes of data and start weights, and the program's version.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::types::{Plan, StagePlan};

fn sorted(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.into_iter().map(|(k, v)| (k, sorted(v))).collect();
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            Value::Object(entries.into_iter().collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(sorted).collect()),
        other => other,
    }
}

/// SHA-256, in hex, of the canonical JSON of what decides a stage's result.
pub fn stage_hash(plan: &Plan, stage: &StagePlan, inputs: &[String]) -> String {
    let section = serde_json::to_value(&stage.config).unwrap_or_else(|error| json!(error.to_string()));
    let all = json!({
        "stage": section,
        "seed": plan.seed,
        "precision": plan.runtime.precision,
        "inputs": inputs,
    });
    let digest = Sha256::digest(sorted(all).to_string().as_bytes());
    crate::hash::hex(&digest)
}
