//! Where a pickle's storages lie: in the records of a zip, or behind the pickle (`legacy`).

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use super::archive::Archive;
use crate::checkpoint::dtype::DType;
use crate::checkpoint::host_tensor::Storage;
use crate::error::Result;

/// A storage as a pickle describes it.
#[derive(Debug, Clone)]
pub struct Described {
    /// Its name in the file.
    pub key: Rc<str>,
    /// Of its elements.
    pub dtype: DType,
    /// Elements.
    pub numel: usize,
    /// A part of it, in elements: name, first, number.
    pub view: Option<(Rc<str>, usize, usize)>,
}

/// What knows the storages.
pub trait Storages {
    /// Bytes of the whole file.
    fn size(&self) -> usize;
    /// The bytes; none where it is only noted.
    fn find(&self, described: &Described) -> Result<Option<Arc<Storage>>>;
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

    fn find(&self, described: &Described) -> Result<Option<Arc<Storage>>> {
        let found = self.archive.storage(self.within, &described.key, described.dtype)?;
        self.used.borrow_mut().push(described.key.to_string());
        Ok(Some(found))
    }
}
