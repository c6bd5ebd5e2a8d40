//! `minimind generate`: one prompt, one answer.

use std::io::Write;

use serde_json::json;

use super::open::{OpenArgs, Opened, SamplingArgs, open, stream};
use crate::data::tokenizer::{RenderOptions, StreamDecoder};
use crate::error::{Error, Result};
use crate::rollout::GenerateConfig;

/// Arguments.
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
    /// Most new tokens.
    #[arg(long, default_value_t = 256)]
    max_new_tokens: usize,
    /// Go on to the limit, whatever the model says.
    #[arg(long)]
    ignore_eos: bool,
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
    if args.raw || !tokenizer.has_template() {
        let mut ids = vec![tokenizer.bos_id()];
        ids.extend(tokenizer.encode(prompt)?);
        return Ok(ids);
    }
    let mut messages = Vec::new();
    messages.extend(args.system.as_ref().map(|text| json!({"role": "system", "content": text})));
    messages.push(json!({"role": "user", "content": prompt}));
    let options = RenderOptions { add_generation_prompt: true, open_thinking: args.thinking };
    tokenizer.encode(&tokenizer.render(&json!(messages), None, options)?)
}

/// Carries the command out.
pub fn run(args: Args) -> Result<()> {
    let opened = open(&args.open)?;
    let prompt = prompt_ids(&args, &opened)?;
    // Upstream's end mark is 2 in both eras; a tokenizer knows its own.
    let eos = opened.tokenizer.as_ref().map_or(2, |t| t.eos_id());
    let config = GenerateConfig {
        max_new_tokens: args.max_new_tokens,
        sampling: args.sampling.sampling()?,
        eos_id: (!args.ignore_eos).then_some(eos),
    };
    let mut decoder = StreamDecoder::new(true);
    let mut out = std::io::stdout();
    let made = stream(&opened, &prompt, &config, &mut |id| {
        if args.json {
            return Ok(true);
        }
        let text = match &opened.tokenizer {
            Some(tokenizer) => decoder.push(tokenizer, id)?,
            None => format!("{id} "),
        };
        write!(out, "{text}")
            .and_then(|()| out.flush())
            .map_err(|e| Error::failed("cannot write").because(e))?;
        Ok(true)
    })?;
    if !args.json {
        let rest = opened.tokenizer.as_ref().map(|t| decoder.finish(t)).transpose()?.unwrap_or_default();
        println!("{rest}");
        return Ok(());
    }
    let text = opened.tokenizer.as_ref().map(|t| t.decode(&made.ids, true)).transpose()?;
    let value = json!({
        "ids": made.ids,
        "text": text,
        "finish_reason": if made.finish == crate::rollout::Finish::Stop { "stop" } else { "length" },
        "prefill_tokens_per_s": made.prefill_tokens_per_s(),
        "decode_tokens_per_s": made.decode_tokens_per_s(),
    });
    println!("{value}");
    Ok(())
}
