//! The architectures of a plan's start weights, read from their files: for `minimind plan`, which builds no model.
//!
//! A run reads the same when it loads them (`inputs`); here it fills the plan in, so that parameters, memory and time
//! are those of the file. Next: `plan::cost`.

use std::collections::HashMap;
use std::path::Path;

use crate::checkpoint::architecture::{Architecture, architecture, infer_config};
use crate::checkpoint::config_conflicts::shape_conflicts;
use crate::checkpoint::{read_weights, resolve_model_path};
use crate::error::Result;
use crate::model::{ModelConfig, ModelOverrides};
use crate::plan::{Init, ModelPlan, Plan, StageConfig};

/// Fills the architectures of start weights into the plan; notes for the user.
pub fn fill_from_files(plan: &mut Plan) -> Vec<String> {
    let (mut notes, mut made) = (Vec::new(), HashMap::<String, ModelPlan>::new());
    for stage in &mut plan.stages {
        let Some((init, model)) = slot(&mut stage.config) else { continue };
        let found = match init {
            Init::Path(path) if path.exists() => match architecture_of(path, model.as_ref()) {
                Ok((config, said)) => {
                    notes.extend(
                        said.into_iter().map(|note| format!("{}: {}: {note}", stage.name, path.display())),
                    );
                    let stated = model.as_ref().map(|plan| plan.stated.clone()).unwrap_or_default();
                    Some(ModelPlan { config, vocab_size_given: true, stated })
                }
                Err(error) => {
                    notes.push(format!("{}: {}: {}", stage.name, path.display(), error.what()));
                    None
                }
            },
            Init::Stage(name) => made.get(name).cloned(),
            _ => None,
        };
        if let Some(found) = found {
            *model = Some(found.clone());
            made.insert(stage.name.clone(), found);
        }
    }
    let mut seen = std::collections::HashSet::new();
    notes.retain(|note| seen.insert(note.clone()));
    notes
}

/// A stage's start weights and the place of their architecture.
fn slot(config: &mut StageConfig) -> Option<(&Init, &mut Option<ModelPlan>)> {
    let train = match config {
        StageConfig::Tokenizer(_) => return None,
        StageConfig::Eval(c) => return Some((&c.init, &mut c.model)),
        StageConfig::Export(c) => return Some((&c.init, &mut c.model)),
        StageConfig::Merge(c) => return c.init.as_ref().map(|init| (init, &mut c.model)),
        StageConfig::Pretrain(c) | StageConfig::Sft(c) => c,
        StageConfig::Lora(c) => &mut c.train,
        StageConfig::Reason(c) => &mut c.train,
        StageConfig::Distill(c) => &mut c.train,
        StageConfig::Dpo(c) => &mut c.train,
        StageConfig::Reward(c) => &mut c.train,
        StageConfig::Ppo(c) | StageConfig::Grpo(c) | StageConfig::Spo(c) | StageConfig::Agent(c) => {
            &mut c.train
        }
    };
    Some((&train.init, &mut train.model))
}

/// The architecture that a run would infer for these weights, with notes.
fn architecture_of(path: &Path, plan: Option<&ModelPlan>) -> Result<(ModelConfig, Vec<String>)> {
    let path = resolve_model_path(&path.to_string_lossy())?;
    if let Some(plan) = plan
        && let Some(inferred) = infer_config(&path, &plan.stated)?
    {
        return Ok(inferred);
    }
    let weights = read_weights(&path)?;
    let Architecture { config, mut notes, .. } = architecture(&path, &weights)?;
    if let Some(plan) = plan {
        notes.extend(shape_conflicts(&plan.stated, &as_overrides(&config)).into_iter().map(|(_, note)| note));
    }
    Ok((config, notes))
}

/// A config as the keys that a recipe may state otherwise.
fn as_overrides(c: &ModelConfig) -> ModelOverrides {
    let moe = c.moe.as_ref();
    ModelOverrides {
        hidden_size: Some(c.hidden_size),
        num_hidden_layers: Some(c.num_hidden_layers),
        num_attention_heads: Some(c.num_attention_heads),
        num_key_value_heads: Some(c.num_key_value_heads),
        head_dim: Some(c.head_dim),
        vocab_size: Some(c.vocab_size),
        intermediate_size: Some(c.intermediate_size),
        num_experts: moe.map(|moe| moe.num_experts),
        n_shared_experts: moe.map(|moe| moe.n_shared_experts),
        moe_intermediate_size: moe.map(|moe| moe.moe_intermediate_size),
        ..ModelOverrides::default()
    }
}
