//! Parquet: batches of a bounded number of bytes, pages as they come.
//!
//! A row group may be larger than memory; of each of its columns one page and one dictionary are held. Texts are views into
//! their pages, so that a dictionary's long text is not copied for every row that names it. Next: `footer`.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::{DataType, Field, Fields, Schema};
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::reader::{ChunkReader, Length};

use super::{Batches, Wrong, footer};
use crate::data::progress::count_read;

/// The bytes that a batch aims at, by what the row group says of itself.
const BATCH_BYTES: i64 = 8 << 20;
/// The most rows of a batch.
const BATCH_ROWS: i64 = 1024;

/// A file of which no more is asked than it holds.
#[derive(Clone)]
struct Whole(Arc<File>, u64);

impl Length for Whole {
    fn len(&self) -> u64 {
        self.1
    }
}

impl ChunkReader for Whole {
    type T = BufReader<At>;

    fn get_read(&self, start: u64) -> ParquetResult<Self::T> {
        Ok(BufReader::new(At { file: Arc::clone(&self.0), at: start }))
    }

    fn get_bytes(&self, start: u64, length: usize) -> ParquetResult<bytes::Bytes> {
        if start.checked_add(length as u64).is_none_or(|end| end > self.1) {
            return Err(ParquetError::EOF(format!("{length} bytes are wanted from byte {start} on")));
        }
        let mut buffer = vec![0; length];
        At { file: Arc::clone(&self.0), at: start }.read_exact(&mut buffer)?;
        Ok(buffer.into())
    }
}

/// A file from a place on.
struct At {
    file: Arc<File>,
    at: u64,
}

impl Read for At {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut file = &*self.file;
        file.seek(SeekFrom::Start(self.at))?;
        let read = file.read(buffer)?;
        self.at += read as u64;
        count_read(read);
        Ok(read)
    }
}

pub(super) fn batches(mut file: File) -> Result<Batches, Wrong> {
    let size = footer::check(&mut file)?;
    let file = Whole(Arc::new(file), size);
    let known = ArrowReaderMetadata::load(&file, ArrowReaderOptions::new()).map_err(|e| e.to_string())?;
    let views =
        Arc::new(Schema::new(viewed(known.schema().fields())).with_metadata(known.schema().metadata.clone()));
    let options = ArrowReaderOptions::new().with_schema(views);
    // Where a type has no view (a dictionary's own, say), columns come as they are stored.
    let known = ArrowReaderMetadata::try_new(Arc::clone(known.metadata()), options).unwrap_or(known);
    let groups = known.metadata().num_row_groups();
    let mut open: Option<ParquetRecordBatchReader> = None;
    let mut group = 0;
    Ok(Box::new(std::iter::from_fn(move || {
        loop {
            if let Some(batch) = open.as_mut().and_then(Iterator::next) {
                return Some(batch.map_err(|e| e.to_string()));
            }
            if group == groups {
                return None;
            }
            match reader(&file, &known, group) {
                Ok(reader) => open = Some(reader),
                Err(why) => return Some(Err::<RecordBatch, _>(why)),
            }
            group += 1;
        }
    })))
}

/// The batches of one row group.
fn reader(
    file: &Whole,
    known: &ArrowReaderMetadata,
    group: usize,
) -> Result<ParquetRecordBatchReader, Wrong> {
    let about = known.metadata().row_group(group);
    let bytes_a_row = about.total_byte_size().max(1) / about.num_rows().max(1);
    let rows = (BATCH_BYTES / bytes_a_row.max(1)).clamp(1, BATCH_ROWS);
    ParquetRecordBatchReaderBuilder::new_with_metadata(file.clone(), known.clone())
        .with_row_groups(vec![group])
        .with_batch_size(rows as usize)
        .build()
        .map_err(|e| e.to_string())
}

/// Fields with texts and bytes as views.
fn viewed(fields: &Fields) -> Fields {
    let own = |field: &Arc<Field>| -> Arc<Field> {
        let item = |field: &Arc<Field>| Arc::clone(&viewed(&vec![Arc::clone(field)].into())[0]);
        let form = match field.data_type() {
            DataType::Utf8 | DataType::LargeUtf8 => DataType::Utf8View,
            DataType::Binary | DataType::LargeBinary => DataType::BinaryView,
            DataType::List(inner) => DataType::List(item(inner)),
            DataType::LargeList(inner) => DataType::LargeList(item(inner)),
            DataType::Struct(inner) => DataType::Struct(viewed(inner)),
            other => other.clone(),
        };
        Arc::new(field.as_ref().clone().with_data_type(form))
    };
    fields.iter().map(own).collect()
}
