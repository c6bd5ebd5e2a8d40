//! An `export` stage, resolved: which weights, in which formats.

use super::kinds::{Kinds, SettingKind};
use super::resolve::{Resolver, join};
use super::schema::{ExportFormatName, ExportPrecisionName, ExportSection};
use super::types::*;
use crate::export::{Format, Options, Precision};

/// Writes a model in formats that other tools read.
#[derive(Debug, Clone, serde::Serialize)]
pub struct ExportConfig {
    /// Which weights.
    pub init: Init,
    /// The architecture, for files that do not state theirs.
    pub model: Option<ModelPlan>,
    /// What goes with them.
    pub tokenizer: Option<TokenizerSource>,
    /// In the order asked for, each once.
    pub formats: Vec<Format>,
    /// How to write.
    pub options: Options,
}

impl ExportConfig {
    /// What a change of each field means.
    pub const KINDS: Kinds =
        &[(SettingKind::Place, "init tokenizer"), (SettingKind::Result, "model formats options")];
}

impl Resolver<'_> {
    pub(super) fn export(&mut self, base: &[String], s: &ExportSection, below: &[String]) -> StageConfig {
        let last = self.above.iter().rev().find(|a| a.trains()).map(|a| Init::Stage(a.name.clone()));
        let init = match (&s.from, last) {
            (Some(from), _) => self.init(&join(base, "from"), from, below),
            (None, Some(last)) => last,
            (None, None) => {
                self.missing(
                    base,
                    "from",
                    "stage `export` needs `from`",
                    "give a training stage above, or a weight file",
                );
                Init::Scratch
            }
        };
        if s.from.as_deref() == Some("scratch") {
            self.fault(
                &join(base, "from"),
                "fresh weights are not worth an export",
                "name a training stage above, or a weight file",
            );
        }
        let mut formats: Vec<Format> = Vec::new();
        for name in s.formats.iter().flatten().flatten() {
            let format = match name {
                ExportFormatName::Torchscript => Format::Torchscript,
                ExportFormatName::Huggingface => Format::Huggingface,
                ExportFormatName::Safetensors => Format::Safetensors,
                ExportFormatName::Pth => Format::Pth,
                ExportFormatName::Gguf => Format::Gguf,
            };
            if !formats.contains(&format) {
                formats.push(format);
            }
        }
        if s.formats.as_ref().is_none_or(Vec::is_empty) {
            self.missing(
                base,
                "formats",
                "stage `export` needs `formats`",
                "for example formats: [torchscript, safetensors]",
            );
        }
        let freeze = s.freeze.unwrap_or(false);
        if freeze && !formats.contains(&Format::Torchscript) {
            self.fault(
                &join(base, "freeze"),
                "`freeze` is for torchscript",
                "add it to formats, or leave freeze out",
            );
        }
        let precision = s.precision.map(|name| match name {
            ExportPrecisionName::Fp32 => Precision::Fp32,
            ExportPrecisionName::Fp16 => Precision::Fp16,
            ExportPrecisionName::Bf16 => Precision::Bf16,
            ExportPrecisionName::Q8_0 => Precision::Q8_0,
            ExportPrecisionName::Q4_0 => Precision::Q4_0,
        });
        StageConfig::Export(ExportConfig {
            model: self.stage_model(base, None, &init),
            // As for ready token ids: a tokenizer goes along where there is one, and is not demanded.
            tokenizer: self.tokenizer_of(base, s.tokenizer.as_deref(), &init, DataFormat::Tokens, below),
            init,
            formats,
            options: Options { precision, freeze, ..Options::default() },
        })
    }
}
