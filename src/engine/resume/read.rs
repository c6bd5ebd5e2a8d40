//! Reads a resume file, and puts what it holds back into model, optimizer and random generator.

use std::path::{Path, PathBuf};

use tch::{Kind, Tensor};

use super::{Position, SavedState, previous_path};
use crate::checkpoint::{Value, convert, pth};
use crate::error::{Error, Place, Result};
use crate::model::CausalLm;
use crate::native;
use crate::optim::GradScaler;
use crate::optim::adamw::{AdamW, ParamState};

/// A resume file that was read.
#[derive(Debug)]
pub struct ResumeFile {
    value: Value,
    path: PathBuf,
    /// How far it is.
    pub position: Position,
    /// The `minimind` entry; `None` in upstream's files.
    pub state: Option<SavedState>,
}

/// Reads a resume file, ours or upstream's.
///
/// # Errors
/// It cannot be read, or lacks its position or our state.
fn load(path: &Path) -> Result<ResumeFile> {
    let value = pth::read(path)?;
    let place = || Place::file(path);
    let number = |key: &str| {
        value.get(key).and_then(Value::as_i64).and_then(|n| u64::try_from(n).ok()).ok_or_else(|| {
            Error::failed(format!("this resume file has no whole number `{key}`"))
                .at(place())
                .hint("run with --resume never to start over")
        })
    };
    let position = Position { epoch: number("epoch")?, step_in_epoch: number("step")? };
    let state = match value.get("minimind").and_then(Value::as_str) {
        None => None,
        Some(text) => Some(serde_json::from_str(text).map_err(|e| {
            Error::failed("this resume file's `minimind` entry cannot be read").at(place()).because(e)
        })?),
    };
    Ok(ResumeFile { value, path: path.to_owned(), position, state })
}

/// Reads the last resume file, or the one before it where the last cannot be read or is missing; beside it the fault of
/// the last, where it had one.
///
/// # Errors
/// Neither can be read: the faults of both.
pub fn load_last(resume: &Path) -> Result<(ResumeFile, Option<Error>)> {
    let before = previous_path(resume);
    let fault = match load(resume) {
        Ok(loaded) => return Ok((loaded, None)),
        Err(fault) => fault,
    };
    let gone = !resume.exists();
    if !before.exists() {
        return Err(fault);
    }
    match load(&before) {
        // A run that was killed between two renames leaves the one alone; it is the last then.
        Ok(loaded) => Ok((loaded, (!gone).then_some(fault))),
        Err(other) => Err(Error::failed("neither of the last two resume files can be read")
            .at(Place::file(resume))
            .because(format!("{}; {}", one_line(&fault), one_line(&other)))),
    }
}

/// A fault with its cause in one line, without its hint.
pub fn one_line(fault: &Error) -> String {
    let text = fault.to_string();
    let lines = text.lines().take_while(|line| !line.starts_with("hint: "));
    let lines: Vec<&str> = lines.map(|line| line.trim().trim_start_matches("error: ")).collect();
    lines.join(", ")
}

/// Renames a resume file that cannot be read to `....broken`, so that it does not replace the one before it; the new
/// path.
///
/// # Errors
/// The file cannot be renamed.
pub fn rename_broken(resume: &Path) -> Result<PathBuf> {
    let mut name = resume.file_name().unwrap_or_default().to_owned();
    name.push(".broken");
    let aside = resume.with_file_name(name);
    std::fs::rename(resume, &aside).map_err(|e| Error::io("rename a broken file", resume, e))?;
    Ok(aside)
}

impl ResumeFile {
    /// The file it was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Updates done as the scheduler of upstream's files counts them.
    pub fn scheduled_updates(&self) -> u64 {
        let count = self.value.get("scheduler").and_then(|s| s.get("last_epoch")).and_then(Value::as_i64);
        count.and_then(|n| u64::try_from(n).ok()).unwrap_or(0)
    }

    /// Puts weights, moments, loss scale and a rank's random state back; a rank that the run did not have keeps its own.
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn restore(
        &self,
        model: &CausalLm,
        optimizer: &mut AdamW,
        scaler: Option<&mut GradScaler>,
        rank: usize,
    ) -> Result<()> {
        let at = |e: Error| e.at(Place::file(&self.path));
        let (names, tensors) = model.params().trained();
        self.restore_into("model", names.iter().zip(tensors)).map_err(at)?;
        self.restore_optimizer("optimizer", optimizer).map_err(at)?;
        if let Some(scaler) = scaler
            && let Some(saved) = self.value.get("scaler")
            && let Some(scale) = saved.get("scale").and_then(Value::as_f64)
        {
            scaler.scale = scale;
            scaler.growth_tracker =
                saved.get("_growth_tracker").and_then(Value::as_i64).unwrap_or(0).max(0) as u64;
        }
        let others = self.value.get("rng_states").and_then(Value::as_list);
        let rng = match rank.checked_sub(1) {
            None => self.value.get("rng_state"),
            Some(i) => others.and_then(|states| states.get(i)),
        };
        if let Some(rng) = rng.and_then(Value::as_tensor) {
            native::set_rng_state(model.device(), &convert::to_tensor(rng)?)?;
        }
        Ok(())
    }

    /// Puts the weights under `key` back into tensors of the same names.
    pub(in crate::engine) fn restore_into<'a>(
        &self,
        key: &str,
        named: impl Iterator<Item = (&'a String, &'a Tensor)>,
    ) -> Result<()> {
        let dict = self
            .value
            .get(key)
            .and_then(Value::as_dict)
            .ok_or_else(|| Error::failed(format!("this resume file has no `{key}`")))?;
        let mut found = std::collections::HashMap::new();
        for (name, value) in dict {
            if let (Some(name), Some(tensor)) = (name.as_str(), value.as_tensor()) {
                found.insert(crate::checkpoint::state_dict::strip_wrappers(name), tensor);
            }
        }
        for (name, param) in named {
            let saved = found
                .get(name.as_str())
                .ok_or_else(|| Error::failed(format!("this resume file has no weight `{name}`")))?;
            if saved.shape() != param.size() {
                let (got, want) = (saved.shape(), param.size());
                return Err(Error::failed(format!(
                    "`{name}` has shape {got:?} in the resume file, the model wants {want:?}"
                ))
                .hint("the model in the recipe changed: start the stage over with --from and its name"));
            }
            let saved = convert::to_tensor(saved)?;
            tch::no_grad(|| param.shallow_clone().f_copy_(&saved))?;
        }
        Ok(())
    }

    /// Puts the moments under `key` back.
    pub(in crate::engine) fn restore_optimizer(&self, key: &str, optimizer: &mut AdamW) -> Result<()> {
        let states = self
            .value
            .get(key)
            .and_then(|o| o.get("state"))
            .ok_or_else(|| Error::failed(format!("this resume file has no `{key}` state")))?;
        // PyTorch keeps no state for parameters that never had a gradient: theirs stays empty.
        for i in 0..optimizer.len() {
            let Some(saved) = states.get_index(i as i64) else { continue };
            let moment = |key: &str| {
                saved
                    .get(key)
                    .and_then(Value::as_tensor)
                    .ok_or_else(|| Error::failed(format!("optimizer state {i} has no `{key}`")))
                    .and_then(convert::to_tensor)
            };
            let step = match saved.get("step") {
                Some(Value::Tensor(t)) => {
                    convert::to_tensor(t)?.to_kind(Kind::Double).sum(Kind::Double).double_value(&[])
                }
                Some(other) => other.as_f64().unwrap_or(0.0),
                None => 0.0,
            };
            optimizer.set_state(
                i,
                &ParamState { step, exp_avg: moment("exp_avg")?, exp_avg_sq: moment("exp_avg_sq")? },
            )?;
        }
        Ok(())
    }
}
