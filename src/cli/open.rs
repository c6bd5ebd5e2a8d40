//! Opening a model and its tokenizer by what the user named: shared by generate, chat, serve and eval.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use tch::Kind;

use super::precision::ModelPrecision;
use super::{pull, threads, vocabulary};
use crate::checkpoint::adapter::attach::load_with_adapter;
use crate::checkpoint::{eos, gguf, load};
use crate::data::Tokenizer;
use crate::data::tokenizer::eos_token_ids;
use crate::engine::{Compute, device};
use crate::error::{Error, Place, Result};
use crate::model::{CausalLm, ModelConfig, ModelOverrides};
use crate::native::{Storage, libtorch_dir, peak_memory_bytes};
use crate::plan::machine::Machine;
use crate::plan::{Wanted, runtime};
use crate::rollout::{Constraint, DecoderConfig, GenerateConfig, Generation, Generator};
use crate::stage::loading;

/// Which model, and where it runs.
#[derive(Debug, clap::Args)]
pub struct OpenArgs {
    /// A .pth, a .safetensors, a .gguf, a Hugging Face folder, or a run's folder (RUN or RUN:stage).
    #[arg(long, value_name = "M")]
    model: String,
    /// A LoRA adapter to put on it: upstream's file, or a folder with adapter_config.json.
    #[arg(long, value_name = "FILE")]
    adapter: Option<PathBuf>,
    #[command(flatten)]
    how: HowArgs,
}

/// What a model's files do not say.
#[derive(Debug, clap::Args)]
pub struct ReadArgs {
    /// Folder with tokenizer.json, minimind2 or minimind3; without it the one beside the model, or in ../model.
    #[arg(long, value_name = "DIR")]
    pub tokenizer: Option<PathBuf>,
    /// A config.json that states the architecture.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Stretch rotary positions with YaRN, for long inputs.
    #[arg(long)]
    pub yarn: bool,
}

/// How a model is read, and where it runs.
#[derive(Debug, clap::Args)]
pub struct HowArgs {
    #[command(flatten)]
    read: ReadArgs,
    /// auto, cpu, cuda, cuda:N or mps.
    #[arg(long, default_value = "auto", value_parser = parse_device)]
    device: Wanted,
    /// Arithmetic.
    #[arg(long, value_enum, default_value = "auto")]
    precision: ModelPrecision,
}

/// A device as the command line names it (clap's value parser).
///
/// # Errors
/// The text for clap to print where the device is not known.
pub(super) fn parse_device(text: &str) -> std::result::Result<Wanted, String> {
    runtime::parse_device(text).ok_or_else(|| "expected auto, cpu, cuda, cuda:N or mps".to_owned())
}

/// A model with everything that generating from it needs.
#[derive(Debug)]
pub struct Opened {
    /// The model that `--model` and the flags beside it name.
    pub model: CausalLm,
    /// Its tokenizer, where one was found.
    pub tokenizer: Option<Tokenizer>,
    /// The tokens that end an answer.
    pub ends: Vec<u32>,
    /// The arithmetic asked for.
    pub compute: Compute,
    /// How a decoder stores the weights, where it is not as they are loaded.
    pub storage: Option<Storage>,
}

impl Opened {
    /// A generator for sequences of up to `positions` tokens, prompt included; `None` for the longest that the model allows.
    ///
    /// # Errors
    /// The weights cannot be packed for the decoder.
    pub fn generator(&self, positions: Option<usize>) -> Result<Generator<'_>> {
        Generator::new(&self.model, DecoderConfig { storage: self.storage, threads: None, positions })
    }

    /// The tokenizer.
    ///
    /// # Errors
    /// None was found; the hint says how to name one.
    pub fn tokenizer(&self) -> Result<&Tokenizer> {
        self.tokenizer.as_ref().ok_or_else(|| {
            Error::input("no tokenizer was found beside the model")
                .hint("name one: --tokenizer DIR, or minimind3 or minimind2 for MiniMind's own")
        })
    }
}

/// Loads what `--model` and the flags beside it name; logs what had to be guessed.
///
/// # Errors
/// The model, the adapter, the config or the tokenizer cannot be read, or the device cannot be used.
pub fn open(args: &OpenArgs) -> Result<Opened> {
    open_named(&args.model, args.adapter.as_deref(), &args.how)
}

/// As [`open`], for a model that is named elsewhere than in [`OpenArgs`], with an optional LoRA adapter on it.
///
/// # Errors
/// As [`open`].
pub fn open_named(model: &str, adapter: Option<&Path>, args: &HowArgs) -> Result<Opened> {
    let machine = Machine::detect();
    threads::use_threads(&machine, machine.cores);
    let device = device::resolve(args.device, &libtorch_dir(), machine.gpu_seen)?;
    let path = pull::locate(model)?;
    let compute = args.precision.compute(device);
    let kind = match compute {
        Compute::Fp32 => Kind::Float,
        Compute::Bf16 => Kind::BFloat16,
        Compute::Fp16 => Kind::Half,
    };
    let given = args.read.config.as_deref().map(read_config).transpose()?;
    let (start, before) = (Instant::now(), peak_memory_bytes().unwrap_or(0));
    let loaded = match adapter {
        Some(adapter) => load_with_adapter(&path, adapter, given.as_ref(), device, kind)?,
        None => load::load_model(&path, given.as_ref(), device, kind)?,
    };
    let bytes = peak_memory_bytes().unwrap_or(0).saturating_sub(before);
    tracing::debug!(seconds = start.elapsed().as_secs_f64(), bytes, "model loaded");
    for note in &loaded.notes {
        tracing::info!("{note}");
    }
    tracing::debug!("architecture from {}", loaded.architecture_from);
    let model = if args.read.yarn { loaded.model.with_yarn() } else { loaded.model };
    let tokenizer = match &args.read.tokenizer {
        Some(given) => {
            let tokenizer = vocabulary::load(given)?;
            loading::warn_of_other_tokenizer(&path, &tokenizer, model.config())?;
            Some(tokenizer)
        }
        None => own_tokenizer(&path, model.config())?,
    };
    let ends = eos_token_ids(tokenizer.as_ref(), &eos::token_ids(&path)?);
    tracing::debug!(?ends, "end marks");
    Ok(Opened { model, tokenizer, ends, compute, storage: args.precision.storage() })
}

/// Reads the `config.json` that `--config` names.
///
/// # Errors
/// The file cannot be read, is not JSON, or describes no model that this program builds.
pub fn read_config(path: &Path) -> Result<ModelConfig> {
    let at = |e: Error| e.at(Place::file(path));
    let text = crate::files::read_to_string(path).map_err(|e| Error::io("read the model config", path, e))?;
    let value = serde_json::from_str(&text)
        .map_err(|e| Error::input("the model config is not JSON").at(Place::file(path)).because(e))?;
    ModelOverrides::from_json(&value).map_err(at)?.resolve().map_err(at)
}

/// The tokenizer inside a GGUF, else the one that goes with the weights.
fn own_tokenizer(path: &Path, config: &ModelConfig) -> Result<Option<Tokenizer>> {
    if gguf::is_gguf(path)
        && let Some(vocabulary) =
            gguf::Vocabulary::of(&gguf::open(path)?).map_err(|e| e.at(Place::file(path)))?
    {
        return Tokenizer::from_vocabulary(&vocabulary, path).map(Some);
    }
    let Some(folder) = vocabulary::of(path, config)? else { return Ok(None) };
    let tokenizer = Tokenizer::load(&folder)?;
    loading::warn_of_other_tokenizer(path, &tokenizer, config)?;
    Ok(Some(tokenizer))
}

/// Generates from `prompt` and hands each token to `take` as it comes; `take` ends the generation with `Ok(false)`.
///
/// # Errors
/// The generator fails, or the first error that `take` returned.
pub fn stream(
    generator: &mut Generator<'_>,
    prompt: &[u32],
    config: &GenerateConfig,
    constraint: Option<Box<dyn Constraint + Send>>,
    take: &mut dyn FnMut(u32) -> Result<bool>,
) -> Result<Generation> {
    let mut fault = None;
    let made = generator.generate_constrained(prompt, config, constraint, &mut |id| match take(id) {
        Ok(true) => ControlFlow::Continue(()),
        Ok(false) => ControlFlow::Break(()),
        Err(error) => {
            fault = Some(error);
            ControlFlow::Break(())
        }
    })?;
    match fault {
        Some(error) => Err(error),
        None => Ok(made),
    }
}

/// How tokens are chosen.
#[derive(Debug, clap::Args)]
pub struct SamplingArgs {
    /// Take the likeliest token each time.
    #[arg(long)]
    greedy: bool,
    /// Higher is more varied; 0 is greedy.
    #[arg(long, default_value_t = 0.85)]
    temperature: f64,
    /// Choose among this many of the likeliest tokens; 0 for all.
    #[arg(long, default_value_t = 0)]
    top_k: usize,
    /// Choose among the likeliest tokens that have this probability together.
    #[arg(long, default_value_t = 0.85)]
    top_p: f64,
    /// Above 1: tokens already seen become less likely.
    #[arg(long, default_value_t = 1.0)]
    repetition_penalty: f64,
    /// Seed of the choices.
    #[arg(long, default_value_t = 42)]
    seed: u64,
}

impl SamplingArgs {
    /// The flags as [`crate::rollout::SamplingParams`]; `--greedy` sets the temperature to 0.
    ///
    /// # Errors
    /// A flag is out of its range.
    pub fn sampling(&self) -> Result<crate::rollout::SamplingParams> {
        let wrong = |what: &str, value: f64, range: &str| {
            Err(Error::input(format!("--{what} is {value}")).hint(format!("give a number {range}")))
        };
        if !(0.0..=100.0).contains(&self.temperature) {
            return wrong("temperature", self.temperature, "from 0 to 100");
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return wrong("top-p", self.top_p, "above 0, up to 1");
        }
        if !(self.repetition_penalty > 0.0 && self.repetition_penalty.is_finite()) {
            return wrong("repetition-penalty", self.repetition_penalty, "above 0");
        }
        Ok(crate::rollout::SamplingParams {
            temperature: if self.greedy { 0.0 } else { self.temperature },
            top_k: self.top_k,
            top_p: self.top_p,
            repetition_penalty: self.repetition_penalty,
            seed: self.seed,
            ..crate::rollout::SamplingParams::GREEDY
        })
    }
}
