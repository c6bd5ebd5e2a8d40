//! `.safetensors` with rows that are tokens already: `input_ids` and `labels`, or pairs of ids and masks.
//!
//! Shapes: N rows, B rows of a micro-batch, T tokens. [N, T] is batched as text is; [N, B, T] gives one
//! micro-batch a row, whatever `batch_size` says. Labels of -100 carry no loss; without `labels` every token does.
//! Pairs are `chosen_ids`, `chosen_mask`, `rejected_ids`, `rejected_mask`; a mask of 1 marks a token whose
//! log-probability counts.

use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};

use super::batch::IGNORE_INDEX;
use super::dataset::Row;
use super::jsonl::missing;
use super::preference::Pair;
use crate::error::{Error, Place, Result};
use crate::native::map_file;

const IDS_HINT: &str =
    "format tokens wants int64 or int32 `input_ids` and `labels`, both [N, T] or both [N, B, T]";
const PAIRS_HINT: &str = "preferences in format tokens are `chosen_ids`, `chosen_mask`, `rejected_ids`, `rejected_mask`, [N, T] or [N, B, T]";

#[derive(Debug, Clone)]
struct Column {
    start: usize,
    dtype: Dtype,
    shape: Vec<usize>,
}

impl Column {
    fn row_len(&self) -> usize {
        self.shape.last().copied().unwrap_or(0)
    }
}

#[derive(Debug)]
enum Columns {
    /// Ids, and labels where they are not the ids.
    Labelled(Column, Option<Column>),
    /// Ids and mask of the chosen, then of the rejected.
    Pairs([Column; 4]),
}

/// A `.safetensors` file of tokens, mapped into memory.
#[derive(Debug)]
pub struct TokenFile {
    map: Mmap,
    columns: Columns,
    /// Rows of a micro-batch where the file fixes them.
    pub micro_batch: Option<usize>,
    /// Rows of T tokens (N or N * B).
    pub rows: usize,
    /// T; of a pair both rows together.
    pub row_len: usize,
}

impl TokenFile {
    /// Maps and checks a file.
    ///
    /// # Errors
    /// There is no such file, or its tensors have other names, types or shapes (input).
    pub fn open(path: &Path) -> Result<Self> {
        let map = map_file(&crate::files::open(path).map_err(|e| missing(path, e))?)
            .map_err(|e| Error::io("map", path, e))?;
        let columns = columns(&map).map_err(|e| e.at(Place::file(path)))?;
        let (shape, row_len) = match &columns {
            Columns::Labelled(ids, _) => (&ids.shape, ids.row_len()),
            Columns::Pairs(all) => (&all[0].shape, all[0].row_len() + all[2].row_len()),
        };
        let (micro_batch, rows) = match shape[..] {
            [n, _] => (None, n),
            [n, b, _] => (Some(b), n * b),
            _ => {
                return Err(Error::input(format!("the ids have shape {shape:?}"))
                    .at(Place::file(path))
                    .hint(IDS_HINT));
            }
        };
        if rows == 0 || row_len == 0 {
            return Err(Error::input(format!("the ids are empty: {shape:?}"))
                .at(Place::file(path))
                .hint(IDS_HINT));
        }
        Ok(Self { map, columns, micro_batch, rows, row_len })
    }

    /// Whether the rows are pairs.
    pub fn is_preference(&self) -> bool {
        matches!(self.columns, Columns::Pairs(_))
    }

    /// Tokens of a row, or of the longer row of a pair.
    pub fn max_row_len(&self) -> usize {
        match &self.columns {
            Columns::Labelled(ids, _) => ids.row_len(),
            Columns::Pairs(all) => all[0].row_len().max(all[2].row_len()),
        }
    }

    /// The first id, or label with loss, of row `row` that is outside a vocabulary of `vocab` entries.
    pub fn out_of_vocab(&self, row: usize, vocab: i64) -> Option<i64> {
        let (ids, labels): (Vec<&Column>, Option<&Column>) = match &self.columns {
            Columns::Labelled(ids, labels) => (vec![ids], labels.as_ref()),
            Columns::Pairs([chosen, _, rejected, _]) => (vec![chosen, rejected], None),
        };
        let known = |id: &i64| (0..vocab).contains(id);
        let stray =
            ids.into_iter().find_map(|column| self.read(column, row).into_iter().find(|id| !known(id)));
        stray.or_else(|| self.read(labels?, row).into_iter().find(|id| *id != IGNORE_INDEX && !known(id)))
    }

    fn read(&self, column: &Column, row: usize) -> Vec<i64> {
        let width = match column.dtype {
            Dtype::I64 => 8,
            Dtype::I32 | Dtype::F32 => 4,
            Dtype::F16 | Dtype::BF16 => 2,
            _ => 1,
        };
        let len = column.row_len();
        let start = column.start + row * len * width;
        self.map[start..start + len * width]
            .chunks_exact(width)
            .map(|b| match *b {
                // Floats are masks: all that matters is whether a bit is set.
                [a] => i64::from(a),
                [a, b] => i64::from(u16::from_le_bytes([a, b])),
                [a, b, c, d] => i64::from(i32::from_le_bytes([a, b, c, d])),
                [a, b, c, d, e, f, g, h] => i64::from_le_bytes([a, b, c, d, e, f, g, h]),
                _ => unreachable!("chunks are 1, 2, 4 or 8 bytes"),
            })
            .collect()
    }

    /// Ids and labels of a row; of a pair those of the chosen one.
    pub fn row(&self, row: usize) -> (Vec<i64>, Vec<i64>) {
        match &self.columns {
            Columns::Labelled(ids, labels) => {
                let ids = self.read(ids, row);
                let labels = labels.as_ref().map_or_else(|| ids.clone(), |labels| self.read(labels, row));
                (ids, labels)
            }
            Columns::Pairs(_) => {
                let chosen = self.pair(row).chosen;
                (chosen.ids, chosen.labels)
            }
        }
    }

    /// A pair; a file without pairs gives its row twice.
    pub fn pair(&self, row: usize) -> Pair {
        let side = |ids: &Column, mask: &Column| {
            let (ids, mask) = (self.read(ids, row), self.read(mask, row));
            let labels =
                ids.iter().zip(mask).map(|(id, m)| if m != 0 { *id } else { IGNORE_INDEX }).collect();
            Row { ids, labels, loss_bytes: 0 }
        };
        match &self.columns {
            Columns::Pairs([chosen, chosen_mask, rejected, rejected_mask]) => {
                Pair { chosen: side(chosen, chosen_mask), rejected: side(rejected, rejected_mask) }
            }
            Columns::Labelled(..) => {
                let (ids, labels) = self.row(row);
                let row = Row { ids, labels, loss_bytes: 0 };
                Pair { chosen: row.clone(), rejected: row }
            }
        }
    }
}

/// Rows of several token files, one file after another.
#[derive(Debug)]
pub struct TokenFiles {
    files: Vec<TokenFile>,
    /// Rows of all files together.
    pub rows: usize,
}

impl TokenFiles {
    /// Opens files that hold the same: rows or pairs, in micro-batches of one size.
    ///
    /// # Errors
    /// As [`TokenFile::open`], and where two files differ in that.
    pub fn open(paths: &[PathBuf]) -> Result<Self> {
        let files = paths.iter().map(|path| TokenFile::open(path)).collect::<Result<Vec<_>>>()?;
        let kind = |t: &TokenFile| (t.is_preference(), t.micro_batch);
        if let Some(i) = files.iter().position(|file| kind(file) != kind(&files[0])) {
            let what = format!("the rows are not like those of {}", paths[0].display());
            return Err(Error::input(what)
                .at(Place::file(&paths[i]))
                .hint("files of one stage hold all rows or all pairs, [N, T] or [N, B, T] with one B"));
        }
        let rows = files.iter().map(|file| file.rows).sum();
        Ok(Self { files, rows })
    }

    /// A row's file, and its place there.
    pub fn of(&self, mut row: usize) -> (&TokenFile, usize) {
        for file in &self.files {
            if row < file.rows {
                return (file, row);
            }
            row -= file.rows;
        }
        unreachable!("a row is one of {}", self.rows)
    }

    /// Rows of a micro-batch where the files fix them.
    pub fn micro_batch(&self) -> Option<usize> {
        self.files.first().and_then(|file| file.micro_batch)
    }

    /// Whether the rows are pairs.
    pub fn is_preference(&self) -> bool {
        self.files.first().is_some_and(TokenFile::is_preference)
    }

    /// Tokens of the longest row.
    pub fn max_row_len(&self) -> usize {
        self.files.iter().map(TokenFile::max_row_len).max().unwrap_or(0)
    }
}

fn columns(map: &Mmap) -> Result<Columns> {
    let tensors = SafeTensors::deserialize(map)
        .map_err(|e| Error::input("not a safetensors file").hint(IDS_HINT).because(e))?;
    let names = tensors.names();
    let pairs = names.iter().any(|n| n.starts_with("chosen_") || n.starts_with("rejected_"));
    let hint = if pairs { PAIRS_HINT } else { IDS_HINT };
    let bad = |what: String| Error::input(what).hint(hint);
    let get = |name: &str| {
        let view = tensors.tensor(name).map_err(|_| {
            bad(format!("no tensor `{name}`")).because(format!("the file has {}", names.join(", ")))
        })?;
        let masks = [Dtype::U8, Dtype::I8, Dtype::BOOL, Dtype::F32, Dtype::F16, Dtype::BF16];
        let mask = name.ends_with("_mask") && masks.contains(&view.dtype());
        if !mask && !matches!(view.dtype(), Dtype::I64 | Dtype::I32) {
            return Err(bad(format!("`{name}` is {:?}, not int64 or int32", view.dtype())));
        }
        let start = view.data().as_ptr() as usize - map.as_ptr() as usize;
        Ok(Column { start, dtype: view.dtype(), shape: view.shape().to_vec() })
    };
    let same = |a: (&str, &Column), b: (&str, &Column)| {
        if a.1.shape == b.1.shape {
            return Ok(());
        }
        Err(bad(format!("`{}` is {:?}, `{}` is {:?}", a.0, a.1.shape, b.0, b.1.shape)))
    };
    if !pairs {
        let ids = get("input_ids")?;
        let labels = if names.len() == 1 { None } else { Some(get("labels")?) };
        if let Some(labels) = &labels {
            same(("input_ids", &ids), ("labels", labels))?;
        }
        return Ok(Columns::Labelled(ids, labels));
    }
    let [chosen, rejected] = ["chosen", "rejected"].map(|side| -> Result<[Column; 2]> {
        let names = [format!("{side}_ids"), format!("{side}_mask")];
        let (ids, mask) = (get(&names[0])?, get(&names[1])?);
        same((&names[0], &ids), (&names[1], &mask))?;
        Ok([ids, mask])
    });
    let ([a, b], [c, d]) = (chosen?, rejected?);
    if a.shape[..a.shape.len().max(1) - 1] != c.shape[..c.shape.len().max(1) - 1] {
        return Err(bad(format!("`chosen_ids` is {:?}, `rejected_ids` is {:?}", a.shape, c.shape)));
    }
    Ok(Columns::Pairs([a, b, c, d]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, name: &str, shape: &[usize]) {
        let ids: Vec<u8> = (0..shape.iter().product::<usize>() as i64).flat_map(i64::to_le_bytes).collect();
        let view = safetensors::tensor::TensorView::new(Dtype::I64, shape.to_vec(), &ids).unwrap();
        std::fs::write(path, safetensors::serialize([(name, view)], None).unwrap()).unwrap();
    }

    #[test]
    fn files_follow_one_another_where_their_rows_are_alike() {
        let folder = tempfile::tempdir().unwrap();
        let paths = ["a", "b"].map(|name| folder.path().join(name));
        let both = |shape: &[usize]| {
            write(&paths[0], "input_ids", &[3, 2, 5]);
            write(&paths[1], "input_ids", shape);
            TokenFiles::open(&paths)
        };
        let files = both(&[1, 2, 4]).unwrap();
        assert_eq!(
            (files.rows, files.micro_batch(), files.max_row_len(), files.is_preference()),
            (8, Some(2), 5, false)
        );
        let ids = |row: usize| {
            let (file, at) = files.of(row);
            file.row(at).0
        };
        assert_eq!((ids(5), ids(7)), ((25..30).collect(), vec![4, 5, 6, 7]));
        for shape in [&[1, 3, 4][..], &[2, 4]] {
            let message = both(shape).unwrap_err().to_string();
            assert!(message.contains("/b: ") && message.contains("not like those"), "{message}");
        }
    }
}
