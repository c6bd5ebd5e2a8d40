//! Paths of the server, and the small answers about the server itself; the large ones are [`crate::serve::api`]'s.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router, middleware};
use serde_json::{Value, json};
use tower_http::catch_panic::CatchPanicLayer;

use super::{access, page};
use crate::serve::api::fields::Fields;
use crate::serve::api::{chat, completions, embeddings, tokenize, tools};
use crate::serve::body::RequestBody;
use crate::serve::error::{ApiError, RETRY_SECS};
use crate::serve::state::{AppState, ModelEntry};

/// Every path of the server, behind [`access::middleware`].
pub fn router(state: Arc<AppState>) -> Router {
    let mut router = Router::new()
        .route("/v1/chat/completions", post(chat::handle))
        .route("/v1/completions", post(completions::handle))
        .route("/v1/embeddings", post(embeddings::handle))
        .route("/v1/models", get(models))
        .route("/v1/models/{*name}", get(model))
        .route("/tools", get(tools::list))
        .route("/tools/call", post(tools::call))
        .route("/tokenize", post(tokenize::tokenize))
        .route("/detokenize", post(tokenize::detokenize))
        .route("/tokenizer_info", get(tokenize::tokenizer_info))
        .route("/admin/reload", post(reload))
        .route("/health", get(health))
        .route("/metrics", get(metrics))
        .route("/version", get(version))
        .route("/", get(page::index))
        .route("/assets/{name}", get(page::asset))
        .route("/favicon.ico", get(page::icon))
        .route("/report", get(page::report))
        .fallback(async || ApiError::not_found("there is nothing at this path"))
        .method_not_allowed_fallback(async || ApiError::method_not_allowed())
        .layer(CatchPanicLayer::custom(|_| {
            ApiError::internal("the server failed on this request").into_response()
        }))
        .layer(middleware::from_fn_with_state(Arc::clone(&state), access::middleware));
    if let Some(cors) = access::cors_layer(&state.settings.cors) {
        router = router.layer(cors);
    }
    router.with_state(state)
}

async fn health(State(state): State<Arc<AppState>>) -> Response {
    let loading: Vec<&str> =
        state.models.iter().filter(|m| m.handle().is_none()).map(|m| m.name.as_str()).collect();
    let status = match (state.is_stopping(), loading.is_empty()) {
        (true, _) => "stopping",
        (false, false) => "loading",
        (false, true) => "ok",
    };
    let body = Json(json!({"status": status, "loading": loading}));
    match status {
        "ok" => body.into_response(),
        _ => (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, HeaderValue::from(RETRY_SECS))], body)
            .into_response(),
    }
}

async fn version() -> Json<Value> {
    Json(json!({"name": "minimind", "version": env!("CARGO_PKG_VERSION")}))
}

async fn metrics(State(state): State<Arc<AppState>>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], state.metrics.text())
        .into_response()
}

/// A model as `/v1/models` shows it: OpenAI's fields, vLLM's `root` and `max_model_len`, and two for the page.
fn model_card(entry: &ModelEntry) -> Value {
    let handle = entry.handle();
    json!({
        "id": entry.name, "object": "model", "owned_by": "minimind",
        "created": handle.as_ref().map_or(0, |m| m.created),
        "max_model_len": handle.as_ref().map(|m| m.context),
        "root": handle.as_ref().map(|m| relative(&m.origin).to_owned()),
        "has_report": entry.run.is_some(),
        "chat": handle.as_ref().is_some_and(|m| m.tokenizer.has_chat_template()),
    })
}

/// A model's origin for clients: without the folders of this machine.
fn relative(origin: &str) -> &str {
    match origin.trim_end_matches('/').rsplit_once('/') {
        Some((folder, name)) if folder.is_empty() || folder.starts_with(['/', '~', '.']) => name,
        _ => origin,
    }
}

async fn models(State(state): State<Arc<AppState>>) -> Json<Value> {
    let cards: Vec<Value> = state.models.iter().map(model_card).collect();
    Json(json!({"object": "list", "data": cards}))
}

fn no_such_model() -> ApiError {
    ApiError::not_found("there is no model of this name").code("model_not_found")
}

async fn model(
    State(state): State<Arc<AppState>>,
    Path(name): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let entry = state.models.iter().find(|m| m.name == name);
    entry.map(|entry| Json(model_card(entry))).ok_or_else(no_such_model)
}

async fn reload(State(state): State<Arc<AppState>>, body: RequestBody) -> Result<Json<Value>, ApiError> {
    let fields = if body.is_empty() { Fields::of(Default::default()) } else { Fields::read(&body)? };
    let name = fields.text("model")?.map(str::to_owned);
    if let Some(name) = &name
        && state.models.iter().all(|m| m.name != *name)
    {
        return Err(no_such_model());
    }
    let names =
        state.reload(name).await.map_err(|e| ApiError::internal(format!("not swapped: {}", e.what())))?;
    Ok(Json(json!({"reloaded": names})))
}
