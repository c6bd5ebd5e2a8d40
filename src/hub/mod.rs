//! Models and data sets from the hubs: Hugging Face (`hf:OWNER/NAME`) and ModelScope (`ms:OWNER/NAME`).
//!
//! A [`Reference`] names a repository or a file of one; [`Hub`] downloads it into the cache, whole and checked, and
//! returns its path. What is in the cache needs no network. The hf-hub crate is not used: it checks no hash and no range
//! when it resumes a part, and does not know ModelScope.
//! Next: `reference`, `data_set` (subsets and splits), `transfer` (one file), `cache` (the layout on disk), `huggingface` and `modelscope` (protocols).

mod cache;
mod config;
mod data_set;
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
use repo::{Listing, RepoFile};
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

/// The files of a reference to data in the cache: a file, or those of a data set's split; `None` where one is missing.
pub fn cached_data(settings: &HubConfig, reference: &Reference) -> Option<Vec<PathBuf>> {
    let part = || cache_of(settings, reference, RepoType::Dataset).find_part(reference);
    reference.file.as_ref().and_then(|_| cached(settings, reference)).map(|file| vec![file]).or_else(part)
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
        let found = cached(self.settings, reference);
        self.newest(reference, found, |hub, listing| {
            let wanted = reference.select_files(listing.repo_type, &listing.files)?;
            hub.download(reference, listing, &wanted)?;
            let cache = cache_of(hub.settings, reference, listing.repo_type);
            Ok(cache.path(&listing.commit, reference.file.as_deref()))
        })
    }

    /// The files of a reference to data, in order, from the cache where they are complete, else from its hub: a file, those
    /// of a folder, or those of a data set's split. `readable` tells files of data by their names.
    ///
    /// # Errors
    /// As [`Hub::get`], and there is no such subset or split, or several and none is named.
    pub fn get_data(&mut self, reference: &Reference, readable: fn(&str) -> bool) -> Result<Vec<PathBuf>> {
        match cached_data(self.settings, reference) {
            Some(files) => Ok(files),
            None => self.pull_data(reference, readable),
        }
    }

    /// [`Hub::pull`] of a model, a file, or data: its path or paths.
    ///
    /// # Errors
    /// As [`Hub::get_data`].
    pub fn pull_data(&mut self, reference: &Reference, readable: fn(&str) -> bool) -> Result<Vec<PathBuf>> {
        let model = || cached(self.settings, reference).map(|path| vec![path]);
        let found = cached_data(self.settings, reference).or_else(model);
        self.newest(reference, found, |hub, listing| {
            let is_file =
                reference.file.as_ref().is_some_and(|file| listing.files.iter().any(|f| f.path == *file));
            if is_file || listing.repo_type == RepoType::Model {
                let wanted = reference.select_files(listing.repo_type, &listing.files)?;
                hub.download(reference, listing, &wanted)?;
                let cache = cache_of(hub.settings, reference, listing.repo_type);
                return Ok(vec![cache.path(&listing.commit, reference.file.as_deref())]);
            }
            hub.data_set(reference, listing, readable)
        })
    }

    /// What `bring` makes of the newest listing; where the hub cannot be reached, what was `found` in the cache.
    fn newest<T: fmt::Debug>(
        &mut self,
        reference: &Reference,
        found: Option<T>,
        bring: impl FnOnce(&mut Self, &Listing) -> Result<T>,
    ) -> Result<T> {
        if self.settings.offline {
            return found.ok_or_else(|| {
                Error::failed(format!("`{reference}` is not in the cache, and the hub is not asked offline"))
                    .hint("unset HF_HUB_OFFLINE and run this once with a connection")
            });
        }
        match (self.find(reference).and_then(|listing| bring(self, &listing)), found) {
            (Err(fault), Some(found)) if fault.what().starts_with(transfer::UNREACHABLE) => {
                tracing::warn!("the hub cannot be reached; the cache's {found:?} is used");
                Ok(found)
            }
            (other, _) => other,
        }
    }

    /// The listing of the repository, of whichever kind it is.
    fn find(&self, reference: &Reference) -> Result<Listing> {
        let mut absent = None;
        for repo_type in reference.repo_types() {
            match self.list(reference, repo_type) {
                Err(fault) if fault.what().starts_with(transfer::ABSENT) => {
                    absent.get_or_insert(fault);
                }
                other => return other,
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

    /// Downloads the split of a data set that is asked for: its own files where they can be read, else the hub's conversion.
    fn data_set(
        &mut self,
        reference: &Reference,
        listing: &Listing,
        readable: fn(&str) -> bool,
    ) -> Result<Vec<PathBuf>> {
        let below = reference.file.as_ref().map_or(String::new(), |folder| format!("{folder}/"));
        let data = |listing: &Listing| -> Vec<String> {
            let names = listing.files.iter().map(|file| file.path.clone());
            names.filter(|name| name.starts_with(&below) && data_set::is_data(name, readable)).collect()
        };
        let own = data(listing);
        let own: Vec<&str> = own.iter().map(String::as_str).collect();
        let readme = if below.is_empty() { self.readme(reference, listing)? } else { String::new() };
        let mut subsets = data_set::by_readme(&readme, &own);
        let stated = !subsets.is_empty();
        if subsets.is_empty() {
            subsets = data_set::by_names(&own);
        }
        // Hugging Face converted what a program of the data set's own makes, and knows subsets that no README states.
        let program = format!("{}.py", reference.repo.rsplit('/').next().unwrap_or_default());
        let converts = reference.site == Site::HuggingFace
            && below.is_empty()
            && (listing.files.iter().any(|file| file.path == program) || !data_set::has(&subsets, reference));
        if !subsets.is_empty() && (!converts || stated) {
            let files = data_set::choose(&subsets, reference)?;
            return self.bring_part(reference, reference, listing, files);
        }
        if reference.site == Site::ModelScope || !below.is_empty() {
            // The listing names what is there.
            return reference.select_files(listing.repo_type, &listing.files).map(|_| Vec::new());
        }
        let converted = Reference { revision: Some(data_set::CONVERSION.to_owned()), ..reference.clone() };
        let listing = self.list(&converted, RepoType::Dataset).map_err(|fault| {
            if !fault.what().starts_with(transfer::ABSENT) {
                return fault;
            }
            Error::input(format!(
                "`{reference}` has no files of rows that can be read, and the hub converted none"
            ))
            .hint("its page on the hub shows its files: name one, as hf:datasets/OWNER/NAME/FILE")
        })?;
        let files = data(&listing);
        let subsets = data_set::by_conversion(&files.iter().map(String::as_str).collect::<Vec<_>>());
        let files = data_set::choose(&subsets, reference)?;
        tracing::info!("{reference}: the hub's own conversion to Parquet is read");
        self.bring_part(reference, &converted, &listing, files)
    }

    /// Downloads files of a data set, and keeps that they are what `reference` asked for.
    fn bring_part(
        &mut self,
        reference: &Reference,
        source: &Reference,
        listing: &Listing,
        files: &[String],
    ) -> Result<Vec<PathBuf>> {
        let wanted: Vec<&RepoFile> = listing.files.iter().filter(|file| files.contains(&file.path)).collect();
        self.download(source, listing, &wanted)?;
        let cache = cache_of(self.settings, reference, RepoType::Dataset);
        cache.set_part(reference, &listing.commit, files)?;
        Ok(files.iter().map(|file| cache.path(&listing.commit, Some(file))).collect())
    }

    /// The README of a data set; empty where it has none.
    fn readme(&mut self, reference: &Reference, listing: &Listing) -> Result<String> {
        let Some(entry) = listing.files.iter().find(|file| file.path == "README.md") else {
            return Ok(String::new());
        };
        self.download(reference, listing, &[entry])?;
        let path =
            cache_of(self.settings, reference, listing.repo_type).path(&listing.commit, Some(&entry.path));
        let bytes = crate::files::read(&path).map_err(|e| Error::io("read", &path, e))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Downloads files of a listing into the cache, in order: of a model the weights are last, and a snapshot with weights is
    /// complete.
    fn download(&mut self, reference: &Reference, listing: &Listing, wanted: &[&RepoFile]) -> Result<()> {
        let cache = cache_of(self.settings, reference, listing.repo_type);
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
        cache.set_ref(reference.revision(), &listing.commit)
    }
}
