//! What policy optimisation learns from: rows of tokens, which of them were generated, and what came of it.
//!
//! [`Recorded`] reads rollouts from a `.safetensors`: `output_ids` `[N, R, P+C]`, `prompt_len` `[N, R]`,
//! `completion_mask` `[N, R, C]`, `old_logprobs` `[N, R, C]` (where the method needs them), `rewards` `[N, R]`;
//! a step's R rows hold a prompt's generations side by side. Other rollouts are generated (`stage::rollouts`).
//!
//! N steps, R rows a step, P prompt tokens, C completion tokens.

use std::path::{Path, PathBuf};

use tch::{Kind, Tensor};

use crate::checkpoint::{convert, safetensors};
use crate::error::{Error, Place, Result};

/// One row of a rollout.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Episode {
    /// Prompt and what followed; padding may stand at either end.
    pub ids: Vec<i64>,
    /// Whether the token at each position was generated and carries loss; never the first.
    pub learn: Vec<bool>,
    /// Log-probability with which each such token was drawn, 0 elsewhere; empty where not known.
    pub logprobs: Vec<f32>,
    /// What came of it.
    pub reward: f64,
}

impl Episode {
    /// Tokens that carry loss.
    pub fn length(&self) -> usize {
        self.learn.iter().filter(|&&learn| learn).count()
    }
}

/// Rollouts of a file.
#[derive(Debug)]
pub struct Recorded {
    path: PathBuf,
    output_ids: Tensor,
    prompt_len: Tensor,
    mask: Tensor,
    old: Option<Tensor>,
    rewards: Tensor,
    /// Steps.
    pub steps: usize,
    /// Rows a step.
    pub rows: usize,
    /// P + C.
    width: usize,
    /// C.
    completion: usize,
}

const HINT: &str = "replay wants output_ids [N,R,P+C], prompt_len [N,R], completion_mask [N,R,C], \
                    old_logprobs [N,R,C] (not for spo) and rewards [N,R]";

impl Recorded {
    /// Opens and checks a file; `needs_old` where the method needs `old_logprobs`.
    ///
    /// # Errors
    /// The file cannot be read, a tensor is missing, or shapes do not fit each other.
    pub fn open(path: &Path, needs_old: bool) -> Result<Self> {
        let bad = |what: String| Error::input(what).at(Place::file(path)).hint(HINT);
        let contents = safetensors::read(path)?.tensors;
        let get = |name: &str, kind: Kind| match contents.get(name) {
            Some(host) => Ok(Some(convert::to_tensor(host)?.to_kind(kind))),
            None => Ok::<_, Error>(None),
        };
        let need =
            |name: &str, kind: Kind| get(name, kind)?.ok_or_else(|| bad(format!("no tensor `{name}`")));
        let output_ids = need("output_ids", Kind::Int64)?;
        let prompt_len = need("prompt_len", Kind::Int64)?;
        let mask = need("completion_mask", Kind::Float)?;
        let rewards = need("rewards", Kind::Double)?;
        let old = if needs_old { Some(need("old_logprobs", Kind::Float)?) } else { None };
        let (steps, rows, width) = output_ids
            .size3()
            .map_err(|_| bad(format!("`output_ids` is {:?}, not [N, R, P+C]", output_ids.size())))?;
        let completion = mask.size().last().copied().unwrap_or(0);
        let fits = |name: &str, tensor: &Tensor, want: &[i64]| {
            if tensor.size() == want {
                return Ok(());
            }
            Err(bad(format!("`{name}` is {:?}, expected {want:?}", tensor.size())))
        };
        fits("prompt_len", &prompt_len, &[steps, rows])?;
        fits("rewards", &rewards, &[steps, rows])?;
        fits("completion_mask", &mask, &[steps, rows, completion])?;
        if let Some(old) = &old {
            fits("old_logprobs", old, &[steps, rows, completion])?;
        }
        if steps * rows == 0 || completion == 0 || completion >= width {
            return Err(bad(format!("`output_ids` is {:?}: nothing to learn from", output_ids.size())));
        }
        let (steps, rows) = (steps as usize, rows as usize);
        let (width, completion) = (width as usize, completion as usize);
        let path = path.to_owned();
        Ok(Self { path, output_ids, prompt_len, mask, old, rewards, steps, rows, width, completion })
    }

    /// The episodes of step `step` (from 0). A completion ends with the first of `ends` in it, whatever its mask says after it.
    ///
    /// # Errors
    /// A prompt length in the file is not from 1 to P.
    pub fn step(&self, step: usize, ends: &[i64], pad: i64) -> Result<Vec<Episode>> {
        (0..self.rows).map(|row| self.row(step, row, ends, pad)).collect()
    }

    fn row(&self, step: usize, row: usize, ends: &[i64], pad: i64) -> Result<Episode> {
        let at = |tensor: &Tensor| tensor.get(step as i64).get(row as i64);
        let ids: Vec<i64> = Vec::try_from(at(&self.output_ids))?;
        let mask: Vec<f32> = Vec::try_from(at(&self.mask))?;
        let old: Option<Vec<f32>> = self.old.as_ref().map(|old| Vec::try_from(at(old))).transpose()?;
        let length = at(&self.prompt_len).int64_value(&[]);
        let start = self.start(&ids, length, pad).ok_or_else(|| {
            Error::input(format!("step {step}, row {row}: a prompt of {length} tokens in {}", self.width))
                .at(Place::file(&self.path))
                .hint("prompt_len is from 1 to P")
        })?;
        let mut learn = vec![false; self.width];
        let mut logprobs = vec![0.0; if old.is_some() { self.width } else { 0 }];
        for column in 0..self.completion.min(self.width - start) {
            if mask[column] == 0.0 {
                continue;
            }
            learn[start + column] = true;
            if let Some(old) = &old {
                logprobs[start + column] = old[column];
            }
            if ends.contains(&ids[start + column]) {
                break;
            }
        }
        Ok(Episode { ids, learn, logprobs, reward: at(&self.rewards).double_value(&[]) })
    }

    /// Where a row's completion begins: after its prompt, which stands at the left, or at the right of P
    /// columns with padding before it.
    fn start(&self, ids: &[i64], length: i64, pad: i64) -> Option<usize> {
        let prompts = self.width - self.completion; // P
        let length = usize::try_from(length).ok().filter(|&n| n > 0 && n <= prompts)?;
        let before = prompts - length;
        let padded = before > 0 && ids[..before].iter().all(|&id| id == pad);
        Some(if padded { prompts } else { length })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::HostTensor;
    use std::collections::HashMap;

    fn file(folder: &Path, leave_out: &str) -> PathBuf {
        let tensors: HashMap<&str, Tensor> = HashMap::from([
            // A prompt padded at its left, one that stands at the left, and one of full length.
            (
                "output_ids",
                Tensor::from_slice(&[0i64, 5, 6, 2, 9, 5, 6, 7, 8, 0, 5, 6, 7, 2, 2]).view([1, 3, 5]),
            ),
            ("prompt_len", Tensor::from_slice(&[1i64, 1, 2]).view([1, 3])),
            ("completion_mask", Tensor::from_slice(&[1f32, 1., 1., 1., 1., 1., 1., 1., 1.]).view([1, 3, 3])),
            ("old_logprobs", -Tensor::arange(9, (Kind::Float, tch::Device::Cpu)).view([1, 3, 3])),
            ("rewards", Tensor::from_slice(&[1f32, -1.0, 0.5]).view([1, 3])),
        ]);
        let path = folder.join("rollouts.safetensors");
        let hosts: Vec<(String, HostTensor)> = tensors
            .iter()
            .filter(|(name, _)| **name != leave_out)
            .map(|(name, t)| ((*name).to_owned(), convert::to_host(t).unwrap()))
            .collect();
        safetensors::write(&path, &hosts, HashMap::new()).unwrap();
        path
    }

    #[test]
    fn rows_are_cut_at_the_first_end_and_found_behind_padding() {
        let folder = tempfile::tempdir().unwrap();
        let recorded = Recorded::open(&file(folder.path(), ""), true).unwrap();
        let rows = recorded.step(0, &[2], 0).unwrap();
        assert_eq!(rows[0].learn, [false, false, true, true, false]);
        assert_eq!(rows[0].logprobs, [0.0, 0.0, 0.0, -1.0, 0.0]);
        // Not padded: begins after its one token and has no end.
        assert_eq!(rows[1].learn, [false, true, true, true, false]);
        assert_eq!(rows[2].learn, [false, false, true, true, false]);
        assert_eq!((rows[1].length(), rows[1].reward), (3, -1.0));
        // Any of several marks ends a completion, whichever comes first.
        let rows = recorded.step(0, &[2, 6], 0).unwrap();
        assert_eq!(rows[0].learn, [false, false, true, false, false]);
        assert_eq!(rows[1].learn, [false, true, false, false, false]);
    }

    #[test]
    fn what_is_missing_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = file(folder.path(), "old_logprobs");
        assert!(Recorded::open(&path, true).unwrap_err().to_string().contains("old_logprobs"));
        assert!(Recorded::open(&path, false).unwrap().step(0, &[2], 0).unwrap()[0].logprobs.is_empty());
        assert!(Recorded::open(&file(folder.path(), "rewards"), false).is_err());
    }
}
