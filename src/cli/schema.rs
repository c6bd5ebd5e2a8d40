//! `minimind schema`: the JSON Schema of a recipe, for editors.

use crate::error::{Error, Result};

/// `minimind schema` takes no flags.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// The schema as JSON text.
///
/// # Errors
/// Only where it cannot be written as JSON.
pub fn text() -> Result<String> {
    serde_json::to_string_pretty(crate::plan::shape().root())
        .map_err(|error| Error::failed("cannot write the schema").because(error))
}

/// Prints the schema.
///
/// # Errors
/// As [`text`].
pub fn run(_args: Args) -> Result<()> {
    println!("{}", text()?);
    Ok(())
}
