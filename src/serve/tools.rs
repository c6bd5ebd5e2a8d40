//! The built-in tools, which run on the server: what there is, and a call of one.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use serde_json::{Value, json};

use super::body;
use super::fault::Fault;
use super::fields::Fields;
use super::state::Shared;

/// The tools in the form that a chat request takes.
pub async fn list() -> Json<Value> {
    Json(json!({"tools": []}))
}

/// Runs one: `{"name": ..., "arguments": {...}}`.
pub async fn call(State(shared): State<Arc<Shared>>, request: Request) -> Result<Json<Value>, Fault> {
    let bytes = body::read(request, &shared.settings.limits).await?;
    let fields = Fields::read(&bytes)?;
    let name = fields.text("name")?.ok_or_else(|| Fault::param("name", "`name` is missing"))?;
    Err(Fault::not_found(format!("there is no tool `{name}`")))
}
