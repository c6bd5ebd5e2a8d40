//! Writes a token cache: rows are read, encoded and written at the same time, a chunk of each.
//!
//! A thread reads (and unpacks), all cores encode, a thread writes. At most a few chunks are on the way, and what is kept of
//! each row goes to a file of its own until the end, so that memory does not grow with rows.

use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::{io, thread};

use rayon::prelude::*;

use super::{Encoded, Filtered, HEADER_BYTES, INDEX_BYTES, LOSS_BIT, Line, MAGIC, TokenizedRow};
use crate::error::{Error, Result};

const CHUNK_ROWS: usize = 2048;
const CHUNK_BYTES: usize = 16 << 20;
/// Chunks that wait between two threads.
const WAITING: usize = 1;

/// Rows as they were read.
struct Chunk {
    lines: Vec<Line>,
    bytes: u64,
}

/// What is written of a chunk.
#[derive(Default)]
struct EncodedChunk {
    ids: Vec<u8>,
    /// Of each row: tokens, bytes of the text with loss, labels with loss.
    rows: Vec<(u64, u32, u32)>,
    skipped: u64,
    filtered: Filtered,
    source_bytes: u64,
}

/// Encodes `lines` into a new file.
///
/// # Errors
/// As [`super::build`].
pub(super) fn write(
    path: &Path,
    lines: impl Iterator<Item = Result<Line>> + Send,
    encode: impl Fn(&Line) -> Result<Encoded> + Sync,
) -> Result<()> {
    let failed = |e| Error::io("write the token cache", path, e);
    let writer = CacheWriter::create(path).map_err(failed)?;
    thread::scope(|scope| {
        let (read, chunks) = sync_channel(WAITING);
        let (encoded, ready) = sync_channel(WAITING);
        scope.spawn(move || read_chunks(lines, &read));
        let written = scope.spawn(move || writer.write_all(&ready));
        let all = encode_chunks(chunks, &encoded, &encode);
        drop(encoded);
        let written = written.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        all?;
        written.and_then(CacheWriter::finish).map_err(failed)
    })
}

/// Sends rows in chunks, until there are no more or nobody takes them.
fn read_chunks(mut lines: impl Iterator<Item = Result<Line>>, to: &SyncSender<Result<Chunk>>) {
    loop {
        let (mut chunk, mut fault) = (Chunk { lines: Vec::new(), bytes: 0 }, None);
        while chunk.lines.len() < CHUNK_ROWS && chunk.bytes < CHUNK_BYTES as u64 && fault.is_none() {
            match lines.next() {
                None => break,
                Some(Ok(line)) => {
                    chunk.bytes += line.bytes.len() as u64 + 1;
                    chunk.lines.push(line);
                }
                Some(Err(error)) => fault = Some(error),
            }
        }
        // The rows before a fault come first: one of them may be bad.
        let last = chunk.lines.is_empty();
        if !last && to.send(Ok(chunk)).is_err() {
            return;
        }
        if let Some(error) = fault {
            // Where nobody takes it, another fault has stopped the work.
            let _ = to.send(Err(error));
            return;
        }
        if last {
            return;
        }
    }
}

fn encode_chunks(
    chunks: Receiver<Result<Chunk>>,
    to: &SyncSender<EncodedChunk>,
    encode: &(impl Fn(&Line) -> Result<Encoded> + Sync),
) -> Result<()> {
    for chunk in chunks {
        let Chunk { lines, bytes } = chunk?;
        let rows: Vec<Result<Encoded>> = lines.par_iter().map(encode).collect();
        let mut out = EncodedChunk { source_bytes: bytes, ..EncodedChunk::default() };
        for row in rows {
            // The first bad row in file order stops, whichever core found it.
            match row? {
                Encoded::Row(row) => out.push(&row),
                Encoded::Pieces(rows) => rows.iter().for_each(|row| out.push(row)),
                Encoded::Skipped => out.skipped += 1,
                Encoded::Filtered(reason) => {
                    let count = &mut out.filtered[reason as usize];
                    *count = count.saturating_add(1);
                }
            }
        }
        if to.send(out).is_err() {
            break; // the writer says why
        }
    }
    Ok(())
}

impl EncodedChunk {
    fn push(&mut self, row: &TokenizedRow) {
        let labelled = row.ids.iter().zip(&row.loss_mask);
        self.ids
            .extend(labelled.flat_map(|(id, loss)| (id | if *loss { LOSS_BIT } else { 0 }).to_le_bytes()));
        let shifted = row.loss_mask.iter().skip(1).filter(|loss| **loss).count();
        self.rows.push((row.ids.len() as u64, row.loss_bytes as u32, shifted as u32));
    }
}

struct CacheWriter {
    out: BufWriter<File>,
    crc: crc32fast::Hasher,
    /// The index, until the ids before it are written: a file without a name.
    index: BufWriter<File>,
    rows: u64,
    tokens: u64,
    skipped: u64,
    filtered: Filtered,
    source_bytes: u64,
}

impl CacheWriter {
    fn create(path: &Path) -> io::Result<Self> {
        let index = tempfile::tempfile_in(path.parent().unwrap_or(Path::new(".")))?;
        let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
        out.write_all(&[0; HEADER_BYTES])?;
        Ok(Self {
            out,
            crc: crc32fast::Hasher::new(),
            index: BufWriter::new(index),
            rows: 0,
            tokens: 0,
            skipped: 0,
            filtered: Filtered::default(),
            source_bytes: 0,
        })
    }

    fn write_all(mut self, chunks: &Receiver<EncodedChunk>) -> io::Result<Self> {
        for chunk in chunks {
            self.put(&chunk.ids)?;
            for (tokens, loss_bytes, loss_tokens) in chunk.rows {
                self.rows += 1;
                self.tokens += tokens;
                self.index.write_all(&self.tokens.to_le_bytes())?;
                self.index.write_all(&loss_bytes.to_le_bytes())?;
                self.index.write_all(&loss_tokens.to_le_bytes())?;
            }
            self.skipped += chunk.skipped;
            self.source_bytes += chunk.source_bytes;
            for (all, more) in self.filtered.iter_mut().zip(chunk.filtered) {
                *all = all.saturating_add(more);
            }
        }
        Ok(self)
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.crc.update(bytes);
        self.out.write_all(bytes)
    }

    /// Appends the index and writes the header.
    fn finish(mut self) -> io::Result<()> {
        self.index.flush()?;
        self.index.seek(SeekFrom::Start(0))?;
        let mut buffer = vec![0; INDEX_BYTES << 12];
        loop {
            let read = self.index.get_mut().read(&mut buffer)?;
            if read == 0 {
                break;
            }
            self.put(&buffer[..read])?;
        }
        self.out.seek(SeekFrom::Start(0))?;
        let sum = u64::from(self.crc.finalize());
        let mut header = MAGIC.to_vec();
        for number in [self.rows, self.tokens, self.skipped, self.source_bytes, sum] {
            header.extend_from_slice(&number.to_le_bytes());
        }
        self.filtered.iter().for_each(|number| header.extend_from_slice(&number.to_le_bytes()));
        self.out.write_all(&header)?;
        self.out.flush()?;
        self.out.get_ref().sync_all()
    }
}
