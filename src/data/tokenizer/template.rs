//! Chat templates: Jinja text written for Python, rendered to the same bytes.
//!
//! minijinja with Python's string methods and what Hugging Face adds around Jinja: `tojson` as
//! `json.dumps`, `raise_exception`, `strftime_now`, `break`/`continue` and the `generation` tag (which only
//! marks tokens for masks there, so here it is an empty block). Not the choice of template: see [`super`].

use std::collections::BTreeMap;
use std::path::Path;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, ValueKind};
use minijinja::{AutoEscape, Environment, ErrorKind, Output, State, Value as Jinja, context};
use serde_json::{Map, Value};

use super::pyjson::{Dump, python_str};
use crate::error::{Error, Place, Result};

const NAME: &str = "chat";

/// What a prompt ends with, and what else its template is told.
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
#[derive(Debug)]
pub struct ChatTemplate {
    env: Environment<'static>,
    source: String,
}

impl ChatTemplate {
    /// Parses a template; `file` is where it was found, for messages.
    pub fn parse(source: &str, file: &Path) -> Result<Self> {
        let mut env = Environment::new();
        let syntax = SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()
            .map_err(|error| Error::failed("the template engine refused its settings").because(error))?;
        env.set_syntax(syntax);
        env.set_auto_escape_callback(|_| AutoEscape::None);
        env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        env.set_formatter(format_as_python);
        env.add_filter("tojson", to_json);
        env.add_function("raise_exception", |text: String| -> Result<Jinja, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, text))
        });
        env.add_function("strftime_now", strftime_now);
        env.add_template_owned(NAME, without_generation_tags(source)).map_err(|error| {
            Error::input("the chat template cannot be parsed").at(Place::file(file)).because(error)
        })?;
        Ok(Self { env, source: source.to_owned() })
    }

    /// The template's text.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Renders; `roles` are the special tokens that the template may name (`bos_token`, ...).
    pub fn render(
        &self,
        messages: &Value,
        tools: Option<&Value>,
        options: RenderOptions,
        roles: &BTreeMap<String, String>,
    ) -> Result<String> {
        let given = context! {
            messages => to_jinja(messages),
            tools => tools.map(to_jinja),
            documents => (),
            add_generation_prompt => options.add_generation_prompt,
            open_thinking => options.open_thinking,
        };
        let kwargs = Jinja::from_pairs(
            options
                .kwargs
                .iter()
                .filter(|(name, _)| *name != "messages")
                .map(|(k, v)| (k.clone(), to_jinja(v))),
        );
        let template = self.env.get_template(NAME).map_err(refused)?;
        template.render(context! { ..kwargs, ..given, ..Jinja::from_pairs(roles.clone()) }).map_err(refused)
    }
}

fn refused(error: minijinja::Error) -> Error {
    Error::input("the chat template refused the conversation")
        .because(error)
        .hint("every message needs a `role` and a text `content`; see `minimind data check`")
}

/// Prints as Python's `str`: `None`, `True`, `1e-05`.
fn format_as_python(out: &mut Output, _: &mut State, value: &Jinja) -> Result<(), minijinja::Error> {
    match value.kind() {
        ValueKind::Undefined => Ok(()),
        ValueKind::String => {
            out.write_str(value.as_str().unwrap_or_default()).map_err(minijinja::Error::from)
        }
        _ => match from_jinja(value) {
            Ok(plain) => out.write_str(&python_str(&plain)).map_err(minijinja::Error::from),
            Err(_) => out.write_str(&value.to_string()).map_err(minijinja::Error::from),
        },
    }
}

fn to_json(value: &Jinja, indent: Option<usize>, kwargs: Kwargs) -> Result<Jinja, minijinja::Error> {
    let separators: Option<Vec<String>> = kwargs.get("separators")?;
    let mut separators = separators.unwrap_or_default().into_iter();
    let dump = Dump {
        indent: indent.or(kwargs.get("indent")?),
        ensure_ascii: kwargs.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        sort_keys: kwargs.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        item_separator: separators.next(),
        key_separator: separators.next(),
    };
    kwargs.assert_all_used()?;
    Ok(Jinja::from(dump.dumps(&from_jinja(value)?)))
}

fn strftime_now(format: String) -> Result<Jinja, minijinja::Error> {
    let fault = |text: String| minijinja::Error::new(ErrorKind::InvalidOperation, text);
    let items = time::format_description::parse_strftime_owned(&format).map_err(|e| fault(e.to_string()))?;
    let now = time::OffsetDateTime::now_local().unwrap_or_else(|_| time::OffsetDateTime::now_utc());
    now.format(&items).map(Jinja::from).map_err(|error| fault(error.to_string()))
}

/// `{% generation %}` becomes `{% if true %}`, so that its whitespace control still counts.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let Some(length) = rest[start..].find("%}") else { break };
        let inside = &rest[start + 2..start + length];
        let bare = inside.trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+');
        let replacement = match bare {
            "generation" => Some("if true"),
            "endgeneration" => Some("endif"),
            _ => None,
        };
        out.push_str(&rest[..start + 2]);
        match replacement {
            Some(tag) => out.push_str(&inside.replacen(bare, tag, 1)),
            None => out.push_str(inside),
        }
        out.push_str("%}");
        rest = &rest[start + length + 2..];
    }
    out.push_str(rest);
    out
}

/// JSON as the engine's value; key order is kept.
fn to_jinja(value: &Value) -> Jinja {
    match value {
        Value::Null => Jinja::from(()),
        Value::Bool(flag) => Jinja::from(*flag),
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(whole), _) => Jinja::from(whole),
            (None, Some(whole)) => Jinja::from(whole),
            _ => Jinja::from(number.as_f64().unwrap_or(f64::NAN)),
        },
        Value::String(text) => Jinja::from(text.as_str()),
        Value::Array(items) => items.iter().map(to_jinja).collect(),
        Value::Object(map) => {
            Jinja::from_pairs(map.iter().map(|(key, value)| (key.clone(), to_jinja(value))))
        }
    }
}

/// The engine's value as JSON, where it is one.
fn from_jinja(value: &Jinja) -> Result<Value, minijinja::Error> {
    let not_json = || {
        let text = format!("a value of kind `{}` is not JSON", value.kind());
        minijinja::Error::new(ErrorKind::BadSerialization, text)
    };
    match value.kind() {
        ValueKind::None => Ok(Value::Null),
        ValueKind::Bool => Ok(Value::Bool(value.is_true())),
        ValueKind::String => Ok(Value::from(value.as_str().unwrap_or_default())),
        ValueKind::Number if !value.is_integer() => Ok(Value::from(f64::try_from(value.clone())?)),
        ValueKind::Number => match i64::try_from(value.clone()) {
            Ok(whole) => Ok(Value::from(whole)),
            Err(_) => Ok(Value::from(u64::try_from(value.clone())?)),
        },
        ValueKind::Seq | ValueKind::Iterable => value.try_iter()?.map(|item| from_jinja(&item)).collect(),
        ValueKind::Map => {
            let mut map = serde_json::Map::new();
            for key in value.try_iter()? {
                let name = key.as_str().map_or_else(|| key.to_string(), str::to_owned);
                map.insert(name, from_jinja(&value.get_item(&key)?)?);
            }
            Ok(Value::Object(map))
        }
        _ => Err(not_json()),
    }
}
