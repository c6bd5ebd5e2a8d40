//! Parquet and arrow files: columns whose types are found over all rows first (`column_types`).
//!
//! Null and an absent key are one there: readers leave both out.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_ipc::MetadataVersion;
use arrow_ipc::writer::{FileWriter, IpcWriteOptions};
use arrow_schema::{ArrowError, Schema, SchemaRef};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;

use super::column_types::ColumnType;
use super::packed::Packer;
use super::spool::{Spool, Spooled};
use super::{FileKind, OutRow, Written};
use crate::data::jsonl::{self, RowFault};
use crate::error::{Error, Result};

/// More columns are not a table.
const MOST_COLUMNS: usize = 1000;
/// A batch ends at so many rows, or so many bytes.
const BATCH_ROWS: usize = 4096;
const BATCH_BYTES: usize = 8 << 20;
/// Parquet keeps a group of rows in memory until it is written.
const GROUP_BYTES: usize = 64 << 20;

/// Rows whose columns are known.
pub(super) struct Columns {
    types: ColumnType,
    mixed: Vec<String>,
    rows: Spooled,
}

impl Columns {
    /// Reads all rows.
    pub(super) fn collect(folder: &Path, rows: impl Iterator<Item = Result<OutRow>>) -> Result<Self> {
        let (mut types, mut spool) = (ColumnType::empty(), Spool::new(folder)?);
        for row in rows {
            let OutRow { place, bytes } = row?;
            let value = jsonl::parse(&bytes).map_err(|fault| fault.into_error().at(place.clone()))?;
            types.add_row(&value);
            if types.keys() > MOST_COLUMNS {
                return Err(Error::input(format!(
                    "up to this row the rows have more than {MOST_COLUMNS} keys"
                ))
                .at(place)
                .hint("a table has a column a key: write .jsonl"));
            }
            spool.push(bytes)?;
        }
        if types.keys() == 0 {
            return Err(Error::input("no row has a key: a table would have no column").hint("write .jsonl"));
        }
        let mut mixed = Vec::new();
        types.settle("", &mut mixed);
        Ok(Self { types, mixed, rows: spool.finish()? })
    }

    /// Writes the file.
    pub(super) fn write(
        mut self,
        path: &Path,
        kind: FileKind,
        out: &mut Packer<&mut BufWriter<File>>,
    ) -> Result<Written> {
        let schema: SchemaRef = Arc::new(Schema::new(self.types.fields()));
        let mut table = Table::new(kind, out, &schema).map_err(|e| e.at(path))?;
        let (mut rows, mut bytes, mut of_all) = (Vec::new(), 0, self.rows.rows()?);
        loop {
            let row = of_all.next().transpose()?;
            if rows.len() >= BATCH_ROWS || bytes >= BATCH_BYTES || row.is_none() {
                let batch = self.types.batch(&schema, &rows).map_err(Fault::from);
                batch.and_then(|batch| table.write(&batch)).map_err(|e| e.at(path))?;
                rows.clear();
                bytes = 0;
            }
            let Some(row) = row else { break };
            bytes += row.len();
            rows.push(jsonl::parse(&row).map_err(RowFault::into_error)?);
        }
        table.finish().map_err(|e| e.at(path))?;
        let mut notes = Vec::new();
        if !self.mixed.is_empty() {
            notes.push(format!(
                "values of several kinds, and objects that have no or too many keys, are written as JSON text: {}",
                self.mixed.join(", ")
            ));
        }
        Ok(Written { rows: self.rows.len(), notes })
    }
}

/// What the libraries say.
enum Fault {
    Arrow(ArrowError),
    Parquet(ParquetError),
}

impl From<ArrowError> for Fault {
    fn from(error: ArrowError) -> Self {
        Self::Arrow(error)
    }
}

impl From<ParquetError> for Fault {
    fn from(error: ParquetError) -> Self {
        Self::Parquet(error)
    }
}

impl Fault {
    fn at(self, path: &Path) -> Error {
        let failed =
            |cause: String| Error::failed(format!("{} cannot be written", path.display())).because(cause);
        match self {
            Self::Arrow(ArrowError::IoError(_, error)) => Error::io("write", path, error),
            Self::Arrow(error) => failed(error.to_string()),
            Self::Parquet(ParquetError::External(error)) => match error.downcast::<std::io::Error>() {
                Ok(error) => Error::io("write", path, *error),
                Err(error) => failed(error.to_string()),
            },
            Self::Parquet(error) => failed(error.to_string()),
        }
    }
}

/// A file of columns that is being written.
enum Table<W: Write + Send> {
    Parquet(Box<ArrowWriter<W>>),
    Arrow(Box<FileWriter<W>>),
}

impl<W: Write + Send> Table<W> {
    fn new(kind: FileKind, out: W, schema: &SchemaRef) -> Result<Self, Fault> {
        if kind == FileKind::Arrow {
            // Eight bytes before the schema, as the format has it: readers of streams skip no more.
            let options = IpcWriteOptions::try_new(8, false, MetadataVersion::V5)?;
            return Ok(Self::Arrow(Box::new(FileWriter::try_new_with_options(out, schema, options)?)));
        }
        let zstd = Compression::ZSTD(ZstdLevel::default());
        let settings = WriterProperties::builder().set_compression(zstd).build();
        Ok(Self::Parquet(Box::new(ArrowWriter::try_new(out, Arc::clone(schema), Some(settings))?)))
    }

    fn write(&mut self, batch: &RecordBatch) -> Result<(), Fault> {
        match self {
            Self::Parquet(table) => {
                table.write(batch)?;
                if table.memory_size().max(table.in_progress_size()) > GROUP_BYTES {
                    table.flush()?;
                }
            }
            Self::Arrow(table) => table.write(batch)?,
        }
        Ok(())
    }

    fn finish(self) -> Result<(), Fault> {
        match self {
            Self::Parquet(table) => _ = table.close()?,
            Self::Arrow(mut table) => table.finish()?,
        }
        Ok(())
    }
}
