//! `POST /v1/embeddings`: the mean of the last hidden state over an input's tokens, not normalised.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use super::fields::Fields;
use super::inputs::read_prompts;
use super::run_blocking;
use crate::serve::body::RequestBody;
use crate::serve::engine::handle::ModelHandle;
use crate::serve::error::ApiError;
use crate::serve::state::AppState;

/// A request, read and checked.
struct Parsed {
    name: String,
    model: Arc<ModelHandle>,
    inputs: Vec<Vec<u32>>,
    /// Vectors as base64 of little-endian 32-bit floats, which clients ask for to save space.
    base64: bool,
}

/// Answers with a vector `[D]` for each input.
///
/// # Errors
/// A field that is wrong, an input that is too long, a full queue, a model that fails.
pub async fn handle(State(state): State<Arc<AppState>>, body: RequestBody) -> Result<Json<Value>, ApiError> {
    let shared = Arc::clone(&state);
    let Parsed { name, model, inputs, base64 } = run_blocking(move || parse(&shared, &body)).await?;
    let _permits = state.reserve(&model, 1)?;
    let tokens: usize = inputs.iter().map(Vec::len).sum();
    state.metrics.prompt_tokens.inc_by(tokens as u64);
    let vectors = model.embed(inputs).await?;
    let data: Vec<Value> = vectors
        .iter()
        .enumerate()
        .map(|(i, vector)| {
            let embedding = if base64 { to_base64(vector).into() } else { json!(vector) };
            json!({"object": "embedding", "index": i, "embedding": embedding})
        })
        .collect();
    let usage = json!({"prompt_tokens": tokens, "total_tokens": tokens});
    Ok(Json(json!({"object": "list", "data": data, "model": name, "usage": usage})))
}

fn parse(state: &AppState, body: &[u8]) -> Result<Parsed, ApiError> {
    let fields = Fields::read(body)?;
    let (name, model) = state.model(fields.text("model")?)?;
    if fields.get("input").is_none() {
        return Err(ApiError::param("input", "`input` is missing"));
    }
    let prompts = read_prompts(&fields, &model, state.settings.limits.prompts)?;
    let inputs: Vec<Vec<u32>> = prompts.into_iter().map(|(_, ids)| ids).collect();
    for ids in &inputs {
        model.room_for_new_tokens(ids.len(), "input")?;
    }
    let width = model.config.hidden_size;
    if fields.whole("dimensions", 1..=i64::MAX)?.is_some_and(|n| n != width) {
        let message = format!("this model's embeddings have {width} numbers");
        return Err(ApiError::param("dimensions", message));
    }
    let base64 = match fields.text("encoding_format")? {
        None | Some("float") => false,
        Some("base64") => true,
        Some(_) => {
            return Err(ApiError::param("encoding_format", "`encoding_format` must be float or base64"));
        }
    };
    Ok(Parsed { name, model, inputs, base64 })
}

fn to_base64(vector: &[f32]) -> String {
    use base64::Engine as _;
    let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
    base64::engine::general_purpose::STANDARD.encode(bytes)
}
