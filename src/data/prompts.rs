//! Conversations that wait for an answer: what reinforcement learning continues.
//!
//! Format `prompts`: `{"conversations"}` with the last assistant turn left out, or `{"prompt"}`. Format `agent`:
//! `{"conversations", "gt"}`, left out from the first turn after the last question. The row itself goes along, for
//! rewards. Not here: how a prompt is continued (`rollout`) and judged (`rollout::rewards`).

use std::sync::Arc;

use rayon::prelude::*;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::chat::{self, ChatOptions};
use super::config::{
    DataConfig, DataFormat, DataSource, OnBadRow, SyntheticConfig, SyntheticSplit, SyntheticTask, Validation,
};
use super::jsonl::{Line, RowError, RowFault, kind};
use super::mixture::order::MixtureOrder;
use super::random::{SplitMix64, chance};
use super::selection::{self, Filter, RowSelection};
use super::shapes;
use super::source::{self, SourceLines};
use super::tokenizer::chat_row::{self, TOOL_KEYS};
use super::tokenizer::{RenderOptions, Tokenizer};
use crate::error::{Error, Place, Result};

/// What shapes a prompt beside its row.
#[derive(Debug, Clone)]
pub struct PromptOptions {
    /// Most tokens of a prompt; a longer one is a fault.
    pub max_tokens: usize,
    /// Seed of the random choices.
    pub seed: u64,
    /// Chance that a prompt opens its thinking (templates that know it).
    pub thinking_ratio: f64,
    /// Chance of a system prompt before a conversation without one.
    pub system_prompt_ratio: f64,
    /// Tools of the stage, in OpenAI's form, for rows that name none.
    pub tools: Option<Value>,
}

/// A row that can be asked.
#[derive(Debug, Clone)]
pub struct PromptRow {
    /// Its line, from 1, made unique over files by the file's place in the list.
    pub number: usize,
    /// The conversation up to the answer, as a template wants it.
    pub messages: Vec<Value>,
    /// The tools that it names.
    pub tools: Option<Value>,
    /// The data row, for rewards.
    pub row: Value,
}

/// A prompt for one rollout.
#[derive(Debug, Clone)]
pub struct Prompt {
    /// The conversation, a random system prompt with it.
    pub messages: Vec<Value>,
    /// The tools that were shown.
    pub tools: Option<Value>,
    /// Rendered, with the assistant's turn opened.
    pub text: String,
    /// The same as ids.
    pub ids: Vec<u32>,
    /// Whether its thinking is opened.
    pub thinking: bool,
    /// The data row.
    pub row: Arc<PromptRow>,
}

/// Rows to ask, in the source's order.
#[derive(Debug, Clone)]
pub struct Prompts {
    rows: Vec<Arc<PromptRow>>,
    options: PromptOptions,
    /// Rows left out as unusable.
    pub skipped: usize,
    /// SHA-256 of the source, in hex.
    pub content_hash: String,
    /// Which rows an epoch of a mixture asks.
    mixture: Option<Arc<MixtureOrder>>,
}

/// Faults shown in full; more are only counted.
const SHOWN_FAULTS: usize = 10;

const FORM: &str = "a row is {\"conversations\": [{\"role\": \"user\", \"content\": \"...\"}, ...]} or {\"prompt\": \"...\"}";

impl Prompts {
    /// Reads and checks every row, each rendered once to see that it fits; then sets validation rows apart.
    ///
    /// # Errors
    /// A row that cannot be used, or is too long, at its line (unless such are skipped); no row at all.
    pub fn load(
        config: &DataConfig,
        tokenizer: &Tokenizer,
        options: &PromptOptions,
    ) -> Result<(Self, Option<Self>)> {
        if let DataSource::Mixture(parts) = &config.source {
            return Self::mixed(parts, config, tokenizer, options);
        }
        let whole = Self::read(&config.source, config, tokenizer, options)?;
        match &config.validation {
            Validation::Off => Ok((whole, None)),
            Validation::Path(path) => {
                let source = DataSource::Paths(vec![path.clone()]);
                let held = Self::read(&source, config, tokenizer, options)?;
                Ok((whole, Some(held)))
            }
            Validation::Heldout => {
                let DataSource::Synthetic(world) = &config.source else {
                    return Err(
                        Error::input("held-out questions are the built-in world's").hint("name a file")
                    );
                };
                let other = SyntheticConfig { rows: None, split: SyntheticSplit::Heldout, ..world.clone() };
                let held = Self::read(&DataSource::Synthetic(other), config, tokenizer, options)?;
                Ok((whole, Some(held)))
            }
            Validation::Share(share) => {
                let held = (whole.len() as f64 * share).round() as usize;
                if held >= whole.len() {
                    return Err(Error::input(format!(
                        "validation takes {held} of {} prompts and leaves none",
                        whole.len()
                    ))
                    .hint("lower `validation`, or name a validation file"));
                }
                let mut order: Vec<usize> = (0..whole.len()).collect();
                SplitMix64::new(options.seed, 11).shuffle(&mut order);
                let mut train = order.split_off(held);
                train.sort_unstable();
                order.sort_unstable();
                let validation = (held > 0).then(|| whole.select(&order));
                Ok((whole.select(&train), validation))
            }
        }
    }

    fn select(&self, which: &[usize]) -> Self {
        Self { rows: which.iter().map(|i| self.rows[*i].clone()).collect(), ..self.clone() }
    }

    /// The same with the first `count` rows alone.
    pub fn first(&self, count: usize) -> Self {
        Self { rows: self.rows.iter().take(count).cloned().collect(), ..self.clone() }
    }

    /// How many rows an epoch asks.
    pub fn per_epoch(&self) -> usize {
        self.mixture.as_ref().map_or(self.len(), |mixture| mixture.len())
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// The names of the tools that a row shows by itself.
    pub fn tool_names(&self, index: usize) -> impl Iterator<Item = &str> {
        let list = self.rows[index].tools.as_ref().and_then(Value::as_array).into_iter().flatten();
        list.filter_map(|tool| tool.get("function").unwrap_or(tool).get("name")?.as_str())
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The rows of an epoch in the order they are asked.
    pub fn order(&self, epoch: u64, shuffle: bool) -> Vec<usize> {
        let mut order: Vec<usize> = match &self.mixture {
            Some(mixture) => mixture.epoch(epoch).into_iter().map(|row| row as usize).collect(),
            None => (0..self.len()).collect(),
        };
        if shuffle {
            SplitMix64::new(self.options.seed ^ epoch.wrapping_mul(0x9e37_79b9_7f4a_7c15), 12)
                .shuffle(&mut order);
        }
        order
    }

    /// The prompt of row `index`; its random choices depend on seed, epoch and row alone.
    ///
    /// # Errors
    /// The chat template refuses it.
    pub fn get(&self, tokenizer: &Tokenizer, index: usize, epoch: u64) -> Result<Prompt> {
        let row = &self.rows[index];
        let number = (row.number as u64) ^ (epoch << 56);
        let thinking = chance(self.options.seed, number, 4) < self.options.thinking_ratio;
        let options = ChatOptions {
            max_seq_len: self.options.max_tokens,
            seed: self.options.seed,
            system_prompt_ratio: self.options.system_prompt_ratio,
            empty_think_ratio: 0.0,
        };
        let tools = row.tools.clone().or_else(|| self.options.tools.clone());
        let messages = if tools.is_some() || !tokenizer.renders_system() {
            row.messages.clone()
        } else {
            let with =
                chat::with_system_prompt(&json!({"conversations": row.messages}), number as usize, &options);
            with["conversations"].as_array().cloned().unwrap_or_default()
        };
        let text = render(tokenizer, &messages, tools.as_ref(), thinking)?;
        let ids = tokenizer.encode(&text)?;
        Ok(Prompt { messages, tools, text, ids, thinking, row: row.clone() })
    }

    fn read(
        source: &DataSource,
        config: &DataConfig,
        tokenizer: &Tokenizer,
        options: &PromptOptions,
    ) -> Result<Self> {
        let agent = config.format == DataFormat::Agent;
        // Validation files are taken whole.
        let select = if *source == config.source { config.select.clone() } else { RowSelection::default() };
        let filter = Filter::new(&select.filter)?;
        let (lines, content_hash) = lines(source, config, select.limit)?;
        let usable = |(place, number, bytes): Numbered| -> Result<Option<PromptRow>> {
            let row = shapes::parse(&bytes, config.format, &config.read);
            let row = row.and_then(|row| prompt_row(number, row, agent));
            let row = row.map_err(RowFault::into_error).and_then(|row| {
                if filter.by_text(&row.row).is_some() {
                    return Ok(None);
                }
                let tokens = prompt_tokens(tokenizer, &row, options)?;
                if filter.by_tokens(tokens).is_some() {
                    return Ok(None);
                }
                fits(tokenizer, &row, options, tokens).map(|()| Some(row))
            });
            row.map_err(|error| error.at(place))
        };
        let read: Vec<Result<Option<PromptRow>>> = lines.into_par_iter().map(usable).collect();
        let (mut rows, mut faults) = (Vec::new(), Vec::new());
        let all = read.len();
        for row in read {
            match row {
                Ok(row) => rows.extend(row.map(Arc::new)),
                Err(fault) => faults.push(fault),
            }
        }
        let dropped = all - rows.len() - faults.len();
        if dropped > 0 {
            tracing::info!("{}: `filter` leaves out {dropped} of {all} prompts", source.name());
        }
        let skipped = faults.len();
        if config.on_bad_row == OnBadRow::Error && skipped > 0 {
            faults.truncate(SHOWN_FAULTS);
            if skipped > SHOWN_FAULTS {
                faults.push(Error::input(format!("{} more rows cannot be used", skipped - SHOWN_FAULTS)));
            }
            return Err(Error::all(faults).unwrap_or_else(|| Error::input("no row can be used")));
        }
        if rows.is_empty() {
            let fault = Error::input(format!("no usable prompt ({skipped} skipped)")).hint(FORM);
            return Err(source.at(fault));
        }
        if let Some(some) = selection::sampled(select.sample, rows.len()) {
            rows = some.into_iter().map(|row| rows[row as usize].clone()).collect();
        }
        Ok(Self { rows, options: options.clone(), skipped, content_hash, mixture: None })
    }
}

/// A line with its place and number.
type Numbered = (Place, usize, Vec<u8>);

/// Every line, and the hash of all.
fn lines(source: &DataSource, config: &DataConfig, limit: Option<usize>) -> Result<(Vec<Numbered>, String)> {
    let source = match source {
        DataSource::Synthetic(world) if config.format == DataFormat::Agent => {
            DataSource::Synthetic(SyntheticConfig { task: SyntheticTask::Tools, ..world.clone() })
        }
        other => other.clone(),
    };
    let SourceLines { files, lines } = source::lines(&source, config.format, &config.read);
    let numbered = |line: Line| {
        let (file, number) = source::file_and_number(line.number);
        (Place::line(&files[file], number), line.number, line.bytes)
    };
    let lines = lines.take(limit.unwrap_or(usize::MAX));
    let found = lines.map(|line| line.map(numbered)).collect::<Result<Vec<Numbered>>>()?;
    let mut hash = Sha256::new();
    for (_, _, bytes) in &found {
        hash.update(bytes);
        hash.update(b"\n");
    }
    Ok((found, crate::hash::hex(&hash.finalize())))
}

/// Whether a row can be asked; what it takes in tokens is another matter.
///
/// # Errors
/// What is wrong with it.
pub fn check(row: Value, agent: bool) -> Result<(), RowFault> {
    prompt_row(0, row, agent).map(|_| ())
}

/// The conversation up to the answer, with its tools.
fn prompt_row(number: usize, row: Value, agent: bool) -> Result<PromptRow, RowFault> {
    let expected = row.get("gt").and_then(Value::as_array);
    if agent && expected.is_none_or(Vec::is_empty) {
        return Err(RowFault::new(
            "no list `gt` of expected answers",
            "an agent row is {\"conversations\": [...], \"gt\": [\"42\"]}",
        ));
    }
    let messages = match (row.get("prompt"), row.get("conversations")) {
        (Some(Value::String(text)), None) => vec![json!({"role": "user", "content": text})],
        (Some(Value::Array(list)), None) => list.clone(),
        (_, Some(Value::Array(list))) => list.clone(),
        (_, Some(other)) => {
            return Err(RowFault::new(format!("field `conversations` is {}, not a list", kind(other)), FORM));
        }
        (Some(other), None) => {
            return Err(RowFault::new(
                format!("field `prompt` is {}, neither a text nor a list", kind(other)),
                FORM,
            ));
        }
        (None, None) => return Err(RowFault::new("neither `conversations` nor `prompt`", FORM)),
    };
    for (i, message) in messages.iter().enumerate() {
        if !message["role"].is_string() {
            return Err(RowFault::new(format!("message {} has no `role`", i + 1), FORM));
        }
    }
    // A prompt ends with what the assistant answers: the last user turn, or a tool's result in plain prompts.
    let end = if agent {
        messages.iter().rposition(|m| m["role"] == "user").map(|at| at + 1)
    } else {
        messages.iter().rposition(|m| m["role"] != "assistant").map(|at| at + 1)
    };
    let end = end.filter(|end| messages[..*end].iter().any(|m| m["role"] == "user"));
    let Some(end) = end else { return Err(RowFault::new("no user turn to answer", FORM)) };
    if let Some(empty) = messages[..end].iter().position(|m| m["role"] == "user" && !m["content"].is_string())
    {
        return Err(RowFault::new(format!("message {} has no text `content`", empty + 1), FORM));
    }
    let mut asked = json!({"conversations": messages[..end]});
    for key in TOOL_KEYS {
        // A row may also name tools of the stage, for its rewards: those are the stage's to show.
        if let Some(tools) = row.get(key).filter(|tools| !chat_row::lists_tool_names(tools)) {
            asked[key] = tools.clone();
        }
    }
    let (messages, tools) = chat_row::messages_and_tools(&asked)
        .map_err(|error| RowFault::new(error.what(), "write `tools` as JSON, or as JSON in a string"))?;
    let messages = messages.as_array().cloned().unwrap_or_default();
    Ok(PromptRow { number, messages, tools, row })
}

fn render(
    tokenizer: &Tokenizer,
    messages: &[Value],
    tools: Option<&Value>,
    thinking: bool,
) -> Result<String> {
    let options = RenderOptions { open_thinking: thinking, ..RenderOptions::prompt() };
    tokenizer.apply_chat_template(&Value::from(messages.to_vec()), tools, options)
}

/// Tokens of a prompt, its thinking closed (the longer form).
fn prompt_tokens(tokenizer: &Tokenizer, row: &PromptRow, options: &PromptOptions) -> Result<usize> {
    let tools = row.tools.as_ref().or(options.tools.as_ref());
    Ok(tokenizer.encode(&render(tokenizer, &row.messages, tools, false)?)?.len())
}

/// Whether the prompt, of so many tokens, is within the budget.
fn fits(tokenizer: &Tokenizer, row: &PromptRow, options: &PromptOptions, tokens: usize) -> Result<()> {
    let tools = row.tools.as_ref().or(options.tools.as_ref());
    tokenizer.render_checked("conversations", &row.messages, tools).map_err(RowError::into_error)?;
    if tokens > options.max_tokens {
        return Err(Error::input(format!(
            "the prompt has {tokens} tokens, the budget is {}",
            options.max_tokens
        ))
        .hint("raise `max_seq_len`, shorten the row, or set data.on_bad_row: skip"));
    }
    Ok(())
}

mod mixed;
#[cfg(test)]
mod tests;
