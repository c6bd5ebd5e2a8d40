//! The built-in tools, which run on the server: what there is, and a call of one. Next: `rollout::tools`.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use serde_json::{Value, json};

use super::body;
use super::fault::Fault;
use super::fields::Fields;
use super::state::Shared;
use crate::rollout::tools::ToolCall;

/// The tools in the form that a chat request takes.
pub async fn list(State(shared): State<Arc<Shared>>) -> Json<Value> {
    Json(json!({"tools": shared.tools.schemas()}))
}

/// Runs one: `{"name": ..., "arguments": {...}}`, arguments also as JSON text. What is wrong with them is the result.
pub async fn call(State(shared): State<Arc<Shared>>, request: Request) -> Result<Json<Value>, Fault> {
    let bytes = body::read(request, &shared.settings.limits).await?;
    body::apart(move || {
        let fields = Fields::read(&bytes)?;
        let name = fields.text("name")?.ok_or_else(|| Fault::param("name", "`name` is missing"))?;
        if !shared.tools.names().contains(&name) {
            let shown: String = name.chars().take(80).collect();
            return Err(Fault::not_found(format!("there is no tool `{shown}`")));
        }
        let call = ToolCall::from_json(&json!({"name": name, "arguments": fields.get("arguments")}));
        Ok(Json(json!({"result": shared.tools.answer(&call)})))
    })
    .await
}
