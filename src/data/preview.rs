//! The first rows of files as files of their own, so that what reads whole files can be asked about their beginning.
//!
//! Rows keep their numbers. Only regular files are opened: a pipe can be read once. Next:
//! `stage::preflight`.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::config::{DataConfig, DataFormat, DataSource, ReadOptions, Validation};
use super::reader;
use super::selection::RowSelection;
use crate::error::{Error, Result};

/// The most bytes that are looked at of a file, but for its first row, which is always whole.
const MOST_BYTES: u64 = 16 << 20;

/// The beginning of some files.
#[derive(Debug)]
pub struct Preview {
    folder: TempDir,
    /// A copy, and what it is a copy of.
    files: Vec<(PathBuf, PathBuf)>,
    /// The most bytes of a file, but for its first row.
    most_bytes: u64,
    /// Whether something was left out.
    cut: bool,
}

impl Preview {
    /// The first `rows` of each file of `data`, validation files too; `None` where its rows are in no text files.
    ///
    /// # Errors
    /// A file that cannot be read, a disk that is full.
    pub fn per_file(data: &DataConfig, rows: usize) -> Result<Option<(Self, DataConfig)>> {
        Self::copy(data, rows, MOST_BYTES, &mut |_| rows)
    }

    /// The first `rows` of all files together.
    ///
    /// # Errors
    /// As [`Self::per_file`].
    pub fn of_all(data: &DataConfig, rows: usize) -> Result<Option<(Self, DataConfig)>> {
        Self::copy(data, rows, u64::MAX, &mut |taken| rows.saturating_sub(taken))
    }

    fn copy(
        data: &DataConfig,
        rows: usize,
        most_bytes: u64,
        want: &mut dyn FnMut(usize) -> usize,
    ) -> Result<Option<(Self, DataConfig)>> {
        let DataSource::Paths(paths) = &data.source else { return Ok(None) };
        if data.format == DataFormat::Tokens || paths.is_empty() || !paths.iter().all(|path| path.is_file()) {
            return Ok(None);
        }
        let folder = tempfile::tempdir()
            .map_err(|e| Error::failed("cannot make a temporary folder").because(e).hint("set TMPDIR"))?;
        let mut preview = Self { folder, files: Vec::new(), most_bytes, cut: false };
        let (mut taken, mut copies) = (0, Vec::new());
        for path in paths {
            let most = want(taken);
            if most == 0 {
                preview.cut = true;
                break;
            }
            let (copy, found) = preview.add(path, most, &data.read)?;
            taken += found;
            copies.push(copy);
        }
        // The copies are JSON lines in UTF-8; the names of columns stay.
        let read = ReadOptions { encoding: None, split: None, ..data.read.clone() };
        // What a filter lets through may stand further down.
        let select = RowSelection { limit: data.select.limit, ..RowSelection::default() };
        let mut own = DataConfig { source: DataSource::Paths(copies), read, select, ..data.clone() };
        if let Validation::Path(path) = &data.validation
            && path.is_file()
        {
            own.validation = Validation::Path(preview.add(path, rows, &data.read)?.0);
        } else {
            own.validation = Validation::Off;
        }
        Ok(Some((preview, own)))
    }

    /// Copies the first rows of a file as JSON lines; says how many it found. Rows keep their numbers: empty lines stand for
    /// what is not copied.
    fn add(&mut self, path: &Path, rows: usize, options: &ReadOptions) -> Result<(PathBuf, usize)> {
        let below = self.folder.path().join(self.files.len().to_string());
        let name = path.file_name().unwrap_or(path.as_os_str());
        let copy = below.join(name).with_extension("jsonl");
        let write = |e| Error::io("write", &copy, e);
        std::fs::create_dir_all(&below).map_err(write)?;
        let mut lines = reader::open(path, options)?;
        let mut writer = BufWriter::new(File::create(&copy).map_err(write)?);
        let (mut found, mut bytes, mut number) = (0, 0, 1);
        while found < rows && (found == 0 || bytes < self.most_bytes) {
            let Some(line) = lines.next().transpose()? else { break };
            for _ in number..line.number {
                writer.write_all(b"\n").map_err(write)?;
            }
            writer.write_all(&line.bytes).and_then(|()| writer.write_all(b"\n")).map_err(write)?;
            (found, bytes, number) = (found + 1, bytes + line.bytes.len() as u64, line.number + 1);
        }
        writer.flush().map_err(write)?;
        // A fault further down is met where the file is read as a whole.
        self.cut |= lines.next().is_some();
        self.files.push((copy.clone(), path.to_owned()));
        Ok((copy, found))
    }

    /// Whether something was left out.
    pub fn is_cut(&self) -> bool {
        self.cut
    }

    /// A folder for what is made on the way; it goes with this.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A fault of a copy as one of the file itself.
    pub fn restore_paths(&self, error: Error) -> Error {
        self.files.iter().fold(error, |error, (copy, path)| error.moved(copy, path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::jsonl::Lines;
    use crate::error::Place;

    #[test]
    fn the_first_rows_keep_their_lines() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(
            path("a.jsonl"),
            "\u{feff}{\"text\": \"1\"}\n\n{\"text\": \"2\"}\n{\"text\": \"3\"}\n",
        )
        .unwrap();
        std::fs::write(path("b.jsonl"), "{\"text\": \"4\"}").unwrap();
        let both = DataConfig::files(vec![path("a.jsonl"), path("b.jsonl")], DataFormat::Text);
        let lines = |data: &DataConfig| {
            let DataSource::Paths(paths) = &data.source else { panic!() };
            let all = paths.iter().flat_map(|path| Lines::open(path).unwrap());
            all.map(|line| line.unwrap().number).collect::<Vec<_>>()
        };
        let (preview, data) = Preview::per_file(&both, 2).unwrap().unwrap();
        assert_eq!((lines(&data), preview.is_cut()), (vec![1, 3, 1], true));
        let (preview, data) = Preview::per_file(&both, 3).unwrap().unwrap();
        assert_eq!((lines(&data), preview.is_cut()), (vec![1, 3, 4, 1], false));
        let (preview, data) = Preview::of_all(&both, 2).unwrap().unwrap();
        assert_eq!((lines(&data), preview.is_cut()), (vec![1, 3], true));
        let DataSource::Paths(copies) = &data.source else { panic!() };
        let fault = Error::input("a").and(Error::input("b").at(Place::line(&copies[0], 3)));
        assert_eq!(
            preview.restore_paths(fault).to_string(),
            format!("error: a\nerror: {}:3: b", path("a.jsonl").display())
        );
        let pipe = DataConfig::files(vec![PathBuf::from("/dev/null")], DataFormat::Text);
        assert!(Preview::per_file(&pipe, 2).unwrap().is_none());
    }
}
