//! Models and data sets from the hubs: Hugging Face (`hf:OWNER/NAME`) and ModelScope (`ms:OWNER/NAME`).
//!
//! A [`Reference`] names a repository or a file of one; [`Hub`] downloads it into the cache, whole and checked, and
//! returns its path. What is in the cache needs no network. The hf-hub crate is not used: it checks no hash and no range
//! when it resumes a part, and does not know ModelScope.
//! Next: `reference`, `transfer` (one file), `cache` (the layout on disk), `huggingface` and `modelscope` (protocols).

mod cache;
mod digest;
mod huggingface;
mod modelscope;
pub mod reference;
mod transfer;

use std::fmt;
use std::path::PathBuf;

pub use reference::Reference;

use crate::error::{Error, Result};
use cache::Cache;
use digest::Digest;
use reference::{Kind, Site};
use transfer::Transfer;

/// Addresses, tokens and caches of the hubs: plain values that `plan::machine` reads from the environment.
#[derive(Clone, Default)]
pub struct HubConfig {
    /// `https://huggingface.co` or a mirror.
    pub hf_endpoint: String,
    /// Token for private and gated repositories there.
    pub hf_token: Option<String>,
    /// The cache, which Hugging Face's own tools share.
    pub hf_cache: PathBuf,
    /// `https://www.modelscope.cn`.
    pub ms_endpoint: String,
    /// Token for private repositories there.
    pub ms_token: Option<String>,
    /// The cache for ModelScope.
    pub ms_cache: PathBuf,
    /// No hub is asked: only the cache is used.
    pub offline: bool,
}

impl fmt::Debug for HubConfig {
    /// Without the tokens: they are secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubConfig")
            .field("hf_endpoint", &self.hf_endpoint)
            .field("hf_cache", &self.hf_cache)
            .field("ms_endpoint", &self.ms_endpoint)
            .field("ms_cache", &self.ms_cache)
            .field("offline", &self.offline)
            .finish_non_exhaustive()
    }
}

/// How far the download of a file is.
#[derive(Debug, Clone, Copy)]
pub struct Progress<'a> {
    /// Its name in the repository.
    pub file: &'a str,
    /// Bytes downloaded.
    pub done: u64,
    /// Bytes in all, where the hub states them.
    pub total: Option<u64>,
}

/// A file of a repository as its hub describes it.
#[derive(Debug, Clone)]
struct Entry {
    path: String,
    size: Option<u64>,
    digest: Option<Digest>,
}

/// A repository at one revision.
#[derive(Debug, Clone)]
struct Listing {
    /// The commit; on ModelScope, which lists none, the revision itself.
    commit: String,
    files: Vec<Entry>,
}

/// Access to both hubs through their caches.
pub struct Hub<'a> {
    settings: &'a HubConfig,
    transfer: Transfer,
    on_progress: &'a mut dyn FnMut(Progress<'_>),
}

impl fmt::Debug for Hub<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// The path of a reference in the cache: a file, or a folder with a whole model; `None` where it is incomplete.
pub fn cached(settings: &HubConfig, reference: &Reference) -> Option<PathBuf> {
    reference.kinds().into_iter().find_map(|kind| cache_of(settings, reference, kind).find(reference))
}

fn cache_of(settings: &HubConfig, reference: &Reference, kind: Kind) -> Cache {
    let root = match reference.site {
        Site::HuggingFace => &settings.hf_cache,
        Site::ModelScope => &settings.ms_cache,
    };
    Cache::new(root, kind, &reference.repo)
}

impl<'a> Hub<'a> {
    /// Opens no connection yet; `on_progress` is called for every piece that arrives.
    pub fn new(settings: &'a HubConfig, on_progress: &'a mut dyn FnMut(Progress<'_>)) -> Self {
        Self { settings, transfer: Transfer::new(), on_progress }
    }

    /// The path of a reference, from the cache where it is complete, else from its hub.
    ///
    /// # Errors
    /// It does not exist, this user has no access, it was damaged on the way, or the hub cannot be reached.
    pub fn get(&mut self, reference: &Reference) -> Result<PathBuf> {
        match cached(self.settings, reference) {
            Some(path) => Ok(path),
            None => self.pull(reference),
        }
    }

    /// Asks the hub for the newest version and downloads what is missing. Where the hub cannot be reached, the cache is
    /// used, with a warning.
    ///
    /// # Errors
    /// As [`Hub::get`].
    pub fn pull(&mut self, reference: &Reference) -> Result<PathBuf> {
        if self.settings.offline {
            return cached(self.settings, reference).ok_or_else(|| {
                Error::failed(format!("`{reference}` is not in the cache, and the hub is not asked offline"))
                    .hint("unset HF_HUB_OFFLINE and run this once with a connection")
            });
        }
        match self.fetch(reference) {
            Err(fault) if fault.what().starts_with(transfer::UNREACHABLE) => {
                let Some(path) = cached(self.settings, reference) else { return Err(fault) };
                tracing::warn!("the hub cannot be reached; the cache's {} is used", path.display());
                Ok(path)
            }
            other => other,
        }
    }

    fn fetch(&mut self, reference: &Reference) -> Result<PathBuf> {
        let mut absent = None;
        for kind in reference.kinds() {
            match self.list(reference, kind) {
                Ok(listing) => return self.download(reference, kind, &listing),
                Err(fault) if fault.what().starts_with(transfer::ABSENT) => {
                    absent.get_or_insert(fault);
                }
                Err(fault) => return Err(fault),
            }
        }
        Err(absent.unwrap_or_else(|| Error::failed(format!("`{reference}` is not there"))))
    }

    fn list(&self, reference: &Reference, kind: Kind) -> Result<Listing> {
        match reference.site {
            Site::HuggingFace => huggingface::list(self.settings, &self.transfer, reference, kind),
            Site::ModelScope => modelscope::list(self.settings, &self.transfer, reference, kind),
        }
    }

    /// Downloads the wanted files of a listing into the cache, weights last: a snapshot with weights is complete.
    fn download(&mut self, reference: &Reference, kind: Kind, listing: &Listing) -> Result<PathBuf> {
        let cache = cache_of(self.settings, reference, kind);
        let wanted = reference.select_files(kind, &listing.files)?;
        for entry in wanted {
            if cache.has(&listing.commit, entry) {
                continue;
            }
            let (entry, source) = match reference.site {
                Site::HuggingFace => {
                    huggingface::resolve(self.settings, &self.transfer, reference, kind, listing, entry)?
                }
                Site::ModelScope => modelscope::resolve(self.settings, reference, kind, listing, entry),
            };
            let mut shown = |done, total| (self.on_progress)(Progress { file: &entry.path, done, total });
            cache.add(&listing.commit, &entry, |part| {
                self.transfer.download(&source, &entry, part, &mut shown)
            })?;
        }
        cache.set_ref(reference.revision(), &listing.commit)?;
        Ok(cache.path(&listing.commit, reference.file.as_deref()))
    }
}
