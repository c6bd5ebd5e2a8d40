//! Models and data sets from the hubs: Hugging Face (`hf:OWNER/NAME`) and ModelScope (`ms:OWNER/NAME`).
//!
//! A [`Reference`] names a repository or a file of one; [`Hub`] downloads it into the cache, whole and checked, and
//! returns its path. What is in the cache needs no network. The hf-hub crate is not used: it checks no hash and no range
//! when it resumes a part, and does not know ModelScope.
//! Next: `reference`, `transfer` (one file), `cache` (the layout on disk), `huggingface` and `modelscope` (protocols).

mod cache;
mod config;
mod digest;
mod huggingface;
mod modelscope;
pub mod reference;
mod repo;
mod transfer;

use std::fmt;
use std::path::PathBuf;

pub use config::HubConfig;
pub use reference::Reference;

use crate::error::{Error, Result};
use cache::Cache;
use reference::{RepoType, Site};
use repo::Listing;
use transfer::Transfer;

/// How far the download of a file is.
#[derive(Debug, Clone, Copy)]
pub struct Progress<'a> {
    /// Its name in the repository.
    pub file: &'a str,
    /// Bytes of the file that are on this machine so far.
    pub done: u64,
    /// Bytes in all, where the hub states them.
    pub total: Option<u64>,
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
    reference
        .repo_types()
        .into_iter()
        .find_map(|repo_type| cache_of(settings, reference, repo_type).find(reference))
}

fn cache_of(settings: &HubConfig, reference: &Reference, repo_type: RepoType) -> Cache {
    let root = match reference.site {
        Site::HuggingFace => &settings.hf_cache,
        Site::ModelScope => &settings.ms_cache,
    };
    Cache::new(root, repo_type, &reference.repo)
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
        for repo_type in reference.repo_types() {
            match self.list(reference, repo_type) {
                Ok(listing) => return self.download(reference, &listing),
                Err(fault) if fault.what().starts_with(transfer::ABSENT) => {
                    absent.get_or_insert(fault);
                }
                Err(fault) => return Err(fault),
            }
        }
        Err(absent.unwrap_or_else(|| Error::failed(format!("`{reference}` is not there"))))
    }

    fn list(&self, reference: &Reference, repo_type: RepoType) -> Result<Listing> {
        match reference.site {
            Site::HuggingFace => huggingface::list(self.settings, &self.transfer, reference, repo_type),
            Site::ModelScope => modelscope::list(self.settings, &self.transfer, reference, repo_type),
        }
    }

    /// Downloads the wanted files of a listing into the cache, weights last: a snapshot with weights is complete.
    fn download(&mut self, reference: &Reference, listing: &Listing) -> Result<PathBuf> {
        let cache = cache_of(self.settings, reference, listing.repo_type);
        let wanted = reference.select_files(listing.repo_type, &listing.files)?;
        for entry in wanted {
            if cache.has(&listing.commit, entry) {
                continue;
            }
            let (entry, source) = match reference.site {
                Site::HuggingFace => {
                    huggingface::resolve(self.settings, &self.transfer, reference, listing, entry)?
                }
                Site::ModelScope => modelscope::resolve(self.settings, reference, listing, entry),
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
