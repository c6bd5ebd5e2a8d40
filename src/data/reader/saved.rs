//! Folders that `save_to_disk` of Hugging Face's `datasets` wrote: which Arrow files are a split, in which order.
//!
//! A data set is `state.json`, `dataset_info.json` and `data-*.arrow`; several splits are `dataset_dict.json` and a folder
//! each. Next: `columns`, which reads the files.

use std::path::{Component, Path, PathBuf};

use serde_json::Value;

use crate::error::{Error, Place, Result};

/// The split that is taken where none is named.
const TRAIN: &str = "train";

/// Whether a folder was written by `save_to_disk`.
pub fn is_saved(folder: &Path) -> bool {
    folder.join("dataset_dict.json").is_file()
        || folder.join("state.json").is_file() && folder.join("dataset_info.json").is_file()
}

/// The files of a split of such a folder, in order: `train` where none is named and it is there, else the only one.
///
/// # Errors
/// There is no such split (input), several and none is named, or a file of the folder is damaged or missing.
pub fn saved(folder: &Path, split: Option<&str>) -> Result<Vec<PathBuf>> {
    let wrong = |what: String| Error::input(what).at(Place::file(folder));
    let names = splits(folder)?;
    let folder = match (&names, split) {
        (None, None) => folder.to_owned(),
        (None, Some(name)) => {
            let state = json(&folder.join("state.json"))?;
            if state["_split"].as_str().is_some_and(|own| own == name) {
                return files(folder, &state);
            }
            return Err(
                wrong(format!("the data set has no splits, and none named `{name}`")).hint("leave split out")
            );
        }
        (Some(names), wanted) => {
            let found = names.iter().find(|name| *name == wanted.unwrap_or(TRAIN));
            let only = names.first().filter(|_| wanted.is_none() && names.len() == 1);
            let Some(name) = found.or(only) else {
                let what = match wanted {
                    Some(name) => format!("the data set has no split `{name}`"),
                    None => "the data set has no split `train`: which one?".to_owned(),
                };
                return Err(wrong(what).hint(format!("write split: NAME; it has {}", names.join(", "))));
            };
            folder.join(name)
        }
    };
    files(&folder, &json(&folder.join("state.json"))?)
}

/// The names of the splits; `None` for a folder of one data set.
fn splits(folder: &Path) -> Result<Option<Vec<String>>> {
    let about = folder.join("dataset_dict.json");
    if !about.is_file() {
        return Ok(None);
    }
    let names = json(&about)?;
    let names = names["splits"].as_array().into_iter().flatten().filter_map(Value::as_str);
    Ok(Some(names.filter(|name| is_name(name)).map(str::to_owned).collect()))
}

fn files(folder: &Path, state: &Value) -> Result<Vec<PathBuf>> {
    let names = state["_data_files"].as_array().into_iter().flatten();
    let names = names.filter_map(|file| file["filename"].as_str()).filter(|name| is_name(name));
    let files: Vec<PathBuf> = names.map(|name| folder.join(name)).collect();
    let fault = |what: String| Err(Error::input(what).at(Place::file(folder)).hint("save it to disk again"));
    match files.iter().find(|file| !file.is_file()) {
        Some(file) => fault(format!("its file {} is missing", file.display())),
        None if files.is_empty() => fault("its state.json names no file".to_owned()),
        None => Ok(files),
    }
}

/// Whether a name stays in its folder.
fn is_name(name: &str) -> bool {
    !name.is_empty() && Path::new(name).components().all(|part| matches!(part, Component::Normal(_)))
}

fn json(path: &Path) -> Result<Value> {
    let text = crate::files::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
    serde_json::from_str(&text)
        .map_err(|e| Error::input("not JSON").at(Place::file(path)).because(e).hint("save it to disk again"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_s_splits_are_its_files_in_order() {
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/data");
        let (one, several) = (data.join("saved"), data.join("splits"));
        assert!(is_saved(&one) && is_saved(&several) && !is_saved(&data));
        let names = |folder: &Path, split: Option<&str>| -> Result<String> {
            let name = |file: &PathBuf| file.strip_prefix(folder).unwrap().display().to_string();
            Ok(saved(folder, split)?.iter().map(name).collect::<Vec<_>>().join(" "))
        };
        assert_eq!(names(&one, None).unwrap(), "data-00000-of-00002.arrow data-00001-of-00002.arrow");
        assert_eq!(names(&several, None).unwrap(), "train/data-00000-of-00001.arrow");
        assert_eq!(names(&several, Some("test")).unwrap(), "test/data-00000-of-00001.arrow");
        let fault = |folder, split| saved(folder, Some(split)).unwrap_err().to_string();
        assert!(
            fault(&several, "dev").contains("no split `dev`")
                && fault(&several, "dev").contains("train, test")
        );
        assert!(fault(&one, "train").contains("has no splits"));
        let broken = tempfile::tempdir().unwrap();
        std::fs::write(broken.path().join("dataset_dict.json"), r#"{"splits": ["../..", "a", "b"]}"#)
            .unwrap();
        assert!(fault(broken.path(), "../..").contains("it has a, b"));
        let why = saved(broken.path(), None).unwrap_err().to_string();
        assert!(why.contains("no split `train`"), "{why}");
    }
}
