//! Which tools a stage or a server offers: plain values that `plan` fills.

use std::path::PathBuf;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One tool. A recipe writes it as a map with one key, its kind: `calculator: {name: calculate_math}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ToolConfig {
    /// What the model calls it (calculate_math, unit_converter, get_current_time, lookup).
    pub name: Option<String>,
    /// What the model is told of it (a sentence of its own).
    pub description: Option<String>,
    /// Which tool.
    pub kind: ToolKind,
}

impl ToolConfig {
    /// The tools that need no setting: calculator, units, clock.
    pub fn built_in() -> [Self; 3] {
        [ToolKind::Calculator, ToolKind::Units, ToolKind::Clock].map(Self::new)
    }

    /// A tool under its own name.
    pub fn new(kind: ToolKind) -> Self {
        Self { name: None, description: None, kind }
    }
}

/// The kinds of tools.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ToolKind {
    /// Evaluates an expression.
    Calculator,
    /// Converts units.
    Units,
    /// Tells the time.
    Clock,
    /// Looks a key up.
    Lookup(Table),
    /// A program that gets the arguments as JSON on its standard input and writes its answer.
    Command {
        /// Program and arguments; no shell reads them.
        #[serde(default)]
        command: Vec<String>,
        /// Its parameters as a JSON Schema of type object (no parameters).
        #[serde(default = "no_parameters")]
        #[schemars(!default, with = "Option<Value>")]
        parameters: Value,
        /// Seconds a call may take.
        #[serde(default = "ten_seconds")]
        #[schemars(range(max = 86_400), extend("exclusiveMinimum" = 0))]
        timeout_secs: f64,
    },
}

fn no_parameters() -> Value {
    serde_json::json!({"type": "object", "properties": {}})
}

fn ten_seconds() -> f64 {
    10.0
}

/// What a lookup knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Table {
    /// A `.json` object or `.jsonl` rows.
    File(PathBuf),
    /// The built-in world's prices, by its seed.
    World(u64),
}

// A recipe names a file or nothing; the world's seed is the plan's.
impl JsonSchema for Table {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Table".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "object", "properties": {"file": {
            "type": ["string", "null"],
            "description": "A .json file with one object, or a .jsonl file with {\"key\", \"value\"} rows (the built-in \
                            world's prices)."
        }}})
    }
}
