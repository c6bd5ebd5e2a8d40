//! The built-in tools, which run on the server: what there is, and a call of one. Next: `rollout::tools`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use super::fields::Fields;
use super::run_blocking;
use crate::rollout::tools::ToolCall;
use crate::serve::body::RequestBody;
use crate::serve::error::ApiError;
use crate::serve::state::AppState;

/// `GET /tools`: the tools in the form that a chat request takes.
pub async fn list(State(state): State<Arc<AppState>>) -> Json<Value> {
    Json(json!({"tools": state.tools.schemas()}))
}

/// `POST /tools/call`: runs `{"name": ..., "arguments": {...}}`, arguments also as JSON text. What is wrong with the
/// arguments is the result.
///
/// # Errors
/// 400 for a body that is wrong, 404 for an unknown tool.
pub async fn call(State(state): State<Arc<AppState>>, body: RequestBody) -> Result<Json<Value>, ApiError> {
    run_blocking(move || {
        let fields = Fields::read(&body)?;
        let name = fields.text("name")?.ok_or_else(|| ApiError::param("name", "`name` is missing"))?;
        if !state.tools.names().contains(&name) {
            let shown: String = name.chars().take(80).collect();
            return Err(ApiError::not_found(format!("there is no tool `{shown}`")));
        }
        let call = ToolCall::from_json(&json!({"name": name, "arguments": fields.get("arguments")}));
        Ok(Json(json!({"result": state.tools.answer(&call)})))
    })
    .await
}
