//! A model leaves in the formats other tools read, and no export is believed before its logits were compared.
//!
//! [`export`] writes a draft beside the place, reads it back, compares logits with the source ([`check`])
//! and only then renames it. One file a format: [`files`] (`.pth`, `.safetensors`), [`torchscript`], [`gguf`], [`huggingface`].
//! [`source`] is the model that leaves.

pub mod check;
pub mod files;
pub mod gguf;
pub mod huggingface;
pub mod huggingface_tokenizer;
pub mod source;
pub mod torchscript;

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Kind;

pub use check::Check;
pub use source::Source;

use crate::atomic;
use crate::error::{Error, Place, Result};
use crate::model::params;

/// What can be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum, Deserialize, JsonSchema)]
#[schemars(rename = "ExportFormat")]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lowercase")]
pub enum Format {
    /// A TorchScript module: torch.jit.load reads it, in Python and C++
    Torchscript,
    /// A folder for Hugging Face's AutoModelForCausalLM and AutoTokenizer
    Huggingface,
    /// One .safetensors file with upstream's names
    Safetensors,
    /// A plain state_dict: torch.load(weights_only=True) reads it
    Pth,
    /// One .gguf file for llama.cpp and Ollama
    Gguf,
}

impl Format {
    /// The name in commands and recipes.
    pub fn name(self) -> &'static str {
        match self {
            Format::Torchscript => "torchscript",
            Format::Huggingface => "huggingface",
            Format::Safetensors => "safetensors",
            Format::Pth => "pth",
            Format::Gguf => "gguf",
        }
    }

    /// What a file of this format is called when only a stem is known; a folder has a name of its own.
    pub fn file_name(self, stem: &str) -> String {
        match self {
            Format::Torchscript => format!("{stem}.pt"),
            Format::Huggingface => "huggingface".to_owned(),
            Format::Safetensors => format!("{stem}.safetensors"),
            Format::Pth => format!("{stem}.pth"),
            Format::Gguf => format!("{stem}.gguf"),
        }
    }
}

/// The type of the numbers written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum, Deserialize, JsonSchema)]
#[schemars(rename = "ExportPrecision")]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32-bit.
    #[value(alias = "f32")]
    Fp32,
    /// Half precision.
    #[value(alias = "f16")]
    Fp16,
    /// bfloat16.
    Bf16,
    /// GGUF: 8 bits in blocks of 32.
    #[serde(rename = "q8_0")]
    #[value(name = "q8_0")]
    Q8_0,
    /// GGUF: 4 bits in blocks of 32.
    #[serde(rename = "q4_0")]
    #[value(name = "q4_0")]
    Q4_0,
}

impl Precision {
    /// libtorch's name of it; what is quantised is computed in fp32.
    pub fn kind(self) -> Kind {
        match self {
            Precision::Fp32 | Precision::Q8_0 | Precision::Q4_0 => Kind::Float,
            Precision::Fp16 => Kind::Half,
            Precision::Bf16 => Kind::BFloat16,
        }
    }

    /// The nearest to a file's type.
    pub fn of(kind: Kind) -> Self {
        match kind {
            Kind::Half => Precision::Fp16,
            Kind::BFloat16 => Precision::Bf16,
            _ => Precision::Fp32,
        }
    }
}

/// How to write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Options {
    /// `None`: as the source is stored; TorchScript: fp32, which every machine computes in.
    pub precision: Option<Precision>,
    /// TorchScript: weights become constants of the program.
    pub freeze: bool,
    /// Whether to read back and compare.
    pub verify: bool,
    /// Hugging Face: a weight file larger than this is split.
    pub max_shard_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { precision: None, freeze: false, verify: true, max_shard_bytes: 5_000_000_000 }
    }
}

/// What was written, and how near it is to the source.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The format.
    pub format: Format,
    /// The file or folder.
    pub path: PathBuf,
    /// Every file, relative to `path`'s folder.
    pub files: Vec<PathBuf>,
    /// Their size.
    pub bytes: u64,
    /// Numbers in the model.
    pub parameters: u64,
    /// Their type.
    pub precision: Precision,
    /// The comparison; `None` where it was skipped.
    pub check: Option<Check>,
}

/// Writes `source` to `out`.
///
/// # Errors
/// The format cannot hold this model, the disk fails, or what was written does not compute the same.
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
        Format::Pth => files::pth(source, precision, path)?,
        Format::Safetensors => files::safetensors(source, precision, path)?,
        Format::Torchscript => torchscript::write(source, precision, options.freeze, path)?,
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

pub(crate) fn same_file(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

/// A file or folder that is written under a hidden name and takes its place once it is known to be right.
/// One that is given up is removed.
struct Draft {
    place: PathBuf,
    path: PathBuf,
}

impl Draft {
    fn new(place: &Path) -> Result<Self> {
        let name = place.file_name().ok_or_else(|| {
            Error::input(format!("`{}` is no name for an export", place.display())).hint("give --out a file")
        })?;
        // The ending stays at the end: readers go by it.
        let path = place.with_file_name(format!(".draft-{}", name.to_string_lossy()));
        if let Some(folder) = place.parent().filter(|p| !p.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder).map_err(|e| Error::io("create the folder", folder, e))?;
        }
        let draft = Self { place: place.to_owned(), path };
        draft.remove();
        Ok(draft)
    }

    fn path(&self) -> &Path {
        &self.path
    }

    fn remove(&self) {
        // What is not there need not be removed; anything worse shows when the draft is written.
        let _ = if self.path.is_dir() {
            std::fs::remove_dir_all(&self.path)
        } else {
            std::fs::remove_file(&self.path)
        };
    }

    /// Puts it in its place; the names of its files and their bytes.
    fn publish(self) -> Result<(Vec<PathBuf>, u64)> {
        let fault = |path: &Path, e| Error::io("write", path, e);
        let size = |path: &Path| std::fs::metadata(path).map(|m| m.len()).map_err(|e| fault(path, e));
        let name = PathBuf::from(self.place.file_name().unwrap_or_default());
        if !self.path.is_dir() {
            let bytes = size(&self.path)?;
            atomic::rename_synced(&self.path, &self.place)?;
            return Ok((vec![name], bytes));
        }
        std::fs::create_dir_all(&self.place).map_err(|e| fault(&self.place, e))?;
        let listed = |path: &Path| -> Result<Vec<std::ffi::OsString>> {
            let entries = std::fs::read_dir(path).map_err(|e| fault(path, e))?;
            entries.map(|e| e.map(|e| e.file_name()).map_err(|e| fault(path, e))).collect()
        };
        let mut files = listed(&self.path)?;
        files.sort();
        files.iter().try_for_each(|file| atomic::check_replaceable(&self.place.join(file)))?;
        let mut bytes = 0;
        for file in &files {
            bytes += size(&self.path.join(file))?;
            let to = self.place.join(file);
            atomic::rename_synced(&self.path.join(file), &to)?;
        }
        // Weights of an earlier export into this folder that the new one does not have would be read with it.
        for old in listed(&self.place)?.into_iter().filter(|old| !files.contains(old)) {
            let text = old.to_string_lossy();
            if text.starts_with("model") && (text.ends_with(".safetensors") || text.ends_with(".index.json"))
            {
                let path = self.place.join(&old);
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
