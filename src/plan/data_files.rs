//! Which files a recipe's `data` names, and how they are read: folders, patterns, standard input, encodings, documents.
//!
//! Next: `data::reader`.

use std::path::{Path, PathBuf};

use super::machine::Machine;
use super::resolve::{Resolver, join};
use super::schema::*;
use crate::data::reader::{self, STANDARD_INPUT};
use crate::data::{DataConfig, DataSource, ReadOptions, TextSplit};
use crate::hub::reference::is_reference;

impl Resolver<'_> {
    /// The files of a section, in order. A folder of `eval` stays one: it may hold subjects of multiple choice, and its stage
    /// sees to it ([`Self::spread_folders`]).
    pub(super) fn data_files(&mut self, base: &[String], d: &RowsSection, kind: &str) -> Vec<PathBuf> {
        let mut named: Vec<(Vec<String>, &String)> = Vec::new();
        named.extend(d.path.iter().map(|p| (join(base, "path"), p)));
        for (index, path) in d.paths.iter().flatten().enumerate() {
            named.extend(path.iter().map(|p| (join(&join(base, "paths"), &index.to_string()), p)));
        }
        let mut files = Vec::new();
        for (at, name) in named {
            let path = Path::new(name);
            if let Some(split) = self.data_set(&at, name, d) {
                files.extend(split);
            } else if name == STANDARD_INPUT {
                match reader::keep_standard_input(&Machine::detect().cache_dir) {
                    Ok(kept) => files.push(kept),
                    Err(error) => self.faults.push(error.at(self.recipe.places.value(&at))),
                }
            } else if path.is_dir() && kind == "eval" {
                files.push(path.to_owned());
            } else if path.is_dir() || reader::is_pattern(path) {
                files.extend(self.files_behind(&at, path));
            } else {
                files.push(self.file(&at, name));
            }
        }
        files
    }

    /// The data files of a folder or a pattern; what is left out is said.
    fn files_behind(&mut self, at: &[String], path: &Path) -> Vec<PathBuf> {
        match reader::find(path) {
            Ok(found) => {
                if let Some(names) = found.left_out() {
                    tracing::info!("{}: left out, as no data: {names}", path.display());
                }
                found.files
            }
            Err(error) => {
                let what = format!("{}: {}", path.display(), error.what());
                self.fault(at, what, error.hint_text().unwrap_or_default().to_owned());
                Vec::new()
            }
        }
    }

    /// Puts the files of folders in the folders' place.
    pub(super) fn spread_folders(&mut self, at: &[String], data: &mut DataConfig) {
        let DataSource::Paths(paths) = &mut data.source else { return };
        for path in std::mem::take(paths) {
            match path.is_dir() {
                true => paths.extend(self.files_behind(at, &path)),
                false => paths.push(path),
            }
        }
    }

    /// How the files of a section are read.
    pub(super) fn read_options(&mut self, base: &[String], d: &RowsSection) -> ReadOptions {
        let encoding = d.encoding.clone().filter(|name| match reader::bytes::encoding(name) {
            Ok(_) => true,
            Err(error) => {
                let hint = error.hint_text().unwrap_or_default().to_owned();
                self.fault(&join(base, "encoding"), error.what().to_owned(), hint);
                false
            }
        });
        // A data set's own split: `data_set` takes it.
        let of_data_set = |name: &String| is_reference(name) || reader::is_saved(Path::new(name));
        let named = d.path.iter().chain(d.paths.iter().flatten().flatten());
        let text = d
            .split
            .as_ref()
            .filter(|split| split.of_data_set().is_none() || !named.into_iter().any(of_data_set));
        let split = text.and_then(|split| self.text_split(&join(base, "split"), split));
        ReadOptions { columns: self.columns(base, d), encoding, split }
    }

    fn text_split(&mut self, at: &[String], split: &SplitSection) -> Option<TextSplit> {
        let found = match split {
            SplitSection::Word(word) => TextSplit::by_word(word),
            SplitSection::Marker(marker) => {
                Some(TextSplit::Marker(marker.clone())).filter(|_| !marker.is_empty())
            }
        };
        if found.is_none() {
            let what = match split {
                SplitSection::Word(word) => format!("`split` is `{word}`"),
                SplitSection::Marker(_) => "the marker is empty".to_owned(),
            };
            self.fault(
                at,
                what,
                "line, paragraph, marker (<|endoftext|>), or {marker: TEXT}; of a data set, its split",
            );
        }
        found
    }
}
