//! The web page and a run's report, out of the binary. Nothing is loaded from anywhere else.

use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::http::{HeaderValue, header};
use axum::response::{Html, IntoResponse, Response};

use crate::serve::api::run_blocking;
use crate::serve::error::ApiError;
use crate::serve::state::AppState;

/// The page's files by name.
const FILES: [(&str, &str, &str); 9] = [
    ("style.css", "text/css; charset=utf-8", include_str!("page/style.css")),
    ("app.js", "text/javascript; charset=utf-8", include_str!("page/app.js")),
    ("answer.js", "text/javascript; charset=utf-8", include_str!("page/answer.js")),
    ("log.js", "text/javascript; charset=utf-8", include_str!("page/log.js")),
    ("state.js", "text/javascript; charset=utf-8", include_str!("page/state.js")),
    ("dom.js", "text/javascript; charset=utf-8", include_str!("page/dom.js")),
    ("markdown.js", "text/javascript; charset=utf-8", include_str!("page/markdown.js")),
    ("api.js", "text/javascript; charset=utf-8", include_str!("page/api.js")),
    ("icon.svg", "image/svg+xml", include_str!("page/icon.svg")),
];

/// Scripts and styles come from this server alone, none stands in the page; nothing else is loaded.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
     frame-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The report has no script at all, its styles stand in it, and the page may show it in a frame.
const REPORT_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'";

fn with_policy(mut response: Response, policy: &'static str) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    // A new version of the program must not meet an old page.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

/// `GET /`: the page.
pub async fn index() -> Response {
    with_policy(Html(include_str!("page/index.html")).into_response(), POLICY)
}

/// `GET /assets/{name}`: one of the page's files.
///
/// # Errors
/// 404 for any other name.
pub async fn asset(Path(name): Path<String>) -> Result<Response, ApiError> {
    let file = FILES.iter().find(|(known, ..)| *known == name);
    let (_, kind, text) = file.ok_or_else(|| ApiError::not_found("there is no such file"))?;
    Ok(with_policy(([(header::CONTENT_TYPE, *kind)], *text).into_response(), POLICY))
}

/// `GET /favicon.ico`: what browsers ask for with pages that name no icon, as the report.
///
/// # Errors
/// None.
pub async fn icon() -> Result<Response, ApiError> {
    asset(Path("icon.svg".to_owned())).await
}

/// The query of `/report`: which model's.
#[derive(Debug, serde::Deserialize)]
pub struct ReportQuery {
    model: Option<String>,
}

/// `GET /report`: the report of the run that a model came from; the first that has one where none is named.
///
/// # Errors
/// 404 where there is no run, 500 for a run that cannot be read.
pub async fn report(
    State(state): State<Arc<AppState>>,
    Query(query): Query<ReportQuery>,
) -> Result<Response, ApiError> {
    let entry = match &query.model {
        Some(name) => state.models.iter().find(|m| m.name == *name),
        None => state.models.iter().find(|m| m.run.is_some()),
    };
    let run = entry.and_then(|m| m.run.clone()).ok_or_else(|| {
        ApiError::not_found("there is no report: serve a run's folder (--model checkpoints/NAME) to see one")
    })?;
    let page = run_blocking(move || Ok(crate::report::html::render(&run)?)).await?;
    Ok(with_policy(Html(page).into_response(), REPORT_POLICY))
}
