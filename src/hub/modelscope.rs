//! ModelScope's protocol: one list with every file's size and SHA-256, and one address that gives a file.

use super::cache::is_inside;
use super::huggingface::{escape, words};
use super::reference::{Kind, Reference};
use super::transfer::{Digest, Source, Transfer};
use super::{Entry, Listing, Settings};
use crate::error::{Error, Result};

/// Files a page of a data set's list.
const PAGE: usize = 200;

fn base(settings: &Settings, reference: &Reference, kind: Kind) -> String {
    let part = if kind == Kind::Model { "models" } else { "datasets" };
    format!("{}/api/v1/{part}/{}/repo", settings.ms_endpoint, reference.repo)
}

fn source(settings: &Settings, url: String, shown: String) -> Source {
    // The site's own client sends the token as this cookie.
    let secret = settings.ms_token.as_ref().map(|token| ("Cookie", format!("m_session_id={token}")));
    Source { url, secret, shown, token_hint: "set MODELSCOPE_API_TOKEN to a token that may read it" }
}

pub(super) fn list(
    settings: &Settings,
    transfer: &Transfer,
    reference: &Reference,
    kind: Kind,
) -> Result<Listing> {
    let base = base(settings, reference, kind);
    let revision = reference.revision();
    let shown = words(kind, &reference.repo);
    let mut files = Vec::new();
    for page in 1.. {
        let url = match kind {
            Kind::Model => format!("{base}/files?Revision={revision}&Recursive=true"),
            Kind::Dataset => {
                format!("{base}/tree?Revision={revision}&Recursive=True&PageNumber={page}&PageSize={PAGE}")
            }
        };
        let json = transfer.json(&source(settings, url, shown.clone()))?;
        let list = json["Data"]["Files"].as_array().ok_or_else(|| {
            let why = json["Message"].as_str().unwrap_or("the answer has no list of files");
            Error::failed(format!("the hub's list of {shown} cannot be read")).because(why.to_owned())
        })?;
        files.extend(list.iter().filter(|file| file["Type"] != "tree").filter_map(entry));
        if kind == Kind::Model || list.len() < PAGE {
            break;
        }
    }
    Ok(Listing { commit: revision.to_owned(), files })
}

fn entry(file: &serde_json::Value) -> Option<Entry> {
    let path = file["Path"].as_str().filter(|path| is_inside(path))?;
    let digest = file["Sha256"].as_str().and_then(Digest::parse);
    Some(Entry { path: path.to_owned(), size: file["Size"].as_u64(), digest })
}

pub(super) fn locate(
    settings: &Settings,
    reference: &Reference,
    kind: Kind,
    listing: &Listing,
    entry: &Entry,
) -> (Entry, Source) {
    let path = escape(&entry.path).replace('/', "%2F");
    let url = format!("{}?Revision={}&FilePath={path}", base(settings, reference, kind), listing.commit);
    let shown = format!("file {} of {}", entry.path, words(kind, &reference.repo));
    (entry.clone(), source(settings, url, shown))
}
