//! Chat templates: a conversation to the text of a prompt, byte for byte as transformers renders it.
//!
//! The language is in `jinja`; here is what transformers puts around it (`apply_chat_template`): the
//! variables, messages without their null fields, thoughts under each of their names. Not the choice of
//! template: see [`super`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::jinja::{Fault, FaultKind, Limits, Rendered, Template};
use crate::error::{Error, Place, Result};

/// Steps that a template may take beside those for what it is given.
const FUEL: u64 = 20_000_000;
/// Steps for each byte that it is given.
const FUEL_PER_BYTE: u64 = 16;
/// Bytes of text that it may make, beside those for what it is given.
const TEXT: usize = 64 << 20;

/// The names a message's thoughts go by; a template may read any of them.
const THOUGHTS: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// What a prompt ends with, and which other variables its template gets.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RenderOptions {
    /// Opens an assistant turn for the model to fill.
    pub add_generation_prompt: bool,
    /// Opens a think block in that turn (templates that know `open_thinking`).
    pub open_thinking: bool,
    /// Variables for the template by name (`enable_thinking`, `reasoning_effort`, `documents`, ...), as the
    /// keyword arguments of transformers' `apply_chat_template`. They win over the two above and over special
    /// tokens; `messages` cannot be given here.
    pub kwargs: Map<String, Value>,
}

impl RenderOptions {
    /// Opens an assistant turn, and nothing else.
    pub fn prompt() -> Self {
        Self { add_generation_prompt: true, ..Self::default() }
    }

    /// The same with variables for the template.
    pub fn with_kwargs(self, kwargs: Map<String, Value>) -> Self {
        Self { kwargs, ..self }
    }
}

/// The variables that a text states as one JSON object.
///
/// # Errors
/// Text that is no JSON object, or one that names `messages`.
pub fn parse_kwargs(text: &str) -> Result<Map<String, Value>> {
    const FORM: &str = r#"an object, as {"enable_thinking": false}"#;
    let value: Value = serde_json::from_str(text)
        .map_err(|error| Error::input("the template's variables are not JSON").because(error).hint(FORM))?;
    let Value::Object(kwargs) = value else {
        return Err(Error::input("the template's variables are not a JSON object").hint(FORM));
    };
    if kwargs.contains_key("messages") {
        return Err(Error::input("`messages` is the conversation itself, not a variable of its template"));
    }
    Ok(kwargs)
}

/// A parsed template.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    template: Template,
    source: String,
    file: PathBuf,
}

impl ChatTemplate {
    /// Parses a template; `file` is its path, for messages.
    ///
    /// # Errors
    /// It is not Jinja2; the error has the line.
    pub fn parse(source: &str, file: &Path) -> Result<Self> {
        let template = Template::parse(source).map_err(|fault| {
            let own = file.extension().is_some_and(|extension| extension == "jinja");
            let place = match fault.line {
                Some(line) if own => Place::line(file, line),
                _ => Place::file(file),
            };
            Error::input("the chat template cannot be read")
                .at(place)
                .because(fault)
                .hint("it is Jinja2, as transformers' chat templates are; put a corrected one in `chat_template.jinja`")
        })?;
        Ok(Self { template, source: source.to_owned(), file: file.to_owned() })
    }

    /// The template's text.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Where the template was found.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Renders; `roles` are the special tokens that the template may name (`bos_token`, ...).
    ///
    /// # Errors
    /// What the template refuses: its own sentence is in the message. What it cannot do, and its limits.
    pub fn render(
        &self,
        messages: &Value,
        tools: Option<&Value>,
        options: RenderOptions,
        roles: &BTreeMap<String, String>,
    ) -> Result<String> {
        let rendered = self.try_render(messages, tools, &options, roles);
        rendered.map(|rendered| rendered.text).map_err(|fault| self.refused(fault))
    }

    /// [`Self::render`] with the places of `{% generation %}` blocks.
    ///
    /// # Errors
    /// The template's fault as it is: for [`FaultKind::Raised`] the message is the template's own sentence.
    pub fn try_render(
        &self,
        messages: &Value,
        tools: Option<&Value>,
        options: &RenderOptions,
        roles: &BTreeMap<String, String>,
    ) -> std::result::Result<Rendered, Fault> {
        let messages = normalized(messages);
        let null = Value::Null;
        let roles: Vec<(&str, Value)> =
            roles.iter().map(|(name, text)| (name.as_str(), Value::from(text.as_str()))).collect();
        let flags = [options.add_generation_prompt, options.open_thinking].map(Value::from);
        let kwargs = options.kwargs.iter().filter(|(name, _)| *name != "messages");
        let given = [
            ("tools", tools.unwrap_or(&null)),
            ("documents", &null),
            ("add_generation_prompt", &flags[0]),
            ("open_thinking", &flags[1]),
        ];
        let variables = roles.iter().map(|(name, value)| (*name, value)).chain(given);
        let variables = variables.chain(kwargs.map(|(name, value)| (name.as_str(), value)));
        let variables = variables.chain([("messages", &messages)]);
        let bytes = bytes_of(&messages) + tools.map_or(0, bytes_of);
        let limits = Limits { fuel: FUEL + FUEL_PER_BYTE * bytes as u64, max_text_bytes: TEXT + 8 * bytes };
        self.template.render(variables, &limits)
    }

    /// A template's fault as an error of ours.
    pub fn refused(&self, fault: Fault) -> Error {
        let place = Place::file(&self.file);
        match fault.kind {
            FaultKind::Raised => {
                Error::input(format!("the chat template refuses the conversation: {}", fault.message))
                    .at(place)
                    .hint("the sentence is the template's own; change the messages, or give another `chat_template.jinja`")
            }
            FaultKind::Limit => Error::input(format!("the chat template was stopped at {fault}"))
                .at(place)
                .hint("a template that renders a conversation needs far less; look at what it does there"),
            _ => Error::input(format!("the chat template failed on the conversation at {fault}"))
                .at(place)
                .hint("every message needs a `role` and a text `content`; see `minimind data check`"),
        }
    }
}

/// Messages as transformers gives them to a template: fields that are null are left out, and thoughts go by
/// `reasoning_content` and `thinking`, whatever name they came under.
fn normalized(messages: &Value) -> Value {
    let Value::Array(list) = messages else { return messages.clone() };
    let message = |message: &Value| -> Value {
        let Value::Object(fields) = message else { return message.clone() };
        let kept: Map<String, Value> = fields
            .iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        let Some(thoughts) = THOUGHTS.iter().find_map(|name| kept.get(*name)).cloned() else {
            return Value::Object(kept);
        };
        let mut whole = Map::new();
        whole.insert("thinking".to_owned(), thoughts.clone());
        whole.extend(kept);
        whole.insert("reasoning_content".to_owned(), thoughts);
        Value::Object(whole)
    };
    list.iter().map(message).collect()
}

/// About how many bytes a value is.
fn bytes_of(value: &Value) -> usize {
    match value {
        Value::String(text) => 8 + text.len(),
        Value::Array(items) => 8 + items.iter().map(bytes_of).sum::<usize>(),
        Value::Object(map) => {
            8 + map.iter().map(|(key, value)| 8 + key.len() + bytes_of(value)).sum::<usize>()
        }
        _ => 8,
    }
}
