//! `minimind plan`: what a recipe will do and take, without doing it.
//!
//! Nothing is written: rows are counted, and the tokens of the first ones carried over to all.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::doctor::matrix_speed;
use super::threads;
use crate::data::jsonl;
use crate::data::mixture::order::PartSize;
use crate::data::token_file::TokenFile;
use crate::data::{
    Batching, DataConfig, DataFormat, DataSource, MixturePart, PartFacts, RowSelection, Tokenizer, source,
};
use crate::error::{Error, Result};
use crate::plan::cost::{self, Facts, StageCost};
use crate::plan::{Machine, Plan, StageConfig, StagePlan, TokenizerSource};
use crate::stage::{model_shapes, preflight};

/// The recipe, and how its plan is printed.
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

/// Share of the measured matrix speed that training reaches on a CPU (0.63 seen on a 30M model, less on small ones).
const CPU_SHARE: f64 = 0.5;
/// Sustained FLOP/s assumed of a GPU for small models.
const GPU_FLOPS: f64 = 5e13;
/// Rows whose tokens are counted.
const SAMPLE_ROWS: usize = 200;
/// Bytes a token, roughly, where there is no tokenizer yet.
const BYTES_PER_TOKEN: usize = 3;

/// Prints the plan with its costs; writes no file.
///
/// # Errors
/// The recipe has faults, or the first rows of its data do.
pub fn run(args: Args) -> Result<()> {
    let mut plan = crate::plan::load(&args.recipe, &args.sets)?;
    preflight::check_data(&plan, None)?;
    let mut notes = model_shapes::fill_from_files(&mut plan);
    notes.extend(open_vocabulary(&plan));
    for stage in &plan.stages {
        let Some((data, settings)) = settings(&plan, stage) else { continue };
        let facts = part_facts(data, &settings).unwrap_or_default();
        let line = |(part, _): &(PartFacts, f64)| format!("{}: {}", stage.name, part.in_words(settings.unit));
        notes.extend(facts.iter().map(line));
    }
    show(&plan, &notes, args.json, &|stage| count(&plan, stage))
}

/// What is said where a model's vocabulary is what a tokenizer stage will find.
fn open_vocabulary(plan: &Plan) -> Option<String> {
    let open = |stage: &StagePlan| {
        let train = stage.config.training()?;
        let fresh = train.model.as_ref().is_some_and(|model| !model.vocab_size_given);
        (fresh && matches!(train.tokenizer, Some(TokenizerSource::Stage(_)))).then_some(())
    };
    let found = plan.stages.iter().any(|stage| open(stage).is_some());
    found.then(|| {
        "parameters are the most that there can be: a text with few different words has merges for fewer tokens than vocab_size asks".to_owned()
    })
}

/// Prints the plan with its costs and `notes` to stdout; `facts` counts a stage's rows and tokens.
///
/// # Errors
/// The plan cannot be written as JSON, or a hub's cache cannot be read.
pub fn show(
    plan: &Plan,
    notes: &[String],
    json: bool,
    facts: &dyn Fn(&StagePlan) -> Option<Facts>,
) -> Result<()> {
    let machine = Machine::detect();
    threads::use_among(&machine, plan.runtime.threads.unwrap_or(machine.cores), 1, !json);
    let gpu = match plan.runtime.device {
        crate::plan::Wanted::Auto => machine.gpu_seen,
        crate::plan::Wanted::Cpu => false,
        crate::plan::Wanted::Cuda(_) | crate::plan::Wanted::Mps => true,
    };
    let flops_per_s = if gpu { GPU_FLOPS } else { CPU_SHARE * matrix_speed(tch::Device::Cpu) };
    let costs = cost::estimate(plan, &machine, facts, flops_per_s);
    if json {
        let total: f64 = costs.iter().filter_map(|c| c.seconds).sum();
        let value = json!({
            "plan": plan, "costs": costs, "seconds": total, "flops_per_s": flops_per_s, "notes": notes,
        });
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
    print_phases(&costs);
    for note in notes {
        println!("{note}");
    }
    for reference in crate::plan::hubs::absent(plan)? {
        println!("not in the cache yet: {reference}; `minimind run` brings it");
    }
    println!(
        "estimated at {:.0} GFLOP/s; half the matrix speed measured just now; tokens are carried over from the first {SAMPLE_ROWS} rows",
        flops_per_s / 1e9
    );
    let peak = costs.iter().map(peak_bytes).max().unwrap_or(0);
    if let (false, Some(free)) = (gpu, machine.memory_available)
        && peak > free
    {
        println!("memory: the peak is above the {} that are free; lower batch_size", gib(free));
    }
    Ok(())
}

/// A line for each reinforcement-learning stage: its memory in each phase of a step.
fn print_phases(costs: &[StageCost]) {
    for (cost, phases) in costs.iter().filter_map(|c| Some((c, c.memory_by_phase?))) {
        let reads = phases.reference.map(|r| format!(", {} while the reference reads", gib(r)));
        println!(
            "{}: {} while completions are drawn{}, {} while the policy learns",
            cost.name,
            gib(phases.rollout),
            reads.unwrap_or_default(),
            gib(phases.update)
        );
    }
}

/// The most memory that a stage takes at once, in bytes.
fn peak_bytes(cost: &StageCost) -> u64 {
    let phase = cost.memory_by_phase.map_or(0, |p| p.rollout.max(p.reference.unwrap_or(0)));
    cost.peak_memory.map_or(0, |m| m.total).max(phase)
}

fn gib(bytes: u64) -> String {
    format!("{:.2} GiB", bytes as f64 / (1u64 << 30) as f64)
}

/// What decides the tokens of a stage's rows.
struct Settings {
    tokenizer: Option<Tokenizer>,
    batch_size: usize,
    /// A row is cut at so many tokens.
    length: usize,
    /// What a mixture's weights are shares of; `rows`: nothing, every row is read once.
    unit: &'static str,
}

/// A stage's data and what decides its tokens.
fn settings<'a>(plan: &Plan, stage: &'a StagePlan) -> Option<(&'a DataConfig, Settings)> {
    let (data, source, batch, length) = match &stage.config {
        StageConfig::Tokenizer(c) => (&c.data, None, 1, usize::MAX),
        StageConfig::Export(_) => return None,
        StageConfig::Eval(c) => (&c.data, c.tokenizer.as_ref(), c.batch_size, c.max_seq_len),
        StageConfig::Ppo(c) | StageConfig::Grpo(c) | StageConfig::Spo(c) | StageConfig::Agent(c) => {
            (&c.train.data, c.train.tokenizer.as_ref(), c.train.batch_size, c.train.max_seq_len)
        }
        other => {
            let c = other.training()?;
            // A pair is two rows of at most this length.
            let sides = if c.data.format == DataFormat::Preference { 2 } else { 1 };
            (&c.data, c.tokenizer.as_ref(), c.batch_size, c.max_seq_len.saturating_mul(sides))
        }
    };
    let tokenizer = source.and_then(|source| {
        let folder = match source {
            TokenizerSource::Stage(name) => plan.output.join(name),
            TokenizerSource::Folder(folder) => folder.clone(),
        };
        Tokenizer::load(&folder).ok()
    });
    let unit = match &stage.config {
        StageConfig::Tokenizer(_) => "rows",
        StageConfig::Ppo(_) | StageConfig::Grpo(_) | StageConfig::Spo(_) | StageConfig::Agent(_) => "prompts",
        _ => "tokens",
    };
    Some((data, Settings { tokenizer, batch_size: batch, length, unit }))
}

/// A source's rows, counted, and its tokens, estimated from the first rows; `None` where it cannot be read yet.
fn rows_and_tokens(data: &DataConfig, settings: &Settings) -> Option<(u64, u64)> {
    let rows = crate::data::quick_facts(data).ok()?.rows as u64;
    let (tokenizer, length) = (settings.tokenizer.as_ref(), settings.length);
    // A sample counts all rows first, and is like the others.
    let select = RowSelection { sample: None, ..data.select.clone() };
    let data = &DataConfig { select, ..data.clone() };
    let mut sample: Vec<Value> =
        source::rows(data).ok()?.take(SAMPLE_ROWS).filter_map(|row| Some(row.ok()?.row)).collect();
    if sample.is_empty() {
        // Questions of multiple choice have no shape of training rows.
        let lines = source::lines(&data.source, data.format, &data.read).lines.take(SAMPLE_ROWS);
        sample.extend(lines.filter_map(|line| jsonl::parse(&line.ok()?.bytes).ok()));
    }
    let divided = data.divided_files();
    let divided = !divided.is_empty() && divided.iter().all(|divided| *divided);
    let most = if divided { usize::MAX } else { length };
    let lens: Vec<u64> = sample.iter().map(|row| length_of(row, tokenizer).clamp(1, most) as u64).collect();
    let mean = lens.iter().sum::<u64>() as f64 / lens.len().max(1) as f64;
    let tokens = (rows as f64 * mean).round() as u64;
    // Documents of text files become as many rows as they take.
    Some((if divided { rows.max(tokens.div_ceil(length.max(1) as u64)) } else { rows }, tokens))
}

/// The parts of a mixture, each with its tokens in an epoch; none of other data. `None` where a part cannot be read yet.
fn part_facts(data: &DataConfig, settings: &Settings) -> Option<Vec<(PartFacts, f64)>> {
    let DataSource::Mixture(parts) = &data.source else { return Some(Vec::new()) };
    let size = |part: &MixturePart| {
        let (rows, tokens) = rows_and_tokens(&part.config(data), settings)?;
        let (weight, epochs) = match settings.unit {
            "rows" => (None, 1.0),
            _ => (part.weight, part.epochs),
        };
        let units = rows as usize;
        let counted = if settings.unit == "tokens" { tokens } else { rows };
        let mean = tokens as f64 / rows.max(1) as f64;
        Some(((part.name.clone(), PartSize { units, tokens: counted, weight, epochs }), mean))
    };
    let (sizes, means): (Vec<_>, Vec<f64>) =
        parts.iter().map(size).collect::<Option<Vec<_>>>()?.into_iter().unzip();
    let with_tokens = |(part, mean): (PartFacts, f64)| {
        let tokens = mean * part.epoch_rows as f64;
        (part, tokens)
    };
    Some(PartFacts::of(&sizes).into_iter().zip(means).map(with_tokens).collect())
}

/// A stage's rows of an epoch, counted, and its tokens, estimated from the first 200 rows; `None` where its data cannot be
/// read yet.
pub fn count(plan: &Plan, stage: &StagePlan) -> Option<Facts> {
    let (data, settings) = settings(plan, stage)?;
    if data.format == DataFormat::Tokens {
        return token_facts(data, settings.batch_size);
    }
    let parts = part_facts(data, &settings)?;
    let (rows, tokens) = match parts.as_slice() {
        [] => rows_and_tokens(data, &settings)?,
        parts => (
            parts.iter().map(|(part, _)| part.epoch_rows as u64).sum(),
            parts.iter().map(|(_, tokens)| tokens.round() as u64).sum(),
        ),
    };
    let (batch, length) = (settings.batch_size.max(1) as u64, settings.length);
    let (padded_tokens, micro_batches_per_epoch) = match data.batching {
        Batching::Bucket => (tokens + tokens / 20, rows.div_ceil(batch)),
        Batching::Pad => (rows * length.min(1 << 20) as u64, rows.div_ceil(batch)),
        Batching::Pack => {
            let padded = tokens + tokens / 100;
            (padded, padded.div_ceil(length.max(1) as u64).div_ceil(batch))
        }
    };
    Some(Facts { rows, tokens, padded_tokens, micro_batches_per_epoch })
}

/// Tokens of a row; without a tokenizer they follow from its bytes.
fn length_of(row: &serde_json::Value, tokenizer: Option<&Tokenizer>) -> usize {
    if let (Some(chosen), Some(rejected)) = (row.get("chosen"), row.get("rejected")) {
        let side = |turns: &serde_json::Value| length_of(&json!({"conversations": turns}), tokenizer);
        return side(chosen) + side(rejected);
    }
    let text = match row["text"].as_str() {
        Some(text) => Some(text.to_owned()),
        None => tokenizer.and_then(|t| crate::data::tokenizer::render_conversation(t, row).ok()),
    };
    match (text, tokenizer) {
        (Some(text), Some(tokenizer)) => tokenizer.encode(&text).map_or(0, |ids| ids.len() + 2),
        (Some(text), None) => text.len() / BYTES_PER_TOKEN + 2,
        (None, _) => row.to_string().len() / BYTES_PER_TOKEN,
    }
}

/// Rows of token files as they lie.
fn token_facts(data: &DataConfig, batch: usize) -> Option<Facts> {
    let DataSource::Paths(paths) = &data.source else { return None };
    let (mut rows, mut tokens, mut batches) = (0, 0, 0);
    for path in paths {
        if let Ok(file) = TokenFile::open(path) {
            rows += file.rows as u64;
            tokens += (file.rows * file.row_len) as u64;
            batches += file.rows.div_ceil(file.micro_batch.unwrap_or(batch).max(1)) as u64;
            continue;
        }
        let tensors = crate::checkpoint::safetensors::read(path).ok()?.tensors;
        let shape = tensors.get("output_ids")?.shape();
        let own = shape[..shape.len() - 1].iter().product::<i64>() as u64;
        rows += own;
        tokens += shape.iter().product::<i64>() as u64;
        batches += if shape.len() == 3 { shape[0] as u64 } else { own.div_ceil(batch.max(1) as u64) };
    }
    Some(Facts { rows, tokens, padded_tokens: tokens, micro_batches_per_epoch: batches })
}
