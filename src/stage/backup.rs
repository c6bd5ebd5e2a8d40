//! Backups: the files of a stage are never overwritten by one that starts from scratch. They are renamed to `.old`
//! first, or to `.old2`, `.old3` where that is taken.

use std::path::{Path, PathBuf};

use super::record::DONE;
use super::stage_state;
use crate::error::{Error, Result};

/// The files of a stage under their `.old` names: (name before, name now).
pub type Backup = Vec<(PathBuf, PathBuf)>;

/// Renames all files of a stage to `.old`; empty where there was nothing to keep.
///
/// # Errors
/// A file cannot be renamed.
pub fn back_up(output: &Path, name: &str) -> Result<Backup> {
    let mut all = stage_state::files(output, name)?;
    let resumes = all.iter().any(|path| path.to_string_lossy().contains("_resume."));
    let folder = output.join(name);
    // A folder of a stage that never came to a checkpoint holds nothing to go back to.
    if folder.is_dir() && (resumes || folder.join(DONE).exists()) {
        all.push(folder);
    }
    // Resume files first and the folder with the record last: a kill on the way leaves a stage that is still known.
    all.sort_by_key(|path| (path.is_dir(), !path.to_string_lossy().contains("_resume.")));
    let number = free(&all);
    let mut backup = Vec::new();
    for path in all {
        let old_path = old(&path, number);
        std::fs::rename(&path, &old_path).map_err(|e| Error::io("back up old files as", &path, e))?;
        backup.push((path, old_path));
    }
    Ok(backup)
}

/// The new names, for people.
pub fn names(backup: &Backup) -> String {
    let name = |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    backup.iter().map(|(_, old)| name(old)).collect::<Vec<_>>().join(", ")
}

/// Renames the files back where the stage that was to replace them has left nothing to resume from: a fault of the input
/// costs a finished stage nothing.
///
/// # Errors
/// A file cannot be renamed.
pub fn restore(output: &Path, name: &str, backup: &Backup) -> Result<()> {
    if backup.is_empty() || !stage_state::files(output, name)?.is_empty() {
        return Ok(());
    }
    for (path, old_path) in backup.iter().rev() {
        if path.is_dir() {
            std::fs::remove_dir_all(path).map_err(|e| Error::io("put old files back", path, e))?;
        }
        std::fs::rename(old_path, path).map_err(|e| Error::io("put old files back", path, e))?;
    }
    Ok(())
}

/// Copies the weights of a finished stage, which is about to go on, to `.old`; the copy's name, `None` where there are
/// none.
///
/// # Errors
/// It cannot be made.
pub fn copy_weights(path: &Path) -> Result<Option<String>> {
    if !path.is_file() {
        return Ok(None);
    }
    let old_path = old(path, free(&[path.to_owned()]));
    // The file is replaced whole later, so that a second name of it is a copy.
    if std::fs::hard_link(path, &old_path).is_err() {
        std::fs::copy(path, &old_path).map_err(|e| Error::io("keep a copy of the weights", &old_path, e))?;
    }
    Ok(old_path.file_name().map(|name| name.to_string_lossy().into_owned()))
}

/// The first number under which none of these has an old version.
fn free(paths: &[PathBuf]) -> usize {
    (1..).find(|number| paths.iter().all(|path| !old(path, *number).exists())).unwrap_or(1)
}

fn old(path: &Path, number: usize) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(if number == 1 { ".old".to_owned() } else { format!(".old{number}") });
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_old_is_written_over() {
        let folder = tempfile::tempdir().unwrap();
        let make = |text: &str| {
            std::fs::create_dir(folder.path().join("sft")).unwrap();
            for name in ["sft_8.pth", "sft_8_resume.pth", "sft_8_resume.prev.pth", "sft/done.json"] {
                std::fs::write(folder.path().join(name), text).unwrap();
            }
        };
        make("1");
        let backup = back_up(folder.path(), "sft").unwrap();
        assert_eq!(names(&backup), "sft_8_resume.prev.pth.old, sft_8_resume.pth.old, sft_8.pth.old, sft.old");
        std::fs::create_dir(folder.path().join("sft")).unwrap();
        restore(folder.path(), "sft", &backup).unwrap();
        assert!(folder.path().join("sft/done.json").exists() && !folder.path().join("sft.old").exists());
        back_up(folder.path(), "sft").unwrap();
        assert!(back_up(folder.path(), "sft").unwrap().is_empty());
        make("2");
        assert!(names(&back_up(folder.path(), "sft").unwrap()).ends_with("sft_8.pth.old2, sft.old2"));
        let text = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
        assert_eq!((text("sft_8.pth.old"), text("sft.old2/done.json")), ("1".into(), "2".into()));
        make("3");
        assert_eq!(copy_weights(&folder.path().join("sft_8.pth")).unwrap().unwrap(), "sft_8.pth.old3");
        assert_eq!((text("sft_8.pth"), text("sft_8.pth.old3")), ("3".into(), "3".into()));
    }
}
