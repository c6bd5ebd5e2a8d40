//! `minimind eval`: measure a model on a file.

use std::path::{Path, PathBuf};

use super::open::{OpenArgs, open};
use crate::data::{DataConfig, DataFormat, reader};
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
    /// Rows to measure on: a data file (see `minimind data show`), a folder of them, .safetensors with ids and labels, or
    /// multiple-choice questions (a file, or a folder with a file a subject); - for standard input.
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

/// Keeps what can be read once in a file: standard input in the cache, a pipe in a temporary file of its name's ending.
/// Plain files and folders stay what they are.
fn kept(data: &Path, cache_dir: &Path) -> Result<(PathBuf, Option<tempfile::NamedTempFile>)> {
    if data == Path::new(reader::STANDARD_INPUT) {
        return Ok((reader::keep_standard_input(cache_dir)?, None));
    }
    if data.is_file() || data.is_dir() || !data.exists() {
        return Ok((data.to_owned(), None));
    }
    let fault = |e: std::io::Error| Error::failed("cannot keep the data").at(Place::file(data)).because(e);
    let mut source = std::fs::File::open(data).map_err(fault)?;
    let name = data.file_name().unwrap_or_default().to_string_lossy();
    let ending = name.find('.').map_or("", |at| &name[at..]);
    let mut file = tempfile::Builder::new().suffix(ending).tempfile().map_err(fault)?;
    std::io::copy(&mut source, &mut file).map_err(fault)?;
    Ok((file.path().to_owned(), Some(file)))
}

/// What is measured, on which files, and their format: the tasks that were asked for, or those that the first row shows.
fn tasks(asked: &[EvalTask], data: PathBuf) -> Result<(Vec<EvalTask>, Vec<PathBuf>, DataFormat)> {
    let choice = asked.contains(&EvalTask::MultipleChoice)
        || (asked.is_empty() && crate::data::multiple_choice::is_multiple_choice(&data));
    if choice && asked.len() > 1 {
        return Err(Error::input("multiple_choice has files of its own and stands alone")
            .hint("measure the other tasks with a second call"));
    }
    // Multiple choice has a subject a file and finds them itself.
    let files = if choice { vec![data] } else { reader::find(&data)?.files };
    let math = !choice && asked.is_empty() && crate::data::source::is_math(&files[0]);
    if math {
        tracing::info!("the rows hold `gt` or an answer: measured as math (--task loss for their loss)");
    }
    let (format, has_answers) = if choice || math {
        (DataFormat::Chat, false)
    } else {
        crate::data::source::detect_format(&files[0])?
    };
    let tasks = match (asked.is_empty(), has_answers) {
        _ if choice => vec![EvalTask::MultipleChoice],
        _ if math => vec![EvalTask::Math],
        (false, _) => asked.to_vec(),
        (true, true) => vec![EvalTask::Loss, EvalTask::ExactMatch],
        (true, false) => vec![EvalTask::Loss],
    };
    Ok((tasks, files, format))
}

/// Measures the model on the data and prints one line a metric, or one JSON object.
///
/// # Errors
/// The model or the data cannot be read, no tokenizer was found, or the tasks exclude each other.
pub fn run(args: Args) -> Result<()> {
    let machine = Machine::detect();
    let (path, _kept) = kept(&args.data, &machine.cache_dir)?;
    let opened = open(&args.open)?;
    if opened.storage == Some(Storage::Int8) {
        return Err(Error::input("int8 is for generating; a loss is measured at full precision")
            .hint("give --precision fp32, bf16 or fp16"));
    }
    let (tasks, files, format) = tasks(&args.task, path)?;
    if format != DataFormat::Tokens && opened.tokenizer.is_none() {
        return Err(Error::input("no tokenizer was found beside the model")
            .hint("name one: --tokenizer DIR, or minimind3 or minimind2 for MiniMind's own"));
    }
    let data = DataConfig::files(files, format);
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
