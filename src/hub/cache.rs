//! The cache of downloads, in the layout of Hugging Face's own tools (`huggingface_hub`), so that both share one cache.
//!
//! `models--OWNER--NAME/blobs/HASH` holds the bytes, `snapshots/COMMIT/FILE` links to them, `refs/BRANCH` names a commit.
//! A partial download is `blobs/HASH.incomplete`: its name is its hash, so that it is never resumed as another file.

use std::fs;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::reference::{Reference, RepoType};
use super::repo::RepoFile;
use crate::atomic;
use crate::error::{Error, Result};
use crate::hash::hex;

/// Weight files of a whole model, and the indexes that name shards.
const WEIGHTS: [&str; 2] = ["model.safetensors", "pytorch_model.bin"];

/// Which files a subset and split of a data set are, in `minimind/` beside the hub's own folders.
#[derive(Debug, Serialize, Deserialize)]
struct Part {
    /// The reference that was asked for.
    part: String,
    commit: String,
    files: Vec<String>,
}

/// The cache of one repository.
#[derive(Debug)]
pub(super) struct Cache {
    folder: PathBuf,
}

impl Cache {
    pub(super) fn new(root: &Path, repo_type: RepoType, repo: &str) -> Self {
        let prefix = if repo_type == RepoType::Model { "models" } else { "datasets" };
        Self { folder: root.join(format!("{prefix}--{}", repo.replace('/', "--"))) }
    }

    fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    /// The path of a file of a commit, or of the folder of all.
    pub(super) fn path(&self, commit: &str, file: Option<&str>) -> PathBuf {
        let snapshot = self.snapshot(commit);
        file.map_or(snapshot.clone(), |file| snapshot.join(file))
    }

    /// The path of a reference, if all of it is here.
    pub(super) fn find(&self, reference: &Reference) -> Option<PathBuf> {
        let revision = reference.revision();
        let named = fs::read_to_string(self.folder.join("refs").join(revision)).ok();
        let commit = named.as_deref().map_or(revision, str::trim);
        if !is_plain(commit) {
            return None;
        }
        let path = self.path(commit, reference.file.as_deref());
        let whole = if reference.file.is_some() { path.is_file() } else { is_whole(&path) };
        whole.then_some(path)
    }

    fn part(&self, reference: &Reference) -> PathBuf {
        let whole = Reference { repo_type: Some(RepoType::Dataset), ..reference.clone() };
        let name = hex(&Sha256::digest(format!("{} {whole}", reference.revision())));
        self.folder.join("minimind").join(format!("{}.json", &name[..16]))
    }

    /// The files of a part of a data set, if it was brought and all of it is here.
    pub(super) fn find_part(&self, reference: &Reference) -> Option<Vec<PathBuf>> {
        let part: Part = serde_json::from_slice(&fs::read(self.part(reference)).ok()?).ok()?;
        let inside = is_plain(&part.commit) && part.files.iter().all(|file| is_inside(file));
        let files: Vec<PathBuf> = part.files.iter().map(|file| self.path(&part.commit, Some(file))).collect();
        (inside && !files.is_empty() && files.iter().all(|file| file.is_file())).then_some(files)
    }

    /// Keeps which files a part of a data set is.
    ///
    /// # Errors
    /// A file cannot be written, or read back.
    pub(super) fn set_part(&self, reference: &Reference, commit: &str, files: &[String]) -> Result<()> {
        let file = self.part(reference);
        let part = Part { part: reference.to_string(), commit: commit.to_owned(), files: files.to_vec() };
        let folder = self.folder.join("minimind");
        fs::create_dir_all(&folder).map_err(|e| Error::io("create the folder", &folder, e))?;
        let json =
            serde_json::to_vec(&part).map_err(|e| Error::failed("cannot describe a part").because(e))?;
        atomic::write_bytes(&file, &json)
    }

    /// Whether a file of a commit is here with the hash that the hub states.
    pub(super) fn has(&self, commit: &str, entry: &RepoFile) -> bool {
        let path = self.path(commit, Some(&entry.path));
        let Some(digest) = &entry.digest else { return path.is_file() };
        // Where a hub has no commits, the branch is used as one: its files may have changed.
        let blob = path.canonicalize().ok();
        blob.is_some_and(|blob| blob.file_name().is_some_and(|name| name == digest.text()))
    }

    /// Adds a file of a commit; `fill` downloads or resumes the part at the path it is given, and checks it.
    ///
    /// # Errors
    /// The hub names a path outside the cache; `fill` fails; the disk fails.
    pub(super) fn add(
        &self,
        commit: &str,
        entry: &RepoFile,
        fill: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<()> {
        if !is_plain(commit) || !is_inside(&entry.path) {
            return Err(Error::failed(format!("the hub names a file `{}` at `{commit}`", entry.path))
                .hint("nothing outside the cache is written; tell the hub's operator"));
        }
        let name = entry.digest.as_ref().map_or_else(
            || hex(&Sha256::digest(format!("{commit}/{}", entry.path))),
            |digest| digest.text().to_owned(),
        );
        let make =
            |folder: &Path| fs::create_dir_all(folder).map_err(|e| Error::io("create the folder", folder, e));
        let blobs = self.folder.join("blobs");
        make(&blobs)?;
        let blob = blobs.join(&name);
        if !blob.is_file() {
            let part = blobs.join(format!("{name}.incomplete"));
            fill(&part)?;
            atomic::rename_synced(&part, &blob)?;
        }
        let place = self.path(commit, Some(&entry.path));
        make(place.parent().unwrap_or(&self.folder))?;
        let up = "../".repeat(2 + entry.path.matches('/').count());
        link(&Path::new(&up).join("blobs").join(&name), &blob, &place)
    }

    /// Lets a branch or tag (`refs/`) name a commit.
    ///
    /// # Errors
    /// A file cannot be written, or read back.
    pub(super) fn set_ref(&self, revision: &str, commit: &str) -> Result<()> {
        if revision == commit || !is_plain(revision) {
            return Ok(());
        }
        let file = self.folder.join("refs").join(revision);
        let folder = self.folder.join("refs");
        fs::create_dir_all(&folder).map_err(|e| Error::io("create the folder", &folder, e))?;
        atomic::write_bytes(&file, commit.as_bytes())
    }
}

/// A link where the system has them, else the bytes themselves.
fn link(target: &Path, blob: &Path, place: &Path) -> Result<()> {
    let fault = |e| Error::io("write", place, e);
    match fs::remove_file(place) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(fault(e)),
        _ => {}
    }
    #[cfg(unix)]
    if std::os::unix::fs::symlink(target, place).is_ok() {
        return Ok(());
    }
    let _ = target;
    fs::copy(blob, place).map(|_| ()).map_err(fault)
}

fn is_plain(name: &str) -> bool {
    is_inside(name) && !name.contains('/')
}

/// Whether a path stays in its folder.
pub(super) fn is_inside(path: &str) -> bool {
    !path.is_empty()
        && !path.contains('\\')
        && Path::new(path).components().all(|part| matches!(part, Component::Normal(_)))
}

/// Whether a folder has a config and every weight file that it needs.
fn is_whole(folder: &Path) -> bool {
    let has = |name: &str| folder.join(name).is_file();
    let shards = |index: &Path| -> Option<bool> {
        let json: serde_json::Value = serde_json::from_slice(&fs::read(index).ok()?).ok()?;
        let files = json["weight_map"].as_object()?;
        Some(!files.is_empty() && files.values().all(|file| file.as_str().is_some_and(&has)))
    };
    has("config.json")
        && WEIGHTS
            .iter()
            .any(|name| has(name) || shards(&folder.join(format!("{name}.index.json"))).unwrap_or(false))
}
