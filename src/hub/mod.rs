//! Models and data sets from the hubs: Hugging Face (`hf:OWNER/NAME`) and ModelScope (`ms:OWNER/NAME`).
//!
//! A [`Reference`] names a repository or a file of one; [`Hub`] brings it into the cache, whole and checked,
//! and gives its path. What is in the cache needs no network. The hf-hub crate is not used: it checks no
//! hash and no range when it goes on with a part, and knows no ModelScope; `transfer` is small instead.
//! Next: `reference`, `transfer` (one file), `cache` (where it lies), `huggingface` and `modelscope`.

mod cache;
mod huggingface;
mod modelscope;
pub mod reference;
mod transfer;

use std::fmt;
use std::path::PathBuf;

pub use reference::Reference;

use crate::error::{Error, Result};
use cache::Cache;
use reference::{Kind, Site};
use transfer::{Digest, Transfer};

/// Where the hubs are and what opens them: plain values that `plan::machine` reads.
#[derive(Clone, Default)]
pub struct Settings {
    /// `https://huggingface.co` or a mirror.
    pub hf_endpoint: String,
    /// Opens private and gated repositories there.
    pub hf_token: Option<String>,
    /// The cache that Hugging Face's own tools use too.
    pub hf_cache: PathBuf,
    /// `https://www.modelscope.cn`.
    pub ms_endpoint: String,
    /// Opens private repositories there.
    pub ms_token: Option<String>,
    /// The cache for ModelScope.
    pub ms_cache: PathBuf,
    /// Never ask a hub: the cache has to do.
    pub offline: bool,
}

impl fmt::Debug for Settings {
    /// Without the tokens: they are secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("hf_endpoint", &self.hf_endpoint)
            .field("hf_cache", &self.hf_cache)
            .field("ms_endpoint", &self.ms_endpoint)
            .field("ms_cache", &self.ms_cache)
            .field("offline", &self.offline)
            .finish_non_exhaustive()
    }
}

/// How far a file is.
#[derive(Debug, Clone, Copy)]
pub struct Progress<'a> {
    /// Its name in the repository.
    pub file: &'a str,
    /// Bytes here.
    pub done: u64,
    /// Bytes in all, where the hub says.
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
    /// The revision's own name: a commit where the hub has them.
    commit: String,
    files: Vec<Entry>,
}

/// The hubs.
pub struct Hub<'a> {
    settings: &'a Settings,
    transfer: Transfer,
    watch: &'a mut dyn FnMut(Progress<'_>),
}

impl fmt::Debug for Hub<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// What the cache holds of a reference: a file, or a folder with a whole model; `None` where it is not whole.
pub fn cached(settings: &Settings, reference: &Reference) -> Option<PathBuf> {
    reference.kinds().into_iter().find_map(|kind| cache_of(settings, reference, kind).find(reference))
}

fn cache_of(settings: &Settings, reference: &Reference, kind: Kind) -> Cache {
    let root = match reference.site {
        Site::HuggingFace => &settings.hf_cache,
        Site::ModelScope => &settings.ms_cache,
    };
    Cache::new(root, kind, &reference.repo)
}

impl<'a> Hub<'a> {
    /// Opens no connection yet; `watch` is told of every piece that arrives.
    pub fn new(settings: &'a Settings, watch: &'a mut dyn FnMut(Progress<'_>)) -> Self {
        Self { settings, transfer: Transfer::new(), watch }
    }

    /// The path of a reference: from the cache where it is whole, else from its hub.
    ///
    /// # Errors
    /// It is not there, not open to this user, damaged on the way, or the hub cannot be reached.
    pub fn get(&mut self, reference: &Reference) -> Result<PathBuf> {
        match cached(self.settings, reference) {
            Some(path) => Ok(path),
            None => self.pull(reference),
        }
    }

    /// Asks the hub for the newest version and brings what is missing here; where the hub cannot be
    /// reached, what the cache has is said and used.
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
                Ok(listing) => return self.bring(reference, kind, &listing),
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

    /// Brings the wanted files of a listing into the cache, weights last: a snapshot with weights is whole.
    fn bring(&mut self, reference: &Reference, kind: Kind, listing: &Listing) -> Result<PathBuf> {
        let cache = cache_of(self.settings, reference, kind);
        let wanted = reference.choose(kind, &listing.files)?;
        for entry in wanted {
            if cache.has(&listing.commit, entry) {
                continue;
            }
            let (entry, source) = match reference.site {
                Site::HuggingFace => {
                    huggingface::locate(self.settings, &self.transfer, reference, kind, listing, entry)?
                }
                Site::ModelScope => modelscope::locate(self.settings, reference, kind, listing, entry),
            };
            let mut shown = |done, total| (self.watch)(Progress { file: &entry.path, done, total });
            cache.add(&listing.commit, &entry, |part| {
                self.transfer.download(&source, &entry, part, &mut shown)
            })?;
        }
        cache.point(reference.revision(), &listing.commit)?;
        Ok(cache.path(&listing.commit, reference.file.as_deref()))
    }
}
