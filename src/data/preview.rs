//! The first rows of files as files of their own, so that what reads whole files can be asked about their beginning.
//!
//! Line numbers stay: blank lines are copied too. Only regular files are opened: a pipe can be read once. Next:
//! `stage::preflight`.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::config::{DataConfig, DataFormat, DataSource, Validation};
use super::jsonl::MAX_LINE_BYTES;
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
            let (copy, found) = preview.add(path, most)?;
            taken += found;
            copies.push(copy);
        }
        let mut own = DataConfig { source: DataSource::Paths(copies), ..data.clone() };
        if let Validation::Path(path) = &data.validation
            && path.is_file()
        {
            own.validation = Validation::Path(preview.add(path, rows)?.0);
        } else {
            own.validation = Validation::Off;
        }
        Ok(Some((preview, own)))
    }

    /// Copies the first rows of a file; says how many it found.
    fn add(&mut self, path: &Path, rows: usize) -> Result<(PathBuf, usize)> {
        let below = self.folder.path().join(self.files.len().to_string());
        let copy = below.join(path.file_name().unwrap_or(path.as_os_str()));
        let read = |e| Error::io("read", path, e);
        let write = |e| Error::io("write", &copy, e);
        std::fs::create_dir_all(&below).map_err(write)?;
        let mut reader = BufReader::with_capacity(1 << 16, File::open(path).map_err(read)?);
        let mut writer = BufWriter::new(File::create(&copy).map_err(write)?);
        let (mut found, mut bytes, mut line) = (0, 0, Vec::new());
        while found < rows && (found == 0 || bytes < self.most_bytes) {
            line.clear();
            let length = (&mut reader).take(MAX_LINE_BYTES).read_until(b'\n', &mut line).map_err(read)?;
            if length == 0 {
                break;
            }
            bytes += length as u64;
            found += usize::from(!line.iter().all(u8::is_ascii_whitespace));
            writer.write_all(&line).map_err(write)?;
        }
        writer.flush().map_err(write)?;
        self.cut |= !reader.fill_buf().map_err(read)?.is_empty();
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
