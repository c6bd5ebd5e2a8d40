//! Downloads one file over HTTP: cut connections are resumed, and nothing is kept that does not match its hash.
//!
//! ureq with rustls does the protocol. Redirects are followed here, because the hub's token must not go to another host,
//! and the hub's headers are in its first answer. Next: `digest`.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

use ureq::http::{Response, StatusCode, header};
use ureq::{Agent, Body};

use super::repo::RepoFile;
use crate::error::{Error, Place, Result};

/// First words of the fault when no answer came.
pub(super) const UNREACHABLE: &str = "the hub cannot be reached";
/// First words of the fault when the hub has no such repository or file.
pub(super) const ABSENT: &str = "the hub has no";

/// Attempts in a row without a new byte before giving up.
const MAX_ATTEMPTS: u32 = 5;
const MAX_REDIRECTS: usize = 8;

/// The address of a file, and what gives access to it.
#[derive(Debug, Clone)]
pub(super) struct Remote {
    pub(super) url: String,
    /// A header's name and value, sent to the hub's own host alone.
    pub(super) secret: Option<(&'static str, String)>,
    /// Its name in messages.
    pub(super) shown: String,
    /// How to set a token, for the hint.
    pub(super) token_hint: &'static str,
}

/// The HTTP methods that are used.
#[derive(Debug, Clone, Copy)]
enum Method {
    Head,
    Get,
}

/// An HTTP client.
#[derive(Debug)]
pub(super) struct Transfer(Agent);

/// Called with the bytes that are here and the bytes in all, where the hub states them.
pub(super) type Progress<'a> = dyn FnMut(u64, Option<u64>) + 'a;

impl Transfer {
    pub(super) fn new() -> Self {
        let config = Agent::config_builder()
            .user_agent(concat!("minimind/", env!("CARGO_PKG_VERSION")))
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .timeout_connect(Some(Duration::from_secs(20)))
            .timeout_recv_response(Some(Duration::from_secs(60)))
            .timeout_per_read(Some(Duration::from_secs(60)))
            .build();
        Self(config.into())
    }

    /// Asks for `url` from byte `from` on. The secret goes to the host of `source` alone.
    fn request(&self, method: Method, source: &Remote, url: &str, from: u64) -> Result<Response<Body>> {
        let mut request = match method {
            Method::Head => self.0.head(url),
            Method::Get => self.0.get(url),
        };
        if let Some((name, value)) = source.secret.as_ref().filter(|_| origin(url) == origin(&source.url)) {
            request = request.header(*name, value);
        }
        if from > 0 {
            request = request.header("Range", format!("bytes={from}-"));
        }
        request.call().map_err(|e| {
            Error::failed(format!("{UNREACHABLE} for {}", source.shown))
                .because(e)
                .hint("check the connection; HF_ENDPOINT names a mirror; the same command resumes")
        })
    }

    /// The headers of the hub's answer to a HEAD request, after redirects within its own host.
    ///
    /// # Errors
    /// The hub cannot be reached, or refuses.
    pub(super) fn head(&self, source: &Remote) -> Result<Response<Body>> {
        let mut url = source.url.clone();
        for _ in 0..MAX_REDIRECTS {
            let answer = self.request(Method::Head, source, &url, 0)?;
            match redirect(&answer, &url) {
                Some(next) if origin(&next) == origin(&source.url) && linked_etag(&answer).is_none() => {
                    url = next
                }
                Some(_) => return Ok(answer),
                None => return check(answer, source),
            }
        }
        Err(Error::failed(format!("{} leads in a circle", source.shown)))
    }

    fn get(&self, source: &Remote, from: u64) -> Result<Response<Body>> {
        let mut url = source.url.clone();
        for _ in 0..MAX_REDIRECTS {
            let answer = self.request(Method::Get, source, &url, from)?;
            match redirect(&answer, &url) {
                Some(next) => url = next,
                None => return Ok(answer),
            }
        }
        Err(Error::failed(format!("{} leads in a circle", source.shown)))
    }

    /// A JSON answer of at most 64 MiB.
    ///
    /// # Errors
    /// The hub cannot be reached, refuses, or answers something else.
    pub(super) fn json(&self, source: &Remote) -> Result<serde_json::Value> {
        let mut answer = self.get_with_retries(source)?;
        let text = answer.body_mut().with_config().limit(64 << 20).read_to_string();
        let text =
            text.map_err(|e| Error::failed(format!("{UNREACHABLE} for {}", source.shown)).because(e))?;
        serde_json::from_str(&text).map_err(|e| {
            Error::failed(format!("{} is not answered in JSON", source.shown))
                .because(e)
                .hint("is the endpoint a hub's?")
        })
    }

    /// A good answer; a busy hub is asked again a few times.
    fn get_with_retries(&self, source: &Remote) -> Result<Response<Body>> {
        let mut tries = 0;
        loop {
            let found = self.get(source, 0);
            tries += 1;
            let again = match &found {
                Ok(answer) => is_busy(answer.status()),
                Err(_) => true,
            };
            if !again || tries >= MAX_ATTEMPTS {
                return check(found?, source);
            }
            pause(tries);
        }
    }

    /// Downloads a file to `part`, resuming what is there, and checks size and hash.
    ///
    /// # Errors
    /// The hub refuses, cannot be reached, or sent other bytes than it stated; those are removed.
    pub(super) fn download(
        &self,
        source: &Remote,
        entry: &RepoFile,
        part: &Path,
        progress: &mut Progress<'_>,
    ) -> Result<()> {
        let fault = |e| Error::io("write", part, e);
        let mut file = OpenOptions::new().create(true).append(true).read(true).open(part).map_err(fault)?;
        let mut tries = 0;
        loop {
            let have = file.metadata().map_err(fault)?.len();
            if have > 0 && entry.size == Some(have) {
                break;
            }
            if entry.size.is_some_and(|size| have > size) {
                file.set_len(0).map_err(fault)?;
                continue;
            }
            let outcome = self.attempt(source, &mut file, (have, entry.size), progress);
            let now = file.metadata().map_err(fault)?.len();
            tries = if now > have { 0 } else { tries + 1 };
            match outcome {
                Ok(Outcome::Complete) => break,
                Ok(Outcome::Fatal(error)) => return Err(error),
                Ok(Outcome::Retry(error)) | Err(error) if tries >= MAX_ATTEMPTS => return Err(error),
                Ok(Outcome::Retry(error)) | Err(error) => {
                    tracing::debug!("{}: {} bytes, {}", entry.path, now, error.what());
                    pause(tries);
                }
            }
        }
        file.sync_all().map_err(fault)?;
        verify(&mut file, entry, source).inspect_err(|_| {
            // Resuming wrong bytes would never end.
            let _ = std::fs::remove_file(part);
        })
    }

    /// Downloads over one connection, from byte `have` on, and appends to `file`.
    fn attempt(
        &self,
        source: &Remote,
        file: &mut File,
        (have, size): (u64, Option<u64>),
        progress: &mut Progress<'_>,
    ) -> Result<Outcome> {
        let answer = self.get(source, have)?;
        let status = answer.status();
        if status == StatusCode::RANGE_NOT_SATISFIABLE && have > 0 {
            if size.is_none() {
                return Ok(Outcome::Complete);
            }
            return restart(file)
                .map(|()| Outcome::Retry(stopped(source, "the hub cannot go on with this part")));
        }
        if is_busy(status) {
            return Ok(Outcome::Retry(stopped(source, &format!("the hub answers {status}"))));
        }
        let answer = match check(answer, source) {
            Ok(answer) => answer,
            Err(error) => return Ok(Outcome::Fatal(error)),
        };
        let mut start = have;
        if have > 0 && range_start(&answer) != Some(have) {
            restart(file)?;
            start = 0;
        }
        let announced = answer.body().content_length().map(|n| n + start);
        if let (Some(size), Some(announced)) = (size, announced)
            && announced > size
        {
            return too_much(source, file, size);
        }
        receive(answer, source, file, &Expected { start, size, announced }, progress)
    }
}

/// What one answer should contain: the bytes before it, the whole file's size as the hub states it, and the size that the
/// answer announces.
struct Expected {
    start: u64,
    size: Option<u64>,
    announced: Option<u64>,
}

/// Appends the body of an answer to `file`.
fn receive(
    answer: Response<Body>,
    source: &Remote,
    file: &mut File,
    expected: &Expected,
    progress: &mut Progress<'_>,
) -> Result<Outcome> {
    let total = expected.size.or(expected.announced);
    let mut at = expected.start;
    let mut body = answer.into_body().into_reader();
    let mut buffer = vec![0; 1 << 18];
    progress(at, total);
    loop {
        match body.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => {
                if let Some(size) = expected.size.filter(|size| at + n as u64 > *size) {
                    return too_much(source, file, size);
                }
                file.write_all(&buffer[..n])
                    .map_err(|e| Error::failed("cannot write a download").because(e))?;
                at += n as u64;
                progress(at, total);
            }
            Err(e) => return Ok(Outcome::Retry(stopped(source, &e.to_string()))),
        }
    }
    match expected.announced.max(expected.size) {
        Some(total) if at < total => {
            Ok(Outcome::Retry(stopped(source, &format!("the connection ended after {at} of {total} bytes"))))
        }
        _ => Ok(Outcome::Complete),
    }
}

/// More bytes than the hub stated: the rest is not read, and what came is dropped.
fn too_much(source: &Remote, file: &mut File, stated: u64) -> Result<Outcome> {
    let why = format!("more than the {stated} bytes that were promised came");
    restart(file).map(|()| Outcome::Fatal(mismatch(source, &why)))
}

/// How one connection ended.
enum Outcome {
    /// The whole file is here.
    Complete,
    /// Another connection may get the rest.
    Retry(Error),
    /// Another connection will not help.
    Fatal(Error),
}

fn stopped(source: &Remote, why: &str) -> Error {
    Error::failed(format!("{UNREACHABLE} to the end for {}", source.shown))
        .because(why)
        .hint("run the same command again: it resumes what is here")
}

fn restart(file: &mut File) -> Result<()> {
    file.set_len(0).map_err(|e| Error::failed("cannot begin a download again").because(e))
}

fn pause(tries: u32) {
    std::thread::sleep(Duration::from_millis(100 << tries.min(6)));
}

fn is_busy(status: StatusCode) -> bool {
    status == StatusCode::TOO_MANY_REQUESTS
        || status == StatusCode::REQUEST_TIMEOUT
        || status.is_server_error()
}

/// The first byte of a partial answer (`Content-Range`).
fn range_start(answer: &Response<Body>) -> Option<u64> {
    if answer.status() != StatusCode::PARTIAL_CONTENT {
        return None;
    }
    let text = answer.headers().get(header::CONTENT_RANGE)?.to_str().ok()?;
    text.strip_prefix("bytes ")?.split('-').next()?.parse().ok()
}

/// The hash that a hub states beside a redirect to its storage (`x-linked-etag`).
pub(super) fn linked_etag(answer: &Response<Body>) -> Option<&str> {
    answer.headers().get("x-linked-etag")?.to_str().ok()
}

/// `https://host:port` of a URL.
fn origin(url: &str) -> &str {
    let start = url.find("://").map_or(0, |at| at + 3);
    let end = url[start..].find(['/', '?', '#']).map_or(url.len(), |at| start + at);
    &url[..end]
}

fn redirect(answer: &Response<Body>, url: &str) -> Option<String> {
    if !answer.status().is_redirection() {
        return None;
    }
    let to = answer.headers().get(header::LOCATION)?.to_str().ok()?;
    Some(if to.contains("://") {
        to.to_owned()
    } else if let Some(rest) = to.strip_prefix("//") {
        format!("{}//{rest}", url.split("//").next().unwrap_or("https:"))
    } else if to.starts_with('/') {
        format!("{}{to}", origin(url))
    } else {
        format!("{}/{to}", url.rsplit_once('/').map_or(url, |(base, _)| base))
    })
}

/// The answer, if the hub does not refuse.
///
/// # Errors
/// It does.
fn check(answer: Response<Body>, source: &Remote) -> Result<Response<Body>> {
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    let why = answer.headers().get("x-error-message").and_then(|v| v.to_str().ok()).map(str::to_owned);
    let error = match status.as_u16() {
        // A hub answers 401 for what is absent too, so as not to tell what exists.
        401 | 403 => {
            Error::failed(format!("the hub does not open {} to you ({status})", source.shown)).hint(format!(
                "check the name; if it is private or gated, accept its terms on its page and {}",
                source.token_hint
            ))
        }
        404 => Error::input(format!("{ABSENT} {}", source.shown)).hint("check owner, name and file"),
        _ => Error::failed(format!("the hub answers {status} for {}", source.shown)),
    };
    Err(match why {
        Some(why) => error.because(why),
        None => error,
    })
}

/// Checks size and hash of a download against what the hub states.
fn verify(file: &mut File, entry: &RepoFile, source: &Remote) -> Result<()> {
    let read = |e| Error::failed("cannot read a download back").because(e);
    let size = file.metadata().map_err(read)?.len();
    if let Some(stated) = entry.size.filter(|stated| *stated != size) {
        return Err(mismatch(source, &format!("{size} bytes came, {stated} were promised")));
    }
    let Some(digest) = &entry.digest else { return Ok(()) };
    let found = digest.of_file(file, size)?;
    if found == digest.text() {
        return Ok(());
    }
    Err(mismatch(source, &format!("its hash is {found}, the hub states {}", digest.text())))
}

fn mismatch(source: &Remote, why: &str) -> Error {
    Error::failed(format!("{} is not what the hub promised", source.shown))
        .at(Place::file(&source.url))
        .because(why.to_owned())
        .hint("it was not kept; run this again, and if it happens again take another mirror (HF_ENDPOINT)")
}
