//! `minimind plan`: what a recipe will do and take, without doing it.
//!
//! Rows are counted cheaply here; [`show`] takes a better counter from whoever has one.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;

use serde_json::json;

use crate::error::{Error, Result};
use crate::plan::cost::{self, Facts};
use crate::plan::{Batching, DataConfig, DataFormat, DataSource, Machine, Plan, StageConfig, StagePlan};

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The recipe (see `minimind recipes`).
    pub recipe: PathBuf,
    /// Change a key: `--set seed=7`, `--set stages.sft.learning_rate=1e-4` (a stage by name, kind or number).
    #[arg(long = "set", value_name = "A.B=VALUE")]
    pub sets: Vec<String>,
    /// Print one JSON value: the plan with every default filled, and its cost.
    #[arg(long)]
    pub json: bool,
}

/// Sustained FLOP/s per core that fp32 training reaches (measured: 100..135 GFLOP/s on 2 cores at most).
const CPU_FLOPS_PER_CORE: f64 = 4e10;
/// Sustained FLOP/s assumed of a GPU for small models.
const GPU_FLOPS: f64 = 5e13;
/// Rows of the built-in world where the recipe does not say.
const SYNTHETIC_ROWS: u64 = 10_000;
/// Tokens of one synthetic row, roughly.
const SYNTHETIC_TOKENS: u64 = 40;
/// Bytes of JSON a token, roughly.
const BYTES_PER_TOKEN: u64 = 3;

/// Carries the command out.
pub fn run(args: Args) -> Result<()> {
    let plan = crate::plan::load(&args.recipe, &args.sets)?;
    show(&plan, args.json, &count)
}

/// Prints the plan to stdout; `facts` counts rows and tokens.
///
/// # Errors
/// Only where the plan cannot be written as JSON.
pub fn show(plan: &Plan, json: bool, facts: &dyn Fn(&StagePlan) -> Option<Facts>) -> Result<()> {
    let machine = Machine::detect();
    let cores = plan.runtime.threads.unwrap_or(machine.cores) as f64;
    let gpu = match plan.runtime.device {
        crate::plan::Wanted::Auto => machine.gpu_seen,
        crate::plan::Wanted::Cpu => false,
        crate::plan::Wanted::Cuda(_) | crate::plan::Wanted::Mps => true,
    };
    let flops_per_s = if gpu { GPU_FLOPS } else { CPU_FLOPS_PER_CORE * cores };
    let costs = cost::estimate(plan, &machine, facts, flops_per_s);
    let total: f64 = costs.iter().filter_map(|c| c.seconds).sum();
    if json {
        let value = json!({"plan": plan, "costs": costs, "seconds": total, "flops_per_s": flops_per_s});
        let text = serde_json::to_string_pretty(&value)
            .map_err(|error| Error::failed("cannot write the plan as JSON").because(error))?;
        println!("{text}");
        return Ok(());
    }
    println!(
        "{}: {} stages into {}, seed {}",
        plan.name,
        plan.stages.len(),
        plan.output.display(),
        plan.seed
    );
    print!("{}", cost::table(&costs));
    let peak = costs.iter().filter_map(|c| c.peak_memory).map(|m| m.total).max().unwrap_or(0);
    println!(
        "estimated at {:.0} GFLOP/s; rows and tokens of files are counted, those of text guessed",
        flops_per_s / 1e9
    );
    if let (false, Some(free)) = (gpu, machine.memory_available)
        && peak > free
    {
        println!(
            "memory: the peak is above the {:.2} GiB that are free; lower batch_size",
            free as f64 / (1u64 << 30) as f64
        );
    }
    Ok(())
}

/// Counts lines and bytes; tokens follow from bytes.
pub fn count(stage: &StagePlan) -> Option<Facts> {
    match &stage.config {
        StageConfig::Tokenizer(c) => facts(&c.data, 1, usize::MAX),
        StageConfig::Pretrain(c) | StageConfig::Sft(c) => facts(&c.data, c.batch_size, c.max_seq_len),
        StageConfig::Eval(c) => facts(&c.data, c.batch_size, c.max_seq_len),
    }
}

fn facts(data: &DataConfig, batch: usize, length: usize) -> Option<Facts> {
    if data.format == DataFormat::Tokens {
        return None;
    }
    let (mut rows, mut tokens, mut longest) = (0u64, 0u64, 0u64);
    match &data.source {
        DataSource::Synthetic(s) => {
            rows = s.rows.map_or(SYNTHETIC_ROWS, |r| r as u64);
            longest = SYNTHETIC_TOKENS.min(length as u64);
            tokens = rows * longest;
        }
        DataSource::Paths(paths) => {
            for path in paths {
                let mut file = BufReader::new(std::fs::File::open(path).ok()?);
                let mut line = Vec::new();
                while file.read_until(b'\n', &mut line).ok()? > 0 {
                    if line.iter().any(|b| !b.is_ascii_whitespace()) {
                        let own = (line.len() as u64 / BYTES_PER_TOKEN).clamp(1, length as u64);
                        rows += 1;
                        tokens += own;
                        longest = longest.max(own);
                    }
                    line.clear();
                }
            }
        }
    }
    let padded_tokens = match data.batching {
        Batching::Bucket => tokens + tokens / 20,
        Batching::Pad => rows * (length as u64).min(longest.max(length as u64)),
    };
    Some(Facts { rows, tokens, padded_tokens, micro_batches_per_epoch: rows.div_ceil(batch.max(1) as u64) })
}
