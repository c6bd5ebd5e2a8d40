//! What stands in for `columns` in a program without the feature `parquet`.

use std::io::Write;
use std::path::Path;

use super::{OutRow, Written};
use crate::data::reader::FileKind;
use crate::error::{Error, Result};

/// Never made: [`super::Target::of`] refuses such files.
pub(super) struct Columns;

impl Columns {
    /// Refuses.
    pub(super) fn collect(_folder: &Path, _rows: impl Iterator<Item = Result<OutRow>>) -> Result<Self> {
        Err(Error::input("this program was built without the feature `parquet`"))
    }

    /// Writes nothing.
    pub(super) fn write(self, _path: &Path, _kind: FileKind, _out: &mut dyn Write) -> Result<Written> {
        Ok(Written::default())
    }
}
