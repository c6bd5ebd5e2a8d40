//! `minimind generate`: one prompt, one answer.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::open::{OpenArgs, Opened, SamplingArgs, open, stream};
use super::tokenizer::template_kwargs;
use crate::data::tokenizer::{RenderOptions, StreamDecoder};
use crate::error::{Error, Place, Result};
use crate::rollout::{Constraint, GenerateConfig, Grammars};
use crate::terminal;

/// The model, the prompt, and how tokens are drawn.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    open: OpenArgs,
    /// The user's turn; with --raw, text to go on from.
    #[arg(long, conflicts_with = "ids", required_unless_present = "ids")]
    prompt: Option<String>,
    /// Token ids to go on from; needs no tokenizer.
    #[arg(long, value_delimiter = ',', value_name = "1,2,3")]
    ids: Option<Vec<u32>>,
    /// Give the prompt as it is, without the chat template.
    #[arg(long, conflicts_with = "ids")]
    raw: bool,
    /// A system message before the prompt.
    #[arg(long, conflicts_with_all = ["ids", "raw"])]
    system: Option<String>,
    /// Let the model think first.
    #[arg(long, conflicts_with_all = ["ids", "raw"])]
    thinking: bool,
    /// Variables for the chat template, a JSON object: '{"enable_thinking": false}'.
    #[arg(long, value_name = "JSON", conflicts_with_all = ["ids", "raw"])]
    chat_template_kwargs: Option<String>,
    /// Most new tokens.
    #[arg(long, default_value_t = 256)]
    max_new_tokens: usize,
    /// Go on to the limit, whatever the model says.
    #[arg(long)]
    ignore_eos: bool,
    /// A JSON Schema that the answer must follow.
    #[arg(long, value_name = "FILE", conflicts_with = "ignore_eos")]
    json_schema: Option<PathBuf>,
    #[command(flatten)]
    sampling: SamplingArgs,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

fn prompt_ids(args: &Args, opened: &Opened) -> Result<Vec<u32>> {
    if let Some(ids) = &args.ids {
        return Ok(ids.clone());
    }
    let prompt = args.prompt.as_deref().unwrap_or_default();
    let tokenizer = opened.tokenizer()?;
    if args.raw || !tokenizer.has_chat_template() {
        let mut ids = tokenizer.encode_with_special_tokens(prompt)?;
        // A model needs something to start from.
        if ids.is_empty() {
            ids.push(tokenizer.prefix_id());
        }
        return Ok(ids);
    }
    let mut messages = Vec::new();
    messages.extend(args.system.as_ref().map(|text| json!({"role": "system", "content": text})));
    messages.push(json!({"role": "user", "content": prompt}));
    let kwargs = template_kwargs(args.chat_template_kwargs.as_deref())?;
    let options =
        RenderOptions { open_thinking: args.thinking, ..RenderOptions::prompt() }.with_kwargs(kwargs);
    tokenizer.encode(&tokenizer.apply_chat_template(&json!(messages), None, options)?)
}

/// A constraint that keeps the answer to the JSON Schema in `file`.
fn schema(file: &Path, opened: &Opened) -> Result<Box<dyn Constraint + Send>> {
    let text = crate::files::read_to_string(file).map_err(|e| Error::io("read the JSON Schema", file, e))?;
    let schema = serde_json::from_str(&text)
        .map_err(|e| Error::input("the JSON Schema is not JSON").at(Place::file(file)).because(e))?;
    let tokenizer = opened.tokenizer()?;
    Grammars::new(&tokenizer.plain_token_bytes(), &opened.ends)?
        .json(&schema)
        .map_err(|e| e.at(Place::file(file)))
}

/// Generates one completion and prints it as it comes, or at the end as one JSON object.
///
/// # Errors
/// The model, the schema or the template's variables cannot be read, or there is no tokenizer for a text prompt.
pub fn run(args: Args) -> Result<()> {
    let opened = open(&args.open)?;
    let prompt = prompt_ids(&args, &opened)?;
    let config = GenerateConfig {
        max_new_tokens: args.max_new_tokens,
        sampling: args.sampling.sampling()?,
        stop_ids: if args.ignore_eos { Vec::new() } else { opened.ends.clone() },
    };
    let mut decoder = StreamDecoder::new(true);
    let constraint = args.json_schema.as_deref().map(|file| schema(file, &opened)).transpose()?;
    let mut generator = opened.generator(Some(prompt.len() + args.max_new_tokens))?;
    let made = stream(&mut generator, &prompt, &config, constraint, &mut |id| {
        if args.json {
            return Ok(true);
        }
        let text = match &opened.tokenizer {
            Some(tokenizer) => decoder.push(tokenizer, id)?,
            None => format!("{id} "),
        };
        terminal::answer(&text)?;
        Ok(true)
    })?;
    if !args.json {
        let rest = opened.tokenizer.as_ref().map(|t| decoder.finish(t)).transpose()?.unwrap_or_default();
        return terminal::answer(&format!("{rest}\n"));
    }
    let text = opened.tokenizer.as_ref().map(|t| t.decode(&made.ids, true)).transpose()?;
    let value = json!({
        "ids": made.ids,
        "text": text,
        "finish_reason": if made.finish == crate::rollout::FinishReason::Stop { "stop" } else { "length" },
        "prefill_tokens_per_s": made.prefill_tokens_per_s(),
        "decode_tokens_per_s": made.decode_tokens_per_s(),
    });
    println!("{value}");
    Ok(())
}
