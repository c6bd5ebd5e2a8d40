//! `minimind eval`: measure a model on a file.

use std::io::Read;
use std::path::{Path, PathBuf};

use super::open::{OpenArgs, open};
use crate::data::{DataConfig, DataFormat};
use crate::error::{Error, Place, Result};
use crate::native::Storage;
use crate::plan::machine::Machine;
use crate::plan::{ChoicePlan, EvalTask};
use crate::stage::eval::{Measurement, evaluate};

/// The model, the data, and how it is measured.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    open: OpenArgs,
    /// Rows to measure on: .jsonl with `text` or `conversations`, .safetensors with ids and labels, or
    /// multiple-choice questions (.csv or .jsonl, or a folder of them); - for standard input.
    #[arg(long)]
    data: PathBuf,
    /// What to measure; without it: multiple_choice where the rows are such questions, math where they hold `gt` or
    /// `question` and `answer`, else loss, and exact_match where conversations hold an `answer`. The names ceval, cmmlu, arc, piqa, openbookqa and hellaswag
    /// mean multiple_choice, gsm8k means math.
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
    /// Use at most this many rows; of multiple choice, this many a file.
    #[arg(long)]
    limit: Option<usize>,
    /// Answered examples before each question of multiple choice.
    #[arg(long, default_value_t = 0, requires = "shots_from")]
    shots: usize,
    /// Where examples come from: a file, or a folder with a file of each subject's name.
    #[arg(long, value_name = "PATH")]
    shots_from: Option<PathBuf>,
    /// Put questions of multiple choice as chat turns.
    #[arg(long)]
    chat_template: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Copies standard input or a pipe into a temporary file, since the data is read more than once; `None` for plain files
/// and folders.
fn kept(data: &Path) -> Result<Option<tempfile::NamedTempFile>> {
    let input = data == Path::new("-");
    if !input && (data.is_file() || data.is_dir() || !data.exists()) {
        return Ok(None);
    }
    let fault = |e: std::io::Error| Error::failed("cannot keep the data").at(Place::file(data)).because(e);
    let mut source: Box<dyn Read> = if input {
        Box::new(std::io::stdin().lock())
    } else {
        Box::new(std::fs::File::open(data).map_err(fault)?)
    };
    let mut file = tempfile::Builder::new().suffix(".jsonl").tempfile().map_err(fault)?;
    std::io::copy(&mut source, &mut file).map_err(fault)?;
    Ok(Some(file))
}

/// What is measured, and the data's format: the tasks that were asked for, or those that the first row shows.
fn tasks(asked: &[EvalTask], data: &Path) -> Result<(Vec<EvalTask>, DataFormat)> {
    let choice = asked.contains(&EvalTask::MultipleChoice)
        || (asked.is_empty() && crate::data::multiple_choice::is_multiple_choice(data));
    if choice && asked.len() > 1 {
        return Err(Error::input("multiple_choice has files of its own and stands alone")
            .hint("measure the other tasks with a second call"));
    }
    let math = !choice && asked.is_empty() && crate::data::source::is_math(data);
    if math {
        tracing::info!("the rows hold `gt` or an answer: measured as math (--task loss for their loss)");
    }
    let (format, has_answers) =
        if choice || math { (DataFormat::Chat, false) } else { crate::data::source::detect_format(data)? };
    let tasks = match (asked.is_empty(), has_answers) {
        _ if choice => vec![EvalTask::MultipleChoice],
        _ if math => vec![EvalTask::Math],
        (false, _) => asked.to_vec(),
        (true, true) => vec![EvalTask::Loss, EvalTask::ExactMatch],
        (true, false) => vec![EvalTask::Loss],
    };
    Ok((tasks, format))
}

/// Measures the model on the data and prints one line a metric, or one JSON object.
///
/// # Errors
/// The model or the data cannot be read, no tokenizer was found, or the tasks exclude each other.
pub fn run(args: Args) -> Result<()> {
    let kept = kept(&args.data)?;
    let args = Args { data: kept.as_ref().map_or(args.data.clone(), |kept| kept.path().to_owned()), ..args };
    let machine = Machine::detect();
    let opened = open(&args.open)?;
    if opened.storage == Some(Storage::Int8) {
        return Err(Error::input("int8 is for generating; a loss is measured at full precision")
            .hint("give --precision fp32, bf16 or fp16"));
    }
    let (tasks, format) = tasks(&args.task, &args.data)?;
    if format != DataFormat::Tokens && opened.tokenizer.is_none() {
        return Err(Error::input("no tokenizer was found beside the model")
            .hint("name one: --tokenizer DIR, or minimind3 or minimind2 for MiniMind's own"));
    }
    let data = DataConfig::files(vec![args.data], format);
    let what = Measurement {
        data: &data,
        tasks: &tasks,
        batch_size: args.batch_size,
        max_seq_len: args.max_seq_len,
        max_new_tokens: args.max_new_tokens,
        limit: args.limit,
        choice: &ChoicePlan {
            shots: args.shots,
            shots_from: args.shots_from,
            chat_template: args.chat_template,
        },
        eos_token_ids: &opened.ends,
        compute: opened.compute,
        cache_dir: &machine.cache_dir,
    };
    let result = evaluate(&opened.model, opened.tokenizer.as_ref(), &what)?;
    if args.json {
        println!("{result}");
        return Ok(());
    }
    for (name, value) in result["metrics"].as_object().into_iter().flatten() {
        let shown = value.as_f64().map_or(value.to_string(), |x| crate::report::format::digits(x, 5));
        println!("{name:<24} {shown}");
    }
    Ok(())
}
