//! The command line: one file a command, each an `Args` (clap) and a `run`.
//!
//! stdout carries results, stderr progress and logs. Exit 0 done, 1 failed, 2 the input is wrong.

pub mod adapter;
pub mod bench;
pub mod chat;
pub mod data;
pub mod doctor;
pub mod eval;
pub mod export;
pub mod generate;
pub mod inspect;
mod launch;
pub mod logging;
pub mod open;
pub mod plan;
pub mod precision;
pub mod pull;
pub mod recipes;
pub mod report;
pub mod run;
pub mod schema;
pub mod serve;
mod threads;
pub mod tokenizer;
pub mod validate;
mod vocabulary;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::error::{Error, Result};
use crate::terminal;

/// Train a small language model through its whole life from one YAML recipe.
#[derive(Debug, Parser)]
#[command(name = "minimind", version, max_term_width = 100, arg_required_else_help = true)]
#[command(
    after_help = "First steps: minimind recipes list, minimind plan RECIPE, minimind run RECIPE, minimind chat --model RUN"
)]
pub struct Cli {
    /// Tell more (-vv: everything).
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    verbose: u8,
    /// How logs are written to stderr.
    #[arg(long, value_enum, default_value = "text", global = true)]
    log_format: logging::LogFormat,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a recipe, resuming where it stopped.
    Run(run::Args),
    /// Show what a recipe will do: parameters, tokens, steps, memory, time.
    Plan(plan::Args),
    /// Check recipes and name every fault at its place.
    Validate(validate::Args),
    /// List, show or copy the recipes that come with the program.
    Recipes(recipes::Args),
    /// Print the JSON Schema of a recipe, for editors.
    Schema(schema::Args),
    /// Talk to a model.
    Chat(chat::Args),
    /// Complete one prompt.
    Generate(generate::Args),
    /// Serve models over HTTP, OpenAI's interface and a page to talk to them.
    Serve(serve::Args),
    /// Measure a model: loss, perplexity, bits per byte, exact answers.
    Eval(eval::Args),
    /// Write a model in a format that other tools read, and check it.
    Export(export::Args),
    /// Train a tokenizer, or turn text into ids and back.
    Tokenizer(tokenizer::Args),
    /// Look at data files, or write the built-in world out.
    Data(data::Args),
    /// Bring a model or a data file from a hub into the cache.
    Pull(pull::Args),
    /// Convert LoRA adapters, or merge one into a model.
    Adapter(adapter::Args),
    /// Show what is in a weight file or a run.
    Inspect(inspect::Args),
    /// Write a run's report and print its table of results.
    Report(report::Args),
    /// Measure decoding, prompts and rollouts beside what this machine can do.
    Bench(bench::Args),
    /// Tell what this machine offers and what is wrong.
    Doctor(doctor::Args),
}

impl Cli {
    /// Runs the command. When memory runs out (libtorch then panics), this returns an error with a hint and the panic's
    /// message is not printed.
    ///
    /// # Errors
    /// Whatever the command returns; `main` turns it into exit code 1 or 2.
    pub fn run(self) -> Result<()> {
        // Operations that need no check of their own panic where memory ends; that is no fault of the program.
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !is_out_of_memory(info.payload()) {
                usual(info);
            }
        }));
        catch_unwind(AssertUnwindSafe(|| self.command())).unwrap_or_else(|payload| {
            if !is_out_of_memory(&*payload) {
                resume_unwind(payload);
            }
            Err(Error::failed("memory ran out")
                .because(panic_text(&*payload).lines().next().unwrap_or_default())
                .hint("lower batch_size or max_seq_len and raise accumulation_steps by as much; what was saved is kept"))
        })
    }

    fn command(self) -> Result<()> {
        let serves = matches!(self.command, Command::Serve(_));
        if serves || matches!(self.command, Command::Run(_)) {
            terminal::keep_going();
        }
        logging::start(self.verbose, self.log_format, serves);
        let done = match self.command {
            Command::Run(args) => run::run(args),
            Command::Plan(args) => plan::run(args),
            Command::Validate(args) => validate::run(args),
            Command::Recipes(args) => recipes::run(args),
            Command::Schema(args) => schema::run(args),
            Command::Chat(args) => chat::run(args),
            Command::Generate(args) => generate::run(args),
            Command::Serve(args) => serve::run(args),
            Command::Eval(args) => eval::run(args),
            Command::Export(args) => export::run(args),
            Command::Tokenizer(args) => tokenizer::run(args),
            Command::Data(args) => data::run(args),
            Command::Pull(args) => pull::run(args),
            Command::Adapter(args) => adapter::run(args),
            Command::Inspect(args) => inspect::run(args),
            Command::Report(args) => report::run(args),
            Command::Bench(args) => bench::run(args),
            Command::Doctor(args) => doctor::run(args),
        };
        done.and_then(|()| terminal::finish())
    }
}

/// A panic's message.
fn panic_text(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or_default()
}

/// Whether a panic's message is libtorch's for memory that ran out, on the CPU or a GPU.
fn is_out_of_memory(payload: &(dyn Any + Send)) -> bool {
    let text = panic_text(payload);
    text.contains("can't allocate memory") || text.contains("out of memory")
}

/// Prints what clap returned in place of arguments: help or the version on stdout, an error on stderr.
pub fn usage(answer: &clap::Error) -> ExitCode {
    match (answer.use_stderr(), answer.print()) {
        // Without anyone to read it there is still the exit code.
        (true, _) => ExitCode::from(2),
        (false, Ok(())) => ExitCode::SUCCESS,
        (false, Err(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        (false, Err(_)) => ExitCode::FAILURE,
    }
}
