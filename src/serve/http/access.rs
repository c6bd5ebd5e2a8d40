//! Who may call: checks the API key, the `Origin` and the `Host` of a request, and sets the headers of every answer.
//!
//! A server on this machine without a key is reachable by every web page that is open on it. So a request from
//! another origin is refused unless `--cors` names it, and so is a `Host` that is not this machine (a foreign
//! name that was made to point here). What cannot be read (two of a header, a name with more in it) is refused too.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Version, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

use crate::serve::error::ApiError;
use crate::serve::state::AppState;

/// The path that load balancers ask: it has an answer of its own while the server stops.
const HEALTH: &str = "/health";

/// The outermost middleware: checks a request before anything else does, and counts its answer.
pub async fn middleware(State(state): State<Arc<AppState>>, request: Request, next: Next) -> Response {
    let path = request.extensions().get::<MatchedPath>().map_or("other", MatchedPath::as_str).to_owned();
    let mut response = match check(&state, &request, &path) {
        Ok(()) if state.is_stopping() && path != HEALTH => ApiError::stopping().into_response(),
        Ok(()) => as_api_error(next.run(request).await).await,
        Err(error) => error.into_response(),
    };
    state.metrics.count_request(&path, response.status().as_u16());
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(
        HeaderName::from_static("cross-origin-resource-policy"),
        HeaderValue::from_static("same-origin"),
    );
    if !state.settings.cors.is_empty() {
        headers.remove("cross-origin-resource-policy");
    }
    response
}

/// The most text of an error that is taken over.
const MAX_TEXT_BYTES: usize = 4096;

/// Gives an error of the framework the same form as all others.
async fn as_api_error(response: Response) -> Response {
    let status = response.status();
    let kind = response.headers().get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    let is_error = status.is_client_error() || status.is_server_error();
    if !is_error || kind.is_some_and(|kind| kind.starts_with(b"application/json")) {
        return response;
    }
    let (parts, body) = response.into_parts();
    let text = axum::body::to_bytes(body, MAX_TEXT_BYTES).await.unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    let message = match text.trim() {
        "" => status.canonical_reason().unwrap_or("the request failed").to_owned(),
        text => text.to_owned(),
    };
    let mut formed = ApiError::from_status(status, message).into_response();
    for (name, value) in parts.headers.iter().filter(|(name, _)| name.as_str() != "content-length") {
        formed.headers_mut().entry(name).or_insert_with(|| value.clone());
    }
    formed
}

fn check(state: &AppState, request: &Request, path: &str) -> Result<(), ApiError> {
    let settings = &state.settings;
    let headers = request.headers();
    // What cannot be read cannot be judged, with a key or without.
    let host = target(request)?;
    let is_here = host.is_some_and(|host| host.is_loopback());
    if settings.api_key.is_none() && settings.host.is_loopback() && !is_here {
        return Err(ApiError::forbidden(
            "the Host of this request is not this machine; give the server an --api-key to reach it by other names",
        ));
    }
    if let Some(origin) = single_header(headers, &header::ORIGIN)?
        && request.method() != Method::GET
        && !host.is_some_and(|host| is_same_origin(origin, &host))
        && !settings.cors.iter().any(|allowed| allowed == "*" || allowed == origin)
    {
        return Err(ApiError::forbidden(
            "requests from other origins are not taken; start the server with --cors ORIGIN",
        ));
    }
    // The page asks for the key itself, and a load balancer has none.
    let open = matches!(path, "/" | "/assets/{name}" | "/favicon.ico" | HEALTH);
    match &settings.api_key {
        Some(key) if !open && !has_key(headers, key) => Err(ApiError::unauthorized()),
        _ => Ok(()),
    }
}

/// The value of a header that a request may have once, in ASCII; `None` where it has none.
fn single_header<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, ApiError> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(_), Some(_)) => {
            Err(ApiError::bad_request(format!("the request has more than one `{name}` header")))
        }
        (Some(value), None) => {
            let unreadable =
                |_| ApiError::bad_request(format!("the `{name}` header of the request cannot be read"));
            value.to_str().map(Some).map_err(unreadable)
        }
    }
}

/// The server that a request is meant for: its `Host`, and its target's where that names one too. HTTP/1.0,
/// which some load balancers still use, may leave it out.
fn target(request: &Request) -> Result<Option<Authority<'_>>, ApiError> {
    let unreadable = || ApiError::bad_request("the `host` header of the request cannot be read");
    let host = single_header(request.headers(), &header::HOST)?;
    let host = match host {
        Some(host) => host,
        None if request.version() < Version::HTTP_11 => return Ok(None),
        None => return Err(ApiError::bad_request("the request has no `host` header")),
    };
    let host = Authority::parse(host).ok_or_else(unreadable)?;
    match request.uri().authority().map(|target| Authority::parse(target.as_str())) {
        None => Ok(Some(host)),
        Some(Some(target)) if target.is(&host) => Ok(Some(host)),
        Some(_) => Err(ApiError::bad_request("the request's target and its `host` header are not the same")),
    }
}

/// Whether a page's origin is this very server.
fn is_same_origin(origin: &str, host: &Authority<'_>) -> bool {
    let read = |scheme, port| {
        let from = Authority::parse(origin.strip_prefix(scheme)?)?;
        Some(Authority { port: from.port.or(Some(port)), ..from })
    };
    let with_port = |port| Authority { port: host.port.or(Some(port)), ..*host };
    read("http://", 80).is_some_and(|from| from.is(&with_port(80)))
        || read("https://", 443).is_some_and(|from| from.is(&with_port(443)))
}

/// `NAME`, `1.2.3.4` or `[::1]`, and a port.
#[derive(Debug, Clone, Copy)]
struct Authority<'a> {
    /// Without brackets.
    name: &'a str,
    bracketed: bool,
    port: Option<u16>,
}

impl<'a> Authority<'a> {
    /// `None` where it is anything else: a user, a path, a second colon, a name of other characters.
    fn parse(text: &'a str) -> Option<Self> {
        let (name, rest, bracketed) = match text.strip_prefix('[') {
            Some(inside) => inside.split_once(']').map(|(name, rest)| (name, rest, true))?,
            None => {
                let end = text.find(':').unwrap_or(text.len());
                (&text[..end], &text[end..], false)
            }
        };
        let port = match rest.strip_prefix(':') {
            None if rest.is_empty() => None,
            Some("") => None,
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => Some(digits.parse().ok()?),
            _ => return None,
        };
        let readable = match bracketed {
            true => name.parse::<Ipv6Addr>().is_ok(),
            false => {
                let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
                !name.is_empty() && name.bytes().all(plain)
            }
        };
        readable.then_some(Self { name, bracketed, port })
    }

    fn is(&self, other: &Self) -> bool {
        self.bracketed == other.bracketed
            && self.port == other.port
            && self.name.eq_ignore_ascii_case(other.name)
    }

    /// `localhost`, `127.x.y.z` or `[::1]`.
    fn is_loopback(&self) -> bool {
        self.name.eq_ignore_ascii_case("localhost")
            || self.name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback() && ip.is_ipv6() == self.bracketed)
    }
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

/// The CORS headers for pages of other origins; `None` where none may call.
pub fn cors_layer(origins: &[String]) -> Option<CorsLayer> {
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
    use axum::http::StatusCode;

    use super::*;

    #[test]
    fn only_names_of_this_machine_pass() {
        for (host, passes) in [
            ("localhost:8998", Some(true)),
            ("LocalHost", Some(true)),
            ("127.0.0.1", Some(true)),
            ("127.9.9.9:80", Some(true)),
            ("[::1]:80", Some(true)),
            ("[::1]", Some(true)),
            ("localhost:", Some(true)),
            ("evil.example:8998", Some(false)),
            ("127.0.0.1.evil.example", Some(false)),
            ("localhost.evil.example", Some(false)),
            ("localhost.", Some(false)),
            ("10.0.0.1:8998", Some(false)),
            ("127.1", Some(false)),
            ("0x7f000001", Some(false)),
            ("[::]", Some(false)),
            ("[::2]:80", Some(false)),
            ("", None),
            (":8998", None),
            ("[::1]evil.example", None),
            ("[::1]:80evil.example", None),
            ("[::1].evil.example", None),
            ("[::1", None),
            ("::1", None),
            ("[localhost]", None),
            ("[127.0.0.1]", None),
            ("[::1%25lo]", None),
            ("localhost:80:80", None),
            ("localhost:99999", None),
            ("localhost:+80", None),
            ("localhost:8o", None),
            ("localhost@evil.example", None),
            ("evil.example@localhost", None),
            ("user:localhost@evil.example", None),
            ("localhost/evil", None),
            ("localhost evil.example", None),
            ("localhost,evil.example", None),
            ("localhost\\evil", None),
        ] {
            assert_eq!(Authority::parse(host).map(|host| host.is_loopback()), passes, "{host}");
        }
    }

    #[test]
    fn a_header_that_cannot_be_read_is_refused() {
        let with = |headers: &[(&'static str, &'static [u8])]| {
            let mut request = Request::new(axum::body::Body::empty());
            for (name, value) in headers {
                request.headers_mut().append(*name, HeaderValue::from_bytes(value).unwrap());
            }
            request
        };
        assert!(target(&with(&[("host", b"localhost")])).is_ok());
        for wrong in [
            &[][..],
            &[("host", &b"localhost"[..]), ("host", &b"localhost"[..])],
            &[("host", &b"local\xffhost"[..])],
            &[("host", &b""[..])],
        ] {
            assert_eq!(target(&with(wrong)).unwrap_err().status(), 400, "{wrong:?}");
        }
        let mut old = with(&[]);
        *old.version_mut() = Version::HTTP_10;
        assert!(target(&old).unwrap().is_none());
        let mut absolute = with(&[("host", b"localhost")]);
        *absolute.uri_mut() = "http://evil.example/".parse().unwrap();
        assert!(target(&absolute).is_err());
        *absolute.uri_mut() = "http://LOCALHOST/".parse().unwrap();
        assert!(target(&absolute).is_ok());
        let origin =
            |headers| single_header(with(headers).headers(), &header::ORIGIN).map(|o| o.map(str::to_owned));
        assert_eq!(origin(&[("origin", b"http://a")]).unwrap().as_deref(), Some("http://a"));
        assert!(origin(&[("origin", b"http://a"), ("origin", b"http://a")]).is_err());
        assert!(origin(&[("origin", b"http://\xc3\xa4")]).is_err());
    }

    #[test]
    fn an_origin_is_this_server_or_another() {
        for (origin, host, same) in [
            ("http://localhost:8998", "localhost:8998", true),
            ("http://LOCALHOST:8998", "localhost:8998", true),
            ("http://localhost", "localhost:80", true),
            ("https://models.example", "models.example", true),
            ("http://[::1]:8998", "[::1]:8998", true),
            ("http://localhost:8999", "localhost:8998", false),
            ("http://127.0.0.1:8998", "localhost:8998", false),
            ("https://localhost:80", "localhost", false),
            ("null", "localhost", false),
            ("", "localhost", false),
            ("file://localhost", "localhost", false),
            ("http://localhost:8998/", "localhost:8998", false),
            ("http://evil@localhost:8998", "localhost:8998", false),
        ] {
            assert_eq!(is_same_origin(origin, &Authority::parse(host).unwrap()), same, "{origin} at {host}");
        }
    }

    #[test]
    fn an_error_of_the_framework_takes_our_form() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let formed = |response: Response| {
            let made = runtime.block_on(as_api_error(response));
            let (parts, body) = made.into_parts();
            (parts, runtime.block_on(axum::body::to_bytes(body, 1 << 20)).unwrap())
        };
        let allow = [(header::ALLOW, "GET"), (header::CONTENT_LENGTH, "9")];
        let (parts, body) = formed((StatusCode::METHOD_NOT_ALLOWED, allow, "\"no\" way").into_response());
        assert_eq!(parts.status, StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(parts.headers[header::ALLOW], "GET");
        assert_eq!(parts.headers[header::CONTENT_TYPE], "application/json");
        let value: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(value["error"]["message"], "\"no\" way");
        assert_eq!(value["error"]["type"], "invalid_request_error");
        let (_, body) = formed(StatusCode::BAD_GATEWAY.into_response());
        assert!(String::from_utf8_lossy(&body).contains(r#""message":"Bad Gateway","type":"server_error""#));
        assert_eq!(formed("text".into_response()).1, "text");
        assert_eq!(formed(ApiError::queue_full(3).into_response()).0.headers[header::RETRY_AFTER], "1");
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
