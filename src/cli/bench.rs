//! `minimind bench`: how fast a model loads, trains, decodes, reads prompts and rolls out, beside what this machine
//! can do.
//!
//! The limits are measured in the same run: a token cannot come faster than its weights are read from memory, nor
//! than its operations are computed. Figures are medians.

use std::ops::ControlFlow;
use std::time::Instant;

use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

use super::bench_load::{self, Loaded};
use super::open::parse_device;
use super::precision::ModelPrecision;
use super::{bench_gpu, bench_train, threads};
use crate::checkpoint::{load::load_model, resolve_model_path};
use crate::engine::device;
use crate::error::{Error, Result};
use crate::model::{CausalLm, ModelOverrides, Params, config};
use crate::native::{Pool, Storage, instructions, libtorch_dir};
use crate::plan::Wanted;
use crate::plan::machine::Machine;
use crate::rollout::{
    Batcher, BatcherConfig, CompleteConfig, Decoder, DecoderConfig, Event, GenerateConfig, Generator,
    Request, Sampling, complete,
};

/// What to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum What {
    /// New tokens a second: one row, and many together.
    Decode,
    /// Prompt tokens a second.
    Prefill,
    /// Completions with log-probabilities, as reinforcement learning asks for them; packing the weights counts.
    Rollout,
    /// Tokens a second of whole training steps, in fp32 and on a GPU in bf16 too.
    Train,
    /// Weights from a file into a model in fp32, beside a copy of as many bytes.
    Load,
}

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to measure; without it, decode, prefill and rollout.
    #[arg(value_enum)]
    what: Vec<What>,
    /// A model; without it, random weights of --preset.
    #[arg(long, value_name = "M")]
    model: Option<String>,
    /// Architecture of random weights.
    #[arg(long, default_value = "minimind3", value_parser = config::PRESETS)]
    preset: String,
    /// Width of random weights, in place of the preset's.
    #[arg(long, value_name = "N")]
    hidden_size: Option<i64>,
    /// Blocks of random weights, in place of the preset's.
    #[arg(long, value_name = "N")]
    num_hidden_layers: Option<i64>,
    /// How weights are stored; without it, fp32, bf16 and int8, on a GPU bf16. Training on the CPU is in fp32.
    #[arg(long, value_enum, value_delimiter = ',')]
    precision: Vec<ModelPrecision>,
    /// Rows decoded together.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16])]
    rows: Vec<usize>,
    /// Tokens of a prompt to read; rollouts and decoding start from a sixteenth of it.
    #[arg(long, default_value_t = 512)]
    prompt_tokens: usize,
    /// New tokens a row.
    #[arg(long, default_value_t = 64)]
    new_tokens: usize,
    /// Completions of a rollout.
    #[arg(long, default_value_t = 12)]
    completions: usize,
    /// Rows of a training step.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..))]
    batch_size: u16,
    /// Tokens of a row of a training step.
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u16).range(2..))]
    seq_len: u16,
    /// Times that each figure is measured; the median counts.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    repeat: u16,
    /// cpu, cuda or cuda:N.
    #[arg(long, default_value = "cpu", value_parser = parse_device)]
    device: Wanted,
    /// Threads; without it, all cores.
    #[arg(long)]
    threads: Option<usize>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// What this machine can do.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub read: f64,
    pub flops: f64,
}

/// A figure with the fastest that the machine allows.
#[derive(Debug)]
struct Figure {
    what: &'static str,
    precision: &'static str,
    rows: usize,
    tokens_per_s: f64,
    limit: f64,
    bound: &'static str,
    /// What training adds.
    more: Option<bench_train::Trained>,
}

pub(super) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn load(args: &Args, device: Device, kind: Kind) -> Result<CausalLm> {
    if let Some(name) = &args.model {
        return Ok(load_model(&resolve_model_path(name)?, None, device, kind)?.model);
    }
    let overrides = ModelOverrides {
        hidden_size: args.hidden_size,
        num_hidden_layers: args.num_hidden_layers,
        ..ModelOverrides::default()
    };
    let preset = config::preset(&args.preset).expect("clap has checked the name");
    let config = overrides.over(preset).resolve()?;
    tch::manual_seed(42);
    let fresh = Params::init(&config, device)?;
    if kind == Kind::Float {
        return Ok(CausalLm::new(&config, fresh));
    }
    let named =
        fresh.names().iter().cloned().zip(fresh.tensors().iter().map(Tensor::shallow_clone)).collect();
    Ok(CausalLm::new(&config, Params::from_named(&config, named, device, kind)?))
}

/// The kind that a model's weights have for a precision.
fn kind_on(device: Device, precision: ModelPrecision) -> Kind {
    let half = device != Device::Cpu && precision == ModelPrecision::Bf16;
    if half { Kind::BFloat16 } else { Kind::Float }
}

/// The precisions to measure: those asked for, or what the device is used with.
///
/// # Errors
/// One that a GPU does not decode with.
fn precisions(args: &Args, device: Device) -> Result<Vec<ModelPrecision>> {
    use ModelPrecision::{Bf16, Fp32, Int8};
    match (device, &args.precision[..]) {
        (Device::Cpu, []) => Ok(vec![Fp32, Bf16, Int8]),
        (_, []) => Ok(vec![Bf16]),
        (Device::Cpu, asked) => Ok(asked.to_vec()),
        (_, asked) => match asked.iter().find(|precision| ![Fp32, Bf16].contains(precision)) {
            None => Ok(asked.to_vec()),
            Some(other) => Err(Error::input(format!("{} is not measured on a GPU", other.name()))
                .hint("give --precision fp32, bf16 or both")),
        },
    }
}

/// Carries the command out.
pub fn run(args: Args) -> Result<()> {
    let machine = Machine::detect();
    let threads = args.threads.unwrap_or(machine.cores).max(1);
    threads::use_among(&machine, threads, 1, true);
    let device = device::resolve(args.device, &libtorch_dir(), machine.gpu_seen)?;
    if device == Device::Mps {
        return Err(Error::input("mps is not measured: it cannot be waited for").hint("use --device cpu"));
    }
    let precisions = precisions(&args, device)?;
    let model = load(&args, device, Kind::Float)?;
    let wanted = if args.what.is_empty() {
        vec![What::Decode, What::Prefill, What::Rollout]
    } else {
        args.what.clone()
    };
    let most = model.config().max_position_embeddings as usize;
    if args.prompt_tokens == 0 || args.new_tokens == 0 || args.prompt_tokens + args.new_tokens > most {
        return Err(Error::input(format!(
            "--prompt-tokens {} and --new-tokens {} do not fit the model's {most} positions",
            args.prompt_tokens, args.new_tokens
        ))
        .hint("give smaller numbers, at least 1 each"));
    }
    if args.seq_len as usize > most {
        return Err(Error::input(format!(
            "--seq-len {} is more than the model's {most} positions",
            args.seq_len
        ))
        .hint("give a smaller number"));
    }
    let host = match device {
        Device::Cpu => {
            Some(Pool::new(threads)?.measure_machine().map(|(read, flops)| Limits { read, flops })?)
        }
        _ => None,
    };
    let mut last = None;
    let mut figures = Vec::new();
    for &precision in &precisions {
        let kind = kind_on(device, precision);
        let other = if kind == Kind::Float { None } else { Some(load(&args, device, kind)?) };
        let model = other.as_ref().unwrap_or(&model);
        let limits = host.map_or_else(|| bench_gpu::limits(device, kind), Ok)?;
        last = Some(limits);
        let storage = precision.storage().unwrap_or(Storage::F32);
        for what in &wanted {
            match what {
                What::Decode => {
                    decode(model, &args, threads, storage, limits, precision.name(), &mut figures)?
                }
                What::Prefill => {
                    figures.push(prefill(model, &args, threads, storage, limits, precision.name())?)
                }
                // Reinforcement learning rolls out in the precision it trains in.
                What::Rollout if storage == Storage::F32 => figures.push(rollout(model, &args, limits)?),
                What::Rollout | What::Train | What::Load => {}
            }
        }
    }
    if wanted.contains(&What::Train) {
        let each = if device == Device::Cpu { vec![ModelPrecision::Fp32] } else { precisions };
        for precision in each {
            figures.push(trained(&model, &args, precision)?);
        }
    }
    let loaded = match wanted.contains(&What::Load) {
        true => Some(bench_load::load(args.model.as_deref(), &model, args.repeat)?),
        false => None,
    };
    show(&args, threads, last.expect("a precision at least"), &model, &figures, loaded.as_ref());
    Ok(())
}

fn prompt(model: &CausalLm, tokens: usize, seed: u64) -> Vec<u32> {
    let vocab = model.config().vocab_size as u64;
    (0..tokens as u64).map(|i| ((i * 7919 + seed * 104_729 + 3) % vocab) as u32).collect()
}

fn packed(storage: Storage, threads: usize, positions: usize) -> DecoderConfig {
    DecoderConfig { storage: Some(storage), threads: Some(threads), positions: Some(positions) }
}

/// Seconds that `rows` rows take from their first new token to their last.
fn decode(
    model: &CausalLm,
    args: &Args,
    threads: usize,
    storage: Storage,
    limits: Limits,
    precision: &'static str,
    figures: &mut Vec<Figure>,
) -> Result<()> {
    let start = (args.prompt_tokens / 16).max(1);
    let positions = start + args.new_tokens;
    for &rows in &args.rows {
        let config = BatcherConfig {
            max_rows: rows,
            max_tokens: rows * (positions + 64),
            prefill_chunk: rows * start,
        };
        let mut batcher = Batcher::new(Decoder::new(model, packed(storage, threads, positions))?, config)?;
        let (bytes, operations) = cost(batcher.decoder(), model);
        let mut speeds = Vec::new();
        for turn in 0..u64::from(args.repeat) {
            for row in 0..rows as u64 {
                let ids = prompt(model, start, 1 + turn * rows as u64 + row);
                batcher.submit(Request::new(turn * rows as u64 + row, ids, args.new_tokens))?;
            }
            // The first step reads the prompts and gives a token each.
            let mut tokens = 0;
            batcher.step()?;
            let clock = Instant::now();
            while !batcher.is_idle() {
                tokens += batcher.step()?.iter().filter(|e| matches!(e, Event::Token { .. })).count();
            }
            speeds.push(tokens as f64 / clock.elapsed().as_secs_f64());
        }
        let (memory, compute) = (limits.read / bytes * rows as f64, limits.flops / operations);
        figures.push(Figure {
            what: "decode",
            precision,
            rows,
            tokens_per_s: median(speeds),
            limit: memory.min(compute),
            bound: if memory < compute { "memory" } else { "arithmetic" },
            more: None,
        });
    }
    Ok(())
}

/// Bytes that are read and operations that are done for a token.
fn cost(decoder: &mut Decoder<'_>, model: &CausalLm) -> (f64, f64) {
    if let Some(network) = decoder.network() {
        return (network.bytes_per_token() as f64, network.operations_per_token() as f64);
    }
    let (_, active) = crate::model::params::count(model.config());
    (active as f64 * model.kind().elt_size_in_bytes() as f64, 2.0 * active as f64)
}

fn prefill(
    model: &CausalLm,
    args: &Args,
    threads: usize,
    storage: Storage,
    limits: Limits,
    precision: &'static str,
) -> Result<Figure> {
    let mut generator = Generator::new(model, packed(storage, threads, args.prompt_tokens + 1))?;
    let mut speeds = Vec::new();
    for turn in 0..u64::from(args.repeat) {
        let ids = prompt(model, args.prompt_tokens, 1 + turn);
        let one = GenerateConfig::greedy(1, &[]);
        let made = generator.generate(&ids, &one, &mut |_| ControlFlow::Continue(()))?;
        speeds.push(made.prefill_tokens_per_s());
    }
    let (_, operations) = cost(&mut Decoder::new(model, packed(storage, threads, 1))?, model);
    Ok(Figure {
        what: "prefill",
        precision,
        rows: 1,
        tokens_per_s: median(speeds),
        limit: limits.flops / operations,
        bound: "arithmetic",
        more: None,
    })
}

fn trained(model: &CausalLm, args: &Args, precision: ModelPrecision) -> Result<Figure> {
    let shape = bench_train::Shape {
        batch_size: args.batch_size.into(),
        seq_len: args.seq_len.into(),
        repeat: args.repeat,
    };
    let made = bench_train::train(model, shape, precision.compute(model.device()))?;
    let tokens = made.tokens as f64;
    Ok(Figure {
        what: "train",
        precision: precision.name(),
        rows: shape.batch_size,
        tokens_per_s: tokens / made.seconds,
        limit: tokens * made.matrix_flops / made.operations,
        bound: "matrix products",
        more: Some(made),
    })
}

fn rollout(model: &CausalLm, args: &Args, limits: Limits) -> Result<Figure> {
    let start = (args.prompt_tokens / 16).max(1);
    let sampling = Sampling { temperature: 1.0, ..Sampling::GREEDY };
    let mut speeds = Vec::new();
    for turn in 0..u64::from(args.repeat) {
        let ids = prompt(model, start, 1 + turn);
        let config = CompleteConfig {
            max_new_tokens: args.new_tokens,
            sampling: sampling.clone(),
            eos_ids: Vec::new(),
            seed: turn,
        };
        let clock = Instant::now();
        let made = complete(model, &[ids], args.completions, &config)?;
        let tokens: usize = made.iter().map(|c| c.ids.len()).sum();
        speeds.push(tokens as f64 / clock.elapsed().as_secs_f64());
    }
    let threads = tch::get_num_threads() as usize;
    let mut decoder = Decoder::new(model, packed(Storage::F32, threads, 1))?;
    let (bytes, operations) = cost(&mut decoder, model);
    let memory = limits.read / bytes * args.completions as f64;
    let compute = limits.flops / operations;
    Ok(Figure {
        what: "rollout",
        precision: "fp32",
        rows: args.completions,
        tokens_per_s: median(speeds),
        limit: memory.min(compute),
        bound: if memory < compute { "memory" } else { "arithmetic" },
        more: None,
    })
}

fn show(
    args: &Args,
    threads: usize,
    limits: Limits,
    model: &CausalLm,
    figures: &[Figure],
    loaded: Option<&Loaded>,
) {
    let (parameters, _) = crate::model::params::count(model.config());
    if args.json {
        let mut results: Vec<Value> = figures
            .iter()
            .map(|f| {
                let mut row = json!({
                    "what": f.what, "precision": f.precision, "rows": f.rows, "tokens_per_s": f.tokens_per_s,
                    "limit_tokens_per_s": f.limit, "bound": f.bound, "share_of_limit": f.tokens_per_s / f.limit,
                });
                if let Some(made) = &f.more {
                    row["peak_memory_bytes"] = json!(made.peak_bytes);
                    row["operations_per_token"] = json!(made.operations / made.tokens as f64);
                    row["processor_seconds"] = json!(made.processor_seconds);
                    row["matrix_flops"] = json!(made.matrix_flops);
                    row["loss"] = json!(made.loss);
                }
                row
            })
            .collect();
        results.extend(loaded.map(|l| {
            json!({
                "what": "load", "precision": "fp32", "bytes": l.bytes, "seconds": l.seconds,
                "copy_seconds": l.copy_seconds, "share_of_limit": l.copy_seconds / l.seconds,
                "added_memory_bytes": l.added_bytes,
            })
        }));
        let machine = json!({
            "device": device::name(model.device()), "threads": threads, "instructions": instructions(), "read_bytes_per_s": limits.read, "flops": limits.flops,
        });
        println!("{}", json!({"machine": machine, "parameters": parameters, "results": results}));
        return;
    }
    let (millions, read, flops) = (parameters as f64 / 1e6, limits.read / 1e9, limits.flops / 1e9);
    match model.device() {
        Device::Cpu => println!(
            "{millions:.1} M parameters, {threads} threads ({}), memory {read:.1} GB/s, fp32 arithmetic {flops:.0} GFLOP/s",
            instructions()
        ),
        other => println!(
            "{millions:.1} M parameters, {}, memory {read:.0} GB/s, products at {flops:.0} GFLOP/s",
            device::name(other)
        ),
    }
    if let Some(l) = loaded {
        let memory = l.added_bytes.map_or_else(String::new, |more| {
            format!("; {:.2} times the model in memory", more / l.bytes as f64)
        });
        println!(
            "load     {:.0} MB in {:.3} s, a copy of as many bytes in {:.3} s{memory}",
            l.bytes as f64 / 1e6,
            l.seconds,
            l.copy_seconds
        );
    }
    if figures.is_empty() {
        return;
    }
    println!(
        "{:<8} {:<9} {:>4} {:>10} {:>10} {:>6}  bound by",
        "what", "weights", "rows", "tokens/s", "limit", "share"
    );
    for f in figures {
        let share = 100.0 * f.tokens_per_s / f.limit;
        println!(
            "{:<8} {:<9} {:>4} {:>10.1} {:>10.1} {:>5.0}%  {}",
            f.what, f.precision, f.rows, f.tokens_per_s, f.limit, share, f.bound
        );
        if let Some(made) = &f.more {
            let (peak, matrix) = (made.peak_bytes as f64 / 1e9, made.matrix_flops / 1e9);
            println!(
                "{:<8} beside products at {matrix:.0} GFLOP/s; peak memory {peak:.2} GB, last loss {:.3}",
                "", made.loss
            );
        }
    }
}
