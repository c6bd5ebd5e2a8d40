//! Paths and the small answers; the large ones are [`super::chat`] and [`super::completions`].

use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router, middleware};
use serde_json::{Value, json};
use tower_http::catch_panic::CatchPanicLayer;

use super::completions::{known, prompts};
use super::fault::{Fault, RETRY_SECS};
use super::fields::Fields;
use super::prompt::Prompt;
use super::state::{Shared, Slot};
use super::{body, chat, completions, guard, page, tools};

/// Every path of the server.
pub fn router(shared: Arc<Shared>) -> Router {
    let mut router = Router::new()
        .route("/v1/chat/completions", post(chat::handle))
        .route("/v1/completions", post(completions::handle))
        .route("/v1/embeddings", post(embeddings))
        .route("/v1/models", get(models))
        .route("/v1/models/{*name}", get(model))
        .route("/tools", get(tools::list))
        .route("/tools/call", post(tools::call))
        .route("/tokenize", post(tokenize))
        .route("/detokenize", post(detokenize))
        .route("/tokenizer_info", get(tokenizer_info))
        .route("/admin/reload", post(reload))
        .route("/health", get(health))
        .route("/metrics", get(metrics))
        .route("/version", get(version))
        .route("/", get(page::index))
        .route("/assets/{name}", get(page::asset))
        .route("/favicon.ico", get(page::icon))
        .route("/report", get(page::report))
        .fallback(async || Fault::not_found("there is nothing at this path"))
        .method_not_allowed_fallback(async || Fault::method())
        .layer(CatchPanicLayer::custom(|_| {
            Fault::failed("the server failed on this request").into_response()
        }))
        .layer(middleware::from_fn_with_state(Arc::clone(&shared), guard::watch));
    if let Some(cors) = guard::cors(&shared.settings.cors) {
        router = router.layer(cors);
    }
    router.with_state(shared)
}

async fn health(State(shared): State<Arc<Shared>>) -> Response {
    let loading: Vec<&str> =
        shared.slots.iter().filter(|s| s.live().is_none()).map(|s| s.name.as_str()).collect();
    let status = match (shared.is_stopping(), loading.is_empty()) {
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

async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], shared.metrics.text())
        .into_response()
}

fn card(shared: &Shared, slot: &Slot) -> Value {
    let live = slot.live();
    json!({
        "id": slot.name, "object": "model", "owned_by": "minimind",
        "created": live.as_ref().map_or(0, |l| l.created),
        "max_model_len": live.as_ref().map(|l| shared.context(l)),
        "root": live.as_ref().map(|l| relative(&l.origin).to_owned()),
        "has_report": slot.run.is_some(),
        "chat": live.as_ref().is_some_and(|l| l.tokenizer.has_template()),
    })
}

/// Where a model comes from as far as clients are told: folders of this machine are not their affair.
fn relative(origin: &str) -> &str {
    match origin.trim_end_matches('/').rsplit_once('/') {
        Some((folder, name)) if folder.is_empty() || folder.starts_with(['/', '~', '.']) => name,
        _ => origin,
    }
}

async fn models(State(shared): State<Arc<Shared>>) -> Json<Value> {
    let cards: Vec<Value> = shared.slots.iter().map(|slot| card(&shared, slot)).collect();
    Json(json!({"object": "list", "data": cards}))
}

async fn model(State(shared): State<Arc<Shared>>, Path(name): Path<String>) -> Result<Json<Value>, Fault> {
    let slot = shared.slots.iter().find(|s| s.name == name);
    let missing = || Fault::not_found("there is no model of this name").code("model_not_found");
    slot.map(|slot| Json(card(&shared, slot))).ok_or_else(missing)
}

async fn reload(State(shared): State<Arc<Shared>>, request: Request) -> Result<Json<Value>, Fault> {
    let bytes = body::read(request, &shared.settings.limits).await?;
    let fields = if bytes.is_empty() { Fields::of(Default::default()) } else { Fields::read(&bytes)? };
    let name = fields.text("model")?.map(str::to_owned);
    if let Some(name) = &name
        && shared.slots.iter().all(|s| s.name != *name)
    {
        return Err(Fault::not_found("there is no model of this name").code("model_not_found"));
    }
    let names = shared.reload(name).await.map_err(|e| Fault::failed(format!("not swapped: {}", e.what())))?;
    Ok(Json(json!({"reloaded": names})))
}

/// The mean of the last hidden state over the input's tokens, not normalised.
async fn embeddings(State(shared): State<Arc<Shared>>, request: Request) -> Result<Json<Value>, Fault> {
    let bytes = body::read(request, &shared.settings.limits).await?;
    let state = Arc::clone(&shared);
    let (model, live, inputs, base64) = body::apart(move || {
        let fields = Fields::read(&bytes)?;
        let (model, live) = state.model(fields.text("model")?)?;
        if fields.get("input").is_none() {
            return Err(Fault::param("input", "`input` is missing"));
        }
        let inputs: Vec<Vec<u32>> =
            prompts(&fields, &live, state.settings.limits.prompts)?.into_iter().map(|(_, ids)| ids).collect();
        for ids in &inputs {
            state.room(&live, ids.len(), "input")?;
        }
        let width = live.config.hidden_size;
        if fields.whole("dimensions", 1..=i64::MAX)?.is_some_and(|n| n != width) {
            return Err(Fault::param("dimensions", format!("this model's embeddings have {width} numbers")));
        }
        let base64 = match fields.text("encoding_format")? {
            None | Some("float") => false,
            Some("base64") => true,
            Some(_) => {
                return Err(Fault::param("encoding_format", "`encoding_format` must be float or base64"));
            }
        };
        Ok((model, live, inputs, base64))
    })
    .await?;
    let _places = shared.reserve(&live, 1)?;
    let tokens: usize = inputs.iter().map(Vec::len).sum();
    shared.metrics.prompt_tokens.add(tokens as u64);
    let vectors = live.embed(inputs).await?;
    let data: Vec<Value> = vectors
        .iter()
        .enumerate()
        .map(|(i, vector)| {
            let embedding = if base64 { packed(vector).into() } else { json!(vector) };
            json!({"object": "embedding", "index": i, "embedding": embedding})
        })
        .collect();
    let usage = json!({"prompt_tokens": tokens, "total_tokens": tokens});
    Ok(Json(json!({"object": "list", "data": data, "model": model, "usage": usage})))
}

/// Little-endian 32-bit floats in base64, as clients ask for to save space.
fn packed(vector: &[f32]) -> String {
    use base64::Engine as _;
    let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

async fn tokenize(State(shared): State<Arc<Shared>>, request: Request) -> Result<Json<Value>, Fault> {
    let bytes = body::read(request, &shared.settings.limits).await?;
    body::apart(move || {
        let fields = Fields::read(&bytes)?;
        let (_, live) = shared.model(fields.text("model")?)?;
        let mut ids = match (fields.get("messages"), fields.text("prompt")?.or(fields.text("content")?)) {
            (Some(_), _) => {
                let prompt = Prompt::read(&fields, &live.tokenizer, true)?;
                live.fits(prompt.text.len(), "messages")?;
                live.tokenizer.encode(&prompt.text)?
            }
            (None, Some(text)) => {
                live.fits(text.len(), "prompt")?;
                live.tokenizer.encode(text)?
            }
            (None, None) => return Err(Fault::param("prompt", "give `prompt` or `messages`")),
        };
        if fields.flag("add_special_tokens")?.unwrap_or(false) {
            ids.splice(0..0, live.tokenizer.bos_id());
        }
        let mut value = json!({"count": ids.len(), "max_model_len": shared.context(&live), "tokens": ids});
        if fields.flag("return_token_strs")?.unwrap_or(false) {
            let text = |&id: &u32| super::assemble::token_text(&live.tokenizer, id);
            value["token_strs"] = ids.iter().map(text).collect();
        }
        Ok(Json(value))
    })
    .await
}

async fn detokenize(State(shared): State<Arc<Shared>>, request: Request) -> Result<Json<Value>, Fault> {
    let bytes = body::read(request, &shared.settings.limits).await?;
    body::apart(move || {
        let fields = Fields::read(&bytes)?;
        let (_, live) = shared.model(fields.text("model")?)?;
        if fields.get("tokens").is_none() {
            return Err(Fault::param("tokens", "`tokens` is missing"));
        }
        let ids = fields.ids("tokens")?;
        live.fits_tokens(ids.len(), "tokens")?;
        known("tokens", &ids, &live)?;
        Ok(Json(json!({"prompt": live.tokenizer.decode(&ids, false)?})))
    })
    .await
}

/// What an evaluation harness needs to use this server's tokenizer instead of one of its own.
async fn tokenizer_info(State(shared): State<Arc<Shared>>) -> Result<Json<Value>, Fault> {
    let (_, live) = shared.model(None)?;
    let tokenizer = &live.tokenizer;
    Ok(Json(json!({
        "bos_token": tokenizer.bos_token(), "eos_token": tokenizer.eos_token(),
        "pad_token": tokenizer.decode(&[tokenizer.pad_id()], false)?,
        "vocab_size": tokenizer.vocab_size(), "model_max_length": shared.context(&live),
        "chat_template": tokenizer.template_source(),
    })))
}
