//! ModelScope's protocol: one listing with every file's size and SHA-256, and one address for a file.

use super::cache::is_inside;
use super::config::HubConfig;
use super::digest::Digest;
use super::huggingface::{describe, escape};
use super::reference::{Reference, RepoType};
use super::repo::{Listing, RepoFile};
use super::transfer::{Remote, Transfer};
use crate::error::{Error, Result};

/// Files per page of a data set's listing.
const PAGE_SIZE: usize = 200;

fn base(settings: &HubConfig, reference: &Reference, repo_type: RepoType) -> String {
    let part = if repo_type == RepoType::Model { "models" } else { "datasets" };
    format!("{}/api/v1/{part}/{}/repo", settings.ms_endpoint, reference.repo)
}

fn remote(settings: &HubConfig, url: String, shown: String) -> Remote {
    // The site's own client sends the token as this cookie.
    let secret = settings.ms_token.as_ref().map(|token| ("Cookie", format!("m_session_id={token}")));
    Remote { url, secret, shown, token_hint: "set MODELSCOPE_API_TOKEN to a token that may read it" }
}

/// The files of a repository at the reference's revision.
///
/// # Errors
/// The hub cannot be reached, has no such repository, or answers otherwise than a hub.
pub(super) fn list(
    settings: &HubConfig,
    transfer: &Transfer,
    reference: &Reference,
    repo_type: RepoType,
) -> Result<Listing> {
    let base = base(settings, reference, repo_type);
    let revision = reference.revision();
    let shown = describe(repo_type, &reference.repo);
    let mut files = Vec::new();
    for page in 1.. {
        let url = match repo_type {
            RepoType::Model => format!("{base}/files?Revision={revision}&Recursive=true"),
            RepoType::Dataset => {
                format!(
                    "{base}/tree?Revision={revision}&Recursive=True&PageNumber={page}&PageSize={PAGE_SIZE}"
                )
            }
        };
        let json = transfer.json(&remote(settings, url, shown.clone()))?;
        let list = json["Data"]["Files"].as_array().ok_or_else(|| {
            let why = json["Message"].as_str().unwrap_or("the answer has no list of files");
            Error::failed(format!("the hub's list of {shown} cannot be read")).because(why.to_owned())
        })?;
        files.extend(list.iter().filter(|file| file["Type"] != "tree").filter_map(entry));
        if repo_type == RepoType::Model || list.len() < PAGE_SIZE {
            break;
        }
    }
    Ok(Listing { repo_type, commit: revision.to_owned(), files })
}

fn entry(file: &serde_json::Value) -> Option<RepoFile> {
    let path = file["Path"].as_str().filter(|path| is_inside(path))?;
    let digest = file["Sha256"].as_str().and_then(Digest::parse);
    Some(RepoFile { path: path.to_owned(), size: file["Size"].as_u64(), digest })
}

/// A file, whose size and hash the listing states, and its address.
pub(super) fn resolve(
    settings: &HubConfig,
    reference: &Reference,
    listing: &Listing,
    entry: &RepoFile,
) -> (RepoFile, Remote) {
    let repo_type = listing.repo_type;
    let path = escape(&entry.path).replace('/', "%2F");
    let url = format!("{}?Revision={}&FilePath={path}", base(settings, reference, repo_type), listing.commit);
    let shown = format!("file {} of {}", entry.path, describe(repo_type, &reference.repo));
    (entry.clone(), remote(settings, url, shown))
}
