//! `tool_choice: required` or a named function: an answer that is tool calls and nothing else, whatever the model
//! would rather say. The prompt opens the first call; a grammar holds the rest to what the chat template writes.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::fault::Fault;
use super::messages::{ToolChoice, Tools};
use super::worker::Live;
use crate::rollout::schema::is_finite;
use crate::rollout::tools::form::{Body, CallForm, ID_MARK};
use crate::rollout::{Constraint, Grammars};

/// Tool calls that a request demands.
#[derive(Debug)]
pub struct Demand {
    /// What may be called: OpenAI's `function` objects.
    functions: Vec<Value>,
    /// Whether several calls may stand in the answer.
    parallel: bool,
    /// The name of every call, where there is but one to choose.
    pub name: Option<String>,
}

impl Demand {
    /// The demand of a request, if it makes one.
    pub fn of(tools: &Tools) -> Option<Self> {
        let named = match &tools.choice {
            ToolChoice::Required => None,
            ToolChoice::Named(name) => Some(name.as_str()),
            ToolChoice::None | ToolChoice::Auto => return None,
        };
        let functions = tools.list.iter().map(|tool| &tool["function"]);
        let functions: Vec<Value> =
            functions.filter(|f| named.is_none_or(|name| f["name"] == *name)).cloned().collect();
        let mut names = functions.iter().map(|function| function["name"].as_str().unwrap_or_default());
        let name = names.next().filter(|first| names.all(|name| name == *first)).map(str::to_owned);
        Some(Self { functions, parallel: tools.parallel, name })
    }

    /// The rule for one answer of a model; the prompt ends with the form's `open`.
    pub fn constraint(&self, live: &Live) -> Result<Box<dyn Constraint + Send>, Fault> {
        if let Some(function) = self.functions.iter().find(|function| !is_finite(&function["parameters"])) {
            let message = format!(
                "the parameters of `{}` demand themselves without end",
                function["name"].as_str().unwrap_or_default()
            );
            return Err(Fault::param("tools", message));
        }
        let grammars = live.grammars()?;
        let grammar = self.grammar(&live.calls, &|text| {
            grammars.literal(&live.tokenizer.encode(text).unwrap_or_default(), text)
        });
        grammars.lark(&grammar, !matches!(live.calls.body, Body::Pairs { .. })).map_err(|error| {
            let why = error
                .cause()
                .map_or_else(|| error.what().to_owned(), |cause| format!("{}: {cause}", error.what()));
            Fault::param("tools", format!("a call of these tools cannot be demanded: {why}"))
        })
    }

    /// In llguidance's dialect of Lark; `literal` writes a text, special tokens in it as such.
    fn grammar(&self, form: &CallForm, literal: &dyn Fn(&str) -> String) -> String {
        let more = match &form.between {
            Some(between) if self.parallel => format!(" ({} call)*", literal(between)),
            _ => String::new(),
        };
        let each: Vec<String> = (0..self.functions.len()).map(|i| format!("call_{i}")).collect();
        let mut grammar = format!("start: call{more} {}\ncall: {}\n", literal(&form.close), each.join(" | "));
        for (rule, function) in each.iter().zip(&self.functions) {
            // A name is letters, digits, `_` and `-` (`messages::tools`): it needs no escape.
            let name = literal(function["name"].as_str().unwrap_or_default());
            let parameters = parameters(function);
            let arguments = || {
                let schema = Grammars::fixed(&parameters, function["strict"] != true);
                format!("{rule}_arguments: %json {schema}\n")
            };
            let _ = match &form.body {
                Body::Json { head, middle, tail } => {
                    let parts: Vec<String> = tail.split(ID_MARK).map(literal).collect();
                    let tail = parts.join(&format!(" {rule}_id "));
                    let id = format!("{rule}_id: /[a-zA-Z0-9]{{9}}/\n");
                    write!(
                        grammar,
                        "{rule}: {} {name} {} {rule}_arguments {tail}\n{}{}",
                        literal(head),
                        literal(middle),
                        arguments(),
                        if parts.len() > 1 { id.as_str() } else { "" }
                    )
                }
                Body::Named { middle } => {
                    write!(grammar, "{rule}: {name} {} {rule}_arguments\n{}", literal(middle), arguments())
                }
                Body::Pairs { after_name, before_key, middle, after_value } => {
                    let required = parameters["required"].as_array().map_or(&[][..], Vec::as_slice);
                    let mut parts = vec![name, literal(after_name)];
                    let mut rules = String::new();
                    let none = serde_json::Map::new();
                    for (i, (key, schema)) in
                        parameters["properties"].as_object().unwrap_or(&none).iter().enumerate()
                    {
                        let pair = format!(
                            "{} {} {} {rule}_value_{i}",
                            literal(before_key),
                            literal(key),
                            literal(middle)
                        );
                        let optional = if required.contains(&json!(key)) { "" } else { "?" };
                        parts.push(format!("({pair}){optional}"));
                        let _ = writeln!(rules, "{rule}_value_{i}: {}", value(schema, literal, after_value));
                    }
                    write!(grammar, "{rule}: {}\n{rules}", parts.join(" "))
                }
            };
        }
        grammar
    }
}

/// The schema of a function's arguments: an object of the declared keys, `{}` where none is declared.
fn parameters(function: &Value) -> Value {
    let mut parameters = function["parameters"].clone();
    if !parameters.is_object() {
        parameters = json!({});
    }
    parameters["type"] = "object".into();
    let open = ["properties", "additionalProperties", "patternProperties", "$ref", "allOf", "anyOf", "oneOf"];
    if !open.iter().any(|key| parameters.get(*key).is_some()) {
        parameters["properties"] = json!({});
    }
    if parameters["properties"] == json!({}) && parameters.get("additionalProperties").is_none() {
        parameters["additionalProperties"] = false.into();
    }
    parameters
}

/// A value that stands as text between two tags, with the text behind it.
fn value(schema: &Value, literal: &dyn Fn(&str) -> String, behind: &str) -> String {
    let close = literal(behind);
    if let Some(known) = schema["enum"].as_array().filter(|known| !known.is_empty()) {
        let word = |value: &Value| value.as_str().map_or_else(|| literal(&value.to_string()), literal);
        return format!("({}) {close}", known.iter().map(word).collect::<Vec<_>>().join(" | "));
    }
    let bounded = ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "const"];
    let bounded = bounded.into_iter().any(|key| schema.get(key).is_some());
    let value = match schema.get("type").map(|kind| kind.as_str().unwrap_or_default()) {
        None | Some("string") => {
            let (least, most) = (schema["minLength"].as_u64().unwrap_or(0), schema["maxLength"].as_u64());
            let most = most.map_or(String::new(), |most| most.to_string());
            // One rule with what closes it: a text would take the line break before a tag for its own.
            let close = regex::escape(behind).replace('/', r"\/").replace('\n', r"\n");
            return format!("/[^<]{{{least},{most}}}{close}/");
        }
        Some("integer") if !bounded => "/-?(0|[1-9][0-9]{0,14})/".to_owned(),
        Some("number") if !bounded => r"/-?(0|[1-9][0-9]{0,8})(\.[0-9]{1,6})?/".to_owned(),
        Some(_) => format!("%json {}", Grammars::fixed(schema, true)),
    };
    format!("{value} {close}")
}
