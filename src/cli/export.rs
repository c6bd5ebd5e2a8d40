//! `minimind export`: a model leaves in the format another tool reads.

use std::path::{Path, PathBuf};

use super::open::ReadArgs;
use super::{open, pull, threads, vocabulary};
use crate::checkpoint::gguf;
use crate::error::{Error, Result};
use crate::export::{self, Format, Options, Precision, Report, Source};
use crate::plan::machine::Machine;

/// The model, the format, and how it is written.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to write.
    #[arg(value_enum)]
    format: Format,
    /// A .pth, a .safetensors, a Hugging Face folder, or a run's folder (RUN or RUN:stage).
    #[arg(long, value_name = "M")]
    model: String,
    /// The file to write, or a folder for it.
    #[arg(long, value_name = "PATH")]
    out: PathBuf,
    /// Type of the numbers; without it as they are stored, and fp32 for torchscript.
    #[arg(long, value_enum)]
    precision: Option<Precision>,
    /// TorchScript: make the weights constants of the program (no state_dict, no .to(device)).
    #[arg(long)]
    freeze: bool,
    /// Hugging Face: split weight files larger than this many bytes.
    #[arg(long, value_name = "BYTES", default_value_t = 5_000_000_000)]
    max_shard_bytes: u64,
    /// Do not read the export back and compare its logits with the model's.
    #[arg(long)]
    no_verify: bool,
    #[command(flatten)]
    read: ReadArgs,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Exports the model and prints what was written and how the check against it came out.
///
/// # Errors
/// The model cannot be read, the format cannot hold it, or the file read back differs from the model.
pub fn run(args: Args) -> Result<()> {
    let machine = Machine::detect();
    threads::use_threads(&machine, machine.cores);
    let path = pull::locate(&args.model)?;
    let given = args.read.config.as_deref().map(open::read_config).transpose()?;
    let tokenizer = args.read.tokenizer.as_deref().map(vocabulary::named).transpose()?;
    let mut source = Source::open(&path, given.as_ref(), tokenizer)?;
    if args.read.yarn {
        source = source.with_yarn();
    }
    if source.tokenizer.is_none() && !gguf::is_gguf(&path) {
        source.tokenizer = vocabulary::of(&path, source.model.config())?;
    }
    if args.format == Format::Huggingface && source.tokenizer.is_none() {
        tracing::warn!(
            "no tokenizer was found beside the model: the folder has none (--tokenizer DIR names one)"
        );
    }
    for note in &source.notes {
        tracing::info!("{note}");
    }
    let out = place(&args.out, args.format, &path);
    let options = Options {
        precision: args.precision,
        freeze: args.freeze,
        verify: !args.no_verify,
        max_shard_bytes: args.max_shard_bytes,
    };
    let within = matches!(args.format, Format::Huggingface | Format::Gguf);
    if !within && !source.names_tokenizer(&out) {
        tracing::info!(
            "the export does not name its tokenizer, which lies elsewhere: copy it beside the export"
        );
    }
    let report = export::export(args.format, &source, &out, &options)?;
    let text = if args.json {
        serde_json::to_string(&report).map_err(|e| Error::failed("cannot write JSON").because(e))?
    } else {
        describe(&report)
    };
    println!("{text}");
    Ok(())
}

/// Where to write: in a folder the file is named after the model; a Hugging Face export is the folder itself.
fn place(out: &Path, format: Format, model: &Path) -> PathBuf {
    let is_folder = out.is_dir() || out.as_os_str().to_string_lossy().ends_with('/');
    if !is_folder || format == Format::Huggingface {
        return out.to_owned();
    }
    let stem = model.file_stem().map_or("model".into(), |s| s.to_string_lossy());
    out.join(format.file_name(&stem))
}

fn describe(report: &Report) -> String {
    let precision = serde_json::to_value(report.precision).unwrap_or_default();
    let mut lines = vec![format!(
        "{}: {}, {} parameters in {}, {:.2} MB",
        report.path.display(),
        report.format.name(),
        report.parameters,
        precision.as_str().unwrap_or_default(),
        report.bytes as f64 / 1e6
    )];
    lines.push(match &report.check {
        Some(check) => format!(
            "checked: {}; largest difference {:.1e}, allowed {:.1e}",
            check.compared.join(", "),
            check.largest_difference,
            check.tolerance
        ),
        None => "not checked (--no-verify)".to_owned(),
    });
    lines.join("\n")
}
