//! Exports a model to the formats that other tools read; the logits of every export are compared with the source's.
//!
//! [`export`] writes a draft beside the target, reads it back, compares logits with the source ([`check`]) and only then
//! renames it. One file per format: [`weight_files`] (`.pth`, `.safetensors`), [`torchscript`], [`gguf`],
//! [`huggingface`]. [`source`] is the model that is exported.

pub mod check;
pub mod gguf;
pub mod huggingface;
pub mod huggingface_tokenizer;
pub mod options;
pub mod source;
pub mod torchscript;
pub mod weight_files;

use std::path::{Path, PathBuf};

use serde::Serialize;

pub use check::Check;
pub use options::{Format, Options, Precision};
pub use source::Source;
use torchscript::WeightForm;

use crate::atomic;
use crate::error::{Error, Place, Result};
use crate::model::params;

/// What was written, and how it compares with the source.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The format that was written.
    pub format: Format,
    /// The file or folder.
    pub path: PathBuf,
    /// Every file, relative to `path`'s folder.
    pub files: Vec<PathBuf>,
    /// Their size in bytes.
    pub bytes: u64,
    /// The number of the model's parameters.
    pub parameters: u64,
    /// Their element type.
    pub precision: Precision,
    /// The comparison; `None` where it was skipped.
    pub check: Option<Check>,
}

/// Writes `source` to `out`, a file or (for `huggingface`) a folder.
///
/// # Errors
/// `out` is the source itself; the format cannot hold this model or precision; the disk fails; the export does not
/// compute what the source does.
pub fn export(format: Format, source: &Source, out: &Path, options: &Options) -> Result<Report> {
    if same_file(&source.path, out) {
        return Err(Error::input("the export would replace the model it is made from")
            .at(Place::file(out))
            .hint("give another --out"));
    }
    if options.freeze && format != Format::Torchscript {
        return Err(Error::input(format!("--freeze is for torchscript, not for {}", format.name())));
    }
    let precision = options.precision.unwrap_or(match format {
        Format::Torchscript => Precision::Fp32,
        _ => Precision::of(source.stored),
    });
    if matches!(precision, Precision::Q8_0 | Precision::Q4_0) && format != Format::Gguf {
        return Err(Error::input(format!("{} has no quantised numbers", format.name()))
            .hint("give --precision fp32, fp16 or bf16, or export gguf"));
    }
    atomic::check_replaceable(out)?;
    let draft = Draft::new(out)?;
    let path = draft.path();
    match format {
        Format::Pth => weight_files::pth(source, precision, path)?,
        Format::Safetensors => weight_files::safetensors(source, precision, path)?,
        Format::Torchscript => {
            let form = if options.freeze { WeightForm::Constants } else { WeightForm::Parameters };
            torchscript::write(source, precision, form, path)?;
        }
        Format::Gguf => gguf::write(source, precision, path)?,
        Format::Huggingface => huggingface::write(source, precision, options.max_shard_bytes, path)?,
    }
    let check = options.verify.then(|| -> Result<Check> {
        let kind = precision.kind();
        match format {
            Format::Pth | Format::Safetensors | Format::Huggingface => {
                check::compare_file(source, kind, path)
            }
            Format::Torchscript => torchscript::compare(source, kind, path),
            Format::Gguf => gguf::compare(source, precision, path),
        }
    });
    let check = check.transpose().map_err(|e| e.at(Place::file(out)))?;
    let (mut files, bytes) = draft.publish()?;
    if format == Format::Gguf {
        files.extend(gguf::modelfile(source, out)?.file_name().map(PathBuf::from));
    }
    let parameters = params::count(source.model.config()).0;
    Ok(Report { format, path: out.to_owned(), files, bytes, parameters, precision, check })
}

/// Whether two paths lead to one existing file.
pub(crate) fn same_file(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

/// A file or folder that is written under a hidden name and renamed once it is verified. Dropped before, it is removed.
struct Draft {
    target: PathBuf,
    path: PathBuf,
}

impl Draft {
    fn new(target: &Path) -> Result<Self> {
        let name = target.file_name().ok_or_else(|| {
            Error::input(format!("`{}` is no name for an export", target.display())).hint("give --out a file")
        })?;
        // The extension stays: readers go by it.
        let path = target.with_file_name(format!(".draft-{}", name.to_string_lossy()));
        if let Some(folder) = target.parent().filter(|p| !p.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder).map_err(|e| Error::io("create the folder", folder, e))?;
        }
        let draft = Self { target: target.to_owned(), path };
        draft.remove();
        Ok(draft)
    }

    fn path(&self) -> &Path {
        &self.path
    }

    fn remove(&self) {
        // An absent draft is the usual case; any other fault shows when the draft is written.
        let _ = if self.path.is_dir() {
            std::fs::remove_dir_all(&self.path)
        } else {
            std::fs::remove_file(&self.path)
        };
    }

    /// Renames it to its target; returns the names of its files and their bytes.
    ///
    /// # Errors
    /// The disk fails, or there is a device at the path of a file.
    fn publish(self) -> Result<(Vec<PathBuf>, u64)> {
        let fault = |path: &Path, e| Error::io("write", path, e);
        let size = |path: &Path| std::fs::metadata(path).map(|m| m.len()).map_err(|e| fault(path, e));
        let name = PathBuf::from(self.target.file_name().unwrap_or_default());
        if !self.path.is_dir() {
            let bytes = size(&self.path)?;
            atomic::rename_synced(&self.path, &self.target)?;
            return Ok((vec![name], bytes));
        }
        std::fs::create_dir_all(&self.target).map_err(|e| fault(&self.target, e))?;
        let listed = |path: &Path| -> Result<Vec<std::ffi::OsString>> {
            let entries = std::fs::read_dir(path).map_err(|e| fault(path, e))?;
            entries.map(|e| e.map(|e| e.file_name()).map_err(|e| fault(path, e))).collect()
        };
        let mut files = listed(&self.path)?;
        files.sort();
        files.iter().try_for_each(|file| atomic::check_replaceable(&self.target.join(file)))?;
        let mut bytes = 0;
        for file in &files {
            bytes += size(&self.path.join(file))?;
            let to = self.target.join(file);
            atomic::rename_synced(&self.path.join(file), &to)?;
        }
        // Shards of an earlier export into this folder would be read together with the new ones.
        for old in listed(&self.target)?.into_iter().filter(|old| !files.contains(old)) {
            let text = old.to_string_lossy();
            if text.starts_with("model") && (text.ends_with(".safetensors") || text.ends_with(".index.json"))
            {
                let path = self.target.join(&old);
                std::fs::remove_file(&path).map_err(|e| fault(&path, e))?;
            }
        }
        Ok((files.into_iter().map(|f| name.join(f)).collect(), bytes))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        self.remove();
    }
}

#[cfg(test)]
mod tests;
