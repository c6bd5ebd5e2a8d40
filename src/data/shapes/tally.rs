//! Which shapes the rows of a source have, counted, so that it can be said once.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Mutex;

use serde_json::{Map, Value};

use super::Shape;
use crate::data::config::{DataConfig, DataFormat, DataSource, ReadOptions};
use crate::data::jsonl::{self, RowFault};
use crate::error::{Error, Result};

/// Most keys that are remembered for a fault.
const SHOWN_KEYS: usize = 20;

#[derive(Debug, Default)]
struct Seen {
    shapes: BTreeMap<Shape, usize>,
    rows: usize,
    /// Columns that a row had.
    columns: BTreeSet<String>,
    keys: BTreeSet<String>,
    scores: BTreeSet<String>,
}

/// Counts the shapes of rows that are read.
#[derive(Debug, Default)]
pub struct Tally {
    seen: Mutex<Seen>,
}

impl Tally {
    /// As [`super::parse`], counted.
    ///
    /// # Errors
    /// As [`super::parse`].
    pub fn parse(&self, bytes: &[u8], format: DataFormat, options: &ReadOptions) -> Result<Value, RowFault> {
        let row = jsonl::parse(bytes)?;
        if let Value::Object(fields) = &row {
            self.columns(fields, options);
        }
        let (shape, row) = super::named(row, format, options)?;
        if let Some(shape) = shape {
            let fields = row.as_object().filter(|_| shape.format() == DataFormat::Preference);
            let keys = fields.into_iter().flat_map(Map::keys);
            self.add(shape, keys.filter(|key| key.contains("score")).cloned().collect());
        }
        Ok(row)
    }

    fn with(&self, change: impl FnOnce(&mut Seen)) {
        change(&mut self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    }

    fn columns(&self, row: &Map<String, Value>, options: &ReadOptions) {
        if options.columns.is_empty() {
            return;
        }
        self.with(|seen| {
            seen.rows += 1;
            for own in options.columns.values().filter(|own| row.contains_key(*own)) {
                if !seen.columns.contains(own) {
                    seen.columns.insert(own.clone());
                }
            }
            for key in row.keys() {
                if seen.keys.len() < SHOWN_KEYS && !seen.keys.contains(key) {
                    seen.keys.insert(key.clone());
                }
            }
        });
    }

    fn add(&self, shape: Shape, scores: Vec<String>) {
        self.with(|seen| {
            *seen.shapes.entry(shape).or_default() += 1;
            for key in scores {
                if seen.scores.len() < SHOWN_KEYS {
                    seen.scores.insert(key);
                }
            }
        });
    }

    /// `alpaca`, or `alpaca (3), text (1)`; `None` where all rows are in MiniMind's own keys.
    pub(super) fn said(&self) -> Option<String> {
        let seen = self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let scores = match seen.scores.len() {
            0 => String::new(),
            _ => format!("; not read: {}", seen.scores.iter().cloned().collect::<Vec<_>>().join(", ")),
        };
        let shapes: Vec<(&Shape, &usize)> = seen.shapes.iter().collect();
        match shapes[..] {
            [] => None,
            [(shape, _)] => Some(format!("{}{scores}", shape.name())),
            _ => {
                let each: Vec<String> =
                    shapes.iter().map(|(shape, count)| format!("{} ({count})", shape.name())).collect();
                Some(format!("{}{scores}", each.join(", ")))
            }
        }
    }

    /// Says what was found in all rows of a source. Of a preview, whose copies lie in folders of `scratch`, only the beginning was seen.
    ///
    /// # Errors
    /// A column that `columns` names was in no row, at the source's first file.
    pub fn finish(&self, config: &DataConfig, scratch: &Path) -> Result<()> {
        if let DataSource::Paths(files) = &config.source
            && files.iter().any(|file| file.ancestors().nth(2) == Some(scratch))
        {
            return Ok(());
        }
        self.check_columns(&config.read).map_err(|fault| config.source.at(fault))?;
        if let Some(said) = self.said() {
            tracing::info!("{}: rows: {said}", config.source.name());
        }
        Ok(())
    }

    /// Whether each column that is named was in some row.
    ///
    /// # Errors
    /// One was in none.
    pub(super) fn check_columns(&self, options: &ReadOptions) -> Result<()> {
        let seen = self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let absent = options.columns.iter().find(|(_, own)| !seen.columns.contains(*own));
        match absent {
            Some((name, own)) if seen.rows > 0 => {
                let keys: Vec<&str> = seen.keys.iter().map(String::as_str).collect();
                Err(Error::input(format!("no row has the column `{own}`, which `columns` names as {name}"))
                    .hint(format!("the rows have {}", keys.join(", "))))
            }
            _ => Ok(()),
        }
    }
}
