//! One file over HTTP: cut connections are gone on with, and nothing is kept that does not match its hash.
//!
//! ureq with rustls does the protocol. Redirects are followed here: the hub's own token must not go to
//! another host, and the hub's headers stand in its first answer.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::Duration;

use sha1::Sha1;
use sha2::{Digest as _, Sha256};
use ureq::http::{Response, StatusCode, header};
use ureq::{Agent, Body};

use super::Entry;
use crate::error::{Error, Place, Result};
use crate::hash::hex;

/// How a fault begins when no answer came.
pub(super) const UNREACHABLE: &str = "the hub cannot be reached";
/// How a fault begins when the hub knows no such thing.
pub(super) const ABSENT: &str = "the hub has no";

/// Tries in a row that brought no byte; any byte starts the count again.
const TRIES: u32 = 5;
const REDIRECTS: usize = 8;

/// What a file's bytes must hash to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Digest {
    /// Of large files (Git LFS), and all of ModelScope's.
    Sha256(String),
    /// Of small files: Git's name of the blob, SHA-1 over `blob SIZE\0` and the bytes.
    Git(String),
}

impl Digest {
    /// From an ETag or a hub's field; other tags are no hashes.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let text = text.trim_start_matches("W/").trim_matches('"').to_ascii_lowercase();
        if !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        match text.len() {
            64 => Some(Self::Sha256(text)),
            40 => Some(Self::Git(text)),
            _ => None,
        }
    }

    /// The hash itself.
    pub(super) fn text(&self) -> &str {
        match self {
            Self::Sha256(text) | Self::Git(text) => text,
        }
    }
}

/// Where a file is fetched from, and what opens it.
#[derive(Debug, Clone)]
pub(super) struct Source {
    pub(super) url: String,
    /// A header's name and value, sent to the hub's own host alone.
    pub(super) secret: Option<(&'static str, String)>,
    /// How the user is told of it.
    pub(super) shown: String,
    /// What sets a token, for the hint.
    pub(super) token_hint: &'static str,
}

/// Makes requests.
#[derive(Debug)]
pub(super) struct Transfer(Agent);

/// Told of bytes here and bytes in all.
pub(super) type Watch<'a> = dyn FnMut(u64, Option<u64>) + 'a;

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

    fn request(&self, head: bool, source: &Source, url: &str, from: u64) -> Result<Response<Body>> {
        let mut request = if head { self.0.head(url) } else { self.0.get(url) };
        if let Some((name, value)) = source.secret.as_ref().filter(|_| origin(url) == origin(&source.url)) {
            request = request.header(*name, value);
        }
        if from > 0 {
            request = request.header("Range", format!("bytes={from}-"));
        }
        request.call().map_err(|e| {
            Error::failed(format!("{UNREACHABLE} for {}", source.shown))
                .because(e)
                .hint("check the connection; HF_ENDPOINT names a mirror; the same command goes on from here")
        })
    }

    /// The hub's answer without a body: its headers, after redirects within its own host.
    pub(super) fn head(&self, source: &Source) -> Result<Response<Body>> {
        let mut url = source.url.clone();
        for _ in 0..REDIRECTS {
            let answer = self.request(true, source, &url, 0)?;
            match redirect(&answer, &url) {
                Some(next) if origin(&next) == origin(&source.url) && linked(&answer).is_none() => url = next,
                Some(_) => return Ok(answer),
                None => return check(answer, source),
            }
        }
        Err(Error::failed(format!("{} leads in a circle", source.shown)))
    }

    fn get(&self, source: &Source, from: u64) -> Result<Response<Body>> {
        let mut url = source.url.clone();
        for _ in 0..REDIRECTS {
            let answer = self.request(false, source, &url, from)?;
            match redirect(&answer, &url) {
                Some(next) => url = next,
                None => return Ok(answer),
            }
        }
        Err(Error::failed(format!("{} leads in a circle", source.shown)))
    }

    /// A small JSON answer.
    pub(super) fn json(&self, source: &Source) -> Result<serde_json::Value> {
        let mut answer = self.patient(source)?;
        let text = answer.body_mut().with_config().limit(64 << 20).read_to_string();
        let text =
            text.map_err(|e| Error::failed(format!("{UNREACHABLE} for {}", source.shown)).because(e))?;
        serde_json::from_str(&text).map_err(|e| {
            Error::failed(format!("{} is not answered in JSON", source.shown))
                .because(e)
                .hint("is the endpoint a hub's?")
        })
    }

    /// A good answer, after some tries where the hub is busy.
    fn patient(&self, source: &Source) -> Result<Response<Body>> {
        let mut tries = 0;
        loop {
            let found = self.get(source, 0);
            tries += 1;
            let again = match &found {
                Ok(answer) => is_busy(answer.status()),
                Err(_) => true,
            };
            if !again || tries >= TRIES {
                return check(found?, source);
            }
            pause(tries);
        }
    }

    /// Brings a file to `part`, going on with what is there, and checks size and hash.
    ///
    /// # Errors
    /// The hub refuses, stays silent, or sent other bytes than it promised; those are removed.
    pub(super) fn download(
        &self,
        source: &Source,
        entry: &Entry,
        part: &Path,
        watch: &mut Watch<'_>,
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
            let outcome = self.piece(source, &mut file, have, entry.size, watch);
            let now = file.metadata().map_err(fault)?.len();
            tries = if now > have { 0 } else { tries + 1 };
            match outcome {
                Ok(Piece::Whole) => break,
                Ok(Piece::Fatal(error)) => return Err(error),
                Ok(Piece::Again(error)) | Err(error) if tries >= TRIES => return Err(error),
                Ok(Piece::Again(error)) | Err(error) => {
                    tracing::debug!("{}: {} bytes, {}", entry.path, now, error.what());
                    pause(tries);
                }
            }
        }
        file.sync_all().map_err(fault)?;
        verify(&mut file, entry, source).inspect_err(|_| {
            // Bytes that are wrong are of no use, and going on with them would never end.
            let _ = std::fs::remove_file(part);
        })
    }

    /// One connection's worth.
    fn piece(
        &self,
        source: &Source,
        file: &mut File,
        have: u64,
        size: Option<u64>,
        watch: &mut Watch<'_>,
    ) -> Result<Piece> {
        let answer = self.get(source, have)?;
        let status = answer.status();
        if status == StatusCode::RANGE_NOT_SATISFIABLE && have > 0 {
            if size.is_none() {
                return Ok(Piece::Whole);
            }
            return restart(file)
                .map(|()| Piece::Again(stopped(source, "the hub cannot go on with this part")));
        }
        if is_busy(status) {
            return Ok(Piece::Again(stopped(source, &format!("the hub answers {status}"))));
        }
        let answer = match check(answer, source) {
            Ok(answer) => answer,
            Err(error) => return Ok(Piece::Fatal(error)),
        };
        let mut at = have;
        if have > 0 && range_start(&answer) != Some(have) {
            restart(file)?;
            at = 0;
        }
        let announced = answer.body().content_length().map(|n| n + at);
        let total = size.or(announced);
        // Cut where the promise ends: what comes beyond it is not read, and what came before is of no use.
        let too_much = |file: &mut File, promised: u64| {
            let why = format!("more than the {promised} bytes that were promised came");
            restart(file).map(|()| Piece::Fatal(mismatch(source, &why)))
        };
        if let (Some(size), Some(announced)) = (size, announced)
            && announced > size
        {
            return too_much(file, size);
        }
        let mut body = answer.into_body().into_reader();
        let mut buffer = vec![0; 1 << 18];
        watch(at, total);
        loop {
            match body.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => {
                    if let Some(size) = size.filter(|size| at + n as u64 > *size) {
                        return too_much(file, size);
                    }
                    file.write_all(&buffer[..n])
                        .map_err(|e| Error::failed("cannot write a download").because(e))?;
                    at += n as u64;
                    watch(at, total);
                }
                Err(e) => return Ok(Piece::Again(stopped(source, &e.to_string()))),
            }
        }
        match announced.max(size) {
            Some(total) if at < total => Ok(Piece::Again(stopped(
                source,
                &format!("the connection ended after {at} of {total} bytes"),
            ))),
            _ => Ok(Piece::Whole),
        }
    }
}

/// How a connection ended.
enum Piece {
    Whole,
    Again(Error),
    Fatal(Error),
}

fn stopped(source: &Source, why: &str) -> Error {
    Error::failed(format!("{UNREACHABLE} to the end for {}", source.shown))
        .because(why)
        .hint("run the same command again: it goes on from what is here")
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

/// The first byte of a partial answer.
fn range_start(answer: &Response<Body>) -> Option<u64> {
    if answer.status() != StatusCode::PARTIAL_CONTENT {
        return None;
    }
    let text = answer.headers().get(header::CONTENT_RANGE)?.to_str().ok()?;
    text.strip_prefix("bytes ")?.split('-').next()?.parse().ok()
}

/// The hash that a hub states beside a redirect to its storage.
pub(super) fn linked(answer: &Response<Body>) -> Option<&str> {
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

/// What the hub refuses, in words.
fn check(answer: Response<Body>, source: &Source) -> Result<Response<Body>> {
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

fn verify(file: &mut File, entry: &Entry, source: &Source) -> Result<()> {
    let read = |e| Error::failed("cannot read a download back").because(e);
    let size = file.metadata().map_err(read)?.len();
    if entry.size.is_some_and(|wanted| wanted != size) {
        return Err(mismatch(
            source,
            &format!("{size} bytes came, {} were promised", entry.size.unwrap_or_default()),
        ));
    }
    let Some(digest) = &entry.digest else { return Ok(()) };
    file.seek(SeekFrom::Start(0)).map_err(read)?;
    let mut long = Sha256::new();
    let mut short = Sha1::new();
    short.update(format!("blob {size}\0"));
    let mut buffer = vec![0; 1 << 20];
    loop {
        let n = file.read(&mut buffer).map_err(read)?;
        if n == 0 {
            break;
        }
        match digest {
            Digest::Sha256(_) => long.update(&buffer[..n]),
            Digest::Git(_) => short.update(&buffer[..n]),
        }
    }
    let found = match digest {
        Digest::Sha256(_) => hex(&long.finalize()),
        Digest::Git(_) => hex(&short.finalize()),
    };
    if found == digest.text() {
        return Ok(());
    }
    Err(mismatch(source, &format!("its hash is {found}, the hub states {}", digest.text())))
}

fn mismatch(source: &Source, why: &str) -> Error {
    Error::failed(format!("{} is not what the hub promised", source.shown))
        .at(Place::file(&source.url))
        .because(why.to_owned())
        .hint("it was not kept; run this again, and if it happens again take another mirror (HF_ENDPOINT)")
}
