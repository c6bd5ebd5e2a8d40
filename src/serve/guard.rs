//! Who may ask: the key, the page a request comes from, the name it was sent to; and what every answer carries.
//!
//! A server on this machine without a key is reachable by every web page that is open on it. So a request from
//! another origin is refused unless `--cors` names it, and so is a `Host` that is not this machine (a foreign
//! name that was made to point here).

use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

use super::fault::Fault;
use super::state::Shared;

/// The path that balancers ask: it has an answer of its own while the server stops.
const HEALTH: &str = "/health";

/// Looks at a request before anything else does, and counts its answer.
pub async fn watch(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let path = request.extensions().get::<MatchedPath>().map_or("other", MatchedPath::as_str).to_owned();
    let refused = check(&shared, &request, &path);
    let mut response = match refused {
        Ok(()) if shared.is_stopping() && path != HEALTH => Fault::stopping().into_response(),
        Ok(()) => next.run(request).await,
        Err(fault) => fault.into_response(),
    };
    shared.metrics.request(&path, response.status().as_u16());
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(
        HeaderName::from_static("cross-origin-resource-policy"),
        HeaderValue::from_static("same-origin"),
    );
    if !shared.settings.cors.is_empty() {
        headers.remove("cross-origin-resource-policy");
    }
    response
}

fn check(shared: &Shared, request: &Request, path: &str) -> Result<(), Fault> {
    let settings = &shared.settings;
    let headers = request.headers();
    let host = headers.get(header::HOST).and_then(|h| h.to_str().ok()).unwrap_or_default();
    if settings.api_key.is_none() && settings.host.is_loopback() && !names_this_machine(host) {
        return Err(Fault::forbidden(
            "the Host of this request is not this machine; give the server an --api-key to reach it by other names",
        ));
    }
    if let Some(origin) = headers.get(header::ORIGIN).and_then(|o| o.to_str().ok())
        && request.method() != Method::GET
        && origin.split_once("://").is_none_or(|(_, name)| name != host)
        && !settings.cors.iter().any(|allowed| allowed == "*" || allowed == origin)
    {
        return Err(Fault::forbidden(
            "requests from other origins are not taken; start the server with --cors ORIGIN",
        ));
    }
    // The page asks for the key itself, and a balancer has none.
    let open = matches!(path, "/" | "/assets/{name}" | "/favicon.ico" | HEALTH);
    match &settings.api_key {
        Some(key) if !open && !has_key(headers, key) => Err(Fault::no_key()),
        _ => Ok(()),
    }
}

/// `localhost`, `127.x.y.z` or `[::1]`, with any port; an old client sends no name at all.
fn names_this_machine(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name.is_empty()
        || name.eq_ignore_ascii_case("localhost")
        || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Compares in constant time, over digests of one length.
fn has_key(headers: &HeaderMap, key: &str) -> bool {
    let given = headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes).unwrap_or_default();
    let given = match given.get(..7) {
        Some(scheme) if scheme.eq_ignore_ascii_case(b"bearer ") => &given[7..],
        _ => &[],
    };
    Sha256::digest(given).as_slice().ct_eq(Sha256::digest(key.as_bytes()).as_slice()).into()
}

/// The answers to other origins' browsers; `None` where none is allowed.
pub fn cors(origins: &[String]) -> Option<CorsLayer> {
    let origin = match origins {
        [] => return None,
        list if list.iter().any(|o| o == "*") => AllowOrigin::any(),
        list => AllowOrigin::list(list.iter().filter_map(|o| HeaderValue::from_str(o).ok())),
    };
    let layer = CorsLayer::new().allow_origin(origin).allow_methods([Method::GET, Method::POST]);
    Some(layer.allow_headers(AllowHeaders::mirror_request()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_pass() {
        for (host, is) in [
            ("localhost:8998", true),
            ("127.0.0.1", true),
            ("[::1]:80", true),
            ("", true),
            ("evil.example:8998", false),
            ("127.0.0.1.evil.example", false),
            ("10.0.0.1:8998", false),
        ] {
            assert_eq!(names_this_machine(host), is, "{host}");
        }
    }

    #[test]
    fn the_key_must_be_the_whole_key() {
        let with = |text: &'static str| {
            HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::from_static(text))])
        };
        assert!(has_key(&with("Bearer abc"), "abc") && has_key(&with("bearer abc"), "abc"));
        for wrong in ["Bearer ab", "Bearer abcd", "abc", "Basic abc", "Bearer "] {
            assert!(!has_key(&with(wrong), "abc"), "{wrong}");
        }
        assert!(!has_key(&HeaderMap::new(), "abc"));
    }
}
