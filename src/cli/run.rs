//! `minimind run RECIPE`: carry it out.

use std::path::PathBuf;

use super::{launch, threads};
use crate::engine::{Ranks, Signals, device};
use crate::error::{Error, Result};
use crate::native::{self, libtorch_dir};
use crate::plan::machine::Machine;
use crate::plan::{self, Plan, StageConfig, environment};
use crate::report::ConsoleMode;
use crate::report::console_table;
use crate::stage::context::{Context, Resume, RunOptions, StartFrom};
use crate::stage::{self, record};

/// The recipe, and which of its stages run.
#[derive(Debug, clap::Args)]
#[command(after_help = "Ctrl-C saves and stops; the same command resumes. A second Ctrl-C stops at once.")]
pub struct Args {
    /// The recipe: a YAML file.
    recipe: PathBuf,
    /// Change a key: --set stages.sft.learning_rate=1e-5 (repeatable).
    #[arg(long = "set", value_name = "A.B=V")]
    sets: Vec<String>,
    /// Run this stage alone.
    #[arg(long, value_name = "STAGE")]
    only: Option<String>,
    /// Run this stage and those below it anew, done or not; old files are kept as .old. One that was cut short and has not changed resumes.
    #[arg(long, value_name = "STAGE", conflicts_with = "only")]
    from: Option<String>,
    /// Whether to go on from checkpoints.
    #[arg(long, value_enum, default_value = "auto")]
    resume: Resume,
    /// Write here instead of the recipe's `output`.
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Train with N processes on this machine (one a GPU); torchrun --no-python starts more machines.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    nproc: u16,
}

/// Runs the recipe, then prints samples, the table of results and the next command. With `--nproc` it starts the other
/// processes and waits for them.
///
/// # Errors
/// The recipe or its data has faults (input), a finished stage has changed (input), or a stage fails.
pub fn run(args: Args) -> Result<()> {
    if args.nproc > 1 && !launch::is_rank() {
        return launch::launch(usize::from(args.nproc));
    }
    launch::follow();
    let ranks = Ranks::init(&environment::variable)?;
    let machine = Machine::detect();
    let command = command(&args);
    let mut plan = plan::load(&args.recipe, &args.sets)?;
    let absent = plan::hubs::absent(&plan)?;
    if ranks.any(!absent.is_empty())? {
        ranks.rank0_first(|| super::pull::bring(&absent))?;
        plan = plan::load(&args.recipe, &args.sets)?;
    }
    if let Some(output) = args.output {
        plan.output = output;
    }
    let (local, beside) = ranks.local();
    let device = device::resolve(plan.runtime.device, &libtorch_dir(), machine.gpu_seen)?;
    let device = device::of_rank(device, local);
    ranks.select_backend(device, plan.runtime.ddp_backend)?;
    let compute = plan.runtime.precision.compute(device);
    let team = plan.runtime.threads.unwrap_or((machine.cores / beside).max(1));
    threads::use_among(&machine, team, beside, ranks.is_rank0());
    let options = RunOptions {
        only: args.only,
        from: args.from,
        resume: args.resume,
        console: ConsoleMode::auto(),
        cache_dir: machine.cache_dir.clone(),
        command,
    };
    if ranks.is_rank0() {
        crate::stage::preflight::check_data(&plan, options.only.as_deref())?;
    }
    let signals = Signals::install()?;
    if device == tch::Device::Cpu {
        native::enable_cpu_cache();
    }
    let context = Context {
        plan: &plan,
        options: &options,
        device,
        compute,
        signals,
        ranks: ranks.clone(),
        start: StartFrom::Scratch,
    };
    stage::run(context).and_then(|()| ranks.close()).inspect_err(|error| leave_nccl(&ranks, error))?;
    if !ranks.is_rank0() {
        return Ok(());
    }
    say_samples(&plan);
    println!("{}", console_table(&plan.output)?);
    say_next(&plan);
    Ok(())
}

/// With NCCL, ends the process at once: its threads and kernels may wait for a rank that is gone, and would be waited
/// for.
fn leave_nccl(ranks: &Ranks, error: &Error) {
    if ranks.uses_nccl() {
        eprintln!("{error}");
        native::leave(error.exit_code());
    }
}

/// The command as a person can type it again, without the flags that ask to start anew or to resume.
fn command(args: &Args) -> String {
    let plain = |text: &str| {
        let safe = |c: char| c.is_ascii_alphanumeric() || "/._-=:,+@%".contains(c);
        let quoted = || format!("'{}'", text.replace('\'', r"'\''"));
        if !text.is_empty() && text.chars().all(safe) { text.to_owned() } else { quoted() }
    };
    let mut words = vec!["minimind run".to_owned(), plain(&args.recipe.to_string_lossy())];
    words.extend(args.sets.iter().map(|set| format!("--set {}", plain(set))));
    words.extend(args.output.iter().map(|output| format!("--output {}", plain(&output.to_string_lossy()))));
    words.extend((args.nproc > 1).then(|| format!("--nproc {}", args.nproc)));
    words.join(" ")
}

/// What the last stage with samples answers.
fn say_samples(plan: &Plan) {
    let summaries =
        plan.stages.iter().rev().filter_map(|stage| record::summary(&plan.output.join(&stage.name)));
    let Some(samples) =
        summaries.filter_map(|s| Some(s["samples"].as_array()?.clone())).find(|s| !s.is_empty())
    else {
        return;
    };
    for sample in samples {
        let text = |key: &str| sample[key].as_str().unwrap_or_default().replace('\n', " ");
        println!("> {}\n  {}", text("prompt"), text("after"));
    }
    println!();
}

/// What to type now.
fn say_next(plan: &Plan) {
    let output = plan.output.display();
    println!("report: {output}/report.html");
    if plan.stages.iter().any(|s| matches!(s.config, StageConfig::Pretrain(_) | StageConfig::Sft(_))) {
        println!("next:   minimind chat --model {output}");
    }
}
