//! Names on a hub in a recipe (`hf:OWNER/NAME/FILE`): what the cache has is a path like any other.
//!
//! Planning asks no hub: what is not in the cache stays as it was written, and `minimind run` brings it
//! before it starts ([`absent`]). Next: `crate::hub`.

use std::path::{Path, PathBuf};

use super::machine;
use super::resolve::Resolver;
use super::schema::{RowsSection, SplitSection};
use super::types::Plan;
use crate::data::reader;
use crate::error::{Error, Result};
use crate::hub::{self, Reference, reference::is_reference};

impl Resolver<'_> {
    /// The path behind a name on a hub; `None` where `given` is none.
    pub(super) fn on_hub(&mut self, at: &[String], given: &str) -> Option<PathBuf> {
        if !is_reference(given) {
            return None;
        }
        match Reference::parse(given) {
            Ok(reference) => hub::cached(&machine::hubs(), &reference).or_else(|| Some(PathBuf::from(given))),
            Err(error) => {
                self.fault(at, error.what().to_owned(), error.hint_text().unwrap_or_default().to_owned());
                Some(PathBuf::from(given))
            }
        }
    }

    /// The files of a data set's split, on a hub or in a folder of `save_to_disk`; `None` where `given` is neither. One that
    /// is not in the cache yet stays a name, with its subset and split.
    pub(super) fn data_set(
        &mut self,
        at: &[String],
        given: &str,
        rows: &RowsSection,
    ) -> Option<Vec<PathBuf>> {
        let path = Path::new(given);
        let subset = rows.subset.as_deref();
        let split = rows.split.as_ref().and_then(SplitSection::of_data_set);
        let found = if reader::is_saved(path) {
            match subset {
                Some(_) => Err(Error::input("a saved data set has no subsets").hint("leave subset out")),
                None => reader::saved(path, split),
            }
        } else if is_reference(given) && !path.exists() {
            Reference::parse(given).map(|mut reference| {
                reference.subset = subset.map(str::to_owned).or(reference.subset);
                reference.split = split.map(str::to_owned).or(reference.split);
                let reference = reference.of_data();
                let cached = hub::cached_data(&machine::hubs(), &reference);
                cached.unwrap_or_else(|| vec![PathBuf::from(reference.to_string())])
            })
        } else {
            return None;
        };
        Some(found.unwrap_or_else(|error| {
            self.fault(at, error.what().to_owned(), error.hint_text().unwrap_or_default().to_owned());
            vec![PathBuf::from(given)]
        }))
    }
}

/// Names on a hub that a plan still holds: what has to be brought before it can run.
pub fn absent(plan: &Plan) -> Result<Vec<Reference>> {
    let json = serde_json::to_value(plan).map_err(|e| Error::failed("cannot describe a plan").because(e))?;
    let mut found = Vec::new();
    collect(&json, &mut found);
    Ok(found)
}

fn collect(value: &serde_json::Value, found: &mut Vec<Reference>) {
    match value {
        serde_json::Value::String(text) if is_reference(text) => {
            // A text that only looks like a name (a prompt, say) is left alone.
            let reference = Reference::parse(text).ok();
            found.extend(reference.filter(|reference| !found.contains(reference)));
        }
        serde_json::Value::Array(list) => list.iter().for_each(|value| collect(value, found)),
        serde_json::Value::Object(map) => map.values().for_each(|value| collect(value, found)),
        _ => {}
    }
}
