//! `minimind adapter`: LoRA adapters as files, between upstream's and PEFT's form, and into a model for good.

use std::path::{Path, PathBuf};

use clap::{Subcommand, ValueEnum};
use tch::Kind;

use super::pull;
use crate::checkpoint::adapter::{Adapter, merge, peft};
use crate::error::{Error, Place, Result};
use crate::export::same_file;

/// What `minimind adapter` was asked to do.
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Turn an adapter into the other form: a .pth is upstream's, a folder is PEFT's.
    Convert(Convert),
    /// Add an adapter to a model's weights, for good, as a new file.
    Merge(Merge),
}

/// Flags of `adapter convert`.
#[derive(Debug, clap::Args)]
struct Convert {
    /// Upstream's adapter (lora_NAME_768.pth), or a folder with adapter_config.json.
    adapter: PathBuf,
    /// Where to: a name that ends in .pth, or a folder for PEFT.
    #[arg(long, value_name = "PATH")]
    out: PathBuf,
    /// PEFT: the model that the library should load under the adapter.
    #[arg(long, value_name = "NAME")]
    base: Option<String>,
}

/// Flags of `adapter merge`.
#[derive(Debug, clap::Args)]
struct Merge {
    /// The model: a weight file, a Hugging Face folder, or a run's folder (RUN or RUN:stage).
    #[arg(long, value_name = "M")]
    model: String,
    /// Upstream's adapter file, or a PEFT folder.
    #[arg(long, value_name = "A")]
    adapter: PathBuf,
    /// The new file: .pth or .safetensors.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Type of its numbers.
    #[arg(long, value_enum, default_value = "auto")]
    precision: Stored,
}

/// How numbers are stored.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Stored {
    /// As the model's are.
    Auto,
    /// 32-bit.
    Fp32,
    /// Half precision.
    Fp16,
    /// bfloat16.
    Bf16,
}

/// Converts or merges an adapter and prints what was written.
///
/// # Errors
/// The adapter or the model cannot be read, they do not fit each other, or `--out` names the file that is read.
pub fn run(args: Args) -> Result<()> {
    match args.command {
        Command::Convert(args) => convert(&args),
        Command::Merge(args) => merge(&args),
    }
}

/// Refuses an output path that is the source, lies in it, or contains it.
fn apart(source: &Path, out: &Path, what: &str) -> Result<()> {
    // A folder's own file is part of it.
    let part = |of: &Path, file: &Path| {
        file.canonicalize().is_ok_and(|file| file.parent().is_some_and(|folder| same_file(folder, of)))
    };
    if same_file(source, out) || part(source, out) || part(out, source) {
        return Err(Error::input(what).at(Place::file(out)).hint("give another --out"));
    }
    Ok(())
}

fn convert(args: &Convert) -> Result<()> {
    apart(&args.adapter, &args.out, "the converted adapter would replace the one it is made from")?;
    let adapter = Adapter::read(&args.adapter)?;
    let to_pth = args.out.extension().is_some_and(|e| e == "pth");
    if to_pth {
        if args.base.is_some() {
            return Err(Error::input("--base is for PEFT's folders; a .pth names no model"));
        }
        let scaled = adapter.pairs.iter().any(|(_, pair)| pair.scale != 1.0);
        adapter.write_pth(&args.out)?;
        if scaled {
            tracing::info!("upstream knows no alpha: B holds it now");
        }
    } else if args.out.is_file() {
        return Err(Error::input("this is a file; PEFT's form is a folder")
            .at(Place::file(&args.out))
            .hint("name a folder, or a file that ends in .pth"));
    } else {
        peft::write(&adapter, args.base.as_deref(), &args.out)?;
    }
    let form = if to_pth { "upstream's file" } else { "a PEFT folder" };
    println!(
        "{}: {form}, {} modules, {} parameters",
        args.out.display(),
        adapter.pairs.len(),
        adapter.parameters()
    );
    Ok(())
}

fn merge(args: &Merge) -> Result<()> {
    let base = pull::locate(&args.model)?;
    for (what, source) in [("model", &base), ("adapter", &args.adapter)] {
        apart(source, &args.out, &format!("the merged file would replace the {what} it is made from"))?;
    }
    let kind = match args.precision {
        Stored::Auto => None,
        Stored::Fp32 => Some(Kind::Float),
        Stored::Fp16 => Some(Kind::Half),
        Stored::Bf16 => Some(Kind::BFloat16),
    };
    let done = merge::merge(&base, &args.adapter, &args.out, kind)?;
    let kind = match done.kind {
        Kind::Half => "fp16",
        Kind::BFloat16 => "bf16",
        _ => "fp32",
    };
    println!("{}: {} modules merged, {kind}", args.out.display(), done.modules);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_not_written_over() {
        let folder = tempfile::tempdir().unwrap();
        let (file, other) = (folder.path().join("a.pth"), folder.path().join("b.pth"));
        std::fs::write(&file, "an adapter").unwrap();
        let round_about = folder.path().join(".").join("a.pth");
        for args in [
            Command::Convert(Convert { adapter: file.clone(), out: round_about.clone(), base: None }),
            Command::Merge(Merge {
                model: other.display().to_string(),
                adapter: file.clone(),
                out: round_about,
                precision: Stored::Auto,
            }),
        ] {
            std::fs::write(&other, "a model").unwrap();
            let fault = run(Args { command: args }).unwrap_err();
            assert!(fault.to_string().contains("would replace"), "{fault}");
        }
        assert_eq!(std::fs::read(&file).unwrap(), b"an adapter");
        assert!(apart(&file, &folder.path().join("new.pth"), "x").is_ok());
    }
}
