//! Hugging Face's protocol, which mirrors serve too: `/api/models/REPO/revision/REV` lists the files of a commit,
//! `/REPO/resolve/COMMIT/FILE` is a file and states its hash in the headers of a HEAD request.

use ureq::http::header;

use super::cache::is_inside;
use super::config::HubConfig;
use super::digest::Digest;
use super::reference::{Reference, RepoType};
use super::repo::{Listing, RepoFile};
use super::transfer::{Remote, Transfer, linked_etag};
use crate::error::{Error, Result};

fn remote(settings: &HubConfig, url: String, shown: String) -> Remote {
    let secret = settings.hf_token.as_ref().map(|token| ("Authorization", format!("Bearer {token}")));
    Remote { url, secret, shown, token_hint: "set HF_TOKEN to a token that may read it" }
}

/// A repository in messages.
pub(super) fn describe(repo_type: RepoType, repo: &str) -> String {
    format!("{} {repo}", if repo_type == RepoType::Model { "model" } else { "data set" })
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
    let part = if repo_type == RepoType::Model { "models" } else { "datasets" };
    let (repo, revision) = (&reference.repo, reference.revision());
    let url = format!(
        "{}/api/{part}/{repo}/revision/{}",
        settings.hf_endpoint,
        escape(revision).replace('/', "%2F")
    );
    let shown = match &reference.revision {
        Some(revision) => format!("{} at {revision}", describe(repo_type, repo)),
        None => describe(repo_type, repo),
    };
    let json = transfer.json(&remote(settings, url, shown))?;
    let files: Option<Vec<RepoFile>> = json["siblings"].as_array().map(|files| {
        let paths = files.iter().filter_map(|file| file["rfilename"].as_str()).filter(|path| is_inside(path));
        paths.map(|path| RepoFile { path: path.to_owned(), size: None, digest: None }).collect()
    });
    match (json["sha"].as_str(), files) {
        (Some(commit), Some(files)) => Ok(Listing { repo_type, commit: commit.to_owned(), files }),
        _ => Err(Error::failed(format!("the hub's list of {} cannot be read", describe(repo_type, repo)))
            .hint("is HF_ENDPOINT a hub's address?")),
    }
}

/// A file with its size and hash, and its address.
///
/// # Errors
/// The hub cannot be reached or refuses.
pub(super) fn resolve(
    settings: &HubConfig,
    transfer: &Transfer,
    reference: &Reference,
    listing: &Listing,
    entry: &RepoFile,
) -> Result<(RepoFile, Remote)> {
    let repo_type = listing.repo_type;
    let part = if repo_type == RepoType::Model { "" } else { "datasets/" };
    let path = escape(&entry.path);
    let url = format!("{}/{part}{}/resolve/{}/{path}", settings.hf_endpoint, reference.repo, listing.commit);
    let remote =
        remote(settings, url, format!("file {} of {}", entry.path, describe(repo_type, &reference.repo)));
    let answer = transfer.head(&remote)?;
    let text = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok());
    let tag = linked_etag(&answer).or_else(|| text(header::ETAG.as_str()));
    let own_length = || text(header::CONTENT_LENGTH.as_str()).filter(|_| answer.status().is_success());
    let size = text("x-linked-size").or_else(own_length).and_then(|size| size.parse().ok());
    let digest = tag.and_then(Digest::parse);
    if digest.is_none() {
        tracing::info!("{}: the hub states no hash; only the size is checked", entry.path);
    }
    Ok((RepoFile { path: entry.path.clone(), size, digest }, remote))
}

/// A path percent-encoded for a URL.
pub(super) fn escape(path: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~/".contains(&b);
    path.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}
