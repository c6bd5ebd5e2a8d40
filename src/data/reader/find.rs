//! The data files behind a name: a file, those of a folder, or those that a pattern matches; in order of their paths.
//!
//! Next: `kind`, which says what counts as data.

use std::path::{Path, PathBuf};

use super::kind::{FileKind, KNOWN_ENDINGS};
use crate::error::{Error, Place, Result};

/// Folders within folders are followed this far.
const MOST_DEPTH: usize = 16;
/// Files that tell of data and hold none.
const ABOUT: [&str; 6] = ["readme", "license", "licence", "dataset_info", "dataset_infos", "state"];
/// How many names a message lists.
const SHOWN: usize = 5;

/// What a folder or a pattern holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// The data files, sorted.
    pub files: Vec<PathBuf>,
    /// What else is there.
    pub left_out: Vec<PathBuf>,
}

impl Found {
    /// `tokens`: token files are asked for by their ending.
    fn add(&mut self, path: PathBuf, tokens: bool) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
        let stem = name.split('.').next().unwrap_or_default();
        let data = !name.starts_with('.')
            && !ABOUT.contains(&stem)
            && (tokens || FileKind::by_name(&path).is_some());
        if data { &mut self.files } else { &mut self.left_out }.push(path);
    }

    /// What was left out, in words; `None` where nothing was.
    pub fn left_out(&self) -> Option<String> {
        let name = |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut names: Vec<String> = self.left_out.iter().take(SHOWN).map(name).collect();
        let more = self.left_out.len().saturating_sub(SHOWN);
        if more > 0 {
            names.push(format!("{more} more"));
        }
        (!names.is_empty()).then(|| names.join(", "))
    }

    fn sorted(mut self, path: &Path, what: &str) -> Result<Self> {
        self.files.sort();
        self.left_out.sort();
        match self.files.is_empty() {
            false => Ok(self),
            true => {
                let there = self.left_out().map_or_else(String::new, |names| format!("; it has {names}"));
                Err(Error::input(format!("the {what} holds no data file{there}"))
                    .at(Place::file(path))
                    .hint(format!("known endings: {KNOWN_ENDINGS}")))
            }
        }
    }
}

/// Whether a name is a pattern such as `data/*.jsonl`; a file of that very name is none.
pub fn is_pattern(path: &Path) -> bool {
    path.to_string_lossy().contains(['*', '?', '[']) && !path.exists()
}

/// The data files behind a folder, or a pattern; another path stands for itself.
///
/// # Errors
/// There is no data file (input), the pattern is none, or a folder cannot be read.
pub fn find(path: &Path) -> Result<Found> {
    if path.is_dir() {
        let mut found = Found::default();
        walk(path, &mut found, 0)?;
        return found.sorted(path, "folder");
    }
    if !is_pattern(path) {
        return Ok(Found { files: vec![path.to_owned()], left_out: Vec::new() });
    }
    let options = glob::MatchOptions { require_literal_leading_dot: true, ..glob::MatchOptions::new() };
    let matched = glob::glob_with(&path.to_string_lossy(), options).map_err(|e| {
        Error::input(format!("the pattern is wrong: {e}"))
            .at(Place::file(path))
            .hint("* stands for any part of a name, ** for folders, ? for a letter")
    })?;
    let mut found = Found::default();
    for entry in matched {
        let entry = entry.map_err(|e| Error::io("list", &PathBuf::from(e.path()), e.into()))?;
        if entry.is_file() {
            found.add(entry, path.extension().is_some_and(|ending| ending == "safetensors"));
        }
    }
    found.sorted(path, "pattern")
}

fn walk(folder: &Path, found: &mut Found, depth: usize) -> Result<()> {
    let read = |e| Error::io("list", folder, e);
    for entry in std::fs::read_dir(folder).map_err(read)? {
        let entry = entry.map_err(read)?;
        let (path, hidden) = (entry.path(), entry.file_name().to_string_lossy().starts_with('.'));
        // A link to a folder may lead back: such are not followed.
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            if !hidden && depth < MOST_DEPTH {
                walk(&path, found, depth + 1)?;
            }
        } else if path.is_file() {
            found.add(path, false);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_and_patterns_are_sorted_files_of_data() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        std::fs::create_dir_all(root.join("b/.git")).unwrap();
        std::fs::create_dir_all(root.join("none")).unwrap();
        for name in
            ["c.txt.gz", "a.jsonl", "README.md", "b/x.md", "b/.git/y.txt", ".h.txt", "b/z.png", "none/z.png"]
        {
            std::fs::write(root.join(name), "").unwrap();
        }
        let below = |path: &Path| {
            let found = find(path)?;
            let name = |path: &PathBuf| path.strip_prefix(root).unwrap().display().to_string();
            let files: Vec<String> = found.files.iter().map(name).collect();
            Ok::<_, Error>((files.join(" "), found.left_out().unwrap_or_default()))
        };
        let all = below(root).unwrap();
        assert_eq!(all.0, "a.jsonl b/x.md c.txt.gz");
        assert_eq!(all.1, ".h.txt, README.md, z.png, z.png");
        assert_eq!(below(&root.join("*")).unwrap(), ("a.jsonl c.txt.gz".into(), "README.md".into()));
        assert_eq!(below(&root.join("**/*.md")).unwrap().0, "b/x.md");
        assert_eq!(below(&root.join("gone.jsonl")).unwrap().0, "gone.jsonl");
        let fault = |path: &str| find(&root.join(path)).unwrap_err().to_string();
        assert!(fault("none").contains("the folder holds no data file; it has z.png"), "{}", fault("none"));
        assert!(fault("*.csv").contains("the pattern holds no data file\n"), "{}", fault("*.csv"));
        assert!(fault("a/***").contains("the pattern is wrong"), "{}", fault("a/***"));
        std::fs::write(root.join("[1].txt"), "").unwrap();
        assert_eq!(below(&root.join("[1].txt")).unwrap().0, "[1].txt");
    }
}
