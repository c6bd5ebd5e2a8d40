//! Rows that wait in a temporary file until all of them have been seen.
//!
//! The file has no name and is gone when the program ends, however it ends.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Quick, and a third of the space.
const ZSTD_LEVEL: i32 = 1;

/// A temporary file that rows are put into.
pub struct Spool {
    folder: PathBuf,
    out: zstd::stream::write::Encoder<'static, BufWriter<File>>,
    rows: usize,
}

/// A temporary file whose rows can be read, more than once.
#[derive(Debug)]
pub struct Spooled {
    folder: PathBuf,
    file: File,
    rows: usize,
}

fn fault(folder: &Path) -> impl Fn(std::io::Error) -> Error {
    |e| Error::io("write a temporary file in", folder, e)
}

impl Spool {
    /// A temporary file in a folder that has room for the rows.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn new(folder: &Path) -> Result<Self> {
        let file = tempfile::tempfile_in(folder).map_err(fault(folder))?;
        let out = zstd::stream::write::Encoder::new(BufWriter::with_capacity(1 << 20, file), ZSTD_LEVEL);
        Ok(Self { folder: folder.to_owned(), out: out.map_err(fault(folder))?, rows: 0 })
    }

    /// Puts a row's text into it.
    ///
    /// # Errors
    /// The disk fails or is full.
    pub fn push(&mut self, bytes: Vec<u8>) -> Result<()> {
        let mut line = super::in_one_line(bytes);
        line.push(b'\n');
        self.rows += 1;
        self.out.write_all(&line).map_err(fault(&self.folder))
    }

    /// The rows, once all are there.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub fn finish(self) -> Result<Spooled> {
        let Self { folder, out, rows } = self;
        let out = out.finish().map_err(fault(&folder))?;
        let file = out.into_inner().map_err(|e| fault(&folder)(e.into_error()))?;
        Ok(Spooled { folder, file, rows })
    }
}

impl Spooled {
    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// The text of every row, from the first on.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn rows(&mut self) -> Result<impl Iterator<Item = Result<Vec<u8>>> + use<>> {
        let folder = self.folder.clone();
        let fault = move |e| Error::io("read a temporary file in", &folder, e);
        self.file.seek(SeekFrom::Start(0)).map_err(&fault)?;
        let file = self.file.try_clone().map_err(&fault)?;
        let decoder = zstd::stream::read::Decoder::new(file).map_err(&fault)?;
        let mut lines = BufReader::with_capacity(1 << 20, decoder);
        Ok(std::iter::from_fn(move || {
            let mut line = Vec::new();
            match lines.read_until(b'\n', &mut line) {
                Ok(0) => None,
                Ok(_) => {
                    line.pop();
                    Some(Ok(line))
                }
                Err(error) => Some(Err(fault(error))),
            }
        }))
    }
}
