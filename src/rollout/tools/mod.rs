//! Tools that a model may call while it answers: a calculator, units, the clock, a table, the user's programs.
//!
//! A call never ends the run: whatever is wrong with it comes back as a text for the model. Reading order: `call_format` (how
//! a model writes calls), `calls` (out of its text), this file (carrying them out), `calculator`, `units`. The tools' descriptions: `data::tool_specs`.

pub mod calculator;
pub mod call_format;
mod call_format_probe;
pub mod call_scan;
pub mod calls;
pub mod config;
mod functions;
pub mod units;

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use time::OffsetDateTime;

pub use call_format::ToolCallFormat;
pub use calls::ToolCall;
pub use config::{Table, ToolConfig, ToolKind};

use crate::data::{jsonl, synthetic, tool_specs};
use crate::error::{Error, Place, Result};
use crate::rollout::number::Number;
use crate::rollout::process::Program;

/// The longest result that a model gets, in characters.
const MAX_CHARACTERS: usize = 4000;

#[derive(Debug)]
struct Tool {
    name: String,
    schema: Value,
    action: Action,
}

#[derive(Debug)]
enum Action {
    Calculator,
    Units,
    Clock,
    Lookup(HashMap<String, String>),
    Command(Vec<String>, Duration),
}

/// A recipe's tools, ready to be called.
#[derive(Debug, Default)]
pub struct Tools {
    tools: Vec<Tool>,
}

impl Tools {
    /// Prepares every tool; reads the tables.
    ///
    /// # Errors
    /// Two tools of one name, a table that cannot be read.
    pub fn new(configs: &[ToolConfig]) -> Result<Self> {
        let mut tools: Vec<Tool> = Vec::new();
        for config in configs {
            let tool = tool(config)?;
            if tools.iter().any(|other| other.name == tool.name) {
                return Err(Error::input(format!("two tools are named `{}`", tool.name))
                    .hint("give one of them a `name` of its own"));
            }
            tools.push(tool);
        }
        Ok(Self { tools })
    }

    /// The tools that need no setting: calculator, units, clock.
    pub fn built_in() -> Self {
        Self::new(&ToolConfig::built_in()).expect("the built-in tools need no file")
    }

    /// Their schemas for the model's chat template, a list in OpenAI's form.
    pub fn schemas(&self) -> Value {
        self.tools.iter().map(|tool| tool.schema.clone()).collect()
    }

    /// Their names in order.
    pub fn names(&self) -> Vec<&str> {
        self.tools.iter().map(|tool| tool.name.as_str()).collect()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.tools.is_empty()
    }

    /// Runs a call; what is wrong with it is returned as `{"error": ...}` for the model.
    pub fn call(&self, name: &str, arguments: &Value) -> String {
        let result = match self.tools.iter().find(|tool| tool.name == name) {
            Some(tool) => tool.call(arguments),
            None => Err(format!("there is no tool `{name}`; the tools are: {}", self.names().join(", "))),
        };
        let text = result.unwrap_or_else(|fault| error_text(&fault));
        match text.char_indices().nth(MAX_CHARACTERS) {
            Some((cut, _)) => format!("{}\n[cut here]", &text[..cut]),
            None => text,
        }
    }

    /// The answer to a parsed call, broken ones included.
    pub fn answer(&self, call: &ToolCall) -> String {
        match &call.fault {
            Some(fault) => error_text(fault),
            None => self.call(&call.name, &call.arguments),
        }
    }

    /// The answers as messages with the role `tool`, at most `most` of them.
    pub fn messages(&self, calls: &[ToolCall], most: usize) -> Vec<Value> {
        calls.iter().take(most).map(|call| json!({"role": "tool", "content": self.answer(call)})).collect()
    }
}

fn error_text(fault: &str) -> String {
    json!({"error": fault}).to_string()
}

fn tool(config: &ToolConfig) -> Result<Tool> {
    let (mut schema, action) = match &config.kind {
        ToolKind::Calculator => (tool_specs::calculator(), Action::Calculator),
        ToolKind::Units => (tool_specs::units(), Action::Units),
        ToolKind::Clock => (tool_specs::clock(), Action::Clock),
        ToolKind::Lookup(table) => (tool_specs::lookup(), Action::Lookup(read_table(table)?)),
        ToolKind::Command { command, parameters, timeout_secs } => (
            tool_specs::function("command", "", parameters.clone()),
            Action::Command(command.clone(), Duration::from_secs_f64(*timeout_secs)),
        ),
    };
    for (key, given) in [("name", &config.name), ("description", &config.description)] {
        if let Some(given) = given {
            schema["function"][key] = json!(given);
        }
    }
    let name = schema["function"]["name"].as_str().unwrap_or_default().to_owned();
    Ok(Tool { name, schema, action })
}

impl Tool {
    fn call(&self, arguments: &Value) -> Result<String, String> {
        let text = |key: &str| match arguments.get(key) {
            Some(Value::String(text)) => Ok(text.clone()),
            Some(Value::Number(number)) => Ok(number.to_string()),
            Some(_) => Err(format!("`{key}` is not a text")),
            None => Err(format!("`{key}` is missing")),
        };
        match &self.action {
            Action::Calculator => calculator::evaluate(&text("expression")?).map(|value| value.to_string()),
            Action::Units => {
                let given = text("value")?;
                let size = Number::parse(given.trim().trim_start_matches('-'));
                let size = size.ok_or_else(|| format!("`value` is `{given}`, not a number"))?;
                let value = if given.trim().starts_with('-') { size.negated() } else { size };
                units::convert(value, &text("from_unit")?, &text("to_unit")?).map(|value| value.to_string())
            }
            Action::Clock => now(arguments.get("utc_offset").and_then(Value::as_str)),
            Action::Lookup(table) => {
                let key = text("key")?;
                table.get(&folded(&key)).cloned().ok_or_else(|| format!("nothing is known of `{key}`"))
            }
            Action::Command(command, limit) => run(command, arguments, *limit),
        }
    }
}

/// Keys are found whatever their case and surrounding white space.
fn folded(key: &str) -> String {
    key.trim().to_lowercase()
}

fn read_table(table: &Table) -> Result<HashMap<String, String>> {
    let shown = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    match table {
        Table::World(seed) => Ok(synthetic::prices(*seed)
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value.to_string()))
            .collect()),
        Table::File(path) if path.extension().is_some_and(|e| e == "jsonl") => read_rows(path),
        Table::File(path) => {
            let bytes = crate::files::read(path).map_err(|e| Error::io("read the table", path, e))?;
            let value: Value = serde_json::from_slice(&bytes).map_err(|e| {
                Error::input("the table is not JSON")
                    .at(Place::line_column(path, e.line(), e.column()))
                    .because(e)
            })?;
            let Value::Object(map) = value else {
                return Err(Error::input("the table is not one JSON object")
                    .at(Place::file(path))
                    .hint(TABLE_FORM));
            };
            Ok(map.iter().map(|(key, value)| (folded(key), shown(value))).collect())
        }
    }
}

const TABLE_FORM: &str =
    "a .json table is {\"key\": value, ...}; a .jsonl table has {\"key\": ..., \"value\": ...} rows";

fn read_rows(path: &Path) -> Result<HashMap<String, String>> {
    let mut table = HashMap::new();
    for line in jsonl::Lines::open(path)? {
        let line = line?;
        let row = jsonl::parse(&line.bytes).map_err(|fault| fault.at(path, line.number))?;
        let (Some(key), Some(value)) = (row["key"].as_str(), row.get("value")) else {
            return Err(Error::input("the row has no `key` or no `value`")
                .at(Place::line(path, line.number))
                .hint(TABLE_FORM));
        };
        table.insert(folded(key), value.as_str().map_or_else(|| value.to_string(), str::to_owned));
    }
    Ok(table)
}

/// `2026-11-25 09:30:00 +00:00, Wednesday`.
fn now(offset: Option<&str>) -> Result<String, String> {
    let offset = match offset.map(str::trim).filter(|text| !text.is_empty()) {
        None => time::UtcOffset::UTC,
        Some(text) => {
            let fault = || format!("`utc_offset` is `{text}`; write it as +08:00");
            let size = text.trim_start_matches("UTC").trim_start_matches(['+', '-']);
            let (hours, minutes) = size.split_once(':').unwrap_or((size, "0"));
            let sign = if text.contains('-') { -1 } else { 1 };
            let part = |text: &str| text.parse::<i8>().map_err(|_| fault());
            time::UtcOffset::from_hms(sign * part(hours)?, sign * part(minutes)?, 0).map_err(|_| fault())?
        }
    };
    let now = OffsetDateTime::now_utc().to_offset(offset);
    let form = "[year]-[month]-[day] [hour]:[minute]:[second] [offset_hour sign:mandatory]:[offset_minute], [weekday]";
    let form = time::format_description::parse_borrowed::<2>(form).map_err(|e| e.to_string())?;
    now.format(&form).map_err(|e| e.to_string())
}

/// Arguments as one line of JSON in, everything it prints out.
fn run(command: &[String], arguments: &Value, limit: Duration) -> Result<String, String> {
    let until = Instant::now() + limit;
    let mut program = Program::start(command).map_err(|e| e.what().to_owned())?;
    program.send(format!("{arguments}\n"));
    program.close();
    let mut text = String::new();
    loop {
        match program.line(until) {
            Ok(Some(line)) if text.len() < 4 * MAX_CHARACTERS => {
                text.push_str(&line);
                text.push('\n');
            }
            Ok(Some(_)) => {}
            Ok(None) => break,
            Err(_) => return Err(format!("the tool did not end within {} seconds", limit.as_secs_f64())),
        }
    }
    match program.success(until) {
        Some(true) => Ok(text.trim_end().to_owned()),
        Some(false) => Err(format!("the tool failed: {}", program.stderr_tail())),
        None => Err(format!("the tool did not end within {} seconds", limit.as_secs_f64())),
    }
}

#[cfg(test)]
mod tests;
