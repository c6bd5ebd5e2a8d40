//! `minimind schema`: the JSON Schema of a recipe, for editors.

use crate::error::{Error, Result};

/// What `minimind schema` is asked for.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print docs/recipe.md, the reference of every key, instead.
    #[arg(long, hide = true)]
    pub markdown: bool,
}

/// The schema as JSON text.
///
/// # Errors
/// Only where it cannot be written as JSON.
pub fn text() -> Result<String> {
    serde_json::to_string_pretty(crate::plan::shape().root())
        .map_err(|error| Error::failed("cannot write the schema").because(error))
}

/// Prints the schema, or the reference that is made from it.
///
/// # Errors
/// As [`text`].
pub fn run(args: Args) -> Result<()> {
    if args.markdown {
        print!("{}", crate::plan::markdown());
        return Ok(());
    }
    println!("{}", text()?);
    Ok(())
}
