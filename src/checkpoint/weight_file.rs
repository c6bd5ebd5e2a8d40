//! Names of a stage's files in a run's folder, upstream's scheme: `<stage>_<hidden_size>[_moe].pth` for the weights,
//! `_resume.pth` for the last resume point and `_resume.prev.pth` for the one before it.
//!
//! Next: `resolve`, which finds weights by these names.

use std::path::{Path, PathBuf};

use crate::model::ModelConfig;

/// What follows the stem of weights, of a resume point and of the resume point before it.
const WEIGHTS: &str = ".pth";
const RESUME: &str = "_resume.pth";
const PREVIOUS_RESUME: &str = "_resume.prev.pth";

/// The files of one stage at one model size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WeightFile {
    stage: String,
    /// `512`, or `512_moe`.
    size: String,
}

impl WeightFile {
    /// The files that `stage` writes for a model of this architecture.
    pub fn new(stage: &str, config: &ModelConfig) -> Self {
        Self { stage: stage.to_owned(), size: format!("{}{}", config.hidden_size, config.suffix()) }
    }

    /// The stage and size that a file's name states; `None` for a name of another form. Weights and both resume points
    /// are recognised.
    pub fn from_path(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        let stem = [PREVIOUS_RESUME, RESUME, WEIGHTS].iter().find_map(|end| name.strip_suffix(end))?;
        let (dense, suffix) = stem.strip_suffix("_moe").map_or((stem, ""), |dense| (dense, "_moe"));
        let (stage, digits) = dense.rsplit_once('_')?;
        let is_size = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        (is_size && !stage.is_empty())
            .then(|| Self { stage: stage.to_owned(), size: format!("{digits}{suffix}") })
    }

    /// The stage's name.
    pub fn stage(&self) -> &str {
        &self.stage
    }

    /// Name of the weights' file: `sft_512.pth`.
    pub fn weights(&self) -> String {
        format!("{}_{}{WEIGHTS}", self.stage, self.size)
    }

    /// Name of the last resume point's file: `sft_512_resume.pth`.
    pub fn resume(&self) -> String {
        format!("{}_{}{RESUME}", self.stage, self.size)
    }
}

/// Whether a file is a resume point by its name, whatever precedes `_resume`.
pub fn is_resume(path: &Path) -> bool {
    stem_of_resume(path).is_some()
}

/// The weights that were saved together with a resume point: the same stem without `_resume`.
pub fn weights_of_resume(path: &Path) -> Option<PathBuf> {
    stem_of_resume(path).map(|stem| path.with_file_name(format!("{stem}{WEIGHTS}")))
}

fn stem_of_resume(path: &Path) -> Option<&str> {
    let name = path.file_name()?.to_str()?;
    name.strip_suffix(RESUME).or_else(|| name.strip_suffix(PREVIOUS_RESUME))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_built_and_read() {
        for (preset, size) in [("minimind2", "768"), ("minimind3-moe", "768_moe")] {
            let config = crate::model::config::preset(preset).unwrap().resolve().unwrap();
            let file = WeightFile::new("sft_long", &config);
            assert_eq!(file.weights(), format!("sft_long_{size}.pth"));
            assert_eq!(file.resume(), format!("sft_long_{size}_resume.pth"));
            let previous = format!("run/sft_long_{size}_resume.prev.pth");
            for name in [file.weights(), file.resume(), previous] {
                let read = WeightFile::from_path(Path::new(&name));
                assert_eq!(read.as_ref().map(WeightFile::stage), Some("sft_long"), "{name}");
                assert_eq!(read.unwrap(), file);
            }
        }
        for name in ["sft.pth", "sft_8_resume.pth.old", "_8.pth", "sft_8x.pth", "sft__moe.pth", "sft_8.bin"] {
            assert_eq!(WeightFile::from_path(Path::new(name)), None, "{name}");
        }
        let resume = Path::new("a/many_resume.prev.pth");
        assert!(is_resume(resume) && !is_resume(Path::new("a/many.pth")));
        assert_eq!(weights_of_resume(resume), Some(PathBuf::from("a/many.pth")));
    }
}
