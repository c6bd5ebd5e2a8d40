//! The state of a stage in the run's folder: the record of a finished one, the resume file of one in progress. Nothing is
//! written here. Next: `decision`, which compares it with the recipe.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde_json::Value;

use super::legacy_records;
use super::record::{Done, Inputs};
use crate::checkpoint::weight_file::{self, WeightFile};
use crate::engine::resume::{self, Position, previous_path};
use crate::error::{Error, Place, Result};
use crate::plan::{StageConfig, StagePlan};

/// What a stage has left in the run's folder.
#[derive(Debug)]
pub enum StageState {
    /// No record and no resume file.
    Empty,
    /// It finished.
    Done(Done),
    /// A resume file of ours.
    InProgress(InProgress),
    /// Upstream's resume file, which does not state what it was made from; the stage itself finds the one of its width.
    UpstreamFile,
    /// It began, but neither of its two resume files can be read.
    Unreadable(Error),
}

/// A stage that began and did not finish.
#[derive(Debug)]
pub struct InProgress {
    /// `<stage>_<hidden>[_moe]_resume.pth`.
    pub resume: PathBuf,
    /// What it is made from.
    pub inputs: Inputs,
    /// Where it stands.
    pub position: Position,
    /// Micro-batches an epoch; 0 where the file does not state it.
    pub per_epoch: u64,
}

/// Reads what `stage` has left; `now` is what it would be made from.
///
/// # Errors
/// The folder cannot be listed.
pub fn read(output: &Path, stage: &StagePlan, now: &Inputs) -> Result<StageState> {
    if let Some(mut done) = Done::read(&output.join(&stage.name)) {
        legacy_records::fill_settings(&mut done.inputs, output, &stage.name, &stage.config);
        return Ok(StageState::Done(done));
    }
    if stage.config.training().is_none() {
        return Ok(StageState::Empty);
    }
    let mut broken = None;
    let mut upstream = false;
    let mut begun: Vec<(SystemTime, InProgress)> = Vec::new();
    for resume in resume_files(output, &stage.name)? {
        let loaded = match resume::load_last(&resume) {
            Ok((loaded, _)) => loaded,
            Err(fault) => {
                broken.get_or_insert(fault);
                continue;
            }
        };
        let Some(state) = &loaded.state else {
            upstream = true;
            continue;
        };
        let weights = weight_file::weights_of_resume(&resume).unwrap_or_default();
        let inputs = match &state.made_from {
            Value::Null => {
                legacy_records::inputs_of_resume_file(&state.content_hash, &weights, output, stage, now)
            }
            made => match serde_json::from_value(made.clone()) {
                Ok(inputs) => inputs,
                Err(e) => {
                    let fault = Error::failed("the record in this resume file cannot be read");
                    broken.get_or_insert(fault.at(Place::file(loaded.path())).because(e));
                    continue;
                }
            },
        };
        let written = std::fs::metadata(loaded.path()).and_then(|m| m.modified());
        let per_epoch = match state.per_epoch {
            0 => epoch_length(&inputs.settings, &stage.config, state.total_steps).unwrap_or(0),
            known => known,
        };
        let found = InProgress { resume, inputs, position: loaded.position, per_epoch };
        begun.push((written.unwrap_or(SystemTime::UNIX_EPOCH), found));
    }
    // Of several widths, the one that was written last.
    let last = begun.into_iter().max_by_key(|(written, _)| *written);
    Ok(match (last, broken) {
        (Some((_, begun)), _) => StageState::InProgress(begun),
        (None, _) if upstream => StageState::UpstreamFile,
        (None, Some(fault)) => StageState::Unreadable(fault),
        (None, None) => StageState::Empty,
    })
}

/// Micro-batches in an epoch of a run of `total`, as far as recorded settings tell.
pub fn epoch_length(settings: &Value, config: &StageConfig, total: u64) -> Option<u64> {
    let own = &settings[config.kind()];
    let common = if own["train"].is_object() { &own["train"] } else { own };
    let epochs = common["epochs"].as_u64().filter(|epochs| *epochs > 0 && common["max_steps"].is_null())?;
    Some(total / epochs)
}

/// The resume files of a stage, of every width, by the last one's name.
fn resume_files(output: &Path, name: &str) -> Result<Vec<PathBuf>> {
    let mut found: Vec<PathBuf> = files(output, name)?
        .into_iter()
        .filter(|path| weight_file::is_resume(path))
        .filter_map(|path| Some(path.with_file_name(WeightFile::from_path(&path)?.resume())))
        .collect();
    found.sort();
    found.dedup();
    Ok(found)
}

/// The weights and resume files of a stage, of every width.
///
/// # Errors
/// The folder cannot be listed.
pub fn files(output: &Path, name: &str) -> Result<Vec<PathBuf>> {
    let read = |e| Error::io("list the run's folder", output, e);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(output).map_err(read)? {
        let path = entry.map_err(read)?.path();
        if WeightFile::from_path(&path).is_some_and(|file| file.stage() == name) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// The resume file beside a finished stage's weights, if it or the one before it is there.
pub fn resume_file_of(output: &Path, done: &Done) -> Option<PathBuf> {
    let weights = done.outputs.iter().find_map(|file| WeightFile::from_path(Path::new(file)))?;
    let resume = output.join(weights.resume());
    (resume.exists() || previous_path(&resume).exists()).then_some(resume)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stages_files_are_told_from_its_neighbours() {
        let folder = tempfile::tempdir().unwrap();
        for name in [
            "sft_8.pth",
            "sft_8_resume.pth",
            "sft_16_moe_resume.prev.pth",
            "sft_long_8_resume.pth",
            "sft_8_resume.pth.old",
            "sft_8_resume.pth.part",
            "sft.pth",
        ] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let names = |paths: Vec<PathBuf>| -> Vec<String> {
            paths.iter().map(|p| p.file_name().unwrap().to_string_lossy().into_owned()).collect()
        };
        assert_eq!(
            names(files(folder.path(), "sft").unwrap()),
            ["sft_16_moe_resume.prev.pth", "sft_8.pth", "sft_8_resume.pth"]
        );
        assert_eq!(
            names(resume_files(folder.path(), "sft").unwrap()),
            ["sft_16_moe_resume.pth", "sft_8_resume.pth"]
        );
        let done = Done {
            inputs: Inputs::default(),
            outputs: vec!["sft_8.pth".into()],
            steps: None,
            per_epoch: None,
        };
        assert_eq!(resume_file_of(folder.path(), &done), Some(folder.path().join("sft_8_resume.pth")));
    }
}
