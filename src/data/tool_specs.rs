//! The built-in tools as a chat template shows them to a model, in OpenAI's form.
//!
//! Here rather than in `rollout::tools`, which carries them out, because the built-in world's tool tasks show them too.

use serde_json::{Value, json};

/// What the calculator is called, as in upstream's data.
pub const CALCULATOR: &str = "calculate_math";
/// What the unit converter is called.
pub const UNITS: &str = "unit_converter";
/// What the clock is called.
pub const CLOCK: &str = "get_current_time";
/// What the table is called.
pub const LOOKUP: &str = "lookup";

/// A function in OpenAI's form.
pub fn function(name: &str, description: &str, parameters: Value) -> Value {
    json!({"type": "function", "function": {"name": name, "description": description, "parameters": parameters}})
}

fn texts(keys: &[&str]) -> Value {
    let properties: serde_json::Map<String, Value> =
        keys.iter().map(|key| ((*key).to_owned(), json!({"type": "string"}))).collect();
    json!({"type": "object", "properties": properties, "required": keys})
}

/// Evaluates an expression.
pub fn calculator() -> Value {
    function(CALCULATOR, "Evaluates an arithmetic expression.", texts(&["expression"]))
}

/// Converts between units.
pub fn units() -> Value {
    let parameters = json!({
        "type": "object",
        "properties": {
            "value": {"type": "number"},
            "from_unit": {"type": "string"},
            "to_unit": {"type": "string"},
        },
        "required": ["value", "from_unit", "to_unit"],
    });
    function(UNITS, "Converts a value from one unit to another.", parameters)
}

/// Tells the time.
pub fn clock() -> Value {
    let parameters = json!({
        "type": "object",
        "properties": {"utc_offset": {"type": "string", "description": "for example +08:00; UTC where left out"}},
        "required": [],
    });
    function(CLOCK, "Tells the date and the time.", parameters)
}

/// Looks a key up.
pub fn lookup() -> Value {
    function(LOOKUP, "Looks up the value of a key.", texts(&["key"]))
}
