//! Names on a hub in a recipe (`hf:OWNER/NAME/FILE`): what the cache has is a path like any other.
//!
//! Planning asks no hub: what is not in the cache stays as it was written, and `minimind run` brings it
//! before it starts ([`absent`]). Next: `crate::hub`.

use std::path::PathBuf;

use super::machine;
use super::resolve::Resolver;
use super::types::Plan;
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
