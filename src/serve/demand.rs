//! `tool_choice: required` or a named function: an answer that is tool calls and nothing else, whatever the model
//! would rather say. The prompt opens the first call; a grammar holds the rest to what the chat template writes.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::fault::Fault;
use super::messages::{ToolChoice, Tools};
use super::split::Reading;
use super::worker::Live;
use crate::rollout::{Constraint, Grammars};

/// Tool calls that a request demands.
#[derive(Debug)]
pub struct Demand {
    /// In llguidance's dialect of Lark.
    grammar: String,
    /// The name of every call, where there is but one to choose.
    name: Option<String>,
}

impl Demand {
    /// What the prompt writes of the answer. It ends where the template's own line does, so that the tokens after
    /// it are those the model was trained on.
    pub const START: &'static str = "<tool_call>\n";

    /// The demand of a request, if it makes one.
    pub fn of(tools: &Tools) -> Option<Self> {
        let named = match &tools.choice {
            ToolChoice::Required => None,
            ToolChoice::Named(name) => Some(name.as_str()),
            ToolChoice::None | ToolChoice::Auto => return None,
        };
        let functions = tools.list.iter().map(|tool| &tool["function"]);
        let wanted: Vec<&Value> = functions.filter(|f| named.is_none_or(|name| f["name"] == *name)).collect();
        let mut names = wanted.iter().map(|function| function["name"].as_str().unwrap_or_default());
        let name = names.next().filter(|first| names.all(|name| name == *first)).map(str::to_owned);
        let more = if tools.parallel { r#" ("\n</tool_call>\n<tool_call>\n" call)*"# } else { "" };
        let each: Vec<String> = (0..wanted.len()).map(|i| format!("call_{i}")).collect();
        let mut grammar = format!("start: call{more} \"\\n</tool_call>\"\ncall: {}\n", each.join(" | "));
        for (rule, function) in each.iter().zip(wanted) {
            // A name is letters, digits, `_` and `-` (`messages::tools`): it needs no escape.
            let name = function["name"].as_str().unwrap_or_default();
            let mut parameters = function["parameters"].clone();
            if parameters.is_null() {
                parameters = json!({});
            }
            parameters["type"] = "object".into();
            let schema = Grammars::compact(&parameters, function["strict"] != true);
            let _ = writeln!(
                grammar,
                r#"{rule}: "{{\"name\": \"{name}\", \"arguments\": " {rule}_arguments "}}""#
            );
            let _ = writeln!(grammar, "{rule}_arguments: %json {schema}");
        }
        Some(Self { grammar, name })
    }

    /// How an answer to it is read.
    pub fn reading(&self) -> Reading {
        Reading::Demanded { name: self.name.clone() }
    }

    /// The rule for one answer of a model.
    pub fn constraint(&self, live: &Live) -> Result<Box<dyn Constraint + Send>, Fault> {
        let made = live.grammars()?.lark(&self.grammar);
        made.map_err(|error| {
            Fault::param("tools", format!("a call of these tools cannot be demanded: {}", error.what()))
        })
    }
}
