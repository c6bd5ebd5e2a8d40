//! `minimind bench`: how fast a model loads, trains, decodes, reads prompts and rolls out, beside what this machine
//! can do; and how fast a data file is prepared.
//!
//! The limits are measured in the same run: a token cannot come faster than its weights are read from memory, nor
//! than its operations are computed. Figures are medians.
//!
//! Next: `rollout` (decoding, prompts, rollouts), `train`, `load`, `gpu` (a GPU's limits), `show` (the output).

mod data;
mod gpu;
mod load;
mod rollout;
mod show;
mod train;

use std::path::PathBuf;

use tch::{Device, Kind, Tensor};

use super::open::parse_device;
use super::precision::ModelPrecision;
use super::threads;
use crate::checkpoint::{load_model, resolve_model_path};
use crate::engine::device;
use crate::error::{Error, Result};
use crate::model::{CausalLm, ModelOverrides, Params, config};
use crate::native::{Storage, ThreadPool, libtorch_dir};
use crate::plan::Wanted;
use crate::plan::machine::Machine;

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
    /// Rows a second of preparing --data: reading, tokenizing, writing the token cache. Alone.
    Data,
}

/// Which benchmarks run, on what weights and shapes.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to measure; without it, decode, prefill and rollout.
    #[arg(value_enum)]
    what: Vec<What>,
    /// A data file to prepare.
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// Folder with tokenizer.json for --data, or a built-in tokenizer.
    #[arg(long, value_name = "DIR", default_value = "minimind3")]
    tokenizer: PathBuf,
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
struct Limits {
    /// Bytes read from memory a second.
    read: f64,
    /// Floating-point operations a second.
    flops: f64,
}

/// A measured speed with the fastest that the machine allows.
#[derive(Debug)]
struct Figure {
    what: &'static str,
    precision: &'static str,
    /// Sequences in the batch.
    rows: usize,
    tokens_per_s: f64,
    /// Tokens a second that `bound` allows.
    limit: f64,
    /// What limits the speed: memory, arithmetic or matrix products.
    bound: &'static str,
    /// What training adds.
    trained: Option<train::Trained>,
}

/// The median of at least one value; of an even number the upper of the two in the middle.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The model to measure, its weights in `kind`: `--model`, or random weights of `--preset`.
fn open_model(args: &Args, device: Device, kind: Kind) -> Result<CausalLm> {
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

/// Measures what was asked for and prints it.
///
/// # Errors
/// The device or a precision is not measured, the lengths do not fit the model, or a measurement fails.
pub fn run(mut args: Args) -> Result<()> {
    if args.what.is_empty() {
        args.what = vec![What::Decode, What::Prefill, What::Rollout];
    }
    if args.what.contains(&What::Data) {
        return data_alone(&args);
    }
    let machine = Machine::detect();
    let threads = args.threads.unwrap_or(machine.cores).max(1);
    threads::use_among(&machine, threads, 1, true);
    let device = device::resolve(args.device, &libtorch_dir(), machine.gpu_seen)?;
    if device == Device::Mps {
        return Err(Error::input("mps is not measured: it cannot be waited for").hint("use --device cpu"));
    }
    let precisions = precisions(&args, device)?;
    let model = open_model(&args, device, Kind::Float)?;
    check_lengths(&args, model.config().max_position_embeddings as usize)?;
    let host = match device {
        Device::Cpu => {
            Some(ThreadPool::new(threads)?.measure_machine().map(|(read, flops)| Limits { read, flops })?)
        }
        _ => None,
    };
    let mut last = None;
    let mut figures = Vec::new();
    for &precision in &precisions {
        let kind = kind_on(device, precision);
        let other = if kind == Kind::Float { None } else { Some(open_model(&args, device, kind)?) };
        let limits = host.map_or_else(|| gpu::limits(device, kind), Ok)?;
        last = Some(limits);
        let storage = precision.storage().unwrap_or(Storage::F32);
        let case = rollout::Case {
            model: other.as_ref().unwrap_or(&model),
            args: &args,
            threads,
            storage,
            limits,
            precision: precision.name(),
        };
        case.measure(&mut figures)?;
    }
    if args.what.contains(&What::Train) {
        let each = if device == Device::Cpu { vec![ModelPrecision::Fp32] } else { precisions };
        for precision in each {
            figures.push(train_figure(&model, &args, precision)?);
        }
    }
    let loaded = match args.what.contains(&What::Load) {
        true => Some(load::load(args.model.as_deref(), &model, args.repeat)?),
        false => None,
    };
    let limits = last.expect("a precision at least");
    show::show(&args, &show::Results { model: &model, threads, limits, figures, loaded });
    Ok(())
}

fn data_alone(args: &Args) -> Result<()> {
    let Some(file) = args.data.as_deref().filter(|_| args.what.len() == 1) else {
        return Err(
            Error::input("`data` is measured alone, and of a file").hint("minimind bench data --data FILE")
        );
    };
    let max_seq_len = args.seq_len.into();
    data::run(data::Case { file, tokenizer: &args.tokenizer, max_seq_len, repeat: args.repeat }, args.json)
}

/// Refuses prompts and rows that the model's `positions` cannot hold.
fn check_lengths(args: &Args, positions: usize) -> Result<()> {
    let (prompt, new) = (args.prompt_tokens, args.new_tokens);
    if prompt == 0 || new == 0 || prompt + new > positions {
        return Err(Error::input(format!(
            "--prompt-tokens {prompt} and --new-tokens {new} do not fit the model's {positions} positions"
        ))
        .hint("give smaller numbers, at least 1 each"));
    }
    if args.seq_len as usize > positions {
        return Err(Error::input(format!(
            "--seq-len {} is more than the model's {positions} positions",
            args.seq_len
        ))
        .hint("give a smaller number"));
    }
    Ok(())
}

fn train_figure(model: &CausalLm, args: &Args, precision: ModelPrecision) -> Result<Figure> {
    let shape = train::Shape {
        batch_size: args.batch_size.into(),
        seq_len: args.seq_len.into(),
        repeat: args.repeat,
    };
    let trained = train::train(model, shape, precision.compute(model.device()))?;
    let tokens = trained.tokens as f64;
    Ok(Figure {
        what: "train",
        precision: precision.name(),
        rows: shape.batch_size,
        tokens_per_s: tokens / trained.seconds,
        limit: tokens * trained.matrix_flops / trained.operations,
        bound: "matrix products",
        trained: Some(trained),
    })
}
