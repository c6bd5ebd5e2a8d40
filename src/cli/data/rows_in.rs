//! The files that a command reads rows from, and how: what a recipe says in `data`.

use std::path::PathBuf;

use crate::data::reader::{FileKind, KNOWN_ENDINGS};
use crate::data::source::{self, SourceLines};
use crate::data::{DataFormat, DataSource, ReadOptions, TextSplit};
use crate::error::{Error, Result};

/// How files are read.
#[derive(Debug, Clone, clap::Args)]
pub struct ReadArgs {
    /// The file's own names of columns, by what they are: prompt=Frage,response=Antwort
    #[arg(long, value_name = "NAME=OWN", value_delimiter = ',', value_parser = pair)]
    pub columns: Vec<(String, String)>,
    /// The encoding of text files (UTF-8): gbk, shift_jis, windows-1252, ...
    #[arg(long, value_name = "NAME")]
    pub encoding: Option<String>,
    /// How a text file is divided into documents: line, paragraph, or marker:TEXT (it is one)
    #[arg(long, value_name = "HOW", value_parser = text_split)]
    pub split: Option<TextSplit>,
}

impl ReadArgs {
    /// The same for the reader.
    pub fn options(&self) -> ReadOptions {
        ReadOptions {
            columns: self.columns.iter().cloned().collect(),
            encoding: self.encoding.clone(),
            split: self.split.clone(),
        }
    }
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, own) = text.split_once('=').ok_or("write NAME=OWN, such as prompt=Frage")?;
    Ok((name.to_owned(), own.to_owned()))
}

fn text_split(text: &str) -> Result<TextSplit, String> {
    match (text, text.strip_prefix("marker:")) {
        ("line", _) => Ok(TextSplit::Line),
        ("paragraph", _) => Ok(TextSplit::Paragraph),
        (_, Some(marker)) if !marker.is_empty() => Ok(TextSplit::Marker(marker.to_owned())),
        _ => Err("line, paragraph, or marker:TEXT such as 'marker:<|endoftext|>'".to_owned()),
    }
}

/// The rows of files, as they stand.
///
/// # Errors
/// A file holds token ids and no rows. Files are opened as they are reached.
pub fn lines(files: &[PathBuf], options: &ReadOptions) -> Result<SourceLines> {
    if let Some(file) = files.iter().find(|file| super::is_tokens(file)) {
        return Err(Error::input("a file of token ids holds no rows that could be written anew")
            .at(crate::error::Place::file(file))
            .hint(format!("known endings: {KNOWN_ENDINGS}")));
    }
    Ok(source::lines(&DataSource::Paths(files.to_vec()), DataFormat::Text, options))
}

/// The ending that names a file's kind and compression; `.jsonl` where the kind was found out by its content.
pub fn ending(file: &std::path::Path) -> String {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let packed = ["gz", "zst", "xz", "bz2"].iter().any(|p| file.extension().is_some_and(|e| e == *p));
    let parts: Vec<&str> = name.rsplitn(if packed { 3 } else { 2 }, '.').collect();
    match FileKind::by_name(file) {
        Some(_) => parts[..parts.len() - 1].iter().rev().map(|part| format!(".{part}")).collect(),
        None => ".jsonl".to_owned(),
    }
}
