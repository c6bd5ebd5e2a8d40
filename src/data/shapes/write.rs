//! A row in MiniMind's own keys as a row in another shape.

use serde_json::Value;

use super::Shape;
use crate::data::jsonl::RowFault;

/// A row in MiniMind's own keys, as [`super::convert`] gives it for the shape's [`Shape::format`], written in that shape. What
/// is written converts back to the same row.
///
/// # Errors
/// The shape has no place for something that the row holds.
pub fn write(row: &Value, shape: Shape) -> Result<Value, RowFault> {
    match shape {
        Shape::Text | Shape::Conversations | Shape::Preference => Ok(row.clone()),
        _ => Err(RowFault::new(
            format!("rows of shape {} cannot be written yet", shape.name()),
            "choose another shape",
        )),
    }
}
