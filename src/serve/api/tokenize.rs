//! `POST /tokenize`, `POST /detokenize` and `GET /tokenizer_info`, in vLLM's form.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use super::fields::Fields;
use super::inputs::check_ids;
use super::logprobs::token_text;
use super::prompt::Prompt;
use super::run_blocking;
use crate::serve::body::RequestBody;
use crate::serve::error::ApiError;
use crate::serve::state::AppState;

/// The token ids of a text (`prompt`) or of a chat (`messages`).
///
/// # Errors
/// A field that is wrong, a text that is too long for the model.
pub async fn tokenize(
    State(state): State<Arc<AppState>>,
    body: RequestBody,
) -> Result<Json<Value>, ApiError> {
    run_blocking(move || {
        let fields = Fields::read(&body)?;
        let (_, model) = state.model(fields.text("model")?)?;
        let mut ids = match (fields.get("messages"), fields.text("prompt")?.or(fields.text("content")?)) {
            (Some(_), _) => {
                let prompt = Prompt::read(&fields, &model.tokenizer, true)?;
                model.check_text_bytes(prompt.text.len(), "messages")?;
                model.tokenizer.encode(&prompt.text)?
            }
            (None, Some(text)) => {
                model.check_text_bytes(text.len(), "prompt")?;
                model.tokenizer.encode(text)?
            }
            (None, None) => return Err(ApiError::param("prompt", "give `prompt` or `messages`")),
        };
        if fields.flag("add_special_tokens")?.unwrap_or(false) {
            ids.splice(0..0, model.tokenizer.bos_id());
        }
        let mut value = json!({"count": ids.len(), "max_model_len": model.context, "tokens": ids});
        if fields.flag("return_token_strs")?.unwrap_or(false) {
            let text = |&id: &u32| token_text(&model.tokenizer, id);
            value["token_strs"] = ids.iter().map(text).collect();
        }
        Ok(Json(value))
    })
    .await
}

/// The text of token ids (`tokens`).
///
/// # Errors
/// A field that is wrong, an id that the model does not have.
pub async fn detokenize(
    State(state): State<Arc<AppState>>,
    body: RequestBody,
) -> Result<Json<Value>, ApiError> {
    run_blocking(move || {
        let fields = Fields::read(&body)?;
        let (_, model) = state.model(fields.text("model")?)?;
        if fields.get("tokens").is_none() {
            return Err(ApiError::param("tokens", "`tokens` is missing"));
        }
        let ids = fields.ids("tokens")?;
        model.check_tokens(ids.len(), "tokens")?;
        check_ids("tokens", &ids, &model)?;
        Ok(Json(json!({"prompt": model.tokenizer.decode(&ids, false)?})))
    })
    .await
}

/// What an evaluation harness needs to use this server's tokenizer instead of one of its own.
///
/// # Errors
/// 503 while the model is loading.
pub async fn tokenizer_info(State(state): State<Arc<AppState>>) -> Result<Json<Value>, ApiError> {
    let (_, model) = state.model(None)?;
    let tokenizer = &model.tokenizer;
    Ok(Json(json!({
        "bos_token": tokenizer.bos_token(), "eos_token": tokenizer.eos_token(),
        "pad_token": tokenizer.decode(&[tokenizer.pad_id()], false)?,
        "vocab_size": tokenizer.vocab_size(), "model_max_length": model.context,
        "chat_template": tokenizer.chat_template_source(),
    })))
}
