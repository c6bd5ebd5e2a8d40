//! What a stage has left in the run's folder: the record of a finished one, the resume point of one that is under way.
//! Nothing is written here. Next: `verdict`, which compares it with the recipe.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde_json::Value;

use super::legacy;
use super::record::{Done, Inputs};
use crate::engine::resume::{self, Position, previous_path};
use crate::error::{Error, Place, Result};
use crate::plan::{StageConfig, StagePlan};

/// The end of a resume file's name.
const RESUME: &str = "_resume.pth";
/// The same of the one before it.
const PREVIOUS: &str = "_resume.prev.pth";

/// What is there.
#[derive(Debug)]
pub enum Trace {
    /// Nothing that counts.
    Nothing,
    /// It finished.
    Done(Done),
    /// It began.
    Begun(Begun),
    /// Upstream's resume file, which does not say what it was made from; the stage itself finds the one of its width.
    Upstream,
    /// It began, but neither of its two resume points can be read.
    Broken(Error),
}

/// A stage under way.
#[derive(Debug)]
pub struct Begun {
    /// `<stage>_<hidden>[_moe]_resume.pth`.
    pub resume: PathBuf,
    /// What it is made from.
    pub inputs: Inputs,
    /// How far it is.
    pub position: Position,
    /// Micro-batches in an epoch; 0 where the file does not tell.
    pub per_epoch: u64,
}

/// Looks for what `stage` has left.
///
/// # Errors
/// The folder cannot be listed.
pub fn find(output: &Path, stage: &StagePlan, now: &Inputs) -> Result<Trace> {
    if let Some(mut done) = Done::read(&output.join(&stage.name)) {
        legacy::complete(&mut done.inputs, output, &stage.name, &stage.config);
        return Ok(Trace::Done(done));
    }
    if stage.config.training().is_none() {
        return Ok(Trace::Nothing);
    }
    let mut broken = None;
    let mut upstream = false;
    let mut begun: Vec<(SystemTime, Begun)> = Vec::new();
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
        let weights = resume.with_file_name(stem(&resume, RESUME).unwrap_or_default() + ".pth");
        let inputs = match &state.made_from {
            Value::Null => {
                legacy::behind(&state.content_hash, &weights, output, &stage.name, &stage.config, now)
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
        let found = Begun { resume, inputs, position: loaded.position, per_epoch };
        begun.push((written.unwrap_or(SystemTime::UNIX_EPOCH), found));
    }
    // Of several widths, the one that was written last.
    let last = begun.into_iter().max_by_key(|(written, _)| *written);
    Ok(match (last, broken) {
        (Some((_, begun)), _) => Trace::Begun(begun),
        (None, _) if upstream => Trace::Upstream,
        (None, Some(fault)) => Trace::Broken(fault),
        (None, None) => Trace::Nothing,
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
        .filter_map(|path| {
            let stem = stem(&path, RESUME).or_else(|| stem(&path, PREVIOUS))?;
            Some(path.with_file_name(stem + RESUME))
        })
        .collect();
    found.sort();
    found.dedup();
    Ok(found)
}

fn stem(path: &Path, end: &str) -> Option<String> {
    Some(path.file_name()?.to_str()?.strip_suffix(end)?.to_owned())
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
        let ends = [PREVIOUS, RESUME, ".pth"];
        let Some(stem) = ends.iter().find_map(|end| stem(&path, end)) else { continue };
        if stem.strip_prefix(name).and_then(|rest| rest.strip_prefix('_')).is_some_and(is_size) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Whether a file that [`files`] found is a resume file.
pub fn is_resume(path: &Path) -> bool {
    stem(path, RESUME).or_else(|| stem(path, PREVIOUS)).is_some()
}

/// `512` or `512_moe`.
fn is_size(rest: &str) -> bool {
    let digits = rest.strip_suffix("_moe").unwrap_or(rest);
    !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
}

/// The resume file beside a finished stage's weights, if it or the one before it is there.
pub fn resume_of(output: &Path, done: &Done) -> Option<PathBuf> {
    let weights = done.outputs.iter().find_map(|file| file.strip_suffix(".pth"))?;
    let resume = output.join(format!("{weights}{RESUME}"));
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
        assert_eq!(resume_of(folder.path(), &done), Some(folder.path().join("sft_8_resume.pth")));
    }
}
