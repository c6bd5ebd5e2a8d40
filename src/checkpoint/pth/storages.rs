//! The storages that a pickle refers to: records of a zip, or bytes after the pickle (`legacy`).

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use super::archive::Archive;
use crate::checkpoint::dtype::DType;
use crate::checkpoint::host_tensor::Storage;
use crate::error::Result;

/// A storage as the persistent id of a pickle describes it.
#[derive(Debug, Clone)]
pub struct StorageId {
    /// Its name in the file.
    pub key: Rc<str>,
    /// Type of its elements.
    pub dtype: DType,
    /// Number of elements.
    pub numel: usize,
    /// A part of it, in elements: name, first, number.
    pub view: Option<(Rc<str>, usize, usize)>,
}

/// Where a pickle finds its storages.
pub trait Storages {
    /// Bytes of the whole file.
    fn size(&self) -> usize;
    /// The storage; `None` where its place is not known yet.
    ///
    /// # Errors
    /// There is no such storage, or it is described in two ways.
    fn find(&self, id: &StorageId) -> Result<Option<Arc<Storage>>>;
}

/// The records of a zip.
#[derive(Debug)]
pub struct Records<'a> {
    /// The file.
    pub archive: &'a Archive,
    /// The folder of the storages.
    pub within: &'a str,
    /// The names that were looked up.
    pub used: RefCell<Vec<String>>,
}

impl Storages for Records<'_> {
    fn size(&self) -> usize {
        self.archive.size()
    }

    fn find(&self, id: &StorageId) -> Result<Option<Arc<Storage>>> {
        let found = self.archive.storage(self.within, &id.key, id.dtype)?;
        self.used.borrow_mut().push(id.key.to_string());
        Ok(Some(found))
    }
}
