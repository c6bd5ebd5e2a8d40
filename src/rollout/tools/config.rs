//! Which tools a stage or a server offers: plain values that `plan` fills.

use std::path::PathBuf;

use serde::Serialize;
use serde_json::Value;

/// One tool.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ToolConfig {
    /// What the model calls it, where it is not the built-in name.
    pub name: Option<String>,
    /// What the model is told of it, where it is not the built-in sentence.
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
#[derive(Debug, Clone, PartialEq, Serialize)]
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
    /// Runs a program.
    Command {
        /// Program and arguments; no shell.
        command: Vec<String>,
        /// A JSON Schema of its parameters.
        parameters: Value,
        /// Seconds a call may take.
        timeout_secs: f64,
    },
}

/// What a lookup knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Table {
    /// A `.json` object or `.jsonl` rows.
    File(PathBuf),
    /// The built-in world's prices, by its seed.
    World(u64),
}
