//! `tools:`, a list of one-key maps, as written: `- calculator: {name: calculate_math}`.
//!
//! Defaults are filled by `plan::tools`; what each does is in `rollout::tools`.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::one_key;

one_key!(
    /// One tool.
    Tool, ToolBody, TOOL_KINDS, "tool":
    "calculator" => Calculator(ToolSection),
    "units" => Units(ToolSection),
    "clock" => Clock(ToolSection),
    "lookup" => Lookup(LookupSection),
    "command" => Command(CommandToolSection),
);

/// A tool without settings of its own.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ToolSection {
    /// What the model calls it (calculate_math, unit_converter, get_current_time).
    pub name: Option<String>,
    /// What the model is told of it (a sentence of its own).
    pub description: Option<String>,
}

/// Looks a key up.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LookupSection {
    /// What the model calls it (lookup).
    pub name: Option<String>,
    /// What the model is told of it (a sentence of its own).
    pub description: Option<String>,
    /// A .json file with one object, or a .jsonl file with {"key", "value"} rows (the built-in world's prices).
    pub file: Option<String>,
}

/// A program that gets the arguments as JSON on its standard input and writes its answer.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CommandToolSection {
    /// What the model calls it.
    pub name: Option<String>,
    /// What the model is told of it.
    pub description: Option<String>,
    /// Program and arguments; no shell reads them.
    pub command: Option<Vec<Option<String>>>,
    /// Its parameters as a JSON Schema of type object (no parameters).
    pub parameters: Option<serde_json::Value>,
    /// Seconds a call may take (10).
    pub timeout_secs: Option<f64>,
}
