//! Which files of a data set's repository are a split of a subset: what its README says, what its names say, or the hub's own
//! conversion to Parquet.
//!
//! The same rules as Hugging Face's `datasets`: `configs:` in the YAML that begins the README, else words such as train, dev
//! and eval in the names of files and folders, else all is `train`.

use serde_yaml::Value;

use super::reference::Reference;
use crate::error::{Error, Result};

/// The revision in which Hugging Face keeps its conversion.
pub(super) const CONVERSION: &str = "refs/convert/parquet";
/// The subset of a data set that names none.
const DEFAULT: &str = "default";
/// The split that is taken where none is named.
const TRAIN: &str = "train";
/// What the conversion puts before the name of a split of which it holds the beginning.
const PARTIAL: &str = "partial-";
/// What names of files and folders say of their split.
const WORDS: [(&str, &[&str]); 3] = [
    ("train", &["train", "training"]),
    ("validation", &["validation", "valid", "dev", "val"]),
    ("test", &["test", "testing", "eval", "evaluation"]),
];
/// Files that tell of data and hold none.
const ABOUT: [&str; 7] =
    ["readme", "license", "licence", "dataset_info", "dataset_infos", "config", "requirements"];

/// A split and its files, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Split {
    name: String,
    files: Vec<String>,
}

/// A subset and its splits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Subset {
    name: String,
    /// It is the one where none is named.
    first: bool,
    splits: Vec<Split>,
}

impl Subset {
    fn new(name: &str) -> Self {
        Self { name: name.to_owned(), first: name == DEFAULT, splits: Vec::new() }
    }

    fn add(&mut self, split: &str, file: &str) {
        let place = self.splits.iter().position(|known| known.name == split).unwrap_or_else(|| {
            self.splits.push(Split { name: split.to_owned(), files: Vec::new() });
            self.splits.len() - 1
        });
        if !self.splits[place].files.iter().any(|known| known == file) {
            self.splits[place].files.push(file.to_owned());
        }
    }
}

/// Whether a file may hold rows: `readable` goes by its ending.
pub(super) fn is_data(path: &str, readable: fn(&str) -> bool) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    let stem = name.split('.').next().unwrap_or_default().to_ascii_lowercase();
    readable(path)
        && !stem.is_empty()
        && !name.ends_with(".md")
        && !path.split('/').any(|part| part.starts_with('.'))
        && !ABOUT.contains(&stem.as_str())
}

/// Subsets by what the README says; none where it says nothing.
pub(super) fn by_readme(readme: &str, files: &[&str]) -> Vec<Subset> {
    let head = readme.strip_prefix('\u{feff}').unwrap_or(readme).strip_prefix("---");
    let Some((head, _)) = head.and_then(|rest| rest.split_once("\n---")) else { return Vec::new() };
    let Ok(about) = serde_yaml::from_str::<Value>(head) else { return Vec::new() };
    let configs = about.get("configs").and_then(Value::as_sequence);
    configs
        .into_iter()
        .flatten()
        .map(|config| stated(config, files))
        .filter(|s| !s.splits.is_empty())
        .collect()
}

/// One of the README's `configs`.
fn stated(config: &Value, files: &[&str]) -> Subset {
    let mut subset = Subset::new(config.get("config_name").and_then(Value::as_str).unwrap_or(DEFAULT));
    subset.first |= config.get("default").and_then(Value::as_bool).unwrap_or(false);
    let folder = config.get("data_dir").and_then(Value::as_str).unwrap_or_default().trim_matches('/');
    let below = if folder.is_empty() { String::new() } else { format!("{folder}/") };
    let mut add = |split: &str, paths: &Value| {
        for path in texts(paths) {
            let pattern = format!("{below}{}", path.trim_start_matches("./"));
            files.iter().filter(|file| matches(&pattern, file)).for_each(|file| subset.add(split, file));
        }
    };
    match config.get("data_files") {
        // A map: a split and its paths each.
        Some(Value::Mapping(splits)) => {
            splits
                .iter()
                .filter_map(|(split, paths)| Some((split.as_str()?, paths)))
                .for_each(|(s, p)| add(s, p));
        }
        // A list of maps with a split and its paths, or of paths.
        Some(Value::Sequence(list)) => {
            for entry in list {
                let split = entry.get("split").and_then(Value::as_str).unwrap_or(TRAIN);
                add(split, entry.get("path").unwrap_or(entry));
            }
        }
        Some(path) => add(TRAIN, path),
        None => {
            let inside: Vec<&str> = files.iter().filter(|file| file.starts_with(&below)).copied().collect();
            subset.splits = by_names(&inside).into_iter().flat_map(|found| found.splits).collect();
        }
    }
    subset
}

fn texts(value: &Value) -> Vec<&str> {
    match value {
        Value::String(text) => vec![text],
        Value::Sequence(list) => list.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

fn matches(pattern: &str, file: &str) -> bool {
    let options = glob::MatchOptions { require_literal_separator: true, ..glob::MatchOptions::new() };
    pattern == file || glob::Pattern::new(pattern).is_ok_and(|pattern| pattern.matches_with(file, options))
}

/// One subset, with splits by the words in the names of files and folders; without such words all is `train`.
pub(super) fn by_names(files: &[&str]) -> Vec<Subset> {
    let mut subset = Subset::new(DEFAULT);
    for file in files {
        if let Some(split) = split_of(file) {
            subset.add(split, file);
        }
    }
    if subset.splits.is_empty() {
        files.iter().for_each(|file| subset.add(TRAIN, file));
    }
    if subset.splits.is_empty() { Vec::new() } else { vec![subset] }
}

/// The split that a path's words tell, the last first: `data/test/train.jsonl` is of `train`.
fn split_of(path: &str) -> Option<&'static str> {
    path.rsplit('/').find_map(|part| {
        let mut words = part.split(|c: char| !c.is_ascii_alphabetic());
        words.find_map(|word| {
            let word = word.to_ascii_lowercase();
            WORDS.iter().find(|(_, words)| words.contains(&word.as_str())).map(|(split, _)| *split)
        })
    })
}

/// The hub's conversion: `SUBSET/SPLIT/NNNN.parquet`; of what is too large it holds the beginning, as `partial-SPLIT`.
pub(super) fn by_conversion(files: &[&str]) -> Vec<Subset> {
    let mut subsets: Vec<Subset> = Vec::new();
    for file in files.iter().filter(|file| file.ends_with(".parquet")) {
        let Some((folder, _)) = file.rsplit_once('/') else { continue };
        let Some((name, split)) = folder.rsplit_once('/') else { continue };
        let place = subsets.iter().position(|known| known.name == name).unwrap_or_else(|| {
            subsets.push(Subset::new(name));
            subsets.len() - 1
        });
        subsets[place].add(split.strip_prefix(PARTIAL).unwrap_or(split), file);
    }
    subsets
}

/// Whether the subset that a reference asks for is there.
pub(super) fn has(subsets: &[Subset], reference: &Reference) -> bool {
    reference.subset.as_ref().is_none_or(|name| subsets.iter().any(|subset| subset.name == *name))
}

/// The files of the subset and split that a reference asks for.
///
/// # Errors
/// There is none of that name, or several and none is named.
pub(super) fn choose<'a>(subsets: &'a [Subset], reference: &Reference) -> Result<&'a [String]> {
    let list = |names: Vec<&str>| names.join(", ");
    let names = || list(subsets.iter().map(|s| s.name.as_str()).take(40).collect());
    let whole = || Reference { subset: None, split: None, ..reference.clone() };
    let subset = match &reference.subset {
        Some(name) => subsets.iter().find(|subset| subset.name == *name).ok_or_else(|| {
            Error::input(format!("{} has no subset `{name}`", whole())).hint(format!("it has {}", names()))
        })?,
        None => match subsets {
            [only] => only,
            _ => subsets.iter().find(|subset| subset.first).ok_or_else(|| {
                Error::input(format!("{} has several subsets: which one?", whole()))
                    .hint(format!("write subset: NAME; it has {}", names()))
            })?,
        },
    };
    let splits = || list(subset.splits.iter().map(|s| s.name.as_str()).collect());
    let wanted = reference.split.as_deref();
    let split = match (
        subset.splits.iter().find(|split| split.name == wanted.unwrap_or(TRAIN)),
        &subset.splits[..],
    ) {
        (Some(split), _) => split,
        (None, [only]) if wanted.is_none() => only,
        (None, _) => {
            let what = match wanted {
                Some(name) => format!("{} has no split `{name}`", whole()),
                None => format!("{} has no split `train`: which one?", whole()),
            };
            return Err(Error::input(what).hint(format!("write split: NAME; it has {}", splits())));
        }
    };
    if split.files.iter().any(|file| file.contains(&format!("/{PARTIAL}{}/", split.name))) {
        tracing::warn!("{reference}: the hub converted only the beginning of this split");
    }
    Ok(&split.files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(subsets: &[Subset]) -> String {
        let split = |split: &Split| format!("{}={}", split.name, split.files.join("+"));
        let subset =
            |s: &Subset| format!("{}[{}]", s.name, s.splits.iter().map(split).collect::<Vec<_>>().join(" "));
        subsets.iter().map(subset).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn names_tell_splits() {
        assert_eq!(shown(&by_names(&["a.jsonl", "b.jsonl"])), "default[train=a.jsonl+b.jsonl]");
        assert_eq!(
            shown(&by_names(&[
                "data/train-00000-of-00002.parquet",
                "data/train-00001-of-00002.parquet",
                "dev.csv"
            ])),
            "default[train=data/train-00000-of-00002.parquet+data/train-00001-of-00002.parquet validation=dev.csv]"
        );
        // Words, not letters within words; what has none beside others is left out.
        assert_eq!(
            shown(&by_names(&["contest.txt", "my_test_file.txt", "eval/x.txt"])),
            "default[test=my_test_file.txt+eval/x.txt]"
        );
        assert_eq!(by_names(&[]), []);
    }

    #[test]
    fn the_readme_tells_subsets() {
        let files =
            ["main/train-0.parquet", "main/test-0.parquet", "socratic/train-0.parquet", "x/y/z.csv", "e.csv"];
        let readme = "---\nlicense: mit\nconfigs:\n- config_name: main\n  default: true\n  data_files:\n  - split: train\n    path: main/train-*\n  - split: test\n    path: [main/test-*]\n- config_name: socratic\n  data_files: {train: 'socratic/*'}\n- config_name: deep\n  data_files: 'x/**/*.csv'\n- config_name: folder\n  data_dir: x\n- config_name: gone\n  data_files: nothing.csv\n---\n# About\n";
        let found = by_readme(readme, &files);
        assert_eq!(
            shown(&found),
            "main[train=main/train-0.parquet test=main/test-0.parquet] socratic[train=socratic/train-0.parquet] deep[train=x/y/z.csv] folder[train=x/y/z.csv]"
        );
        let chosen =
            |text: &str| choose(&found, &Reference::parse(text).unwrap()).map(|files| files.join("+"));
        assert_eq!(chosen("hf:o/n").unwrap(), "main/train-0.parquet");
        assert_eq!(chosen("hf:o/n?split=test").unwrap(), "main/test-0.parquet");
        assert_eq!(chosen("hf:o/n?subset=socratic").unwrap(), "socratic/train-0.parquet");
        let fault = |text: &str| chosen(text).unwrap_err().to_string();
        assert!(
            fault("hf:o/n?subset=q").contains("main, socratic, deep, folder"),
            "{}",
            fault("hf:o/n?subset=q")
        );
        assert!(fault("hf:o/n?split=dev").contains("it has train, test"), "{}", fault("hf:o/n?split=dev"));
        for none in ["", "# no head", "---\n: [\n---\n", "---\na: 1\n---\n", "---\nconfigs: 1\n---\n"] {
            assert_eq!(by_readme(none, &files), [], "{none}");
        }
    }

    #[test]
    fn the_conversion_has_folders() {
        let files = ["a/train/0000.parquet", "a/train/0001.parquet", "b/partial-test/0000.parquet", "x.json"];
        let found = by_conversion(&files);
        assert_eq!(
            shown(&found),
            "a[train=a/train/0000.parquet+a/train/0001.parquet] b[test=b/partial-test/0000.parquet]"
        );
        let fault = choose(&found, &Reference::parse("hf:o/n").unwrap()).unwrap_err().to_string();
        assert!(fault.contains("several subsets") && fault.contains("it has a, b"), "{fault}");
        let only = choose(&found, &Reference::parse("hf:o/n?subset=b").unwrap()).unwrap();
        assert_eq!(only, ["b/partial-test/0000.parquet"]);
    }
}
