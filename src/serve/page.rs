//! The web page and a run's report, out of the binary. Nothing is loaded from anywhere else.

use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::http::{HeaderValue, header};
use axum::response::{Html, IntoResponse, Response};

use super::fault::Fault;
use super::state::Shared;

/// The page's files by name.
const FILES: [(&str, &str, &str); 5] = [
    ("style.css", "text/css; charset=utf-8", include_str!("page/style.css")),
    ("app.js", "text/javascript; charset=utf-8", include_str!("page/app.js")),
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

/// The page.
pub async fn index() -> Response {
    with_policy(Html(include_str!("page/index.html")).into_response(), POLICY)
}

/// One of its files.
pub async fn asset(Path(name): Path<String>) -> Result<Response, Fault> {
    let file = FILES.iter().find(|(known, ..)| *known == name);
    let (_, kind, text) = file.ok_or_else(|| Fault::not_found("there is no such file"))?;
    Ok(with_policy(([(header::CONTENT_TYPE, *kind)], *text).into_response(), POLICY))
}

/// What browsers ask for beside pages that name no picture, as the report does.
pub async fn icon() -> Result<Response, Fault> {
    asset(Path("icon.svg".to_owned())).await
}

/// Which model's report.
#[derive(Debug, serde::Deserialize)]
pub struct Wanted {
    model: Option<String>,
}

/// The report of the run that a model came from.
pub async fn report(
    State(shared): State<Arc<Shared>>,
    Query(wanted): Query<Wanted>,
) -> Result<Response, Fault> {
    let slot = match &wanted.model {
        Some(name) => shared.slots.iter().find(|s| s.name == *name),
        None => shared.slots.iter().find(|s| s.run.is_some()),
    };
    let run = slot.and_then(|s| s.run.clone()).ok_or_else(|| {
        Fault::not_found("there is no report: serve a run's folder (--model checkpoints/NAME) to see one")
    })?;
    let page = super::body::apart(move || Ok(crate::report::html::render(&run)?)).await?;
    Ok(with_policy(Html(page).into_response(), REPORT_POLICY))
}
