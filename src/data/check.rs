//! Whether a row can be trained on, and what it becomes: for looking at data before a run does.
//!
//! Without a tokenizer the program's own chat template stands for the one to come: a row that it leaves part of out is
//! told of too. Next: `prepare`, which does the same for every row of a stage.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::chat::ChatOptions;
use super::config::DataFormat;
use super::jsonl::{RowError, RowFault};
use super::prepare;
use super::token_cache::TokenizedRow;
use super::tokenizer::chat_row::{self, TOOL_KEYS, row_fault};
use super::tokenizer::coverage::TemplateCoverage;
use super::tokenizer::{ChatTemplate, RenderOptions, Tokenizer, train};
use crate::error::{Error, Result};

/// Looks at rows one by one.
#[derive(Debug)]
pub struct RowCheck {
    tokenizer: Option<Tokenizer>,
    own: ChatTemplate,
    coverage: TemplateCoverage,
}

/// The conversations of a row.
fn fields(format: DataFormat) -> &'static [&'static str] {
    match format {
        DataFormat::Chat | DataFormat::Prompts | DataFormat::Agent => &["conversations"],
        DataFormat::Preference => &["chosen", "rejected"],
        DataFormat::Text | DataFormat::Tokens => &[],
    }
}

/// One of them, with the row's tools.
fn side(row: &Value, field: &str) -> Result<(Vec<Value>, Option<Value>), RowFault> {
    let mut side = json!({"conversations": row[field]});
    for (key, tools) in TOOL_KEYS.iter().filter_map(|key| Some((key, row.get(key)?))) {
        side[key] = tools.clone();
    }
    let (messages, tools) = chat_row::messages_and_tools(&side).map_err(|error| row_fault(&error))?;
    Ok((messages.as_array().cloned().unwrap_or_default(), tools))
}

fn own_render(own: &ChatTemplate) -> impl Fn(&[Value], Option<&Value>, bool) -> Result<String> {
    |messages, tools, prompt| {
        let options = RenderOptions { add_generation_prompt: prompt, ..RenderOptions::default() };
        own.render(&Value::from(messages), tools, options, &BTreeMap::new())
    }
}

impl RowCheck {
    /// A check by the tokenizer that a stage will have, or by the program's own chat template.
    ///
    /// # Errors
    /// The built-in chat template cannot be parsed.
    pub fn new(tokenizer: Option<Tokenizer>) -> Result<Self> {
        let own = train::template()?;
        let coverage = TemplateCoverage::probe(&own_render(&own));
        Ok(Self { tokenizer, own, coverage })
    }

    /// The tokenizer that was given.
    pub fn tokenizer(&self) -> Option<&Tokenizer> {
        self.tokenizer.as_ref()
    }

    /// Whether a row has what its format needs, and all of it reaches the model.
    ///
    /// # Errors
    /// The row is bad; or the tokenizer has no chat template, or one that does not tell which tokens carry loss.
    pub fn check(&self, row: &Value, format: DataFormat) -> Result<(), RowError> {
        if self.tokenizer.is_some() {
            return self.encode(row, format).map(|_| ());
        }
        prepare::check(row, format)?;
        Ok(self.check_coverage(row, format)?)
    }

    /// How many tokens a row has, not cut; 0 without a tokenizer.
    ///
    /// # Errors
    /// The row is bad, or the tokenizer has no chat template.
    pub fn length(&self, row: &Value, format: DataFormat) -> Result<usize, RowError> {
        let Some(tokenizer) = &self.tokenizer else { return self.check(row, format).map(|()| 0) };
        prepare::check(row, format)?;
        if fields(format).is_empty() {
            return Ok(tokenizer.encode(row["text"].as_str().unwrap_or_default())?.len() + 2);
        }
        let mut tokens = 0;
        for field in fields(format) {
            let (messages, tools) = side(row, field)?;
            let text = tokenizer.render_checked(field, &messages, tools.as_ref())?;
            tokens += tokenizer.encode(&text)?.len();
        }
        Ok(tokens)
    }

    /// By the program's own template: whether it leaves out no part of the row.
    fn check_coverage(&self, row: &Value, format: DataFormat) -> Result<(), RowFault> {
        for field in fields(format) {
            let (messages, tools) = side(row, field)?;
            let rendered =
                self.coverage.render_checked(&own_render(&self.own), (field, &messages), tools.as_ref());
            rendered.map_err(|fault| RowFault {
                hint: "this is what MiniMind's own template makes of the row; --tokenizer DIR asks another one's. Name the \
                       role as the template does (system, user, assistant, tool), or remove the row"
                    .into(),
                ..fault
            })?;
        }
        Ok(())
    }

    /// A row's tokens and which of them carry loss, not cut and without the random changes of training; empty think
    /// blocks are left out.
    ///
    /// # Errors
    /// The row is bad; or there is no tokenizer, it has no chat template, or one that does not tell which tokens carry
    /// loss.
    pub fn encode(&self, row: &Value, format: DataFormat) -> Result<TokenizedRow, RowError> {
        let Some(tokenizer) = &self.tokenizer else {
            return Err(Error::input("tokens need a tokenizer").hint("give --tokenizer DIR").into());
        };
        prepare::check(row, format)?;
        let options = ChatOptions {
            max_seq_len: usize::MAX,
            seed: 0,
            system_prompt_ratio: 0.0,
            empty_think_ratio: 0.0,
        };
        prepare::encode(tokenizer, row, 1, &options, format)
    }
}
