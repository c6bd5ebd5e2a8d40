//! `minimind eval`: measure a model on a file.

use std::path::PathBuf;

use super::open::{OpenArgs, open};
use crate::data::{DataConfig, DataFormat};
use crate::error::{Error, Result};
use crate::native::Storage;
use crate::plan::EvalTask;
use crate::plan::machine::Machine;
use crate::stage::eval::{Measurement, measure};

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    open: OpenArgs,
    /// Rows to measure on: .jsonl with `text` or `conversations`, or .safetensors with ids and labels.
    #[arg(long)]
    data: PathBuf,
    /// What to measure; without it: loss, and exact_match where rows hold an `answer`.
    #[arg(long, value_name = "NAME", value_enum)]
    task: Vec<EvalTask>,
    /// Rows a batch.
    #[arg(long, default_value_t = 16)]
    batch_size: usize,
    /// Longest row in tokens.
    #[arg(long, default_value_t = 512)]
    max_seq_len: usize,
    /// Longest answer in tokens.
    #[arg(long, default_value_t = 64)]
    max_new_tokens: usize,
    /// Most questions.
    #[arg(long)]
    limit: Option<usize>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Carries the command out.
pub fn run(args: Args) -> Result<()> {
    let machine = Machine::detect();
    let opened = open(&args.open)?;
    if opened.storage == Some(Storage::Int8) {
        return Err(Error::input("int8 is for generating; a loss is measured at full precision")
            .hint("give --precision fp32, bf16 or fp16"));
    }
    let (format, has_answers) = crate::data::source::sniff(&args.data)?;
    if format != DataFormat::Tokens && opened.tokenizer.is_none() {
        return Err(
            Error::input("no tokenizer was found beside the model").hint("name one with --tokenizer DIR")
        );
    }
    let tasks = match (args.task.is_empty(), has_answers) {
        (false, _) => args.task,
        (true, true) => vec![EvalTask::Loss, EvalTask::ExactMatch],
        (true, false) => vec![EvalTask::Loss],
    };
    let data = DataConfig::files(vec![args.data], format);
    let what = Measurement {
        data: &data,
        tasks: &tasks,
        batch_size: args.batch_size,
        max_seq_len: args.max_seq_len,
        max_new_tokens: args.max_new_tokens,
        limit: args.limit,
        compute: opened.compute,
        cache_dir: &machine.cache_dir,
    };
    let result = measure(&opened.model, opened.tokenizer.as_ref(), &what)?;
    if args.json {
        println!("{result}");
        return Ok(());
    }
    for (name, value) in result["metrics"].as_object().into_iter().flatten() {
        let shown = value.as_f64().map_or(value.to_string(), |x| crate::report::format::digits(x, 5));
        println!("{name:<16} {shown}");
    }
    Ok(())
}
