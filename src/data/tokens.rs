//! `.safetensors` with `input_ids` and `labels`: rows that are tokens already.
//!
//! Shapes: N rows, B rows of a micro-batch, T tokens. [N, T] is batched as text is; [N, B, T] gives one
//! micro-batch a row, whatever `batch_size` says. Labels of -100 carry no loss.

use std::fs::File;
use std::path::Path;

use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};

use super::jsonl::missing;
use crate::error::{Error, Place, Result};
use crate::native::map_file;

#[derive(Debug, Clone)]
struct Column {
    start: usize,
    dtype: Dtype,
}

/// Tokens of one file.
#[derive(Debug)]
pub struct Tokens {
    map: Mmap,
    ids: Column,
    labels: Column,
    /// Rows of a micro-batch where the file fixes them.
    pub micro_batch: Option<usize>,
    /// Rows of T tokens (N or N * B).
    pub rows: usize,
    /// T.
    pub row_len: usize,
}

impl Tokens {
    /// Opens and checks a file.
    pub fn open(path: &Path) -> Result<Self> {
        const HINT: &str =
            "format tokens wants int64 or int32 `input_ids` and `labels`, both [N, T] or both [N, B, T]";
        let bad = |what: String| Error::input(what).at(Place::file(path)).hint(HINT);
        let map = map_file(&File::open(path).map_err(|e| missing(path, e))?)
            .map_err(|e| Error::io("map", path, e))?;
        let (ids, labels, shape) = {
            let tensors = SafeTensors::deserialize(&map)
                .map_err(|e| bad("not a safetensors file".into()).because(e))?;
            let get = |name: &str| {
                let view = tensors.tensor(name).map_err(|_| {
                    bad(format!("no tensor `{name}`"))
                        .because(format!("the file has {}", tensors.names().join(", ")))
                })?;
                if !matches!(view.dtype(), Dtype::I64 | Dtype::I32) {
                    return Err(bad(format!("`{name}` is {:?}, not int64 or int32", view.dtype())));
                }
                let start = view.data().as_ptr() as usize - map.as_ptr() as usize;
                Ok((Column { start, dtype: view.dtype() }, view.shape().to_vec()))
            };
            let ((ids, shape), (labels, other)) = (get("input_ids")?, get("labels")?);
            if shape != other {
                return Err(bad(format!("`input_ids` is {shape:?}, `labels` is {other:?}")));
            }
            (ids, labels, shape)
        };
        let (micro_batch, rows, row_len) = match shape[..] {
            [n, t] => (None, n, t),
            [n, b, t] => (Some(b), n * b, t),
            _ => return Err(bad(format!("`input_ids` has shape {shape:?}"))),
        };
        if rows == 0 || row_len == 0 {
            return Err(bad(format!("`input_ids` is empty: {shape:?}")));
        }
        Ok(Self { map, ids, labels, micro_batch, rows, row_len })
    }

    fn read(&self, column: &Column, row: usize) -> Vec<i64> {
        let width = if column.dtype == Dtype::I64 { 8 } else { 4 };
        let start = column.start + row * self.row_len * width;
        self.map[start..start + self.row_len * width]
            .chunks_exact(width)
            .map(|b| match *b {
                [a, b, c, d] => i64::from(i32::from_le_bytes([a, b, c, d])),
                [a, b, c, d, e, f, g, h] => i64::from_le_bytes([a, b, c, d, e, f, g, h]),
                _ => unreachable!("chunks are 4 or 8 bytes"),
            })
            .collect()
    }

    /// Ids and labels of a row.
    pub fn row(&self, row: usize) -> (Vec<i64>, Vec<i64>) {
        (self.read(&self.ids, row), self.read(&self.labels, row))
    }
}
