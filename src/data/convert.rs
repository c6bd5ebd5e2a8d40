//! Rows of one shape as rows of another, and what a row says as one text.
//!
//! Next: `shapes` (what the shapes are), `writer` (files), `split`.

use super::config::{DataFormat, ReadOptions};
use super::jsonl::{self, Line, RowFault};
use super::shapes::{self, Shape};

/// Converts rows.
#[derive(Debug, Clone)]
pub struct Converter {
    /// The shape to write; `None`: rows stay as they are.
    pub to: Option<Shape>,
    /// How rows are read.
    pub read: ReadOptions,
}

impl Converter {
    /// A row in the shape asked for, as JSON text.
    ///
    /// # Errors
    /// The row is no JSON object, fits no shape, or holds what the shape has no place for.
    pub fn convert(&self, line: &Line) -> Result<Vec<u8>, RowFault> {
        let row = jsonl::parse(&line.bytes)?;
        let Some(shape) = self.to else { return Ok(line.bytes.clone()) };
        let row = shapes::convert(row, shape.format(), &self.read)?;
        Ok(shapes::write(&row, shape)?.to_string().into_bytes())
    }

    /// What a row says, however its keys are named; of a row without a text its JSON. White space counts as one space.
    ///
    /// # Errors
    /// The row is no JSON object.
    pub fn said(&self, line: &Line) -> Result<String, RowFault> {
        let row = jsonl::parse(&line.bytes)?;
        let text = shapes::convert(row.clone(), DataFormat::Text, &self.read).ok();
        let text = text.and_then(|row| row["text"].as_str().map(str::to_owned));
        let text = text.unwrap_or_else(|| row.to_string());
        Ok(text.split_whitespace().collect::<Vec<_>>().join(" "))
    }
}
